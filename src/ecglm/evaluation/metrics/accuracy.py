"""Accuracy: the share of rows answered right, by the rule of the row's kind of question."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, is_correct, row_mean
from ecglm.registry import register


@register("metrics", "accuracy")
@row_mean(kinds=("closed", "multi", "number"))
def accuracy(row: Row) -> float:
    """Share of rows answered right: the same label, the same set of labels, or a number within tolerance.

    Tolerances: 5 bpm, PR and QRS 20 ms, QT 40 ms, axis 15 degrees. An answer that cannot be read is wrong.
    """
    return float(is_correct(row))
