"""Set accuracy for questions with several right answers (multi-label, ECG-QA)."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, predicted_labels, reference_labels, row_mean
from ecglm.registry import register


@register("metrics", "answer_set")
@row_mean(kinds=("multi",))
def answer_set(row: Row) -> float:
    """1 where the set of stated labels equals the gold set, else 0; an unknown label makes it 0."""
    stated = predicted_labels(row)
    return float(bool(stated) and stated == reference_labels(row))
