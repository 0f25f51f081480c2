"""The one forward path: each row gets its own ECG, and only the parts that should learn do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ecglm.errors import ConfigError
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.elm import Elm
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore
from ecglm.training.objectives.sft import sft
from ecglm.types import Example, Turn


@pytest.fixture
def bundle(signal_run) -> Bundle:
    return from_pretrained(signal_run / "best")


@pytest.fixture
def examples(bundle: Bundle, world) -> list[Example]:
    """One ECG, two ECGs, none, and one more: of different lengths."""
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    records = SegmentStore(world.store).records()
    talks = [
        ("<ecg>\nWhat is the rhythm?", records[:1]),
        ("First <ecg> then <ecg>: the same?", records[1:3]),
        ("No ECG at all, hello", []),
        ("Short <ecg>", records[3:4]),
    ]
    return [
        bundle.prompter.build(q, [Turn("user", q), Turn("assistant", "sinus rhythm")], [ecgs.encode(r) for r in shown])
        for q, shown in talks
    ]


def logits(elm: Elm, examples: list[Example], left: bool = False) -> list[torch.Tensor]:
    batch = collate(examples, pad_id=0, left=left)
    with torch.no_grad():
        out = elm(batch["input_ids"], batch["attention_mask"], batch["position_ids"], batch.get("ecg"))
    return [row[mask.bool()] for row, mask in zip(out, batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("left", [False, True])
def test_d05_injection_batch_equals_single(bundle: Bundle, examples: list[Example], left: bool) -> None:
    together = logits(bundle.elm, examples, left)
    apart = [logits(bundle.elm, [e])[0] for e in examples]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    # the ECG matters to every row that shows one, and its place in the batch does not
    assert (apart[0][-5:] - logits(bundle.elm, [_with_ecg_of(examples[0], examples[3])])[0][-5:]).abs().max() > 1e-3
    swapped = logits(bundle.elm, examples[::-1], left)[::-1]
    for one, other in zip(swapped, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def _with_ecg_of(example: Example, other: Example) -> Example:
    return Example(example.id, example.input_ids, example.labels, other.ecg)


def test_the_second_of_two_ecgs_goes_to_the_second_place(bundle: Bundle, examples: list[Example]) -> None:
    """Against the definition: embeddings at the n-th placeholder run are the connector's output of the n-th ECG."""
    two, elm = examples[1], bundle.elm
    embedded = elm.embed(torch.from_numpy(two.input_ids)[None], torch.from_numpy(two.ecg))[0]
    at = (two.input_ids == elm.placeholder_id).nonzero()[0]
    for number, places in enumerate((at[:4], at[4:])):
        vectors = elm.connector(elm.encoder(torch.from_numpy(two.ecg[number : number + 1])))[0]
        torch.testing.assert_close(embedded[places], vectors, rtol=1e-5, atol=1e-6)


def test_wrong_placeholder_counts_are_errors(bundle: Bundle, examples: list[Example]) -> None:
    elm, one = bundle.elm, examples[0]
    ids, ecg = torch.from_numpy(one.input_ids)[None], torch.from_numpy(one.ecg)
    assert elm.embed(ids, ecg).shape == (1, ids.shape[1], 32)
    with pytest.raises(ValueError, match="4 placeholders for 2 ECGs"):
        elm.embed(ids, torch.cat([ecg, ecg]))
    with pytest.raises(ValueError, match="placeholders without an ECG"):
        elm.embed(ids)
    shifted = ids.repeat(2, 1)  # one placeholder moved from the first row to the second: the sum alone would fit
    at = (ids[0] == elm.placeholder_id).nonzero()[0, 0]
    shifted[0, at], shifted[1, -1] = 5, elm.placeholder_id
    with pytest.raises(ValueError, match="8 placeholders for 2 ECGs"):
        elm.embed(shifted, torch.cat([ecg, ecg]))


def test_a_placeholder_needs_an_encoder() -> None:
    with pytest.raises(ConfigError, match="encoder"):
        Elm(nn.Linear(1, 1), placeholder_id=3)


SINGLE = ("encoder", "connector", "llm", "embeddings")


@pytest.mark.parametrize("part", SINGLE)
@pytest.mark.parametrize("alone", [True, False], ids=["only", "all-but"])
def test_d07_parts_learn_when_they_should_and_only_then(
    bundle: Bundle, examples: list[Example], part: str, alone: bool
) -> None:
    """After one step every weight of a part that learns has changed, and none of a frozen one has."""
    elm = bundle.elm
    assert elm.parts == SINGLE
    named = [p for p in SINGLE if (p == part) is alone]
    wanted = {*named, *(["embeddings"] if "llm" in named else [])}
    learning = elm.set_trainable(named)
    assert (set(learning.train), set(learning.frozen), learning.lora) == (wanted, set(SINGLE) - wanted, ())
    elm.train()
    before = {k: v.clone() for k, v in elm.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in elm.parameters() if p.requires_grad], lr=1e-3)
    sft(elm, collate(examples, pad_id=0)).backward()
    optimizer.step()
    changed = {k for k, v in elm.state_dict().items() if not torch.equal(v, before[k])}
    own = {  # written out here: the tiny LLM's output shares the table of its input
        "encoder": {k for k in before if k.startswith("encoder.")},
        "connector": {k for k in before if k.startswith("connector.")},
        "embeddings": {"llm.model.embed_tokens.weight", "llm.lm_head.weight"},
    }
    own["llm"] = {k for k in before if k.startswith("llm.")} - own["embeddings"]
    assert changed == set().union(*(own[p] for p in wanted))
    parameters = dict(elm.named_parameters())
    for name in SINGLE:
        number = sum(parameters[k].numel() for k in own[name] & parameters.keys()) if name in wanted else 0
        assert learning.counts[name] == number, name
    for name in ("encoder", "connector", "llm"):  # D7: a frozen part's dropout and norms stand still
        module: Any = getattr(elm, name)
        assert all(m.training is (name in wanted) for m in module.modules()), name
    elm.set_trainable(SINGLE)
    elm.train()
    assert all(m.training for m in elm.modules())


def test_unknown_or_absent_parts_are_refused(bundle: Bundle, symbols_run) -> None:
    with pytest.raises(ConfigError, match=r"encodr.*did you mean 'encoder'"):
        bundle.elm.set_trainable(["encodr"])
    symbols = from_pretrained(symbols_run / "best").elm
    with pytest.raises(ConfigError, match=r"no encoder.*train\.parts"):
        symbols.set_trainable(["encoder"])
    assert symbols.set_trainable(["llm"]).train == ("llm", "embeddings") == symbols.parts
