"""Set accuracy for questions with several right answers (multi-label, ECG-QA)."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, predicted_labels, reference_labels, row_mean
from ecglm.registry import register


@register("metrics", "answer_set")
@row_mean(kinds=("multi",))
def answer_set(row: Row) -> float:
    """Share of rows whose set of stated labels equals the gold set; an unknown label makes it wrong (ECG-QA)."""
    stated = predicted_labels(row)
    return float(bool(stated) and stated == reference_labels(row))
