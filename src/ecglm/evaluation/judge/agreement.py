"""Do graders agree: Spearman, Cohen's kappa, intraclass correlations, Kendall's W, with intervals over items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecglm.evaluation.statistics import estimate, resample_weights

#: Measure → what it is; all of them are 1 for full agreement, and higher is better.
MEASURES = {
    "spearman": "rank correlation, ties as mid-ranks; -1 to 1",
    "kappa": "Cohen's kappa, equal or not; 0 is agreement by chance (Cohen 1960)",
    "kappa_linear": "weighted by the distance of the scores (Cohen 1968)",
    "kappa_quadratic": "weighted by the squared distance of the scores (Cohen 1968)",
    "icc_2_1": "absolute agreement, raters as a sample of raters (Shrout and Fleiss 1979)",
    "icc_3_1": "consistency, these raters alone (Shrout and Fleiss 1979)",
}
KENDALL = "kendall_w"
_BLOCK = 2_000_000  # weights worked on at once


def agreement(
    ratings: Sequence[Sequence[float]] | np.ndarray, *, num_resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How far raters agree on the same items.

    ratings: ``(num_items, num_raters)``. Two raters: all of ``MEASURES``; more: the intraclass correlations and
    Kendall's W (ties corrected). Each with a 95 % percentile interval from a bootstrap of the items; None where
    undefined (a rater who gives the same score to all).
    """
    table = np.asarray(ratings, dtype=np.float64)
    n, raters = table.shape
    whole = np.ones((1, n))
    drawn = resample_weights(n, num_resamples=num_resamples, seed=seed)
    step = max(1, _BLOCK // n)
    if raters == 2:
        functions = {
            "spearman": spearman,
            "kappa": lambda t, w: kappa(t, w, 0),
            "kappa_linear": lambda t, w: kappa(t, w, 1),
            "kappa_quadratic": lambda t, w: kappa(t, w, 2),
        }
    else:
        functions = {KENDALL: kendall_w}
    functions |= {
        "icc_2_1": lambda t, w: intraclass(t, w)[0],
        "icc_3_1": lambda t, w: intraclass(t, w)[1],
    }
    found = {}
    for name, measure in functions.items():
        parts = [measure(table, drawn[i : i + step].astype(np.float64)) for i in range(0, len(drawn), step)]
        found[name] = estimate(float(measure(table, whole)[0]), np.concatenate(parts), n, n).as_dict()
    return found


def spearman(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of two raters. table: ``(num_items, 2)``; weights: ``(b, num_items)`` → ``(b,)``."""
    first, second = (mid_ranks(table[:, i], weights)[0] for i in (0, 1))
    total = weights.sum(axis=1, keepdims=True)
    first = first - (weights * first).sum(axis=1, keepdims=True) / total
    second = second - (weights * second).sum(axis=1, keepdims=True) / total
    covariance = (weights * first * second).sum(axis=1)
    spread = (weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1)
    return _divide(covariance, np.sqrt(spread))


def kappa(table: np.ndarray, weights: np.ndarray, power: int) -> np.ndarray:
    """Cohen's kappa of two raters; a disagreement weighs ``|a − b| ** power``, or 1 for power 0."""
    values, codes = np.unique(table, return_inverse=True)
    codes = codes.reshape(table.shape)
    distance = np.abs(values[:, None] - values[None, :])
    cost = (distance > 0).astype(np.float64) if power == 0 else distance**power
    total = weights.sum(axis=1)
    observed = weights @ cost[codes[:, 0], codes[:, 1]] / total
    first, second = (weights @ np.eye(len(values))[codes[:, i]] / total[:, None] for i in (0, 1))
    return 1.0 - _divide(observed, ((first @ cost) * second).sum(axis=1))


def intraclass(table: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICC(2,1) and ICC(3,1) from the two-way mean squares (Shrout and Fleiss 1979)."""
    table = table - table.mean()  # sums of squares of large scores would cancel
    raters = table.shape[1]
    n = weights.sum(axis=1)
    columns, rows = weights @ table, table.sum(axis=1)
    correction = columns.sum(axis=1) ** 2 / (n * raters)
    between_items = weights @ rows**2 / raters - correction
    between_raters = (columns**2).sum(axis=1) / n - correction
    rest = weights @ (table**2).sum(axis=1) - correction - between_items - between_raters
    items = between_items / (n - 1)
    judges = between_raters / (raters - 1)
    error = np.maximum(rest, 0.0) / ((n - 1) * (raters - 1))
    return (
        _divide(items - error, items + (raters - 1) * error + raters * (judges - error) / n),
        _divide(items - error, items + (raters - 1) * error),
    )


def kendall_w(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's coefficient of concordance of any number of raters, corrected for ties; 0 to 1."""
    raters, n = table.shape[1], weights.sum(axis=1)
    ranked = [mid_ranks(table[:, i], weights) for i in range(raters)]
    sums = np.sum([ranks for ranks, _ in ranked], axis=0)
    ties = np.sum([tied for _, tied in ranked], axis=0)
    spread = (weights * (sums - raters * (n[:, None] + 1) / 2) ** 2).sum(axis=1)
    return _divide(12 * spread, raters**2 * (n**3 - n) - raters * ties)


def mid_ranks(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1, ties sharing their mean, where item i stands ``weights[b, i]`` times; and Σ t³ − t of the ties."""
    values, codes = np.unique(scores, return_inverse=True)
    counts = weights @ np.eye(len(values))[codes.ravel()]
    ranks = np.cumsum(counts, axis=1) - counts + (counts + 1) / 2
    return ranks[:, codes.ravel()], (counts**3 - counts).sum(axis=1)


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by: a rater without spread."""
    small = np.abs(below) < 1e-12
    return np.where(small, np.nan, above / np.where(small, 1.0, below))
