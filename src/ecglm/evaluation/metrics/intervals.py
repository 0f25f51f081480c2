"""Interval questions (PR, QRS, QT, QTc): mean absolute error in ms, and the share within tolerance."""

from __future__ import annotations

import math

from ecglm.evaluation.metrics.base import TOLERANCES, Row, number_error, quantity, row_mean
from ecglm.registry import register


def is_interval(row: Row) -> bool:
    """Whether a number question asks for an interval: its reference is in ms."""
    return quantity(row) in ("pr", "qrs", "qt", "qtc", "interval")


@register("metrics", "interval_mae")
@row_mean(kinds=("number",), higher_is_better=False, only=is_interval, span=(0.0, math.inf), unit="ms")
def interval_mae(row: Row) -> float:
    """Mean |stated − reference| of intervals; answers without one single number are left out, and counted."""
    error = number_error(row)
    return math.nan if error is None else error


@register("metrics", "interval_within")
@row_mean(kinds=("number",), only=is_interval)
def interval_within(row: Row) -> float:
    """Share of intervals within tolerance: PR and QRS 20 ms, QT and QTc 40 ms; no single number is wrong."""
    error = number_error(row)
    return float(error is not None and error <= TOLERANCES[quantity(row)])
