"""The 288 features against scipy, pywt and numpy written out plainly, closed forms, and hostile input."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError
from ecglm.signals.features import PER_LEAD, ecg_bench_288, feature_names, find_peaks
from ecglm.types import LEADS


def plain(x: np.ndarray, fs: float) -> list[float]:
    """The 24 definitions on one lead, item by item."""
    x = x.astype(np.float64)
    values = [x.mean(), x.std(), x.max(), x.min(), np.median(x), *np.percentile(x, [25, 75])]
    f, p = scipy.signal.welch(x, fs=fs, nperseg=min(1024, len(x)))
    values += [p.sum(), p.max(), f[p.argmax()], (f * p).sum() / p.sum() if p.sum() else 0.0]
    low, high = x.min(), x.max()
    peaks = np.array([], int)
    if high > low:
        peaks, _ = scipy.signal.find_peaks(x, height=low + 0.3 * (high - low), distance=max(int(0.2 * fs), 1))
    if len(peaks) < 2:
        values += [0.0] * 5
    else:
        rr = np.diff(peaks) / fs
        widths = []
        for peak in peaks:
            w = x[max(peak - int(0.1 * fs), 0) : peak + int(0.1 * fs)]
            threshold = 0.1 * (w.max() - w.min()) + w.min()
            widths.append((np.abs(w - w.mean()) > threshold).sum() / fs if np.ptp(w) else 0.0)
        values += [60 / rr.mean(), rr.std(), float(np.mean(widths)), np.ptp(x[peaks[-2] : peaks[-1]])]
        values.append(x[min(peaks[-1] + int(0.08 * fs), len(x) - 1)] - x[peaks[-1]])
    values += [np.abs(c).mean() for c in pywt.wavedec(x, "db4", level=5)]
    d = x[1:] - x[:-1]
    return [*values, np.abs(d).mean(), np.sqrt((d**2).mean())]


def same(segment: np.ndarray, rate: float) -> None:
    found = ecg_bench_288(segment, rate)
    expected = np.concatenate([plain(lead, rate) for lead in segment])
    assert found.shape == (288,) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape_rate", [(224, 100), (500, 250), (1023, 250), (1250, 250), (2500, 250), (5000, 500)])
def test_equals_the_definitions_on_random_signals(shape_rate):
    length, rate = shape_rate
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((12, length)).astype(np.float32)
        same(noise, rate)
        same(np.cumsum(noise, axis=1) / 10, rate)  # smooth: plateaus, few peaks


def test_equals_the_definitions_on_a_synthetic_ecg():
    from ecglm.records.synthetic import Synthetic

    source = Synthetic(num_patients=6, rate=250, seed=3)
    for key in source.keys():
        same(source.read(key).signal, 250)


@pytest.mark.realdata
def test_equals_the_definitions_on_real_records(ptb_xl):
    wfdb = pytest.importorskip("wfdb")
    for number in (1, 2, 3, 4, 5, 50, 100, 150):
        signal, fields = wfdb.rdsamp(str(ptb_xl / "records500" / "00000" / f"{number:05d}_hr"))
        # scipy leaves open which of two equally high peaks stays: a ramp far below 1 µV parts them
        same(signal.T + np.arange(len(signal)) * 1e-9, fields["fs"])


def test_a_batch_is_its_segments_and_float32_is_float64():
    segments = np.random.default_rng(0).standard_normal((11, 12, 700)).astype(np.float32)
    batch = ecg_bench_288(segments, 250)
    assert batch.shape == (11, 288)
    for row, segment in zip(batch, segments, strict=True):
        assert row.tobytes() == ecg_bench_288(segment, 250).tobytes()
        np.testing.assert_allclose(row, ecg_bench_288(segment.astype(np.float64), 250), rtol=1e-12)
    assert ecg_bench_288(segments[7:3:-1, :, ::1], 250).tobytes() == batch[7:3:-1].tobytes()
    assert ecg_bench_288(segments[:0], 250).shape == (0, 288)


def test_names_are_lead_major_and_unique():
    names = feature_names()
    assert len(names) == len(set(names)) == 288 and len(PER_LEAD) == 24
    segment = np.arange(12, dtype=np.float32)[:, None] * np.ones((12, 300), np.float32)  # lead k is constant k mV
    values = dict(zip(names, ecg_bench_288(segment, 250), strict=True))
    assert [values[f"{lead}_mean"] for lead in LEADS] == list(range(12))


def test_a_constant_has_no_spectrum_no_beats_and_no_differences():
    values = dict(zip(feature_names(), ecg_bench_288(np.full((12, 2500), 0.7, np.float32), 250), strict=True))
    level = float(np.float32(0.7))
    for name in ("mean", "max", "min", "median", "p25", "p75"):
        assert values[f"V3_{name}"] == pytest.approx(level, abs=1e-12)
    assert values["V3_wavelet_a5"] == pytest.approx(level * 2**2.5, rel=1e-9)  # each low pass multiplies by sqrt(2)
    zero = set(PER_LEAD) - {"mean", "max", "min", "median", "p25", "p75", "wavelet_a5"}
    assert max(abs(values[f"V3_{name}"]) for name in zero) < 1e-12
    assert values["V3_spectral_centroid"] == values["V3_heart_rate"] == 0


def test_a_sine_has_its_frequency_power_and_rate():
    rate, length, bins = 256, 2560, 8  # 2 Hz falls on a bin of 1024 samples at 256 Hz
    t = np.arange(length) / rate
    x = np.sin(2 * np.pi * bins * rate / 1024 * t)
    values = dict(zip(feature_names(), ecg_bench_288(np.tile(x, (12, 1)), rate), strict=True))
    assert values["I_dominant_frequency"] == pytest.approx(2.0)
    assert values["I_spectral_centroid"] == pytest.approx(2.0, rel=1e-6)
    assert values["I_total_power"] * rate / 1024 == pytest.approx(0.5, rel=1e-9)  # the mean square, by Parseval
    assert values["I_heart_rate"] == pytest.approx(120.0)
    assert values["I_rr_std"] == pytest.approx(0.0, abs=1e-12)
    assert values["I_t_amplitude"] == pytest.approx(2.0, rel=1e-3)
    assert values["I_st_deviation"] == pytest.approx(np.cos(2 * np.pi * 2 * 20 / 256) - 1, abs=1e-9)
    assert values["I_std"] == pytest.approx(np.sqrt(0.5), rel=1e-9)


def test_the_heart_rate_of_beats_at_known_times_is_exact():
    rate, intervals = 250, np.array([0.8, 0.9, 0.76, 1.0, 0.84, 0.9, 0.8, 1.1, 0.72])
    beats = 0.6 + np.concatenate([[0], np.cumsum(intervals)])
    t = np.arange(2500) / rate
    narrow = np.exp(-0.5 * ((t[:, None] - beats) / 0.012) ** 2).sum(axis=1)  # R waves of 1 mV
    broad = 0.2 * np.exp(-0.5 * ((t[:, None] - beats - 0.3) / 0.05) ** 2).sum(axis=1)  # T waves below 30 %
    values = dict(zip(feature_names(), ecg_bench_288(np.tile(narrow + broad, (12, 1)), rate), strict=True))
    assert values["V5_heart_rate"] == pytest.approx(60 / intervals.mean(), rel=1e-9)
    assert values["V5_rr_std"] == pytest.approx(intervals.std(), rel=1e-9)


def test_the_heart_rate_of_synthetic_ecgs_is_the_true_one_or_twice_that():
    from ecglm.records.synthetic import Synthetic

    source = Synthetic(num_patients=15, rate=250, artefacts=False, rhythms=("sinus_rhythm",), seed=1)
    columns = [i for i, name in enumerate(feature_names()) if name.endswith("_heart_rate")]
    for key in source.keys():
        record = source.read(key)
        true = 60 / np.diff(record.metadata["qrs_onsets_s"]).mean()
        ratios = ecg_bench_288(record.signal, 250)[columns] / true
        # twice in leads whose T waves rise above 30 % of the range: by the definition they are beats
        assert np.minimum(np.abs(ratios - 1), np.abs(ratios - 2)).min() < 0.03, key


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-4, 4), min_size=3, max_size=60),
    st.integers(1, 9),
    st.integers(-4, 4),
)
def test_find_peaks_with_plateaus_follows_the_definition(values, distance, height):
    x = np.array(values, dtype=np.float64)
    everything, _ = scipy.signal.find_peaks(x, height=height)
    assert find_peaks(x, height, 1).tolist() == everything.tolist()
    keep = set(everything.tolist())
    for peak in sorted(keep, key=lambda p: (x[p], p), reverse=True):  # highest first; of equal ones the later
        if peak in keep:
            keep -= {other for other in keep if other != peak and abs(other - peak) < distance}
    assert find_peaks(x, height, distance).tolist() == sorted(keep)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 400), st.integers(1, 60), st.floats(-1.5, 1.5), st.integers(1, 30))
def test_find_peaks_is_scipys_where_no_heights_are_equal(seed, length, distance, height, smooth):
    x = np.convolve(np.random.default_rng(seed).standard_normal(length), np.ones(smooth) / smooth, "same")
    expected, _ = scipy.signal.find_peaks(x, height=height, distance=distance)
    heights = x[scipy.signal.find_peaks(x)[0]]
    if len(np.unique(heights)) == len(heights):
        assert find_peaks(x, height, distance).tolist() == expected.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad):
    segments = np.zeros((9, 12, 300), np.float32)
    segments[7, 4, 200] = bad
    with pytest.raises(EcglmError, match="NaN or infinity"):
        ecg_bench_288(segments, 250)


def test_short_segments_and_other_shapes_are_refused():
    with pytest.raises(EcglmError, match="223 samples are too few"):
        ecg_bench_288(np.zeros((12, 223), np.float32), 250)
    assert ecg_bench_288(np.zeros((12, 224), np.float32), 250).shape == (288,)
    for shape in ((12,), (300, 12), (11, 300), (1, 1, 12, 300)):
        with pytest.raises(EcglmError, match="shape"):
            ecg_bench_288(np.zeros(shape, np.float32), 250)
    with pytest.raises(EcglmError, match="shape"):
        ecg_bench_288(np.zeros((12, 300), complex), 250)
    for rate in (0, -250, np.nan):
        with pytest.raises(EcglmError, match="rate"):
            ecg_bench_288(np.zeros((12, 300), np.float32), rate)
