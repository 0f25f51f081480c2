"""Log-probabilities of answers: shifted, answer tokens alone, and the same however pairs are laid out (D10)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.pulse_import import import_pulse
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource
from ecglm.prompts.examples import IGNORE
from ecglm.store.reader import SegmentStore
from ecglm.training.logprobs import (
    answer_logits,
    last_answer,
    likeliest,
    next_token_kl,
    of_answers,
    owners,
    token_logprobs,
)
from ecglm.training.pairs_data import PairDataset, Reference, collate_pairs, pair_example
from ecglm.training.preferences import Pair
from ecglm.types import Example, Turn
from llava_world import write_llava
from tiny_world import RATE, SEG_LEN

#: Next-token probabilities after each of three tokens.
TABLE = np.array([[1, 2, 5], [3, 4, 1], [2, 1, 1]]) / np.array([[8], [8], [4]])


class Bigram(nn.Module):
    """A language model whose next token depends on the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(np.log(TABLE) + 7.0, dtype=torch.float32))  # a softmax takes the 7 off

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **more: Any) -> torch.Tensor:
        return self.table[input_ids][:, logits_to_keep]


def example(ids: list[int], answer: int, name: str = "x") -> Example:
    """The last ``answer`` tokens are the answer."""
    labels = [IGNORE] * (len(ids) - answer) + ids[len(ids) - answer :]
    return Example(name, np.array(ids), np.array(labels))


def logps(elm: Any, rows: list[Any], *, mean: bool = False) -> np.ndarray:
    batch = collate_pairs(rows, pad_id=0)
    found = of_answers(token_logprobs(elm, batch), owners(batch), 2 * len(rows), mean=mean)
    return found.detach().numpy().reshape(-1, 2)


@pytest.mark.parametrize("shared", [False, True])
def test_d10_three_tokens_by_hand(shared: bool) -> None:
    """Prompt 0 1; chosen 2 0 end(1), rejected 1 1. Each token by the one before it, the prompt's own tokens nowhere."""
    pair = pair_example("x", example([0, 1, 2, 0, 1], 3), example([0, 1, 1, 1], 2), shared=shared)
    chosen, rejected = logps(Bigram(), [pair])[0]
    assert chosen == pytest.approx(math.log(1 / 8) + math.log(2 / 4) + math.log(2 / 8))
    assert rejected == pytest.approx(math.log(4 / 8) + math.log(4 / 8))
    chosen, rejected = logps(Bigram(), [pair], mean=True)[0]
    assert chosen == pytest.approx(math.log(1 / 64) / 3)
    assert rejected == pytest.approx(math.log(1 / 4) / 2)


def test_d10_earlier_answers_are_part_of_the_prompt() -> None:
    labels = np.array([IGNORE, 5, 6, IGNORE, IGNORE, 7, 8, IGNORE])
    assert last_answer(labels).tolist() == [IGNORE] * 5 + [7, 8, IGNORE]
    assert last_answer(np.array([5, 6])).tolist() == [5, 6]
    assert last_answer(np.array([IGNORE, IGNORE])).tolist() == [IGNORE, IGNORE]


def test_next_token_kl_by_hand() -> None:
    ours, theirs = np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.3, 0.5])
    logits = torch.tensor(np.log(ours), dtype=torch.float32)[None]
    ids, logp = likeliest(torch.tensor(np.log(theirs), dtype=torch.float32)[None], 3)
    assert ids.tolist() == [[2, 1, 0]]
    whole = float((ours * np.log(ours / theirs)).sum())
    assert next_token_kl(logits, ids, logp).item() == pytest.approx(whole, rel=1e-5)
    # The likeliest alone: the other two are taken together, 0.75 against 0.5.
    grouped = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    found = next_token_kl(logits, ids[:, :1], logp[:, :1]).item()
    assert found == pytest.approx(grouped, rel=1e-5) and found < whole
    same = torch.randn(5, 40)
    assert next_token_kl(same, *likeliest(same, 8)).max() < 1e-6


# --- real models


