"""Heart-rate questions: mean absolute error in beats per minute, and the share within 5 beats per minute."""

from __future__ import annotations

import math

from ecglm.evaluation.metrics.base import RATE_TOLERANCE_BPM, Row, number_error, quantity, row_mean
from ecglm.registry import register


def is_rate(row: Row) -> bool:
    """Whether a number question asks for a rate: its reference says bpm, or no other unit."""
    return quantity(row) == "rate"


@register("metrics", "rate_mae")
@row_mean(kinds=("number",), higher_is_better=False, only=is_rate, span=(0.0, math.inf), unit="bpm")
def rate_mae(row: Row) -> float:
    """Mean |stated − reference| of heart rates; answers without one single number are left out, and counted.

    So it never stands alone: read it beside ``within_5_bpm``, where such an answer is wrong.
    """
    error = number_error(row)
    return math.nan if error is None else error


@register("metrics", "within_5_bpm")
@row_mean(kinds=("number",), only=is_rate)
def within_5_bpm(row: Row) -> float:
    """Share of heart rates within 5 bpm of the reference; an answer without one single number is wrong."""
    error = number_error(row)
    return float(error is not None and error <= RATE_TOLERANCE_BPM)
