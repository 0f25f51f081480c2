"""Measurements of a segment: ``ecg_bench_288``, 24 numbers per lead (what ECG-Bench retrieves by)."""

from __future__ import annotations

import numpy as np
import pywt
import scipy.fft

from ecglm.errors import EcglmError
from ecglm.signals.compiled import compiled
from ecglm.types import LEADS

#: What is measured on each lead, in this order. Amplitudes in mV, power in mV²/Hz, times in s, the rate in bpm.
PER_LEAD: tuple[str, ...] = (
    *("mean", "std", "max", "min", "median", "p25", "p75"),
    *("total_power", "peak_power", "dominant_frequency", "spectral_centroid"),
    *("heart_rate", "rr_std", "qrs_width", "t_amplitude", "st_deviation"),
    *("wavelet_a5", "wavelet_d5", "wavelet_d4", "wavelet_d3", "wavelet_d2", "wavelet_d1"),
    *("mean_abs_difference", "rms_difference"),
)
WAVELET, LEVEL = "db4", 5
#: Shortest segment that five levels of db4 decompose.
MIN_SAMPLES = 224
_WELCH = 1024
#: Rows (leads) worked on at a time: what they take stays in the processor's nearest cache.
_ROWS = len(LEADS)


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
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        if not np.isfinite(part).all():
            raise EcglmError("features: the segment holds NaN or infinity; choose a NaN policy in the pipeline")
        _measure(part, float(rate), out[start : start + _ROWS])
    return out.reshape(*segments.shape[:-2], len(LEADS) * len(PER_LEAD))


def find_peaks(x: np.ndarray, height: float, distance: int) -> np.ndarray:
    """Positions (int64) of local maxima of ``(L,)`` at least ``height`` high and ``distance`` samples apart.

    A plateau counts once, at its middle, rounded down; the ends are no maxima. Of peaks too near to each other the
    higher stays, of equally high ones the later (scipy.signal.find_peaks leaves that to its sort).
    """
    peaks: np.ndarray = _peaks(np.ascontiguousarray(x, dtype=np.float64), float(height), int(distance))
    return peaks


def _measure(rows: np.ndarray, rate: float, out: np.ndarray) -> None:
    """Features of ``(n, L)`` into ``out`` ``(n, 24)``."""
    ordered = np.sort(rows, axis=1)  # float32 sorts faster, and exactly
    x = rows.astype(np.float64)
    out[:, 0] = x.mean(axis=1)
    out[:, 1] = x.std(axis=1)
    out[:, 2], out[:, 3] = ordered[:, -1], ordered[:, 0]
    for column, share in ((4, 0.50), (5, 0.25), (6, 0.75)):
        out[:, column] = _quantile(ordered, share)
    _spectrum(x, rate, out[:, 7:11])
    _beats(x, rate, out[:, 2], out[:, 3], out[:, 11:16])
    for column, values in enumerate(pywt.wavedec(x, WAVELET, level=LEVEL, axis=1), start=16):
        out[:, column] = np.abs(values).mean(axis=1)
    steps = np.diff(x, axis=1)
    out[:, 22] = np.abs(steps).mean(axis=1)
    out[:, 23] = np.sqrt(np.einsum("ij,ij->i", steps, steps) / steps.shape[1])


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """Linear interpolation between the order statistics of each row."""
    place = share * (ordered.shape[1] - 1)
    low = int(place)
    below, above = ordered[:, low].astype(np.float64), ordered[:, min(low + 1, ordered.shape[1] - 1)]
    result: np.ndarray = below + (place - low) * (above - below)
    return result


