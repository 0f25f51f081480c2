"""Measurements of a segment: ``ecg_bench_288``, 24 numbers per lead (what ECG-Bench retrieves by)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft

from ecglm.errors import EcglmError
from ecglm.signals import feature_loops as loops
from ecglm.types import LEADS

#: What is measured on each lead, in this order. Amplitudes in mV, power in mV²/Hz, times in s, the rate in bpm.
PER_LEAD: tuple[str, ...] = (
    *("mean", "std", "max", "min", "median", "p25", "p75"),
    *("total_power", "peak_power", "dominant_frequency", "spectral_centroid"),
    *("heart_rate", "rr_std", "qrs_width", "t_amplitude", "st_deviation"),
    *("wavelet_a5", "wavelet_d5", "wavelet_d4", "wavelet_d3", "wavelet_d2", "wavelet_d1"),
    *("mean_abs_difference", "rms_difference"),
)
#: Shortest segment that five levels of db4 decompose.
MIN_SAMPLES = 224
_WELCH = 1024


def feature_names() -> tuple[str, ...]:
    """Names of the 288 features, lead by lead: ``"I_mean"`` … ``"V6_rms_difference"``."""
    return tuple(f"{lead}_{name}" for lead in LEADS for name in PER_LEAD)


def ecg_bench_288(segments: np.ndarray, rate: float) -> np.ndarray:
    """The 288 features of one segment ``(12, L)`` or of many ``(n, 12, L)``, canonical leads, in mV at ``rate`` Hz.

    Returns float64 ``(288,)`` or ``(n, 288)``, named by ``feature_names()``. Heart rate and the four after it need two
    peaks and are 0 without. Some of them are crude (the QRS width compares a deviation with a level, the T amplitude is
    the range from R to R, ST is taken from the R peak, tall T waves count as beats): they are kept as published results
    need them.

    Raises EcglmError for another shape, fewer than 224 samples, a rate that is not positive, NaN or infinity.
    """
    segments = np.asarray(segments)
    if segments.ndim not in (2, 3) or segments.shape[-2] != len(LEADS) or segments.dtype.kind not in "fiu":
        raise EcglmError(
            f"features: a segment is an array (12, num_samples) in mV, not {segments.dtype} of shape {segments.shape}"
        )
    length = segments.shape[-1]
    if length < MIN_SAMPLES:
        raise EcglmError(
            f"features: {length} samples are too few, the level 5 wavelet needs {MIN_SAMPLES}; use longer segments"
        )
    if not (np.isfinite(rate) and rate > 0):
        raise EcglmError(f"features: rate must be positive, in Hz, not {rate}")
    rows = segments.reshape(-1, length)
    out = np.empty((len(rows), len(PER_LEAD)))
    for start in range(0, len(rows), len(LEADS)):  # one segment: what it takes stays in the processor's nearest caches
        part = rows[start : start + len(LEADS)]
        if not np.isfinite(part).all():
            raise EcglmError("features: the segment holds NaN or infinity; choose a NaN policy in the pipeline")
        _measure(part, float(rate), out[start : start + len(LEADS)])
    return out.reshape(*segments.shape[:-2], len(LEADS) * len(PER_LEAD))


def find_peaks(x: np.ndarray, height: float, distance: int) -> np.ndarray:
    """Positions (int64) of local maxima of ``(L,)`` at least ``height`` high and ``distance`` samples apart.

    A plateau counts once, at its middle, rounded down; the ends are no maxima. Of peaks too near to each other the
    higher stays, of equally high ones the later (scipy.signal.find_peaks leaves that to its sort).
    """
    peaks: np.ndarray = loops.peaks(np.ascontiguousarray(x, dtype=np.float64), float(height), int(distance))
    return peaks


def _measure(rows: np.ndarray, rate: float, out: np.ndarray) -> None:
    """Features of ``(12, L)`` into ``out`` ``(12, 24)``."""
    x = rows.astype(np.float64)
    found = np.empty((6, len(x)))
    loops.statistics(x, found)
    out[:, :4], out[:, 22:] = found[:4].T, found[4:].T
    high, low = found[2], found[3]
    ordered = np.sort(rows, axis=1)  # float32 sorts faster, and exactly
    for column, share in ((4, 0.50), (5, 0.25), (6, 0.75)):
        out[:, column] = _quantile(ordered, share)
    _spectrum(x, rate, out[:, 7:11])
    apart, window, later = max(int(0.2 * rate), 1), int(0.1 * rate), int(0.08 * rate)
    loops.beats(x, rate, low, high, apart, window, later, out[:, 11:16])
    loops.wavelet_sizes(x, out[:, 16:22])


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """Linear interpolation between the order statistics of each row."""
    place = share * (ordered.shape[1] - 1)
    low = int(place)
    below, above = ordered[:, low].astype(np.float64), ordered[:, min(low + 1, ordered.shape[1] - 1)]
    result: np.ndarray = below + (place - low) * (above - below)
    return result


def _spectrum(x: np.ndarray, rate: float, out: np.ndarray) -> None:
    """Sum, maximum, its frequency and the centroid of the Welch density (Hann, half overlap, mean removed)."""
    length = x.shape[1]
    size = min(_WELCH, length)
    window, energy = _hann(size)
    pieces = np.empty((len(x), (length - size) // (size - size // 2) + 1, size))
    loops.windowed(x, window, pieces)
    loops.density(scipy.fft.rfft(pieces, axis=2), size, rate, energy, out)


@lru_cache(maxsize=4)
def _hann(size: int) -> tuple[np.ndarray, float]:
    """The window and the sum of its squares."""
    from scipy.signal import get_window  # slow to import, and few of a measurement's users come here

    window = get_window("hann", size)
    return window, float(np.square(window).sum())
