"""The three logs: what a batch is counted as, rows that a resumed run must not repeat, clocks apart from numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ecglm.files import read_jsonl
from ecglm.prompts.collate import collate
from ecglm.training.logs import CollateWithFacts, StepLog, batch_facts, metrics_row, shapes, summary
from ecglm.types import Example


def example(name: str, length: int, answer: int, ecg: bool = True) -> Example:
    """``length`` tokens, the last ``answer`` of which are learned."""
    ids = list(range(10, 10 + length))
    labels = [-100] * (length - answer) + ids[length - answer :]
    return Example(name, np.array(ids), np.array(labels), np.zeros((1, 12, 5), np.float32) if ecg else None)


def test_a_batch_is_counted_where_it_is_made() -> None:
    rows = [example("a", 7, 2), example("b", 4, 3, ecg=False), example("c", 5, 0)]
    batch = CollateWithFacts(lambda found: collate(found, pad_id=0), needs_ecg=True)(rows)
    assert batch["input_ids"].shape == (3, 7)
    assert batch["facts"] == {
        "ids": ["a", "b", "c"],
        "examples": 3,
        "tokens": 21,
        "useful": 16,
        "labels": 5,
        "counts_labels": True,
        "without_ecg": 1,
        "without_answer": 0,
    }
    assert batch_facts(rows, batch)["without_ecg"] == 0  # a model of symbols alone
    blind = [example("d", 3, 0)]
    facts = batch_facts(blind, collate(blind, pad_id=0))
    assert (facts["labels"], facts["without_answer"]) == (0, 1)


def test_packed_rows_count_as_the_examples_in_them() -> None:
    rows = [[example("a", 7, 2), example("b", 4, 3)], [example("c", 5, 1)]]
    facts = batch_facts(rows, {"input_ids": torch.zeros(1, 16), "labels": torch.full((1, 16), -100)})
    assert (facts["ids"], facts["examples"], facts["useful"], facts["tokens"]) == (["a", "b", "c"], 3, 16, 16)


def test_batches_without_text_count_rows_alone() -> None:
    facts = batch_facts([{"x": 1}, {"x": 2}], {"x": torch.zeros(2, 1)})
    assert facts["examples"] == 2 and facts["ids"] == [] and not facts["counts_labels"]
    assert {facts[k] for k in ("tokens", "useful", "labels", "without_ecg", "without_answer")} == {0}


def test_a_row_holds_numbers_only_and_says_what_was_left_out() -> None:
    counts = {"tokens": 21, "useful": 16, "examples": 3, "labels": 5, "without_ecg": 0, "without_answer": 0}
    assert metrics_row(4, 1.5, 0.25, 1e-3, counts, None) == {
        "step": 4,
        "loss": 1.5,
        "grad_norm": 0.25,
        "learning_rate": 1e-3,
        "tokens": 21,
        "useful": 0.7619,
    }
    bad = metrics_row(4, float("nan"), float("inf"), 1e-3, {**counts, "without_ecg": 2}, "loss_not_finite")
    assert bad.keys() == {"step", "learning_rate", "tokens", "useful", "without_ecg", "skipped"}
    json.dumps(bad, allow_nan=False)


@pytest.mark.parametrize("step, kept", [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_a_run_that_goes_on_forgets_what_comes_again(tmp_path: Path, step: int, kept: list[int]) -> None:
    log = StepLog(tmp_path)
    for number in (1, 2, 3):
        log.add("metrics.jsonl", {"step": number, "loss": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()  # written together
    log.flush()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    again = StepLog(tmp_path)
    again.begin(step)
    assert [r["step"] for r in read_jsonl(tmp_path / "metrics.jsonl")] == kept if kept else True
    assert (tmp_path / "metrics.jsonl").exists() == bool(kept)
    for number in range(step + 1, 4):
        again.add("metrics.jsonl", {"step": number, "loss": 1.0})
    again.flush()
    assert [r["step"] for r in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    log = StepLog(tmp_path, writes=False)
    log.add("metrics.jsonl", {"step": 1})
    log.flush()
    log.begin(0)
    assert list(tmp_path.iterdir()) == [] and log.pending["metrics.jsonl"] == []


def test_the_summary_counts_what_happened_and_nothing_else(tmp_path: Path) -> None:
    assert summary(tmp_path) == {}
    log = StepLog(tmp_path)
    log.add("metrics.jsonl", {"step": 1, "loss": 1.0})
    log.add("metrics.jsonl", {"step": 2, "loss": 1.0, "without_ecg": 3})
    log.add("metrics.jsonl", {"step": 3, "skipped": "no_answer_tokens", "without_answer": 2})
    log.add("skipped.jsonl", {"step": 3, "reason": "no_answer_tokens", "ids": ["a"]})
    log.flush()
    assert summary(tmp_path) == {
        "batches_without_answer": 2,
        "rows_without_ecg": 3,
        "steps_skipped:no_answer_tokens": 1,
    }


def test_shapes_are_for_people() -> None:
    assert shapes({"input_ids": torch.zeros(8, 512), "ecg": torch.zeros(8, 12, 5), "x": 3}) == (
        "input_ids 8x512, ecg 8x12x5"
    )
