"""F1 between the stated and the gold set of labels, mean over rows."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, predicted_labels, reference_labels, row_mean
from ecglm.registry import register


@register("metrics", "answer_f1")
@row_mean(kinds=("multi",))
def answer_f1(row: Row) -> float:
    """Mean of 2 |stated ∩ gold| / (|stated| + |gold|); 0 for an empty answer."""
    stated, gold = predicted_labels(row), reference_labels(row)
    return 2.0 * len(stated & gold) / (len(stated) + len(gold)) if stated and gold else 0.0
