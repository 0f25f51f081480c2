"""Heart-rate questions: mean absolute error in beats per minute, and the share within 5 beats per minute."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row, answer_text, is_correct, number_in, row_mean
from ecglm.registry import register


@register("metrics", "rate_mae")
@row_mean(kinds=("number",), higher_is_better=False)
def rate_mae(row: Row) -> float:
    """|stated − reference| in bpm; NaN (left out, counted as unparsed) where the answer states no single number."""
    stated, truth = number_in(answer_text(row)), number_in(str(row["reference"]))
    return float("nan") if stated is None or truth is None else abs(stated - truth)


@register("metrics", "within_5_bpm")
@row_mean(kinds=("number",))
def within_5_bpm(row: Row) -> float:
    """1 where the stated number is within 5 bpm of the reference, else 0; an unparsed answer is 0."""
    return float(is_correct(row))
