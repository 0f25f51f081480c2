"""The loops of the 288 features against numpy, pywt and scipy at any length, and which crowded peaks stay."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.signals import feature_loops as loops
from ecglm.signals.features import PER_LEAD, ecg_bench_288

seeds = st.integers(0, 2**32 - 1)


def rows(seed: int, length: int, steps: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((3, length)).cumsum(axis=1) / 5
    x[2] = 0.25  # a flat lead among others
    return np.round(x / steps) * steps if steps else x


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(224, 1300))
def test_wavelet_sizes_are_those_of_pywt(seed, length):
    x, found = rows(seed, length), np.empty((3, 6))
    loops.wavelet_sizes(x, found)
    expected = [np.abs(c).mean(axis=1) for c in pywt.wavedec(x, loops.WAVELET, level=loops.LEVEL, axis=1)]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-11, atol=1e-13)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(2, 300))
def test_statistics_are_those_of_numpy(seed, length):
    x, found = rows(seed, length), np.empty((6, 3))
    loops.statistics(x, found)
    steps = np.diff(x, axis=1)
    expected = [x.mean(axis=1), x.std(axis=1), x.max(axis=1), x.min(axis=1)]
    expected += [np.abs(steps).mean(axis=1), np.sqrt((steps**2).mean(axis=1))]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose([loops.total(row) for row in x], x.sum(axis=1), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(224, 2700), st.sampled_from([100, 125.5, 250, 500]))
def test_the_spectrum_is_scipys_welch(seed, length, rate):
    x = rows(seed, length)
    found = ecg_bench_288(np.tile(x[:1], (12, 1)), rate).reshape(12, len(PER_LEAD))[:, 7:11]
    f, p = scipy.signal.welch(x[0], fs=rate, nperseg=min(1024, length))
    expected = [p.sum(), p.max(), f[p.argmax()], (f * p).sum() / p.sum()]
    np.testing.assert_allclose(found, np.tile(expected, (12, 1)), rtol=1e-9)


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(3, 500), st.integers(1, 80), st.sampled_from([0.0, 0.1, 0.5]), st.floats(-2, 2))
def test_crowded_peaks_are_chosen_highest_first(seed, length, distance, steps, height):
    """Chains of peaks that climb and fall, with equal ones: as the definition says, of equally high ones the later."""
    x = rows(seed, length, steps)[0] + 0.3 * np.random.default_rng(seed + 1).standard_normal(length)
    x = np.round(x / steps) * steps if steps else x
    left, chosen = set(scipy.signal.find_peaks(x, height=height)[0].tolist()), []
    for peak in sorted(left, key=lambda p: (x[p], p), reverse=True):
        if all(abs(peak - other) >= distance for other in chosen):
            chosen.append(peak)
    assert loops.peaks(x, height, distance).tolist() == sorted(chosen)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_long_climb_keeps_every_peak_that_is_out_of_reach_of_the_last(slope):
    x = np.arange(401) * 0.01 * slope + (np.arange(401) % 2)  # a peak at every odd sample, each higher (or lower)
    kept = loops.peaks(x, -100.0, 10).tolist()
    assert kept == (list(range(399, 0, -10))[::-1] if slope > 0 else list(range(1, 400, 10)))
