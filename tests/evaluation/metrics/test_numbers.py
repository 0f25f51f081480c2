"""Intervals and axes: which quantity a number is of, tolerance, error around the circle."""

from __future__ import annotations

import math

import pytest

from ecglm import registry
from ecglm.evaluation.metrics.base import number_error, quantity


def value(name, rows):
    return registry.get("metrics", name)(rows)


@pytest.mark.parametrize(
    ("reference", "task", "expected"),
    [
        ("72 bpm", "rate", "rate"),
        ("72", "rate", "rate"),
        ("72 beats per minute", "", "rate"),
        ("160 ms", "pr", "pr"),
        ("PR 160 ms", "", "pr"),
        ("92 ms", "qrs", "qrs"),
        ("400 ms", "qt", "qt"),
        ("QTc 420 ms", "", "qtc"),
        ("160 ms", "", "interval"),
        ("-30 degrees", "", "axis"),
        ("-30", "axis", "axis"),
        ("45°", "", "axis"),
    ],
)
def test_quantity_of_a_number(make_row, reference, task, expected):
    assert quantity(make_row(reference, "", "number", task=task)) == expected


@pytest.mark.parametrize(
    ("reference", "task", "stated", "within", "error"),
    [
        ("160 ms", "pr", "180 ms", 1.0, 20.0),
        ("160 ms", "pr", "181", 0.0, 21.0),
        ("92 ms", "qrs", "72", 1.0, 20.0),
        ("400 ms", "qt", "440 ms", 1.0, 40.0),
        ("400 ms", "qt", "359 ms", 0.0, 41.0),
        ("420 ms", "qtc", "long", 0.0, None),
        ("420 ms", "qtc", "", 0.0, None),
        ("420 ms", "qtc", "400 to 440", 0.0, None),
    ],
)
def test_intervals(make_row, reference, task, stated, within, error):
    row = make_row(reference, stated, "number", task=task)
    assert value("interval_within", [row]) == within
    assert value("accuracy", [row]) == within
    mae = value("interval_mae", [row])
    assert math.isnan(mae) if error is None else mae == error
    assert not registry.get("metrics", "rate_mae").fits(row) and not registry.get("metrics", "axis_mae").fits(row)


def test_the_error_of_intervals_leaves_out_what_states_none_and_the_share_does_not(make_row):
    rows = [make_row("160 ms", text, "number", task="pr") for text in ("170", "100", "short")]
    assert value("interval_mae", rows) == 35.0
    assert value("interval_within", rows) == 1 / 3


@pytest.mark.parametrize(
    ("reference", "stated", "error"),
    [("-30 degrees", "-30", 0.0), ("-30 degrees", "-45 degrees", 15.0), ("170°", "-175", 15.0), ("-90°", "90", 180.0)],
)
def test_axes_are_compared_around_the_circle(make_row, reference, stated, error):
    row = make_row(reference, stated, "number", task="axis")
    assert number_error(row) == error == value("axis_mae", [row])
    assert value("axis_within_15", [row]) == float(error <= 15)
