"""Heart-rate error in beats per minute."""

from __future__ import annotations

import math

from ecglm import registry


def test_rate_error_and_share_within_five(make_row):
    stated = ["70 bpm", "75", "The rate is 64 bpm", "fast", ""]
    rows = [make_row("70 bpm", text, "number") for text in stated]
    assert registry.get("metrics", "rate_mae")(rows) == (0 + 5 + 6) / 3
    assert registry.get("metrics", "within_5_bpm")(rows) == 2 / 5


def test_no_readable_answer_has_no_error_but_zero_share(make_row):
    rows = [make_row("70 bpm", "fast", "number")]
    assert math.isnan(registry.get("metrics", "rate_mae")(rows))
    assert registry.get("metrics", "within_5_bpm")(rows) == 0.0
