"""Exact match: the answer is the reference, character by character, once both are stripped."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, answer_text, row_mean
from ecglm.registry import register


@register("metrics", "exact")
@row_mean()
def exact(row: Row) -> float:
    """Share of rows whose stripped strings are equal."""
    return float(answer_text(row) == str(row["reference"]).strip() != "")
