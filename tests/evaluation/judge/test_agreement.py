"""Agreement against textbook tables and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, spearmanr
from sklearn.metrics import cohen_kappa_score

from ecglm.evaluation.judge.agreement import MEASURES, agreement, intraclass, kappa, kendall_w, mid_ranks, spearman

#: Shrout and Fleiss (1979), table 2: six targets, four judges.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]

grades = st.integers(3, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 10), min_size=n, max_size=n) for _ in range(2)])
)


def ones(table):
    return np.ones((1, len(table)))


def test_the_table_of_shrout_and_fleiss():
    found = agreement(SHROUT_FLEISS, num_resamples=50)
    assert round(found["icc_2_1"]["value"], 2) == 0.29
    assert round(found["icc_3_1"]["value"], 2) == 0.71
    assert set(found) == {"icc_2_1", "icc_3_1", "kendall_w"}


@settings(max_examples=60, deadline=None)
@given(grades)
def test_two_graders_against_scipy_and_sklearn(pair):
    table = np.array(pair, dtype=float).T
    if len(set(pair[0])) > 1 and len(set(pair[1])) > 1:
        assert spearman(table, ones(table))[0] == pytest.approx(spearmanr(*pair).statistic, abs=1e-9)
    if len({*pair[0], *pair[1]}) > 1:
        for power, weights in ((0, None), (1, "linear"), (2, "quadratic")):
            expected = cohen_kappa_score(*pair, labels=list(range(11)), weights=weights)
            assert kappa(table, ones(table), power)[0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 20), st.integers(2, 5))
def test_intraclass_correlations_against_the_analysis_of_variance(seed, n, raters):
    table = np.random.default_rng(seed).integers(0, 11, size=(n, raters)).astype(float)
    grand = table.mean()
    ss_items = raters * ((table.mean(axis=1) - grand) ** 2).sum()
    ss_raters = n * ((table.mean(axis=0) - grand) ** 2).sum()
    ss_error = ((table - grand) ** 2).sum() - ss_items - ss_raters
    ms_items, ms_raters = ss_items / (n - 1), ss_raters / (raters - 1)
    ms_error = ss_error / ((n - 1) * (raters - 1))
    if ms_items + ms_error < 1e-9:
        return
    one, three = (float(v[0]) for v in intraclass(table, ones(table)))
    below = ms_items + (raters - 1) * ms_error
    assert three == pytest.approx((ms_items - ms_error) / below)
    assert one == pytest.approx((ms_items - ms_error) / (below + raters * (ms_raters - ms_error) / n))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(4, 20))
def test_kendalls_w_is_friedmans_statistic(seed, n):
    table = np.random.default_rng(seed).integers(0, 11, size=(n, 4)).astype(float)
    statistic = friedmanchisquare(*table).statistic  # items as treatments, raters as blocks
    if np.isfinite(statistic):
        assert kendall_w(table, ones(table))[0] == pytest.approx(statistic / (4 * (n - 1)))


@settings(max_examples=40, deadline=None)
@given(grades, st.integers(0, 2**32))
def test_a_weight_is_a_repetition(pair, seed):
    table = np.array(pair, dtype=float).T
    weights = np.random.default_rng(seed).integers(0, 4, size=(1, len(table)))
    repeated = np.repeat(table, weights[0], axis=0)
    if len(repeated) < 2:
        return
    for measure in (
        spearman,
        kendall_w,
        lambda t, w: kappa(t, w, 2),
        lambda t, w: intraclass(t, w)[0],
    ):
        ours = measure(table, weights.astype(float))[0]
        assert ours == pytest.approx(measure(repeated, ones(repeated))[0], abs=1e-6, nan_ok=True)


def test_ranks_share_ties():
    ranks, ties = mid_ranks(np.array([5.0, 3.0, 5.0, 9.0]), np.ones((1, 4)))
    assert ranks.tolist() == [[2.5, 1.0, 2.5, 4.0]] and ties.tolist() == [6.0]


def test_full_agreement_and_a_grader_who_sees_no_difference():
    same = agreement([[1, 1], [5, 5], [9, 9], [2, 2]], num_resamples=20)
    assert set(same) == set(MEASURES) and all(v["value"] == pytest.approx(1.0) for v in same.values())
    flat = agreement([[5, 1], [5, 5], [5, 9]], num_resamples=20)
    assert flat["spearman"]["value"] is None and flat["kappa"]["value"] == pytest.approx(0.0)
    nothing = agreement([[5, 5], [5, 5]], num_resamples=20)
    assert all(v["value"] is None for v in nothing.values())


def test_an_interval_holds_its_value_and_is_the_same_again():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 11, 80)
    table = np.stack([truth, np.clip(truth + generator.integers(-2, 3, 80), 0, 10)], axis=1)
    found = agreement(table, num_resamples=400, seed=3)
    assert found == agreement(table, num_resamples=400, seed=3)
    for value in found.values():
        assert value["low"] <= value["value"] <= value["high"] and value["n"] == 80
