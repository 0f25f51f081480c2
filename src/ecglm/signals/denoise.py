"""Wavelet denoising: a careful form (off by default) and ECG-Bench's."""

from __future__ import annotations

import numpy as np

WAVELET = "db6"
LEVEL = 4
MAD_TO_SD = 0.6745
NEGLIGIBLE = 1e-10


def wavelet_denoise(signal: np.ndarray) -> np.ndarray:
    """Soft-threshold the details of ``(num_leads, num_samples)`` by the universal threshold; same shape, float32.

    sigma = median(abs(cD1)) / 0.6745, the finest detail, where an ECG has least; threshold = sigma sqrt(2 ln n)
    (Donoho and Johnstone 1994). To be run before any low-pass filter, which would hide the noise from cD1.
    """
    import pywt  # the default pipeline does without, unless it is asked to denoise

    level = min(LEVEL, pywt.dwt_max_level(signal.shape[1], WAVELET))
    coefficients = pywt.wavedec(signal.astype(np.float64), WAVELET, level=level, axis=-1)
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
    from ecglm.signals.recursion import from_lanes, to_lanes  # the compiler is loaded only where it is used

    return from_lanes(ecg_bench_denoise_lanes(to_lanes(signal), len(signal)), len(signal))


def ecg_bench_denoise_lanes(rows: np.ndarray, num_leads: int) -> np.ndarray:
    """``ecg_bench_denoise`` of float64 ``(num_samples, 16)`` (``recursion.to_lanes``), at least 28 samples."""
    from ecglm.signals.wavelet import compose, decompose, shrink

    coefficients = decompose(rows, LEVEL)
    coarsest = np.abs(coefficients[1][:, :num_leads].T)
    threshold = np.zeros(rows.shape[1])
    threshold[:num_leads] = np.median(coarsest, axis=-1) / MAD_TO_SD
    shrink(coefficients[0], np.zeros_like(threshold), NEGLIGIBLE)
    for detail in coefficients[1:]:
        shrink(detail, threshold, NEGLIGIBLE)
    clean = compose(coefficients)
    if len(clean) == len(rows):
        return clean
    import scipy.signal  # slow to import, and lengths are rarely odd

    return scipy.signal.resample(clean, len(rows), axis=0)


def _soft(values: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return np.copysign(np.maximum(np.abs(values) - threshold, 0.0), values)
