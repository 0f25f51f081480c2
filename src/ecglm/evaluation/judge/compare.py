"""Models side by side under one judge: their scores, and paired differences to the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError
from ecglm.evaluation.judge.items import REAL
from ecglm.evaluation.judge.judgements import ItemValues, read_run
from ecglm.evaluation.statistics import patient_bootstrap


def compare_runs(folders: Sequence[str | Path], *, num_resamples: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """One entry per run and criterion: ``run``, ``criterion``, ``score``, and ``difference`` to the first run (positive
    where this one is better), paired on the items that have a score in both, with 95 % intervals over patients.

    Raises EcglmError where the runs were judged by another rubric, rubric version, judge or setting, or on other items:
    such scores are never compared.
    """
    if len(folders) < 2:
        raise EcglmError("judge compare: two judged folders or more are needed")
    runs = [(str(folder), *read_run(folder)) for folder in folders]
    first_name, first, first_items = runs[0]
    for name, summary, items in runs[1:]:
        _check_comparable(first_name, first, name, summary)
        if _keys(items) != _keys(first_items):
            raise EcglmError(f"{name}: judged on other items than {first_name}; such scores are not compared")
    found = []
    for number, (name, summary, items) in enumerate(runs):
        pairs = _pairs(items, first_items) if number else []
        for criterion, score in summary["scores"].items():
            entry = {"run": name, "criterion": criterion, "score": score, "n_failed": summary["n_failed"]}
            if pairs:
                entry["difference"] = _difference(pairs, criterion, num_resamples, seed)
            found.append(entry)
    return found


def _check_comparable(first: str, ours: Mapping[str, Any], second: str, theirs: Mapping[str, Any]) -> None:
    for part in ("rubric", "judge"):
        if ours[part] != theirs[part]:
            differs = [k for k in {**ours[part], **theirs[part]} if ours[part].get(k) != theirs[part].get(k)]
            raise EcglmError(
                f"{second}: {part} differs from that of {first} ({', '.join(differs)}); such scores are never compared"
            )


def _keys(items: Sequence[ItemValues]) -> set[tuple[str, int, int, str]]:
    return {item.key for item in items if item.key[3] == REAL}


def _pairs(items: Sequence[ItemValues], first: Sequence[ItemValues]) -> list[tuple[ItemValues, ItemValues]]:
    """Items of this run and of the first that have values in both."""
    other = {item.key: item for item in first}
    found = [(item, other[item.key]) for item in items if item.key[3] == REAL]
    return [(ours, theirs) for ours, theirs in found if ours.values is not None and theirs.values is not None]


def _difference(
    pairs: Sequence[tuple[ItemValues, ItemValues]], criterion: str, num_resamples: int, seed: int
) -> dict[str, Any]:
    patients = [ours.patient_id or f"row:{ours.key}" for ours, _ in pairs]
    rows = [[(o.values or {})[criterion] - (t.values or {})[criterion], 1.0] for o, t in pairs]
    return patient_bootstrap(
        patients, np.array(rows), lambda sums: sums[..., 0] / sums[..., 1], num_resamples=num_resamples, seed=seed
    ).as_dict()
