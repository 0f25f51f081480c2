"""Macro ROC AUC of yes/no predictions per class, ``(TPR + TNR) / 2``: 0 to 1, 0.5 for a constant answer.

Called ``auc_binary`` because a text answer has no score to rank by: the ROC curve of a yes/no
prediction has one corner, and the area below it is the balanced accuracy. Not comparable with an AUC of probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, class_set, divide
from ecglm.evaluation.metrics.macro_f1 import counts
from ecglm.registry import register


def statistics(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    """Per row and class: true positive, false positive, false negative; then 1 per row. ``(num_rows, 3C + 1)``."""
    return np.concatenate([counts(rows, labels), np.ones((len(rows), 1))], axis=1)


def value(sums: np.ndarray) -> np.ndarray:
    """Mean over the classes with positive and negative gold rows, NaN when none has both. ``(…, 3C + 1)`` → ``(…)``."""
    table = sums[..., :-1].reshape(*sums.shape[:-1], (sums.shape[-1] - 1) // 3, 3)
    hit, extra, missed = table[..., 0], table[..., 1], table[..., 2]
    positive = hit + missed
    negative = sums[..., -1:] - positive
    area = (divide(hit, positive) + 1.0 - divide(extra, negative)) / 2
    defined = ~np.isnan(area)
    return divide(np.where(defined, area, 0.0).sum(axis=-1), defined.sum(axis=-1))


AUC_BINARY = register("metrics", "auc_binary")(
    Metric(
        statistics,
        value,
        kinds=("multi",),
        classes=class_set,
        about="macro ROC AUC of binary predictions, (TPR + TNR) / 2 per class",
    )
)
