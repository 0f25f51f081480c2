"""Permutation test, Holm, detectable gap: against scipy, closed forms, and simulated level and power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ecglm.evaluation.metrics.base import ratio
from ecglm.evaluation.significance import detectable_gap, holm, permutation_test
from ecglm.evaluation.statistics import resample_weights, resampled_sums


def sums(values):
    """One row per patient: (sum, count)."""
    values = np.asarray(values, dtype=float)
    return np.stack([values, np.ones_like(values)], axis=1)


def scipy_p(first, second, num=np.inf):
    """Sign flips of the paired differences, all of them."""
    found = stats.permutation_test(
        (np.subtract(first, second),), lambda d, axis: d.mean(axis=axis), permutation_type="samples",
        n_resamples=num, vectorized=True, alternative="two-sided",
    )  # fmt: skip
    return found.pvalue


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_test_is_scipys(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.normal(0.3, 1, 10), generator.normal(0, 1, 10)
    assert permutation_test(sums(first), sums(second), ratio) == pytest.approx(scipy_p(first, second), abs=1e-12)


def test_the_exact_test_with_ties_by_hand():
    """Five patients differ, all for the first: of 32 exchanges only none and all are as extreme."""
    first, second = [1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1, 0]
    assert permutation_test(sums(first), sums(second), ratio) == 2 / 32
    assert permutation_test(sums(second), sums(first), ratio) == 2 / 32


def test_the_exact_test_of_a_metric_that_is_no_mean_by_hand():
    """F1 = 2TP / (2TP + FP + FN) of three patients: all eight exchanges, one by one."""

    def f1(total):
        return 2 * total[..., 0] / np.maximum(2 * total[..., 0] + total[..., 1] + total[..., 2], 1e-9)

    first = np.array([[3.0, 0, 1], [2, 1, 0], [4, 0, 0]])
    second = np.array([[1.0, 2, 3], [2, 0, 2], [3, 1, 1]])
    observed = f1(first.sum(axis=0)) - f1(second.sum(axis=0))
    extreme = 0
    for swap in itertools.product([False, True], repeat=3):
        a = np.where(np.array(swap)[:, None], second, first)
        b = np.where(np.array(swap)[:, None], first, second)
        extreme += abs(f1(a.sum(axis=0)) - f1(b.sum(axis=0))) >= abs(observed) - 1e-12
    assert permutation_test(first, second, f1) == extreme / 8


def test_the_drawn_test_is_near_the_exact_one_and_near_the_t_test():
    generator = np.random.default_rng(3)
    first, second = generator.normal(0.25, 1, 60), generator.normal(0, 1, 60)
    drawn = permutation_test(sums(first), sums(second), ratio)
    assert drawn == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=0.02)
    few = np.arange(16)
    exact = permutation_test(sums(first[few]), sums(second[few]), ratio, num_draws=2**16)
    assert exact == pytest.approx(scipy_p(first[few], second[few]), abs=1e-12)
    assert permutation_test(sums(first[few]), sums(second[few]), ratio) == pytest.approx(exact, abs=0.02)


def test_a_drawn_p_is_never_zero_and_is_seeded():
    first, second = np.ones(50), np.zeros(50)
    assert permutation_test(sums(first), sums(second), ratio, num_draws=999) == 1 / 1000
    noisy = np.random.default_rng(0).normal(0.2, 1, 50)
    one, again, other = (permutation_test(sums(noisy), sums(second), ratio, seed=s) for s in (1, 1, 2))
    assert one == again != other


def test_what_cannot_be_told():
    same = sums([1, 0, 1])
    assert permutation_test(same, same, ratio) == 1.0
    assert permutation_test(np.zeros((3, 2)), same, ratio) is None


def test_rows_of_one_patient_move_together():
    """Ten rows of one patient are one exchange: five patients cannot give less than 2/32."""
    first = np.stack([np.full(5, 10.0), np.full(5, 10.0)], axis=1)
    assert permutation_test(first, first * [0, 1], ratio) == 2 / 32


def test_the_level_is_kept():
    """Two systems alike on 40 patients: p ≤ 0.05 in about 5 % of 400 draws (± 3 standard errors)."""
    generator = np.random.default_rng(11)
    p = []
    for _ in range(400):
        easy = generator.random(40)
        first, second = (generator.random(40) < easy for _ in range(2))
        p.append(permutation_test(sums(first), sums(second), ratio, num_draws=199))
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(np.array(p) <= 0.3) > 0.15


@pytest.mark.parametrize(
    ("given_p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(given_p, adjusted):
    found = holm({str(i): p for i, p in enumerate(given_p)})
    assert list(found.values()) == pytest.approx(adjusted)


def test_holm_leaves_out_what_is_unknown():
    assert holm({"a": None, "b": 0.01, "c": 0.02}) == {"a": None, "b": 0.02, "c": 0.02}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_what_its_steps_reject(p):
    """Step down by the textbook: reject the smallest while p ≤ 0.05 / (m − i)."""
    found = holm({str(i): value for i, value in enumerate(p)})
    order, rejected = np.argsort(p, kind="stable"), set()
    for i, place in enumerate(order):
        if p[place] * (len(p) - i) > 0.05:
            break
        rejected.add(str(place))
    assert {name for name, value in found.items() if value <= 0.05} == rejected
    assert all(found[str(i)] >= value for i, value in enumerate(p))


def test_the_detectable_gap_is_2_8_standard_errors():
    """(1.960 + 0.842) × sd of the mean of n differences."""
    differences = np.random.default_rng(0).normal(0, 1, 200)
    weights = resample_weights(200, num_resamples=4000, seed=0)
    spread = ratio(resampled_sums(sums(differences), weights))
    expected = (1.959964 + 0.841621) * differences.std() / np.sqrt(200)
    assert detectable_gap(spread) == pytest.approx(expected, rel=0.05)
    assert detectable_gap(np.zeros(10)) is None
    assert detectable_gap(0.425 + np.array([0.0, 5.6e-17] * 50)) is None  # rounding is no spread
    assert detectable_gap(np.array([np.nan, 0.1])) is None


def test_a_true_gap_of_that_size_is_found_four_times_in_five():
    """200 patients, answers drawn anew with the gap that such samples call detectable, and tested."""
    generator = np.random.default_rng(5)
    n, base = 200, 0.6

    def draw(gap):
        return [sums(generator.random(n) < p) for p in (base + gap, base)]

    weights = resample_weights(n, num_resamples=2000, seed=0)
    samples = [draw(0.13) for _ in range(20)]
    stated = np.mean([detectable_gap(ratio(resampled_sums(a - b * [1, 0], weights))) for a, b in samples])
    found = [permutation_test(*draw(stated), ratio, num_draws=199) <= 0.05 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)  # three standard errors of 400 draws are 0.06
