"""The whole way from a segment to where its beats and waves are: detection, median beat, QRS, P and T."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ecglm.errors import EcglmError
from ecglm.signals import median_beat, waves
from ecglm.signals.beats import RATE, Beats, find_beats
from ecglm.signals.compiled import compiled
from ecglm.signals.resample import filter_and_resample
from ecglm.signals.rhythm import Rhythm, rhythm_of
from ecglm.types import LEADS

MIN_RATE, MIN_SECONDS = 50, 1.0
#: Smallest range of a lead that is not called flat, mV.
_FLAT = 0.01
#: A P wave is one that this share of the beats shows, and whose size differs no more than that (standard deviation over
#: size) from beat to beat.
_P_SHARE, _P_SPREAD = 0.75, 0.72


@dataclass(frozen=True)
class Delineation:
    """The median beat of the dominant shape and what was found on it; samples at 500 Hz, fractions allowed.

    beat: ``(12, num_samples)`` mV, the level before the QRS complex at 0. usable: bool ``(12,)``. reasons: as in
    ``Measurements``.
    """

    beat: np.ndarray
    usable: np.ndarray
    rhythm: Rhythm
    onsets_s: tuple[float, ...]
    qrs_on: float
    qrs_off: float
    p: waves.PWave | None
    t_peak: int | None
    t_off: float | None
    paced: bool
    reasons: Mapping[str, str]


def delineate(segment: np.ndarray, rate: float) -> Delineation | str:
    """What ``measure`` measures on; the reason where there is nothing to measure. Raises as ``measure`` does."""
    segment = _checked(segment, rate)
    usable = np.ptp(segment, axis=1) > _FLAT
    mains = _mains(segment, float(rate))
    x = filter_and_resample(segment, rate, RATE, mains=mains)
    beats = find_beats(x, usable)
    if beats.reason:
        return beats.reason
    coarse, whole = rate < 200, bool(usable.all())
    at = _ordinary(beats)
    rough, middle = median_beat.representative(x if whole else x[usable], at, beats.at, -RATE // 10, 7)
    spike = median_beat.find_spike(rough, middle, coarse)
    ahead = 0
    if spike is not None:
        ahead = spike + median_beat.PACED_MIDDLE - middle
        bridged = _without_spikes(segment, (beats.at[beats.kind == 0] + spike - middle) / RATE * rate, rate)
        x = filter_and_resample(bridged, rate, RATE, mains=mains)
        rough, middle = median_beat.representative(x if whole else x[usable], at, beats.at, -RATE // 10, 7)
    qrs = median_beat.find_qrs(rough, middle + ahead, coarse)
    if qrs is None:
        return "no_clear_qrs"
    x = median_beat.straighten(x, at, int(qrs[0]) - middle - RATE // 80)
    beat, middle = median_beat.representative(x, at, beats.at)
    seen = beat[usable]
    qrs = median_beat.find_qrs(seen, middle + ahead, coarse) or qrs
    x = x if whole else x[usable]
    onsets, widths = _onsets(x, beats, qrs, middle, coarse)
    interval = float(np.median(np.diff(beats.at))) / RATE if len(beats.at) > 1 else 1.0
    reasons: dict[str, str] = {}
    t_peak = waves.find_t_peak(seen, qrs[1], interval)
    earliest = 0.0 if t_peak is None else t_peak + (0.05 - interval) * RATE
    p = waves.find_p(seen, qrs[0], earliest)
    if p is None:
        reasons["pr_ms"] = "no_p_wave"
    elif not _constant(x, at - middle, p):
        p, reasons["pr_ms"] = None, "p_not_constant"
    rhythm = rhythm_of(onsets, beats.kind, widths, has_p=p is not None)
    t_off = None
    if t_peak is None:
        reasons["qt_ms"] = "no_t_wave"
    else:
        latest = qrs[0] + interval * RATE - (qrs[0] - p.on if p is not None else 0.06 * RATE)
        t_off = waves.find_t_off(seen, t_peak, qrs[1], latest)
        if t_off is None:
            reasons["qt_ms"] = "t_end_hidden"
    times = tuple(round(float(t), 4) for t in onsets)
    return Delineation(beat, usable, rhythm, times, *qrs, p, t_peak, t_off, spike is not None, reasons)


def _checked(segment: np.ndarray, rate: float) -> np.ndarray:
    segment = np.asarray(segment)
    if segment.ndim != 2 or segment.shape[0] != len(LEADS) or segment.dtype.kind not in "fiu":
        raise EcglmError(
            f"measure: a segment is an array (12, num_samples) in mV, not {segment.dtype} of shape {segment.shape}"
        )
    if not (np.isfinite(rate) and rate >= MIN_RATE):
        raise EcglmError(f"measure: rate must be {MIN_RATE} Hz or more, not {rate}")
    if segment.shape[1] < MIN_SECONDS * rate:
        raise EcglmError(f"measure: {segment.shape[1]} samples at {rate} Hz are less than {MIN_SECONDS:g} s")
    if not np.isfinite(segment).all():
        raise EcglmError("measure: the segment holds NaN or infinity; choose a NaN policy in the pipeline")
    return np.ascontiguousarray(segment, dtype=np.float32)


@lru_cache(maxsize=8)
def _probes(num: int, rate: float) -> tuple[tuple[float, np.ndarray], ...]:
    """Mains frequency below half the rate → complex ``(num, 3)``: windowed waves of it and 4 Hz to both sides."""
    window, time = np.hanning(num), np.arange(num) / rate
    probes = []
    for hertz in (50.0, 60.0):
        if hertz + 4 < rate / 2:
            waves_of = np.exp(-2j * np.pi * np.outer(time, [hertz, hertz - 4, hertz + 4]))
            probes.append((hertz, (waves_of * window[:, None] * (2 / window.sum())).astype(np.complex64)))
    return tuple(probes)


def _mains(segment: np.ndarray, rate: float) -> float | None:
    """50 or 60 where a hum of more than 12 µV stands out of the spectrum, to be filtered; None elsewhere."""
    strongest, found = 0.012, None
    for hertz, probe in _probes(segment.shape[1], rate):
        size = np.sqrt(np.square(np.abs(segment @ probe)).mean(axis=0))
        if size[0] > strongest and size[0] > 2 * (size[1] + size[2]):
            strongest, found = float(size[0]), hertz
    return found


def _ordinary(beats: Beats) -> np.ndarray:
    """Places of the dominant beats, without premature ones where enough others are left."""
    at = beats.at[beats.kind == 0]
    if len(beats.at) < 4:
        return at
    before = np.diff(beats.at, prepend=beats.at[0] - 10 * RATE)[beats.kind == 0]
    kept = at[before > 0.86 * np.median(np.diff(beats.at))]
    return kept if len(kept) >= max(3, 0.5 * len(at)) else at


def _without_spikes(segment: np.ndarray, peaks: np.ndarray, rate: float) -> np.ndarray:
    """The segment with straight lines over pacing stimuli; peaks: samples of it, fractions allowed."""
    bridged, half = segment.copy(), 1.0 if rate < 200 else max(1.6, 0.004 * rate)
    for peak in peaks:
        low, high = int(np.floor(peak - half)), int(np.ceil(peak + half))
        if low >= 0 and high < segment.shape[1]:
            share = ((np.arange(low, high + 1) - low) / (high - low)).astype(np.float32)
            bridged[:, low : high + 1] = segment[:, [low]] * (1 - share) + segment[:, [high]] * share
    return bridged


def _onsets(
    x: np.ndarray, beats: Beats, qrs: tuple[float, float], middle: int, coarse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """QRS onset in s and width in ms (of its class) of every beat: each class is delineated on its own median beat."""
    onsets, widths = np.empty(len(beats.at)), np.empty(len(beats.at))
    for kind in range(int(beats.kind.max()) + 1):
        of_kind = beats.kind == kind
        edges, place = qrs, middle
        if kind:
            beat, place = median_beat.representative(x, beats.at[of_kind], beats.at, -RATE // 10, 7)
            found = median_beat.find_qrs(beat, place, coarse)
            edges, place = (found, place) if found is not None else (qrs, middle)
        onsets[of_kind] = (beats.at[of_kind] + edges[0] - place) / RATE
        widths[of_kind] = (edges[1] - edges[0]) / RATE * 1000
    return onsets, widths


def _constant(x: np.ndarray, starts: np.ndarray, p: waves.PWave) -> bool:
    """Whether the beats that start at ``starts`` show the P wave one by one, in one size: f waves do not."""
    template = p.template
    starts = starts + p.start
    starts = starts[(starts >= 0) & (starts + template.shape[1] <= x.shape[1])]
    if not len(starts):
        return False
    found = np.empty(len(starts))
    _sizes(x, starts, template, float(np.square(template).sum()), found)
    return bool((found > 0.4).mean() >= _P_SHARE) and float(found.std()) <= _P_SPREAD


@compiled
def _sizes(x: np.ndarray, starts: np.ndarray, template: np.ndarray, power: float, out: np.ndarray) -> None:
    """How often the wave is in ``x`` at each start, above the line between its feet (means of 4 samples)."""
    num_leads, num = template.shape
    for beat in range(len(starts)):
        total = 0.0
        for lead in range(num_leads):
            part = x[lead, starts[beat] : starts[beat] + num]
            first = 0.25 * (part[0] + part[1] + part[2] + part[3])
            last = 0.25 * (part[num - 4] + part[num - 3] + part[num - 2] + part[num - 1])
            step = (last - first) / (num - 1)
            for k in range(num):
                total += (part[k] - first - step * k) * template[lead, k]
        out[beat] = total / power
