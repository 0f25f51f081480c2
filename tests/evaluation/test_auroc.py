"""Macro-AUROC: against pair counting, another library, and resamples written out row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from ecglm.errors import EcglmError
from ecglm.evaluation.auroc import macro_aurocs, weighted_auroc
from ecglm.evaluation.statistics import resample_weights


def pairs(values: np.ndarray, target: np.ndarray) -> float:
    """Every positive against every negative, one by one."""
    won = [(p > n) + 0.5 * (p == n) for p in values[target] for n in values[~target]]
    return float(np.mean(won)) if won else float("nan")


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_one_pair_after_the_other(rows):
    values, target = np.array([v for v, _ in rows], float), np.array([t for _, t in rows])
    found = weighted_auroc(values, target, np.arange(len(rows)), np.ones((1, len(rows)), np.uint16))[0]
    assert found == pytest.approx(pairs(values, target), nan_ok=True)


def test_another_library_says_the_same():
    rng = np.random.default_rng(0)
    values, target = rng.normal(size=200), rng.random(200) < 0.3
    other = mannwhitneyu(values[target], values[~target]).statistic / (target.sum() * (~target).sum())
    found = macro_aurocs({"x": values[:, None]}, target[:, None], ["a"], [str(i) for i in range(200)], num_resamples=10)
    assert found["x"].macro.value == pytest.approx(other)


def test_a_resample_is_its_rows_written_out():
    rng = np.random.default_rng(1)
    values, target = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.5
    row_of = rng.integers(0, 12, 40)
    weights = resample_weights(12, num_resamples=20, seed=3)
    found = weighted_auroc(values, target, row_of, weights)
    for w, one in zip(weights, found, strict=True):
        again = np.repeat(np.arange(40), w[row_of])
        assert one == pytest.approx(pairs(values[again], target[again]), nan_ok=True)


def test_classes_without_positives_or_negatives_are_listed_and_no_part_of_the_mean():
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]], bool)
    scores = np.array([[2.0, 9, 9], [1, 9, 9], [3, 9, 9], [0, 9, 9]])
    found = macro_aurocs({"x": scores}, targets, ["a", "b", "c"], list("pqrs"), num_resamples=50)["x"]
    assert found.macro.value == 1.0
    assert found.undefined == {"b": "no positive row", "c": "no negative row"}
    assert set(found.classes) == {"a"} and found.classes["a"].n == 2


def test_nothing_defined_gives_no_value():
    found = macro_aurocs({"x": np.zeros((2, 1))}, np.zeros((2, 1), bool), ["a"], ["p", "q"], num_resamples=5)["x"]
    assert (found.macro.value, found.macro.low) == (None, None)


def test_systems_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(2)
    target = rng.random((80, 2)) < 0.4
    good, bad = target + rng.normal(size=(80, 2)), rng.normal(size=(80, 2))
    people = [str(i // 2) for i in range(80)]
    found = macro_aurocs({"good": good, "random": bad}, target, ["a", "b"], people, reference="random")
    difference = found["good"].difference
    assert found["random"].difference is None and difference is not None
    assert difference.value == pytest.approx(found["good"].macro.value - found["random"].macro.value)
    assert difference.low > 0
    same = macro_aurocs({"good": bad, "random": bad}, target, ["a", "b"], people, reference="random")["good"].difference
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_patients_are_drawn_and_not_rows():
    """One patient's rows say the same thing many times: the interval must not shrink with them."""
    target = np.array([[i % 2 == 0] for i in range(12)])
    scores = np.random.default_rng(0).normal(size=(12, 1)) + target
    once = macro_aurocs({"x": scores}, target, ["a"], [str(i) for i in range(12)], seed=1)["x"].macro
    often = macro_aurocs(
        {"x": np.repeat(scores, 9, 0)},
        np.repeat(target, 9, 0),
        ["a"],
        [str(i) for i in range(12) for _ in range(9)],
        seed=1,
    )["x"].macro
    assert sorted([once.low, once.high]) == pytest.approx(sorted([often.low, often.high]), abs=0.05)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(EcglmError, match="not a finite number"):
        macro_aurocs({"x": np.array([[np.nan], [0.0]])}, np.array([[True], [False]]), ["a"], ["p", "q"])
    with pytest.raises(ValueError, match="targets"):
        macro_aurocs({"x": np.zeros((2, 1))}, np.zeros((2, 2), bool), ["a"], ["p", "q"])
