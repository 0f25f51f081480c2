"""Exact match after lower-casing, collapsing spaces and dropping final punctuation."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, answer_text, normalise, row_mean
from ecglm.registry import register


@register("metrics", "exact_norm")
@row_mean()
def exact_norm(row: Row) -> float:
    """Share of rows equal after NFC, lower case, single spaces, no final punctuation."""
    return float(normalise(answer_text(row)) == normalise(str(row["reference"])) != "")
