"""Exact rational resampling fused with a zero-phase filter, and ECG-Bench's cubic spline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import scipy.fft

from ecglm.errors import RejectedRecord
from ecglm.signals.filters import antialias_response, band_edges, band_response, notch_response
from ecglm.signals.leads import plain

MAX_RATIO_TERM = 1000
MAX_RATIO_ERROR = 1e-5
#: Samples that are transformed together: all leads of a short record, lead by lead in a long one, to bound the memory.
MAX_TOGETHER = 1 << 19
#: Longest second transform in float32: its running sums leave an error below 1e-5 of the signal there.
MAX_NARROW = 1 << 14
#: Longest first transform in float32 (16 s at 500 Hz). There the sums run over frequencies, and what they leave grows
#: to 3e-5 of the signal's range at its first and last sample: 0.2 µV of a 7 mV ECG, a fifth of a store's step.
MAX_NARROW_FIRST = 1 << 13


@lru_cache(maxsize=64)
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


_NOTHING = np.empty(0)


@dataclass(frozen=True)
class Plan:
    """Sizes and gains of one fused transform. ``gain``: per sine coefficient kept, None when nothing is done.

    The signal, its end line taken away, is continued oddly about both ends for ever: one period has
    ``2 * num_in`` samples and holds sines only. It comes out with ``2 * num_out`` samples per period.
    """

    num_in: int
    num_out: int
    num_kept: int
    keeps_line: bool
    gain: np.ndarray | None
    sines_in: np.ndarray
    sines_out: np.ndarray
    ramp: np.ndarray


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
        return Plan(num_in, num_out, num_kept, True, None, _NOTHING, _NOTHING, _NOTHING)
    freqs = np.arange(1, min(num_in, num_out)) * (source_rate / (2 * num_in))
    gain = np.full(len(freqs), 2.0 / num_in)  # the sine transform is its own inverse up to this factor
    if edges is not None:
        gain *= band_response(freqs, *edges, source_rate)
    if mains is not None:
        gain *= notch_response(freqs, mains, source_rate)
    if ratio < 1:
        gain *= antialias_response(freqs, float(ratio) * source_rate)
    sines_in, sines_out = (np.sin(np.pi * np.arange(size) / size) for size in (num_in, num_out))
    ramp = np.arange(num_in + 1.0)
    return Plan(num_in, num_out, num_kept, edges is None, gain, sines_in, sines_out, ramp)


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
    from ecglm.signals import sine  # the compiler is loaded only where it is used

    num_leads = signal.shape[0]
    signal = plain(signal)
    result = np.empty((num_leads, plan.num_kept), np.float32)
    first_kind = np.float32 if plan.num_in <= MAX_NARROW_FIRST else np.float64
    second = np.float32 if plan.num_out <= MAX_NARROW else np.float64
    group = max(1, MAX_TOGETHER // plan.num_in)
    for first in range(0, num_leads, group):
        leads = slice(first, min(num_leads, first + group))
        together = leads.stop - first
        mixed, ends = np.empty((together, plan.num_in), first_kind), np.empty((together, 2))
        sine.continue_oddly(signal[leads], plan.ramp, plan.sines_in, mixed, ends)
        spectrum = scipy.fft.rfft(mixed, overwrite_x=True).view(first_kind)
        mixed = np.empty((together, plan.num_out), second)
        sine.apply_gain(spectrum, plan.gain, plan.sines_out, mixed)
        spectrum = scipy.fft.rfft(mixed, overwrite_x=True).view(second)
        sine.read_samples(spectrum, ends, plan.num_in / plan.num_out, plan.keeps_line, result[leads])
    return result


def ecg_bench_resample(signal: np.ndarray, source_rate: float, target_rate: int) -> np.ndarray:
    """ECG-Bench's resampling: an interpolating cubic spline per lead, between time axes that both include the end.

    float64 ``(num_leads, N)`` → ``(num_leads, int(N * target / source))``; the input when the rates are equal. No
    anti-alias filter, and an effective rate of (M - 1) / (N - 1) × source: kept, because the original has both.
    """
    from ecglm.signals.recursion import to_lanes

    return (
        signal if source_rate == target_rate else spline_lanes(to_lanes(signal), len(signal), source_rate, target_rate)
    )


def spline_lanes(rows: np.ndarray, num_leads: int, source_rate: float, target_rate: int) -> np.ndarray:
    """``ecg_bench_resample`` of float64 ``(N, 16)`` (``recursion.to_lanes``), to other than the source rate."""
    from ecglm.signals.spline import interpolate, make_spline  # the compiler is loaded only where it is used

    num_in = len(rows)
    num_out = int(num_in * target_rate / source_rate)
    spline = make_spline(num_in, num_out, num_in / source_rate)
    out = np.empty((num_leads, num_out))
    interpolate(spline.factors, spline.first, spline.weights, rows, out)
    return out
