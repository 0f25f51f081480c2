"""Macro-AUROC of several classes with patient-bootstrap intervals, paired between systems on the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecglm.errors import EcglmError
from ecglm.evaluation.statistics import Estimate, estimate, resample_weights

_BLOCK = 4_000_000  # weights worked on at once


@dataclass(frozen=True)
class Aurocs:
    """What ``macro_aurocs`` finds of one system.

    macro: mean over the defined classes. classes: class → its own estimate. undefined: class → why it has none; such
    classes are no part of the mean. difference: macro minus that of the reference, or None for the reference itself.
    """

    macro: Estimate
    classes: Mapping[str, Estimate]
    undefined: Mapping[str, str]
    difference: Estimate | None = None


def macro_aurocs(
    scores: Mapping[str, np.ndarray],
    targets: np.ndarray,
    classes: Sequence[str],
    patients: Sequence[str],
    *,
    reference: str | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Aurocs]:
    """Macro-AUROC of one or more systems on the same rows.

    scores: system → ``(num_rows, num_classes)``, higher for positive. targets: bool of that shape. patients: one key
    per row; they are drawn, not rows. A class without a positive or without a negative row is undefined and listed; a
    resample in which a class has none of either leaves that class out of its mean. reference: the system the others
    are compared with. Raises EcglmError for scores that are not finite, ValueError for other shapes.
    """
    targets = np.asarray(targets, bool)
    if targets.shape != (len(patients), len(classes)):
        raise ValueError(f"targets {targets.shape} for {len(patients)} rows and {len(classes)} classes")
    undefined = {
        name: "no positive row" if not column.any() else "no negative row"
        for name, column in zip(classes, targets.T, strict=True)
        if column.all() or not column.any()
    }
    defined = [i for i, name in enumerate(classes) if name not in undefined]
    keys = sorted(set(patients))
    weights = np.ones((1, len(keys)), np.uint16)
    if len(keys) > 1:
        weights = np.concatenate([weights, resample_weights(len(keys), num_resamples=num_resamples, seed=seed)])
    position = {key: i for i, key in enumerate(keys)}
    row_of = np.array([position[p] for p in patients], np.int64)
    found: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        if np.shape(values) != targets.shape:
            raise ValueError(f"{name}: scores {np.shape(values)} for targets {targets.shape}")
        if not np.isfinite(values).all():
            raise EcglmError(f"{name}: a score is not a finite number; the features it was made from are not either")
        columns = [weighted_auroc(values[:, i], targets[:, i], row_of, weights) for i in defined]
        found[name] = np.stack(columns, axis=1) if columns else np.full((len(weights), 0), np.nan)
    means = {name: _mean(values) for name, values in found.items()}
    n = len(patients)
    out = {}
    for name, values in found.items():
        difference = None
        if reference is not None and name != reference:
            difference = _estimate(means[name] - means[reference], n, len(keys))
        each = {
            classes[i]: _estimate(values[:, column], int(targets[:, i].sum()), len(keys))
            for column, i in enumerate(defined)
        }
        out[name] = Aurocs(_estimate(means[name], n, len(keys)), each, undefined, difference)
    return out


def weighted_auroc(values: np.ndarray, target: np.ndarray, row_of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC under each resample: the share of (positive, negative) pairs in order, ties counting half.

    values, target: ``(num_rows,)``. row_of: the patient of each row. weights: how often each patient was drawn,
    ``(num_resamples, num_patients)``. NaN where a resample has no positive or no negative row.
    """
    place = np.unique(values, return_inverse=True)[1].reshape(-1)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(place[order]) != 0])
    out = np.empty(len(weights))
    block = max(1, _BLOCK // max(len(values), 1))
    for first in range(0, len(weights), block):
        w = weights[first : first + block][:, row_of[order]].astype(np.float64)
        positive = np.add.reduceat(w * target[order], starts, axis=1)
        negative = np.add.reduceat(w * ~target[order], starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        ordered = (positive * (below + 0.5 * negative)).sum(axis=1)
        out[first : first + block] = np.divide(ordered, pairs, out=np.full(len(w), np.nan), where=pairs > 0)
    return out


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes a resample has; NaN where it has none."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _estimate(values: np.ndarray, n: int, num_patients: int) -> Estimate:
    return estimate(float(values[0]), values[1:], n, num_patients)
