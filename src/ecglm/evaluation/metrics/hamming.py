"""Hamming loss of multi-label questions: the share of (row, class) cells that are wrong, 0 to 1; lower is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, class_set, ratio
from ecglm.evaluation.metrics.macro_f1 import counts
from ecglm.registry import register


def statistics(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    """Per row: wrong cells (false positives and negatives), cells. ``(num_rows, 2)``.

    An answer that failed or cannot be read states no class: its gold classes are the wrong cells. A stated label
    outside the classes is no cell.
    """
    table = counts(rows, labels).reshape(len(rows), len(labels), 3)
    wrong = table[:, :, 1:].sum(axis=(1, 2))
    return np.stack([wrong, np.full(len(rows), float(len(labels)))], axis=1)


HAMMING = register("metrics", "hamming")(
    Metric(
        statistics,
        ratio,
        kinds=("multi",),
        higher_is_better=False,
        classes=class_set,
        about="share of wrong (row, class) cells",
    )
)
