"""Exact rational resampling fused with a zero-phase filter, and ECG-Bench's cubic spline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.interpolate
import scipy.linalg

from ecglm.errors import RejectedRecord
from ecglm.signals.filters import antialias_response, band_edges, band_response, notch_response

MAX_RATIO_TERM = 1000
MAX_RATIO_ERROR = 1e-5


def rate_ratio(source_rate: float, target_rate: int) -> Fraction:
    """``target / source`` in lowest terms.

    A ratio with a term above 1000 is replaced by the nearest one within 1e-5 (0.1 ms in 10 s). Raises RejectedRecord
    ``rate_invalid`` (not a positive number) or ``rate_unsupported`` (no such ratio).
    """
    if not (math.isfinite(source_rate) and source_rate > 0):
        raise RejectedRecord("rate_invalid", f"sampling rate {source_rate} Hz is not a positive number")
    exact = Fraction(target_rate) / Fraction(source_rate)
    if max(exact.numerator, exact.denominator) <= MAX_RATIO_TERM:
        return exact
    small = min(exact, 1 / exact).limit_denominator(MAX_RATIO_TERM)
    if small == 0 or abs(small / min(exact, 1 / exact) - 1) > MAX_RATIO_ERROR:
        raise RejectedRecord("rate_unsupported", f"{source_rate} Hz has no simple ratio to {target_rate} Hz")
    return small if exact <= 1 else 1 / small


def num_resampled(num_samples: int, ratio: Fraction) -> int:
    """Output length: ``num_samples * ratio`` rounded, halves up."""
    up, down = ratio.numerator, ratio.denominator
    return (2 * num_samples * up + down) // (2 * down)


@dataclass(frozen=True)
class Plan:
    """Sizes and gains of one fused transform. ``gain``: float32 per sine coefficient kept, None when nothing is done.

    The signal, its end line taken away, is continued oddly about both ends for ever: one period has
    ``2 * num_in`` samples and holds sines only. It comes out with ``2 * num_out`` samples per period.
    """

    num_in: int
    num_out: int
    num_kept: int
    keeps_line: bool
    gain: np.ndarray | None


@lru_cache(maxsize=16)
def make_plan(num_samples: int, source_rate: float, target_rate: int, preset: str, mains: float | None) -> Plan:
    """Plan the filter (preset and mains notch, designed at ``source_rate``) and the resampling of one record length."""
    ratio = rate_ratio(source_rate, target_rate)
    up, down = ratio.numerator, ratio.denominator
    num_kept = num_resampled(num_samples, ratio)
    blocks = scipy.fft.next_fast_len(max(math.ceil(num_samples / down), math.ceil(2 / min(up, down))), real=True)
    num_in, num_out = blocks * down, blocks * up
    edges = band_edges(preset, source_rate, target_rate)
    if edges is None and mains is None and ratio == 1:
        return Plan(num_in, num_out, num_kept, True, None)
    freqs = np.arange(1, min(num_in, num_out)) * (source_rate / (2 * num_in))
    gain = np.full(len(freqs), 1.0 / (2 * num_in))  # the sine transform is its own inverse up to this factor
    if edges is not None:
        gain *= band_response(freqs, *edges, source_rate)
    if mains is not None:
        gain *= notch_response(freqs, mains, source_rate)
    if ratio < 1:
        gain *= antialias_response(freqs, float(ratio) * source_rate)
    gain = gain.astype(np.float32)
    gain.setflags(write=False)
    return Plan(num_in, num_out, num_kept, edges is None, gain)


def filter_and_resample(
    signal: np.ndarray, source_rate: float, target_rate: int, preset: str = "none", mains: float | None = None
) -> np.ndarray:
    """Zero-phase filter and anti-aliased resampling in one pass: float32 ``(num_leads, round(N * target / source))``.

    signal: ``(num_leads, N)``, finite, any unit. A sine transform (the spectrum of the oddly continued signal) is
    multiplied by the forward-backward gain, cut or lengthened to the new rate, and transformed back: no phase shift,
    exact rational rate, constants and straight lines unchanged when no band-pass is asked for.
    Raises RejectedRecord ``rate_invalid``, ``rate_unsupported``, ``rate_too_low``.
    """
    num_samples = signal.shape[1]
    plan = make_plan(num_samples, float(source_rate), target_rate, preset, mains)
    if plan.gain is None or num_samples == 0:
        return signal.astype(np.float32)
    body = np.empty((signal.shape[0], plan.num_in), dtype=np.float32)
    body[:, :num_samples] = signal
    extra = plan.num_in - num_samples
    last = body[:, num_samples - 1 : num_samples].copy()
    if 0 < extra < num_samples:
        body[:, num_samples:] = 2 * last - body[:, num_samples - 1 - extra : num_samples - 1][:, ::-1]
    else:
        body[:, num_samples:] = last
    # The line runs from sample 0 to the node after the last sample, which repeats the last value.
    start, stop = body[:, :1].copy(), body[:, -1:].copy()
    slope = (stop - start) / np.float32(plan.num_in)
    body -= start + slope * np.arange(plan.num_in, dtype=np.float32)
    coefficients = scipy.fft.dst(body[:, 1:], type=1, overwrite_x=True)
    spectrum = np.zeros((signal.shape[0], plan.num_out - 1), dtype=np.float32)
    np.multiply(coefficients[:, : len(plan.gain)], plan.gain, out=spectrum[:, : len(plan.gain)])
    result = np.zeros((signal.shape[0], plan.num_kept), dtype=np.float32)
    waves = scipy.fft.dst(spectrum, type=1, overwrite_x=True)
    result[:, 1:] = waves[:, : plan.num_kept - 1]
    if plan.keeps_line:
        step = np.float32(plan.num_in / plan.num_out)
        result += start + slope * (step * np.arange(plan.num_kept, dtype=np.float32))
    return result


@lru_cache(maxsize=16)
def _spline(num_in: int, num_out: int, duration_s: float):
    """Factorised collocation matrix (banded LU) and evaluation matrix of ECG-Bench's cubic spline for one length."""
    old, new = np.linspace(0, duration_s, num_in), np.linspace(0, duration_s, num_out)
    knots = np.concatenate([np.repeat(old[0], 4), old[2:-2], np.repeat(old[-1], 4)])  # not-a-knot
    collocation = scipy.interpolate.BSpline.design_matrix(old, knots, 3).todia()
    below, above = -int(collocation.offsets.min()), int(collocation.offsets.max())
    banded = np.zeros((2 * below + above + 1, num_in))
    for offset, values in zip(collocation.offsets, collocation.data, strict=True):
        banded[below + above - offset, : len(values)] = values
    factors, pivots, info = scipy.linalg.lapack.dgbtrf(banded, below, above)
    assert info == 0
    return factors, pivots, below, above, scipy.interpolate.BSpline.design_matrix(new, knots, 3)


def ecg_bench_resample(signal: np.ndarray, source_rate: float, target_rate: int) -> np.ndarray:
    """ECG-Bench's resampling: an interpolating cubic spline per lead, between time axes that both include the end.

    float64 ``(num_leads, N)`` → ``(num_leads, int(N * target / source))``; the input when the rates are equal. No
    anti-alias filter, and an effective rate of (M - 1) / (N - 1) × source: kept, because the original has both.
    """
    if source_rate == target_rate:
        return signal
    num_in = signal.shape[1]
    num_out = int(num_in * target_rate / source_rate)
    factors, pivots, below, above, evaluate = _spline(num_in, num_out, num_in / source_rate)
    coefficients, _ = scipy.linalg.lapack.dgbtrs(factors, below, above, signal.T, pivots)
    return np.ascontiguousarray((evaluate @ coefficients).T)
