"""Packed rows: every family gives what it gives for the documents alone, forward and backward, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from ecglm.errors import ConfigError
from ecglm.models.packed_attention import NAMES, prepare_packing
from ecglm.prompts.collate import collate, collate_packed
from ecglm.prompts.examples import IGNORE, share_prefix
from ecglm.training.activations import checkpoint_layers
from ecglm.types import Example

VOCAB = 61
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OWN = {"num_attention_heads": 4, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**_COMMON),
    "qwen2": Qwen2Config(**_COMMON),
    "qwen2-window": Qwen2Config(**_COMMON, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**_COMMON),
    "gemma2": Gemma2Config(**_COMMON, sliding_window=6, query_pre_attn_scalar=8),  # eager alone: it caps its logits
    "gemma3": Gemma3TextConfig(**{**_COMMON, "num_hidden_layers": 6}, sliding_window=6, query_pre_attn_scalar=8),
    "mistral": MistralConfig(**_COMMON, sliding_window=6),
    "smollm3": SmolLM3Config(**_COMMON),
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "opt": OPTConfig(
        **_OWN, hidden_size=32, ffn_dim=48, num_hidden_layers=2, word_embed_proj_dim=32, bos_token_id=1, eos_token_id=2
    ),
}
CASES = [(name, "sdpa") for name in FAMILIES if name != "gemma2"] + [
    (name, "eager") for name in ("llama", "gemma2", "gemma3", "gpt2", "opt")
]


def model(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(FAMILIES[name], attn_implementation=attention).eval()
    with torch.no_grad():  # larger weights, so that attention to the wrong token would show
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape) * 0.1)
    return made


def documents(*sizes: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    made = []
    for number, size in enumerate(sizes):
        ids = rng.integers(3, VOCAB, size)
        labels = np.where(np.arange(size) >= size // 2, ids, IGNORE)
        labels[0] = IGNORE
        made.append(Example(str(number), ids.astype(np.int64), labels.astype(np.int64)))
    return made


def shared() -> Example:
    """Three questions about one ECG: a prefix of seven tokens and three branches."""
    rng = np.random.default_rng(9)
    prefix = rng.integers(3, VOCAB, 7)
    apart = []
    for number, size in enumerate((5, 9, 4)):
        ids = np.r_[prefix, 3 + number, rng.integers(3, VOCAB, size)].astype(np.int64)
        labels = np.where(np.arange(len(ids)) >= 10, ids, IGNORE)
        apart.append(Example(str(number), ids, labels))
    return share_prefix("ecg", apart)


def loss(llm: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Summed over the learned tokens."""
    logits = llm(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).logits
    targets = batch["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="sum")


def gradients(llm: Any, value: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, list(llm.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_packed_loss_and_gradient_are_those_of_the_documents_alone(name: str, attention: str) -> None:
    examples = documents(9, 14, 10, 3, 2, 12, 13)
    llm = model(name, attention)
    singles = [collate([e], pad_id=0) for e in examples]
    wanted = torch.stack([loss(llm, single) for single in singles]).sum()
    slope = gradients(llm, wanted)
    assert prepare_packing(llm) and llm.config._attn_implementation == NAMES[attention]
    batch = collate_packed([examples[:3], examples[3:]])
    assert batch["input_ids"].shape == (1, sum(len(e.input_ids) for e in examples))
    found = loss(llm, batch)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(gradients(llm, found), slope, rtol=1e-4, atol=1e-5 * float(slope.abs().max()))
    # what is not packed goes on as before
    again = sum(loss(llm, single).item() for single in singles)
    assert again == pytest.approx(wanted.item(), rel=1e-6)
    assert "packed" not in str(llm.config.to_dict())


@pytest.mark.parametrize(("name", "attention"), [("llama", "sdpa"), ("gpt2", "sdpa"), ("opt", "eager")])
def test_packed_branches_give_the_loss_of_the_padded_ones(name: str, attention: str) -> None:
    llm = model(name, attention)
    examples = [shared(), *documents(11, 30, 4)]
    wanted = sum(float(loss(llm, collate([e], pad_id=0)).detach()) for e in examples)
    prepare_packing(llm)
    assert float(loss(llm, collate_packed([examples])).detach()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_a_sliding_window_counts_positions_within_a_branch(name: str) -> None:
    """A branch's own window reaches into the prefix as if no other branch lay between."""
    llm = model(name)
    rng = np.random.default_rng(9)
    prefix = rng.integers(3, VOCAB, 7)
    apart = [np.r_[prefix, 3 + n, rng.integers(3, VOCAB, size)].astype(np.int64) for n, size in enumerate((5, 9, 4))]
    examples = [Example("", ids, np.where(np.arange(len(ids)) >= 10, ids, IGNORE)) for ids in apart]
    wanted = sum(float(loss(llm, collate([e], pad_id=0)).detach()) for e in examples)
    prepare_packing(llm)
    found = loss(llm, collate_packed([[share_prefix("ecg", examples)]]))
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)


def test_no_document_sees_another() -> None:
    """Whatever stands in one document, the logits of the others stay as they are, to the bit."""
    llm = model("llama")
    prepare_packing(llm)
    one, other = documents(9, 14, 10), documents(9, 14, 10, seed=1)
    batches = [collate_packed([one]), collate_packed([[one[0], other[1], one[2]]])]
    with torch.no_grad():
        logits = [
            llm(input_ids=b["input_ids"], attention_mask=b["attention_mask"], position_ids=b["position_ids"]).logits
            for b in batches
        ]
    assert torch.equal(logits[0][:, :9], logits[1][:, :9]) and torch.equal(logits[0][:, 23:], logits[1][:, 23:])
    assert not torch.equal(logits[0][:, 9:23], logits[1][:, 9:23])


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    llm = model("llama")
    prepare_packing(llm)
    batch = collate_packed([documents(9, 14, 10, 3)])
    wanted = gradients(llm, loss(llm, batch))
    llm.train()  # nothing drops out of this model
    checkpoint_layers(llm)
    torch.testing.assert_close(gradients(llm, loss(llm, batch)), wanted)


def test_a_model_that_would_mix_documents_up_is_refused_with_the_mend() -> None:
    llm = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4))
    used = llm.config._attn_implementation
    with pytest.raises(ConfigError, match=r"BloomForCausalLM cannot keep .* apart; set train\.packing: false"):
        prepare_packing(llm)
    assert llm.config._attn_implementation == used
    assert llm.training
