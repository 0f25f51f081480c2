"""F1 per class and its plain mean over classes, for closed and multi-label questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, class_set, divide, predicted_labels, reference_labels
from ecglm.registry import register


def counts(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    """Per row and class: true positive, false positive, false negative. float64 ``(num_rows, 3 * num_classes)``.

    A stated label outside ``labels`` is a false positive of no class; the gold label it missed is a false negative.
    """
    table = np.zeros((len(rows), len(labels), 3))
    place = {label: c for c, label in enumerate(labels)}
    for i, row in enumerate(rows):
        stated, gold = predicted_labels(row), reference_labels(row)
        for label in stated | gold:
            if label in place:
                table[i, place[label], 0 if label in stated & gold else 1 if label in stated else 2] = 1.0
    return table.reshape(len(rows), 3 * len(labels))


def f1_per_class(sums: np.ndarray) -> np.ndarray:
    """``2TP / (2TP + FP + FN)`` per class, NaN for a class without gold positives. ``(…, 3C)`` → ``(…, C)``."""
    table = sums.reshape(*sums.shape[:-1], sums.shape[-1] // 3, 3)
    hit, extra, missed = table[..., 0], table[..., 1], table[..., 2]
    return np.where(hit + missed > 0, divide(2 * hit, 2 * hit + extra + missed), np.nan)


def recall_per_class(sums: np.ndarray) -> np.ndarray:
    """``TP / (TP + FN)``: the accuracy among the rows of each class. ``(…, 3C)`` → ``(…, C)``."""
    table = sums.reshape(*sums.shape[:-1], sums.shape[-1] // 3, 3)
    return divide(table[..., 0], table[..., 0] + table[..., 2])


def macro(sums: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that have gold positives; NaN when none has. ``(…, 3C)`` → ``(…)``."""
    scores = f1_per_class(sums)
    defined = ~np.isnan(scores)
    return divide(np.where(defined, scores, 0.0).sum(axis=-1), defined.sum(axis=-1))


MACRO_F1 = register("metrics", "macro_f1")(
    Metric(
        counts,
        macro,
        kinds=("closed", "multi"),
        classes=class_set,
        about="plain mean over classes of 2TP / (2TP + FP + FN); classes without gold rows are left out",
    )
)
