"""Resampling and fused filtering against closed forms, scipy's sections, and properties."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.interpolate
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import RejectedRecord
from ecglm.signals.resample import ecg_bench_resample, filter_and_resample, num_resampled, rate_ratio

RATES = [62.5, 100.0, 128.0, 257.0, 360.0, 400.0, 500.0, 1000.0]


def noise(num_samples: int, seed: int = 0, rows: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (rows, num_samples)).astype(np.float32)


def sine(freq: float, rate: float, seconds: float = 10.0) -> np.ndarray:
    return np.sin(2 * np.pi * freq * np.arange(round(seconds * rate)) / rate).astype(np.float32)[None]


def phase_and_size(x: np.ndarray, freq: float, rate: float) -> tuple[float, float]:
    t = np.arange(x.shape[1]) / rate
    cut = slice(int(rate), -int(rate))
    basis = np.stack([np.sin(2 * np.pi * freq * t), np.cos(2 * np.pi * freq * t)])[:, cut]
    (a, b), *_ = np.linalg.lstsq(basis.T, x[0, cut].astype(np.float64), rcond=None)
    return float(np.arctan2(b, a)), float(np.hypot(a, b))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("preset", ["none", "diagnostic", "monitor"])
def test_d29_ten_hz_keeps_time_and_size(rate, preset):
    out = filter_and_resample(sine(10, rate), rate, 250, preset)
    assert out.dtype == np.float32
    assert out.shape == (1, round(round(10 * rate) * 250 / rate))
    phase, size = phase_and_size(out, 10, 250)
    assert abs(phase) / (2 * np.pi * 10) * 250 < 0.02  # samples
    assert size == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("preset", ["none", "diagnostic", "st"])
@pytest.mark.parametrize("freq", [130, 180, 240])
def test_d29_content_above_the_new_nyquist_is_removed_not_folded(freq, preset):
    fade = np.minimum(1, np.minimum(np.arange(5000), np.arange(5000)[::-1]) / 500).astype(np.float32)
    out = filter_and_resample(sine(freq, 500) * fade, 500, 250, preset)
    assert np.abs(out).max() < 5e-3
    folded = sine(freq, 500)[:, ::2]  # what taking every second sample would give
    assert np.abs(folded).max() > 0.5


def test_d29_intervals_are_exact_over_a_long_record():
    """Impulses every second for 100 s stay where they were; the original's axis would move the last by 10 ms."""
    x = np.zeros((1, 50_000), np.float32)
    x[0, 250::500] = 1
    out = filter_and_resample(x, 500, 250)
    peaks = scipy.signal.find_peaks(out[0], height=0.2, distance=100)[0]
    assert np.array_equal(peaks, np.arange(125, 25_000, 250))


@pytest.mark.parametrize("rate", RATES)
def test_constants_and_lines_stay_without_a_band(rate):
    n = round(10 * rate)
    constant = np.full((2, n), 1.37, np.float32)
    assert np.array_equal(np.unique(filter_and_resample(constant, rate, 250)), np.float32([1.37]))
    line = (np.arange(n) / rate)[None].astype(np.float32)
    out = filter_and_resample(line, rate, 250)
    expected = np.arange(out.shape[1]) / 250
    edge = 25  # the last node repeats the last sample, which bends the line's very end
    assert np.allclose(out[0, :-edge], expected[:-edge], atol=2e-3)


def test_a_band_removes_offset_and_drift():
    t = np.arange(5000) / 500
    x = (5.0 + 0.3 * t + np.sin(2 * np.pi * 10 * t))[None].astype(np.float32)
    out = filter_and_resample(x, 500, 250, "diagnostic")
    assert np.abs(out - sine(10, 250))[:, 500:-500].max() < 0.02
    assert abs(out.mean()) < 0.02


def tiled(x: np.ndarray, periods: int) -> tuple[np.ndarray, int]:
    """The odd continuation about sample 0 and about one repeated last sample, written out, and where x starts."""
    nodes = np.concatenate([x, x[:, -1:]], axis=1).astype(np.float64)
    n = x.shape[1]
    rise = nodes[:, -1:] - nodes[:, :1]
    line = nodes[:, :1] + rise * np.arange(n + 1) / n
    half = (nodes - line)[:, :-1]
    period = np.concatenate([half, -(nodes - line)[:, :0:-1]], axis=1)
    waves = np.tile(period, (1, 2 * periods + 1))
    at = np.arange(waves.shape[1]) - 2 * n * periods
    return waves + nodes[:, :1] + rise * at / n, 2 * n * periods


@pytest.mark.parametrize(("preset", "band", "periods"), [
    ("diagnostic", (0.5, 100), 1), ("monitor", (0.5, 40), 1), ("st", (0.05, 100), 6),
])  # fmt: skip
def test_filter_is_the_forward_backward_sections_up_to_the_edges(preset, band, periods):
    x = noise(5000, rows=2).cumsum(axis=1) * 0.05 + 2
    long, start = tiled(x, periods)
    sections = scipy.signal.butter(4, band, "bandpass", fs=500, output="sos")
    reference = scipy.signal.sosfiltfilt(sections, long, padlen=0)[:, start : start + 5000]
    # float32 and the reference's own finite padding: 3e-4 of a signal of about 10 mV
    assert np.abs(filter_and_resample(x, 500, 500, preset) - reference).max() < 3e-4 * np.abs(x).max()


def test_filter_agrees_with_scipys_default_padding_in_the_interior():
    x = sine(1.2, 500) + 0.3 * sine(17, 500) + 0.1 * noise(5000, rows=1)
    sections = scipy.signal.butter(4, [0.5, 40], "bandpass", fs=500, output="sos")
    got = filter_and_resample(x, 500, 500, "monitor")
    assert np.abs(got - scipy.signal.sosfiltfilt(sections, x))[:, 2000:-2000].max() < 0.02


