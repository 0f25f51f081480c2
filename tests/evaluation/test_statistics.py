"""The patient bootstrap against closed forms: binomial standard error, clusters, pairing, coverage."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.evaluation.metrics.base import ratio
from ecglm.evaluation.statistics import (
    interval,
    paired_difference,
    patient_bootstrap,
    patient_sums,
    resample_weights,
    resampled_sums,
)


def mean_statistics(values):
    values = np.asarray(values, dtype=float)
    return np.stack([values, np.ones_like(values)], axis=1)


def test_weights_are_draws_with_replacement():
    weights = resample_weights(25, num_resamples=400, seed=1)
    assert (weights.sum(axis=1) == 25).all()
    # each patient's count is binomial(25, 1/25): mean 1, variance 24/25
    assert weights.mean() == 1.0
    assert weights.astype(float).var() == pytest.approx(24 / 25, rel=0.05)
    np.testing.assert_array_equal(weights, resample_weights(25, num_resamples=400, seed=1))
    assert (weights != resample_weights(25, num_resamples=400, seed=2)).any()


def test_resampled_sums_equal_resampling_the_rows_one_by_one():
    generator = np.random.default_rng(0)
    patients = [f"p{i}" for i in generator.integers(0, 6, 30)]
    keys = sorted(set(patients))
    statistics = generator.normal(size=(30, 3))
    weights = resample_weights(len(keys), num_resamples=20, seed=5)
    got = resampled_sums(patient_sums(patients, statistics, keys), weights)
    for b in range(20):
        rows = [i for k, key in enumerate(keys) for i in range(30) if patients[i] == key for _ in range(weights[b, k])]
        np.testing.assert_allclose(got[b], statistics[rows].sum(axis=0), atol=1e-10)


def test_width_equals_the_binomial_standard_error():
    n, p = 400, 0.3
    values = [1.0] * int(n * p) + [0.0] * int(n * (1 - p))
    found = patient_bootstrap([f"p{i:04d}" for i in range(n)], mean_statistics(values), ratio, seed=0)
    error = np.sqrt(p * (1 - p) / n)
    assert found.value == 0.3
    assert found.n == n
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)
    assert (found.high + found.low) / 2 == pytest.approx(p, abs=0.2 * error)


def test_rows_of_one_patient_do_not_make_the_interval_narrower():
    """Ten copies of a row say nothing new: the interval is that of the 100 patients, not of 1000 rows."""
    values = [float(i % 3 == 0) for i in range(100)]
    once = patient_bootstrap([f"p{i:03d}" for i in range(100)], mean_statistics(values), ratio, seed=3)
    patients = [f"p{i:03d}" for i in range(100) for _ in range(10)]
    copied = patient_bootstrap(patients, mean_statistics(np.repeat(values, 10)), ratio, seed=3)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_coverage_of_the_interval_is_near_95_percent():
    generator = np.random.default_rng(11)
    patients, p, trials = [f"p{i:03d}" for i in range(80)], 0.4, 300
    hits = 0
    for trial in range(trials):
        values = (generator.random(80) < p).astype(float)
        found = patient_bootstrap(patients, mean_statistics(values), ratio, num_resamples=400, seed=trial)
        hits += found.low <= p <= found.high
    assert 0.90 <= hits / trials <= 0.98


def test_pairing_removes_what_both_systems_share():
    generator = np.random.default_rng(2)
    shared = generator.normal(size=200)
    patients = [f"p{i:03d}" for i in range(200)]
    first, second = mean_statistics(shared + 0.1), mean_statistics(shared)
    found = paired_difference(patients, first, second, ratio, num_resamples=500)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-9)
    # unpaired, each mean has an interval of about ±0.14
    assert patient_bootstrap(patients, first, ratio, num_resamples=500).high > 0.15


def test_order_of_rows_does_not_matter():
    patients = ["b", "a", "c", "a", "b"]
    values = [1, 0, 1, 1, 0]
    order = [3, 1, 4, 0, 2]
    one = patient_bootstrap(patients, mean_statistics(values), ratio, num_resamples=100)
    other = patient_bootstrap(
        [patients[i] for i in order], mean_statistics([values[i] for i in order]), ratio, num_resamples=100
    )
    assert one == other


def test_one_patient_has_no_interval():
    found = patient_bootstrap(["p"] * 4, mean_statistics([1, 1, 0, 0]), ratio)
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_undefined_resamples_are_left_out():
    assert interval(np.array([np.nan, np.nan])) == (None, None)
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
