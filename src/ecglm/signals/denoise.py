"""Wavelet denoising: a careful form (off by default) and ECG-Bench's."""

from __future__ import annotations

import numpy as np
import pywt
import scipy.signal

WAVELET = "db6"
LEVEL = 4
MAD_TO_SD = 0.6745
NEGLIGIBLE = 1e-10


def wavelet_denoise(signal: np.ndarray) -> np.ndarray:
    """Soft-threshold the details of ``(num_leads, num_samples)`` by the universal threshold; same shape, float32.

    sigma = median(abs(cD1)) / 0.6745, the finest detail, where an ECG has least; threshold = sigma sqrt(2 ln n)
    (Donoho and Johnstone 1994). To be run before any low-pass filter, which would hide the noise from cD1.
    """
    coefficients = pywt.wavedec(signal.astype(np.float64), WAVELET, level=_level(signal.shape[1]), axis=-1)
    if len(coefficients) == 1:
        return signal.astype(np.float32)
    sigma = np.median(np.abs(coefficients[-1]), axis=-1, keepdims=True) / MAD_TO_SD
    threshold = sigma * np.sqrt(2 * np.log(signal.shape[1]))
    details = [_soft(detail, threshold) for detail in coefficients[1:]]
    clean = pywt.waverec([coefficients[0], *details], WAVELET, axis=-1)
    return clean[:, : signal.shape[1]].astype(np.float32)


def ecg_bench_denoise(signal: np.ndarray) -> np.ndarray:
    """ECG-Bench's denoising of float64 ``(num_leads, num_samples)``: threshold from the coarsest detail level, cD4.

    The approximation is untouched; coefficients that are not finite or at most 1e-10 become 0; a length that the
    reconstruction changed (odd input) is restored by Fourier resampling.
    """
    coefficients = pywt.wavedec(signal, WAVELET, level=LEVEL, axis=-1)
    threshold = np.median(np.abs(coefficients[1]), axis=-1, keepdims=True) / MAD_TO_SD
    kept = [coefficients[0], *(_soft(detail, threshold) for detail in coefficients[1:])]
    for values in kept:
        values[~(np.abs(values) > NEGLIGIBLE) | ~np.isfinite(values)] = 0.0
    clean = pywt.waverec(kept, WAVELET, axis=-1)
    if clean.shape[1] != signal.shape[1]:
        clean = scipy.signal.resample(clean, signal.shape[1], axis=-1)
    return clean


def _soft(values: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return np.copysign(np.maximum(np.abs(values) - threshold, 0.0), values)


def _level(num_samples: int) -> int:
    return min(LEVEL, pywt.dwt_max_level(num_samples, WAVELET))
