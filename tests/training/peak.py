"""Run by test_memory.py: one real training step, and the most memory the process held, as the system counts it."""

from __future__ import annotations

import gc
import json
import sys

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from ecglm.models.adapters import add_lora
from ecglm.models.config import LoraConfig
from ecglm.models.connector import Connector
from ecglm.models.elm import Elm
from ecglm.models.encoders.base import build_encoder
from ecglm.training.activations import checkpoint_layers
from ecglm.training.memory import Batch, estimate
from ecglm.training.objectives.sft import sft

ROWS, LENGTH, ANSWERS = 8, 384, 40
FAMILIES = {
    "llama": LlamaConfig(
        vocab_size=4000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(vocab_size=4000, n_embd=256, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0),
}


def make(family: str, lora: bool, checkpointed: bool) -> Elm:
    llm = AutoModelForCausalLM.from_config(FAMILIES[family])
    if lora:
        add_lora(llm, LoraConfig(), [], 0)
    encoder = build_encoder("resnet1d", input_shape=(12, 1000), options={})
    elm = Elm(llm, encoder, Connector("mlp2x_gelu", dim=encoder.dim, hidden=256, num_tokens=16), 5)
    elm.set_trainable(["encoder", "connector", "llm"])
    if checkpointed:
        checkpoint_layers(elm)
    return elm


def resident(what: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))


def step(elm: Elm, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.full((ROWS, LENGTH), 9)
    ids[:, 1:17] = 5
    labels = torch.full((ROWS, LENGTH), -100)
    labels[:, -ANSWERS:] = 3
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    batch |= {
        "position_ids": torch.arange(LENGTH).expand(ROWS, LENGTH).contiguous(),
        "ecg": torch.zeros(ROWS, 12, 1000),
    }
    sft(elm, batch).backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    torch.set_num_threads(1)
    options = (sys.argv[1], sys.argv[2] == "lora", sys.argv[3] == "checkpointed")
    with torch.device("meta"):
        elm = make(*options)
    batch = Batch(ROWS, LENGTH, ROWS * ANSWERS, ANSWERS, ROWS, (12, 1000))
    told = estimate(elm, batch).total
    del elm
    gc.collect()
    layer = torch.nn.Linear(8, 8)  # the libraries' own pages come first
    layer(torch.zeros(1, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    before = resident("VmRSS")
    elm = make(*options).train()
    optimizer = torch.optim.AdamW([p for p in elm.parameters() if p.requires_grad], fused=True)
    for _ in range(2):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        step(elm, optimizer)
    print(json.dumps({"told": told, "measured": resident("VmHWM") - before}))


if __name__ == "__main__":
    main()
