"""Denoising: noise goes, the QRS stays; ECG-Bench's threshold by its own formula."""

from __future__ import annotations

import numpy as np
import pytest
import pywt

from ecglm.signals.denoise import ecg_bench_denoise, wavelet_denoise

T = np.arange(5000) / 500.0


def beats(width_s: float = 0.012) -> np.ndarray:
    """R waves of 1 mV (Gaussian, sd in s) and T waves of 0.3 mV, one a second, ``(12, 5000)``."""
    x = np.zeros_like(T)
    for at in np.arange(0.5, 10, 1.0):
        x += np.exp(-0.5 * ((T - at) / width_s) ** 2) + 0.3 * np.exp(-0.5 * ((T - at - 0.3) / 0.05) ** 2)
    return np.tile(x, (12, 1))


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_qrs_amplitude_loss_below_one_percent(noise):
    x = beats() + np.random.default_rng(0).normal(0, noise, (12, 5000))
    clean = wavelet_denoise(x.astype(np.float32))
    assert clean.dtype == np.float32
    assert clean.shape == x.shape
    peaks = (np.arange(0.5, 10, 1.0) * 500).astype(int)
    assert clean[:, peaks].mean() > 0.99


def test_white_noise_goes():
    noise = np.random.default_rng(0).normal(0, 0.05, (12, 5000))
    left = wavelet_denoise((beats() + noise).astype(np.float32)) - beats()
    assert left.std() < 0.5 * noise.std()


@pytest.mark.parametrize("num_samples", [1, 5, 23, 1001, 2570])
def test_any_length_comes_back(num_samples):
    x = np.random.default_rng(0).normal(size=(12, num_samples)).astype(np.float32)
    assert wavelet_denoise(x).shape == x.shape


def test_flat_stays_flat():
    assert np.allclose(wavelet_denoise(np.full((12, 1000), 0.7, np.float32)), 0.7, atol=1e-6)
    assert np.allclose(ecg_bench_denoise(np.full((12, 1000), 0.7)), 0.7, atol=1e-9)


@pytest.mark.parametrize("num_samples", [5000, 4096, 2571])
def test_ecg_bench_lead_by_lead_with_pywavelets_threshold(num_samples):
    x = np.random.default_rng(2).normal(size=(3, num_samples)).cumsum(axis=1)
    got = ecg_bench_denoise(x)
    assert got.shape == x.shape
    for lead, clean in zip(x, got, strict=True):
        parts = pywt.wavedec(lead, "db6", level=4)
        cut = np.median(np.abs(parts[1])) / 0.6745
        back = pywt.waverec([parts[0], *(pywt.threshold(p, cut, "soft") for p in parts[1:])], "db6")
        if num_samples % 2:  # one sample too many, taken back by Fourier resampling: compare away from the ends
            assert len(back) == num_samples + 1
            grid = np.arange(num_samples) * (num_samples + 1) / num_samples
            back = np.interp(grid, np.arange(num_samples + 1), back)
            assert np.abs(clean - back)[100:-100].max() < 0.2
        else:
            assert np.allclose(clean, back, atol=1e-9)