@pytest.fixture(scope="module")
def bundles(signal_run: Path, symbols_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("tiles")
    write_llava(folder / "original", merge="flat")
    import_pulse(folder / "original", folder / "start", rate=RATE, seg_len=SEG_LEN)
    models = {"signal": signal_run / "best", "symbols": symbols_run / "best", "tiles": folder / "start"}
    return {name: from_pretrained(path) for name, path in models.items()}


def dataset(world: Any, bundle: Bundle, *, shared: bool = False) -> PairDataset:
    """Talks of one and of two questions, answers of different lengths."""
    pairs, ecgs = [], []
    for number, c in enumerate(world.conversations("train")[:4]):
        turns = c.turns[:-1]
        if number % 2:
            turns = (*c.turns, Turn("user", "And the axis?"))
        answers = ("normal sinus rhythm", "no") if number else ("no", "sinus")
        pairs.append(Pair(c.id, "compare", turns, (), (), *answers))
        ecgs.append(c.ecgs)
    source = EcgSource([SegmentStore(world.store)], bundle.representation)
    return PairDataset(pairs, ecgs, source, bundle.prompter, shared=shared)


def by_hand(bundle: Bundle, e: Example) -> float:
    """One sequence, all its logits, softmax in numpy, summed over the tokens behind the last header."""
    batch = collate([e], pad_id=0)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids", "ecg", "tiles") if k in batch}
    with torch.inference_mode():
        logits = bundle.elm(**inputs)[0].double().numpy()
    logits -= logits.max(axis=1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    at = np.flatnonzero(e.labels != IGNORE)
    return float(sum(logp[i - 1, e.input_ids[i]] for i in at))


@pytest.mark.parametrize("name", ["signal", "symbols", "tiles"])
def test_d10_batches_equal_an_independent_reference_pair_by_pair(world, bundles, name: str) -> None:
    bundle = bundles[name]
    apart, joined = dataset(world, bundle), dataset(world, bundle, shared=True)
    assert len(apart) == 4 and not apart.refused
    rows = [apart[i] for i in range(4)]
    expected = np.array([[by_hand(bundle, s) for s in row.sequences] for row in rows])
    with torch.inference_mode():
        padded = logps(bundle.elm, rows)
        single = np.concatenate([logps(bundle.elm, [row]) for row in rows])
        shared = logps(bundle.elm, [joined[i] for i in range(4)])
    np.testing.assert_allclose(padded, expected, atol=2e-4)
    np.testing.assert_allclose(single, padded, atol=1e-4)
    np.testing.assert_allclose(shared, padded, atol=1e-4)


@pytest.mark.parametrize("name", ["signal", "symbols", "tiles"])
def test_d10_only_the_answer_and_its_end_token_are_counted(world, bundles, name: str) -> None:
    bundle = bundles[name]
    tokenizer, data = bundle.prompter.tokenizer, dataset(world, bundle)
    for i, (pair, _) in enumerate(data.items):
        for sequence, text in zip(data[i].sequences, (pair.chosen, pair.rejected), strict=True):
            ids = sequence.input_ids[sequence.labels != IGNORE]
            assert ids[-1] == bundle.prompter.end_id
            assert tokenizer.decode(ids[:-1].tolist()).strip() == text
            prompt = data[i].sequences[0].input_ids[: int(np.argmax(sequence.labels != IGNORE))]
            np.testing.assert_array_equal(prompt, sequence.input_ids[: len(prompt)])


def test_the_reference_of_a_batch_stands_beside_its_tokens(world, bundles) -> None:
    """In the order of ``token_logprobs``, in both layouts."""
    bundle = bundles["signal"]
    for shared in (False, True):
        data = dataset(world, bundle, shared=shared)
        with torch.inference_mode():
            alone = []
            for i in range(4):
                logits, _ = answer_logits(bundle.elm, collate_pairs([data[i]], pad_id=0))
                tokens = token_logprobs(bundle.elm, collate_pairs([data[i]], pad_id=0))
                alone.append((tokens.numpy(), *(t.numpy() for t in likeliest(logits, 8))))
        data.reference = [Reference(*row) for row in alone]
        batch = collate_pairs([data[i] for i in range(4)], pad_id=0)
        with torch.inference_mode():
            logits, _ = answer_logits(bundle.elm, batch)
            np.testing.assert_allclose(batch["reference"], token_logprobs(bundle.elm, batch), atol=1e-4)
            assert next_token_kl(logits, batch["likeliest"], batch["likeliest_logp"]).max() < 1e-5
        assert batch["labels"].shape == (4, 2)


def test_pairs_that_do_not_fit_are_refused(world, bundles) -> None:
    bundle = bundles["signal"]
    short = replace(bundle, prompter=replace(bundle.prompter, max_len=12))
    data = dataset(world, short)
    assert {r["reason"] for r in data.refused} == {"sequence_too_long"}
    assert len(data) == 0 and data.counts() == {"used": 0, "rejected:sequence_too_long": 4}
    source = EcgSource([SegmentStore(world.store)], bundle.representation)
    c = world.conversations("train")[0]
    marked = Pair("m", "compare", (Turn("user", "<ecg><ecg> Which?"),), (), (), "a", "b")
    said = Pair("s", "compare", (Turn("user", "Which?"),), (), (), "an <ecg>", "b")
    data = PairDataset([marked, said], [c.ecgs, c.ecgs], source, bundle.prompter)
    assert [r["reason"] for r in data.refused] == ["ecg_mark_count", "mark_outside_user_turn"]
