"""Strict metrics with patient intervals, and the gap to the controls, all on the same resamples of the patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.ecgbench.answers import FAILED, MISSING
from ecglm.evaluation.ecgbench.strict import LOWER_IS_BETTER, Reading, Task, f1_of_each
from ecglm.evaluation.statistics import clean, estimate, interval, patient_sums, resample_weights, resampled_sums


def measure(
    scores: dict[str, Any], task: Task, read: Mapping[str, Sequence[Reading]], num_resamples: int, seed: int
) -> None:
    """Every metric of a task under every condition, and the gap, all on the same resamples of the patients."""
    patients = [item.patient_id for item in task.items]
    keys = sorted(set(patients))
    weights = resample_weights(len(keys), num_resamples=num_resamples, seed=seed)
    table = {c: task.statistics(rows) for c, rows in read.items()}
    n = len(task.items)
    for control, rows in table.items():
        sums = patient_sums(patients, rows, keys)
        point, resampled = sums.sum(0), resampled_sums(sums, weights)
        scores["strict"].setdefault(control, {})[task.name] = {
            name: estimate(float(value(point)), value(resampled), n, len(keys)).as_dict()
            for name, value in task.metrics.items()
        }
        if control == REAL and task.labels:
            each, spread = f1_of_each(point), f1_of_each(resampled)
            held = [sum(label in right for right in task.right.values()) for label in task.labels]
            scores["classes"][task.name] = {
                label: {"f1": estimate(float(each[c]), spread[:, c], held[c], len(keys)).as_dict()}
                for c, label in enumerate(task.labels)
            }
    _gaps(scores, task, table, read, keys, weights)


def _gaps(
    scores: dict[str, Any],
    task: Task,
    table: Mapping[str, np.ndarray],
    read: Mapping[str, Sequence[Reading]],
    keys: Sequence[str],
    weights: np.ndarray,
) -> None:
    """Real minus each control and minus the best of them, on the items every control answered: one that a control
    lacks would flatter the gap. In each resample the best control is found anew; perturbations are no controls."""
    rivals = [c for c in table if c != REAL and not is_perturbation(c)]
    if not rivals:
        return
    shared = np.array([not any(read[c][i].state in (MISSING, FAILED) for c in rivals) for i in range(len(task.items))])
    if not shared.any():
        return
    patients = [item.patient_id for item, keep in zip(task.items, shared, strict=True) if keep]
    value, sign = task.metrics[task.main], -1.0 if task.main in LOWER_IS_BETTER else 1.0
    points, spreads = [], []
    for control in (REAL, *rivals):
        sums = patient_sums(patients, table[control][shared], keys)
        points.append(sign * float(value(sums.sum(0))))
        spreads.append(sign * value(resampled_sums(sums, weights)))
    n, num_patients = int(shared.sum()), len(set(patients))
    scores["gap_to"][task.name] = {
        c: estimate(points[0] - points[i], spreads[0] - spreads[i], n, num_patients).as_dict()
        for i, c in enumerate(rivals, 1)
    }
    known = [-math.inf if math.isnan(p) else p for p in points[1:]]
    if all(map(math.isinf, known)):
        return
    best = int(np.argmax(known))
    top = np.stack([np.where(np.isnan(s), -np.inf, s) for s in spreads[1:]]).max(0)
    low, high = interval(spreads[0] - np.where(np.isinf(top), np.nan, top)) if num_patients > 1 else (None, None)
    gap = {"control": rivals[best], "value": clean(points[0] - known[best]), "low": low, "high": high, "n": n}
    scores["gap"][task.name] = gap
    if low is not None and low <= 0:
        scores["warnings"].append(f"{task.name}: the gap to '{rivals[best]}' is not shown to be above zero")