def test_notch_takes_the_mains_only():
    hum = filter_and_resample(sine(50, 500), 500, 250, "none", 50.0)
    assert np.abs(hum[:, 500:-500]).max() < 0.01
    kept = filter_and_resample(sine(40, 500), 500, 250, "none", 50.0)
    assert phase_and_size(kept, 40, 250) == pytest.approx((0, 1), abs=0.02)
    untouched = filter_and_resample(sine(50, 500), 500, 250, "none", None)
    assert phase_and_size(untouched, 50, 250)[1] == pytest.approx(1, abs=2e-3)


def test_impulse_response_is_symmetric():
    x = np.zeros((1, 5001), np.float32)
    x[0, 2500] = 1
    out = filter_and_resample(x, 500, 500, "diagnostic", 50.0)[0]
    assert np.argmax(out) == 2500
    assert np.abs(out[1:2500] - out[5000 - 1 : 2500 : -1]).max() < 1e-5


def test_band_limited_signals_agree_with_polyphase_resampling():
    x = scipy.signal.sosfiltfilt(scipy.signal.butter(6, 40, fs=500, output="sos"), noise(5000, rows=3))
    reference = scipy.signal.resample_poly(x, 1, 2, axis=1, window=("kaiser", 12.0), padtype="line")
    got = filter_and_resample(x.astype(np.float32), 500, 250)
    assert np.abs(got - reference)[:, 100:-100].max() < 5e-3 * np.abs(x).max()


def test_same_rate_and_no_filter_is_the_signal_itself():
    x = noise(777)
    assert np.array_equal(filter_and_resample(x, 250, 250), x)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 99),
    a=st.floats(-3, 3),
    b=st.floats(-3, 3),
    rate=st.sampled_from(RATES),
    preset=st.sampled_from(["none", "diagnostic", "st", "monitor"]),
    num_samples=st.integers(2, 1500),
)
def test_linear(seed, a, b, rate, preset, num_samples):
    x, y = noise(num_samples, seed, 2), noise(num_samples, seed + 1000, 2)
    together = filter_and_resample((a * x + b * y).astype(np.float32), rate, 250, preset)
    apart = a * filter_and_resample(x, rate, 250, preset) + b * filter_and_resample(y, rate, 250, preset)
    assert together.shape[1] == num_resampled(num_samples, rate_ratio(rate, 250))
    largest = max(1.0, float(np.ptp(a * x + b * y)), abs(a) * float(np.ptp(x)), abs(b) * float(np.ptp(y)))
    assert np.abs(together - apart).max() <= 6e-5 * largest  # 3e-5 of the range each, at the ends


@settings(deadline=None, max_examples=25)
@given(shift=st.integers(-200, 200), preset=st.sampled_from(["none", "diagnostic", "monitor"]))
def test_a_later_wave_comes_out_later_by_as_much(shift, preset):
    t = np.arange(8000) / 400
    wave = lambda at: (np.exp(-0.5 * ((t - at) / 0.02) ** 2))[None].astype(np.float32)  # noqa: E731
    early = filter_and_resample(wave(10.0), 400, 250, preset)
    late = filter_and_resample(wave(10.0 + shift * 8 / 400), 400, 250, preset)  # 8 samples in, 5 out
    assert np.abs(np.roll(early, shift * 5, axis=1) - late)[:, 1000:-1000].max(initial=0) < 1e-3


@settings(deadline=None)
@given(num_samples=st.integers(0, 200_000), rate=st.sampled_from(RATES), target=st.sampled_from([100, 250, 500]))
def test_length_is_the_rounded_ratio(num_samples, rate, target):
    exact = Fraction(num_samples) * target / Fraction(rate)
    length = num_resampled(num_samples, rate_ratio(rate, target))
    assert abs(length - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(("rate", "ratio"), [
    (500.0, Fraction(1, 2)), (257.0, Fraction(250, 257)), (62.5, Fraction(4)), (1000.0, Fraction(1, 4)),
    (360.0, Fraction(25, 36)), (250.0, Fraction(1)),
])  # fmt: skip
def test_rational_ratios(rate, ratio):
    assert rate_ratio(rate, 250) == ratio


def test_awkward_rates_are_approximated_within_the_bound_or_rejected():
    for rate in (499.9871, 128.0001, 976.5625, 30.0003):
        try:
            ratio = rate_ratio(rate, 250)
        except RejectedRecord as error:
            assert error.reason == "rate_unsupported"
        else:
            assert abs(float(ratio) * rate / 250 - 1) <= 1.001e-5
    assert rate_ratio(500.0000001, 250) == Fraction(1, 2)
    for rate in (0.0, -500.0, float("nan"), float("inf")):
        with pytest.raises(RejectedRecord, match=r"^rate_invalid"):
            rate_ratio(rate, 250)
    for rate in (1e-9, 1e12):
        with pytest.raises(RejectedRecord, match=r"^rate_unsupported"):
            rate_ratio(rate, 250)


@pytest.mark.parametrize(("num_samples", "rate"), [(5000, 500.0), (4096, 400.0), (2571, 257.0), (30, 360.0)])
def test_ecg_bench_spline_is_scipys_interp1d(num_samples, rate):
    x = np.random.default_rng(0).normal(size=(12, num_samples))
    old = np.linspace(0, num_samples / rate, num_samples)
    new = np.linspace(0, num_samples / rate, int(num_samples * 250 / rate))
    reference = scipy.interpolate.interp1d(old, x, kind="cubic", axis=1)(new)
    assert np.allclose(ecg_bench_resample(x, rate, 250), reference, atol=1e-10)
