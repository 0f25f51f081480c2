"""Gradient checkpointing changes no gradient: full training, LoRA, and a frozen LLM behind parts that learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from ecglm.errors import ConfigError
from ecglm.models.adapters import LoraConfig, add_lora
from ecglm.models.elm import Elm
from ecglm.training.activations import checkpoint_layers

VOCAB, HIDDEN, PLACEHOLDER = 50, 32, 49


def llm(kind: str, dropout: float = 0.1) -> Any:
    """Two layers of a family, with dropout wherever it has one."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=64, attention_dropout=dropout))
    if kind == "opt":
        config = OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=HIDDEN, dropout=dropout, attention_dropout=dropout)
        return OPTForCausalLM(config)
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=HIDDEN, n_layer=2, n_head=2, **drops))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(10, 3 * 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x.flatten(1)).reshape(-1, 3, 8)


def elm(kind: str, way: str) -> Elm:
    model = llm(kind)
    if way == "lora":
        add_lora(model, LoraConfig(rank=2, dropout=0.1), [], seed=0)
    torch.manual_seed(1)
    made = Elm(model, Encoder(), nn.Linear(8, HIDDEN), PLACEHOLDER)
    parts = {"all": ("encoder", "connector", "llm"), "lora": ("connector", "llm"), "frozen": ("connector",)}[way]
    made.set_trainable(parts)
    return made.train()


def gradients(model: Elm) -> tuple[float, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 40, (2, 12), generator=generator)
    ids[:, 2:5] = PLACEHOLDER
    ecg = torch.randn(2, 1, 10, generator=generator)
    torch.manual_seed(3)  # what dropout draws
    logits = model(ids, torch.ones_like(ids), torch.arange(12).expand(2, -1), ecg=ecg)
    loss = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("way", ["all", "lora", "frozen"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_the_gradients_are_the_same_and_layers_run_twice(kind: str, way: str) -> None:
    plain = elm(kind, way)
    expected_loss, expected = gradients(plain)
    model = elm(kind, way)
    runs: list[int] = []
    for name, module in model.llm.named_modules():
        if name.endswith(("self_attn", ".attn")):  # what comes last in a layer need not run again
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    assert checkpoint_layers(model) == 2
    loss, found = gradients(model)
    assert len(runs) == 4  # two layers, forward and again in backward: also where the LLM stands still
    assert loss == expected_loss
    assert found.keys() == expected.keys() and any("connector" in name for name in found)
    assert any("encoder" in name for name in found) == (way == "all")
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    assert model.state_dict().keys() == plain.state_dict().keys()
    runs.clear()
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long))
    assert len(runs) == 2


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.gradient_checkpointing: this model has no transformer layers"):
        checkpoint_layers(nn.Linear(2, 2))


def test_plain_torch_layers_and_layers_that_ask_for_it_are_checkpointed() -> None:
    class Own(nn.Linear):
        checkpointed = True

    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), Own(8, 8), nn.Linear(8, 8))
    x = torch.randn(2, 3, 8, requires_grad=True)
    model(x).sum().backward()
    expected = x.grad.clone()
    x.grad = None
    assert checkpoint_layers(model) == 2
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, expected)
