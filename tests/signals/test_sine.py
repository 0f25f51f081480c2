"""The passes around the two FFTs make scipy's sine transform; long signals keep accuracy and bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.fft

from ecglm.signals import sine
from ecglm.signals.resample import filter_and_resample


@pytest.mark.parametrize("size", [2, 3, 4, 5, 24, 625, 5000])
def test_the_first_passes_give_the_sine_transform(size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(3, size)).astype(np.float32)
    x[:, 0] = 0
    x[:, -1] = 0  # no line to take away: both ends are zero
    sines, ramp = np.sin(np.pi * np.arange(size) / size), np.arange(size + 1.0)
    mixed, ends = np.empty((3, size)), np.empty((3, 2))
    sine.continue_oddly(x, ramp, sines, mixed, ends)
    assert not ends.any()
    again = np.empty((3, size))
    gain = np.ones(size - 1)
    sine.apply_gain(scipy.fft.rfft(mixed).view(np.float64), gain, sines, again)
    coefficients = np.zeros((3, size))  # of the second signal, which is S(1) … S(N-1)
    coefficients[:, 1:] = scipy.fft.dst(x[:, 1:].astype(np.float64), type=1) / 2
    flipped = np.roll(coefficients[:, ::-1], 1, axis=1)
    expected = sines * (coefficients + flipped) + (coefficients - flipped) / 2
    assert np.abs(again - expected).max() < 1e-11 * max(1.0, np.abs(expected).max())
    out = np.empty((3, size), np.float32)
    sine.read_samples(scipy.fft.rfft(again).view(np.float64), ends, 1.0, False, out)
    assert np.abs(out * 2 / size - x).max() < 1e-6  # its own inverse


def test_thirty_minutes_stay_exact_and_need_little_memory():
    rate, num_samples = 500, 500 * 1800
    t = np.arange(num_samples) / rate
    x = np.tile((np.sin(2 * np.pi * 10 * t) + 3 + t / 600).astype(np.float32), (12, 1))
    filter_and_resample(x[:, :5000], rate, 250, "diagnostic", 50.0)
    tracemalloc.start()
    out = filter_and_resample(x, rate, 250, "diagnostic", 50.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    inside = slice(20 * 250, -20 * 250)
    assert np.abs(out[:, inside] - np.sin(2 * np.pi * 10 * np.arange(out.shape[1]) / 250)[inside]).max() < 2e-3
    assert peak < 2.5 * x.nbytes
