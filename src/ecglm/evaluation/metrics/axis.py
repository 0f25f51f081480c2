"""Axis questions: mean absolute error in degrees around the circle, and the share within 15 degrees."""

from __future__ import annotations

import math

from ecglm.evaluation.metrics.base import TOLERANCES, Row, number_error, quantity, row_mean
from ecglm.registry import register


def is_axis(row: Row) -> bool:
    """Whether a number question asks for an axis: its reference is in degrees."""
    return quantity(row) == "axis"


@register("metrics", "axis_mae")
@row_mean(kinds=("number",), higher_is_better=False, only=is_axis, span=(0.0, 180.0), unit="degrees")
def axis_mae(row: Row) -> float:
    """Mean |stated − reference| of axes, around the circle; answers without one single number are left out."""
    error = number_error(row)
    return math.nan if error is None else error


@register("metrics", "axis_within_15")
@row_mean(kinds=("number",), only=is_axis)
def axis_within_15(row: Row) -> float:
    """Share of axes within 15 degrees of the reference; an answer without one single number is wrong."""
    error = number_error(row)
    return float(error is not None and error <= TOLERANCES["axis"])
