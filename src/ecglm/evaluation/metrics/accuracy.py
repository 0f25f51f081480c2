"""Accuracy: the share of rows answered right, by the rule of the row's kind of question."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, is_correct, row_mean
from ecglm.registry import register


@register("metrics", "accuracy")
@row_mean(kinds=("closed", "multi", "number"))
def accuracy(row: Row) -> float:
    """1 for the same label, the same set of labels, or a number within 5 bpm; else 0. Unparsed answers are wrong."""
    return float(is_correct(row))
