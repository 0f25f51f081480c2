"""Gains against scipy's designs; the steady state against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.signal

from ecglm.errors import RejectedRecord
from ecglm.signals.filters import (
    PRESETS,
    antialias_response,
    band_edges,
    band_response,
    ecg_bench_coefficients,
    exact_decimals,
    forward_backward,
    notch_response,
    steady_state,
)


@pytest.mark.parametrize("rate", [250.0, 257.0, 400.0, 500.0, 1000.0])
@pytest.mark.parametrize("preset", ["diagnostic", "st", "monitor"])
def test_band_gain_is_the_squared_gain_of_scipys_sections(preset, rate):
    low, high = PRESETS[preset]
    freqs = np.linspace(0, rate / 2, 4001)
    sections = scipy.signal.butter(4, [low, high], "bandpass", fs=rate, output="sos")
    parts = [scipy.signal.freqz(part[:3], part[3:], worN=freqs, fs=rate)[1] for part in sections]
    response = np.prod(parts, axis=0)
    assert np.allclose(band_response(freqs, low, high, rate), np.abs(response) ** 2, atol=1e-7)


def test_band_gain_is_half_at_the_edges_and_nothing_at_zero():
    gain = band_response(np.array([0.0, 0.5, 7.0, 100.0]), 0.5, 100.0, 500.0)
    assert gain == pytest.approx([0.0, 0.5, 1.0, 0.5], abs=1e-6)


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_notch_gain_is_scipys(mains):
    freqs = np.linspace(0, 250, 5001)
    _, response = scipy.signal.freqz(*scipy.signal.iirnotch(mains, 30.0, fs=500), worN=freqs, fs=500)
    assert np.allclose(notch_response(freqs, mains, 500.0), np.abs(response) ** 2, atol=1e-9)


def test_a_notch_above_nyquist_has_nothing_to_remove():
    assert (notch_response(np.linspace(0, 50, 11), 60.0, 100.0) == 1).all()


def test_upper_edge_is_capped_by_the_lower_rate():
    assert band_edges("diagnostic", 500, 250) == (0.5, 100.0)
    assert band_edges("diagnostic", 100, 250) == (0.5, 45.0)
    assert band_edges("st", 500, 125) == (0.05, 56.25)
    assert band_edges("monitor", 500, 250) == (0.5, 40.0)
    assert band_edges("none", 500, 250) is None
    with pytest.raises(RejectedRecord, match=r"^rate_too_low: 1.5 Hz leaves no room.*preset 'none'"):
        band_edges("diagnostic", 1.5, 250)


def test_antialias_edge():
    gain = antialias_response(np.array([0.0, 112.5, 118.75, 125.0, 249.0]), 250.0)
    assert gain == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-12)


def exact_steady_state(b, a):
    """State of the transposed direct form under a constant 1, in fractions: y = sum(b) / sum(a)."""
    b, a = [Fraction(float(v)) for v in b], [Fraction(float(v)) for v in a]
    out = sum(b) / sum(a)
    state = [Fraction(0)] * (len(a) - 1)
    for i in reversed(range(len(state))):
        state[i] = (state[i + 1] if i + 1 < len(state) else 0) + b[i + 1] - out * a[i + 1]
    return np.array([float(v) for v in state])


@pytest.mark.parametrize("rate", [360.0, 400.0, 500.0])
def test_steady_state_against_fractions(rate):
    *good, (b, a, state) = ecg_bench_coefficients(rate)
    for filter_b, filter_a, filter_state in good:
        assert np.allclose(filter_state, exact_steady_state(filter_b, filter_a), atol=1e-4)
    assert np.allclose(state, exact_steady_state(b, a), atol=0.1)  # 0.05 Hz in (b, a) form: known to be poor
    b, a = scipy.signal.butter(3, 0.2)
    assert np.allclose(steady_state(b, a), scipy.signal.lfilter_zi(b, a), atol=1e-12)


def test_forward_backward_is_filtfilt():
    x = np.random.default_rng(0).normal(size=(3, 700))
    b, a = scipy.signal.butter(4, [0.1, 0.5], "bandpass")
    rows = np.full((30 + 700 + 30, 3), np.nan)
    rows[30:-30] = x.T
    forward_backward(b, a, steady_state(b, a), rows, 30)
    assert np.allclose(rows[30:-30].T, scipy.signal.filtfilt(b, a, x), atol=1e-11)


@pytest.mark.parametrize("rate", [100.0, 125.0, 200.0])
def test_ecg_bench_refuses_low_rates_with_the_mend(rate):
    with pytest.raises(RejectedRecord, match="rate_too_low") as caught:
        ecg_bench_coefficients(rate)
    assert "use --pipeline default, or the 500 Hz records" in caught.value.detail


@pytest.mark.parametrize("gain", [200, 500, 1000, 2000])
def test_float32_millivolts_give_back_adc_over_gain(gain):
    adc = np.random.default_rng(1).integers(-6 * gain, 6 * gain, (12, 900))
    assert np.array_equal(exact_decimals((adc / gain).astype(np.float32)), adc / gain)
    assert np.array_equal(exact_decimals(adc.astype(np.float32) * np.float32(1 / gain)), adc / gain)


def test_other_samples_are_only_cast():
    x = np.random.default_rng(1).normal(size=(2, 900)).astype(np.float32)
    assert np.array_equal(exact_decimals(x), x.astype(np.float64))
    wide = np.array([[0.1234567891]])
    assert np.array_equal(exact_decimals(wide), wide)
