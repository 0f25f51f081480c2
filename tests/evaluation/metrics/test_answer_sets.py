"""answer_set and answer_f1."""

from __future__ import annotations

import pytest

from ecglm import registry


@pytest.mark.parametrize(
    ("gold", "stated", "same", "f1"),
    [
        (["a", "b"], "b, a", 1, 1.0),
        (["a", "b"], "a", 0, 2 / 3),
        (["a"], "a, x", 0, 2 / 3),
        (["a", "b"], "a, x", 0, 0.5),
        (["a"], "x", 0, 0.0),
        (["a"], "", 0, 0.0),
        (["none"], "None.", 1, 1.0),
    ],
)
def test_sets(make_row, gold, stated, same, f1):
    row = make_row(", ".join(gold), stated, "single-query", metadata={"answers": gold})
    assert registry.get("metrics", "answer_set")([row]) == same
    assert registry.get("metrics", "answer_f1")([row]) == pytest.approx(f1, abs=1e-12)
