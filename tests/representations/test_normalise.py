"""The formulas of each normalisation mode, evaluated by hand or against numpy in float64."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecglm.errors import EcglmError
from ecglm.representations.normalise import MODES, normalise, value_range

X = np.array([[0.0, 1.0, 2.0], [-1.0, 0.5, 3.0]], np.float32)
segments = arrays(np.float32, (3, 20), elements=st.floats(-30, 30, width=32))


def test_instance_by_hand():
    np.testing.assert_allclose(normalise(X, "instance"), (X + 1) / 4.000001, atol=1e-7)
    assert value_range(X, "instance") == (-1.0, 3.0)


def test_percentile_margin_is_half_a_millivolt_and_clips():
    z = normalise(X, "percentile", {"p1": 0.0, "p99": 1.0})
    np.testing.assert_allclose(z, [[0.25, 0.75, 1.0], [0.0, 0.5, 1.0]], atol=1e-6)
    assert value_range(X, "percentile", {"p1": 0.0, "p99": 1.0}) == (-0.5, 1.5)


@settings(deadline=None, max_examples=50)
@given(segments)
def test_zscores_have_mean_0_and_population_sd_1(x):
    x64 = x.astype(np.float64)
    for mode, axis in (("lead_zscore", 1), ("record_zscore", None)):
        mean, sd = np.mean(x64, axis, keepdims=True), np.std(x64, axis, keepdims=True)
        np.testing.assert_allclose(normalise(x, mode), (x64 - mean) / (sd + 1e-6), rtol=1e-6, atol=1e-6)


def test_none_keeps_millivolts():
    np.testing.assert_array_equal(normalise(X, "none"), X)


@pytest.mark.parametrize("mode", [m for m in MODES if m not in ("none", "percentile")])
@pytest.mark.parametrize("level", [0.0, -2.5, 31.0])
def test_a_constant_segment_is_zero_without_a_warning(mode, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(normalise(np.full((12, 50), level, np.float32), mode), 0.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(mode, bad):
    x = X.copy()
    x[1, 1] = bad
    with pytest.raises(EcglmError, match="NaN or infinity"):
        normalise(x, mode, {"p1": 0.0, "p99": 1.0})


def test_d17_every_mode_is_a_value_of_one_option_and_an_unknown_one_is_an_error():
    for mode in MODES:
        assert normalise(X, mode, {"p1": 0.0, "p99": 1.0}).shape == X.shape
    with pytest.raises(EcglmError, match="did you mean 'instance'"):
        normalise(X, "instanc")


@pytest.mark.parametrize("percentiles", [None, {"p1": 0.0}, {"p1": 2.0, "p99": 1.0}, {"p1": float("nan"), "p99": 1.0}])
def test_missing_or_disordered_percentiles_are_an_error(percentiles):
    with pytest.raises(EcglmError, match="percentiles"):
        normalise(X, "percentile", percentiles)


def test_an_empty_signal_is_an_error():
    with pytest.raises(EcglmError, match="empty"):
        value_range(np.zeros((12, 0), np.float32), "instance")