def _spectrum(x: np.ndarray, rate: float, out: np.ndarray) -> None:
    """Sum, maximum, its frequency and the centroid of the Welch density (Hann, half overlap, mean removed)."""
    size = min(_WELCH, x.shape[1])
    from scipy.signal import get_window  # slow to import, and few of a measurement's users come here

    window = get_window("hann", size)
    pieces = np.lib.stride_tricks.sliding_window_view(x, size, axis=1)[:, :: size - size // 2]
    centred = pieces - pieces.mean(axis=2, keepdims=True)
    spectra = scipy.fft.rfft(centred * window, axis=2)
    power = np.square(spectra.real).mean(axis=1) + np.square(spectra.imag).mean(axis=1)
    power /= rate * np.square(window).sum()
    power[:, 1 : (size + 1) // 2] *= 2  # both sides in one; neither 0 Hz nor, where there is one, Nyquist
    frequencies = np.arange(power.shape[1]) * (rate / size)
    out[:, 0] = power.sum(axis=1)
    at = power.argmax(axis=1)
    out[:, 1] = power[np.arange(len(power)), at]
    out[:, 2] = frequencies[at]
    out[:, 3] = np.divide(power @ frequencies, out[:, 0], out=np.zeros(len(power)), where=out[:, 0] > 0)


def _beats(x: np.ndarray, rate: float, high: np.ndarray, low: np.ndarray, out: np.ndarray) -> None:
    """Heart rate (bpm), RR sd (s), QRS width (s), T amplitude (mV), ST deviation (mV) of each row."""
    apart, window, later = max(int(0.2 * rate), 1), int(0.1 * rate), int(0.08 * rate)
    _beats_of_rows(x, rate, np.ascontiguousarray(high), np.ascontiguousarray(low), apart, window, later, out)


@compiled
def _peaks(x: np.ndarray, height: float, distance: int) -> np.ndarray:
    found = np.empty(len(x) // 2 + 1, np.int64)
    count, i, last = 0, 1, len(x) - 1
    while i < last:
        if x[i - 1] < x[i]:
            ahead = i + 1
            while ahead < last and x[ahead] == x[i]:
                ahead += 1
            if x[ahead] < x[i]:
                middle = (i + ahead - 1) // 2
                if x[middle] >= height:
                    found[count] = middle
                    count += 1
                i = ahead
        i += 1
    found = found[:count]
    keep = np.ones(count, np.bool_)
    order = np.argsort(x[found], kind="mergesort")
    for rank in range(count - 1, -1, -1):
        place = int(order[rank])
        if not keep[place]:
            continue
        other = place - 1
        while other >= 0 and found[place] - found[other] < distance:
            keep[other] = False
            other -= 1
        other = place + 1
        while other < count and found[other] - found[place] < distance:
            keep[other] = False
            other += 1
    return found[keep]


@compiled
def _beats_of_rows(
    x: np.ndarray,
    rate: float,
    high: np.ndarray,
    low: np.ndarray,
    distance: int,
    window: int,
    later: int,
    out: np.ndarray,
) -> None:
    num_rows, length = x.shape
    for row in range(num_rows):
        out[row] = 0.0
        if high[row] == low[row]:
            continue
        lead = x[row]
        peaks = _peaks(lead, low[row] + 0.3 * (high[row] - low[row]), distance)
        num = len(peaks)
        if num < 2:
            continue
        intervals = np.diff(peaks) / rate
        out[row, 0] = 60.0 / intervals.mean()
        out[row, 1] = intervals.std()
        wide = 0
        for peak in peaks:
            start, stop = max(0, peak - window), min(length, peak + window)
            most, least, total = -np.inf, np.inf, 0.0
            for i in range(start, stop):
                most, least, total = max(most, lead[i]), min(least, lead[i]), total + lead[i]
            if most <= least:  # flat, or a window of no sample
                continue
            threshold, mean = 0.1 * (most - least) + least, total / (stop - start)
            for i in range(start, stop):
                wide += abs(lead[i] - mean) > threshold
        out[row, 2] = wide / rate / num
        between = lead[peaks[num - 2] : peaks[num - 1]]
        out[row, 3] = between.max() - between.min()
        out[row, 4] = lead[min(peaks[num - 1] + later, length - 1)] - lead[peaks[num - 1]]
