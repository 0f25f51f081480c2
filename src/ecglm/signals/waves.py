"""P and T on a representative beat: where they begin, peak and end over all leads together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecglm.signals.beats import RATE
from ecglm.signals.features import find_peaks
from ecglm.signals.median_beat import quantile, smooth

#: Least height over all leads (root mean square) of a P and of a T wave, mV.
P_LEAST, T_LEAST = 0.016, 0.022


@dataclass(frozen=True)
class PWave:
    """on, peak, off: samples of the beat, fractions allowed. start: the left foot; template: ``(num_leads, num)``, the
    wave from foot to foot above the line between them, by which it is looked for in single beats."""

    on: float
    peak: float
    off: float
    start: int
    template: np.ndarray


def find_t_peak(beat: np.ndarray, qrs_off: float, interval: float) -> int | None:
    """Sample of the largest deviation over all leads where a T wave may peak; None without one. interval: RR in s."""
    height = deviation(beat)
    low = int(qrs_off + 0.04 * RATE)
    high = int(min(qrs_off + 0.46 * RATE * np.sqrt(max(interval, 0.3)), qrs_off + (interval - 0.2) * RATE, len(height)))
    if high - low < 0.03 * RATE:
        return None
    at = low + int(np.argmax(height[low:high]))
    return at if height[at] >= T_LEAST else None


def find_p(beat: np.ndarray, qrs_on: float, earliest: float) -> PWave | None:
    """The P wave of ``(num_leads, num_samples)`` between the samples ``earliest`` and ``qrs_on``; None without one.

    A P wave rises above the line between its feet, and what lies before it is flatter than its flank (the tail of a T
    wave is not). Of several hills the one next to the QRS complex counts.
    """
    low, high = max(int(earliest), int(qrs_on - 0.44 * RATE), 0), int(qrs_on)
    if high - low < 0.08 * RATE:
        return None
    part = smooth(beat, 11)[:, low:high]
    num, wide = high - low, int(0.065 * RATE)
    places = np.arange(num)
    left, right = np.maximum(places - wide, 0), np.minimum(places + wide, num - 3)
    share = np.divide(places - left, right - left, out=np.zeros(num), where=right > left)
    hill = np.sqrt(np.square(part - part[:, left] * (1 - share) - part[:, right] * share).mean(axis=0))
    slope = np.zeros(num)
    slope[4:-4] = np.sqrt(np.square(part[:, 8:] - part[:, :-8]).mean(axis=0))
    raised = np.sqrt(np.square(part - part[:, -5:].mean(axis=1, keepdims=True)).mean(axis=0))
    found = []
    for at in find_peaks(hill[: num - 10], P_LEAST, 12).tolist():
        shape = _p_shape(part, at, slope, raised)
        if shape is not None:
            found.append((hill[at], *shape))
    if not found:
        return None
    highest = max(f[0] for f in found)
    _, on, top, off, first, wave = [f for f in found if f[0] >= 0.4 * highest][-1]
    return PWave(low + on, low + top, low + off, low + first, wave)


def _p_shape(
    part: np.ndarray, at: int, slope: np.ndarray, raised: np.ndarray
) -> tuple[float, float, float, int, np.ndarray] | None:
    """Onset, peak and end of a hill around ``at``, its left foot and the wave from foot to foot; None for other shapes.

    slope: over all leads. raised: deviation from the level just before the QRS complex.
    """
    reach = int(0.11 * RATE)
    num = part.shape[1]
    feet = (max(at - reach, 0), min(at + reach, num - 3))
    lowest = feet[0] + int(np.argmin(raised[feet[0] : at + 1]))
    if raised[lowest] < 0.6 * raised[at] and raised[feet[0]] > raised[lowest] + 0.3 * raised[at]:
        feet = (lowest, feet[1])  # before it the T wave comes down
    flat = part - part[:, [feet[1]]]
    height = np.sqrt(np.square(_less_line(flat, *feet)).mean(axis=0))
    first, last = _valley(height, at, -1, at - feet[0], 0.08), _valley(height, at, 1, feet[1] - at, 0.08)
    wave = _less_line(part, first, last)[:, first : last + 1]
    hill = np.sqrt(np.square(wave).mean(axis=0))
    if len(hill) < 0.04 * RATE:
        return None
    top = int(np.argmax(hill))
    if hill[top] < P_LEAST or not 4 < top < len(hill) - 5:
        return None
    before = slope[max(first - 16, 4) : max(first - 4, 5)]
    flank = slope[first : first + top + 1]
    rises = raised[first + top] > 1.15 * raised[first] and raised[first + top] - raised[first] > 0.5 * P_LEAST
    if before.size and before.mean() > 0.6 * flank.max() and not rises:
        return None
    if _is_valley(part, first, first + top, wave[:, top]):
        return None
    on, off = _foot(hill, top, -1, 0, 0.2, 0.7), _foot(hill, top, 1, len(hill) - 1, 0.2, 0.7)
    if on is None or off is None or not 0.035 * RATE <= off - on <= 0.22 * RATE:
        return None
    on, off = max(on, -0.008 * RATE), min(off, len(hill) + 0.008 * RATE)
    return first + on, float(first + top), first + off, first, wave


def _is_valley(part: np.ndarray, first: int, top: int, wave: np.ndarray) -> bool:
    """Whether what bends at ``top`` is the level that a wave before it comes down to: its left foot stands further off
    the level before the QRS complex, and it bends the other way."""
    level = part[:, -5:].mean(axis=1)
    foot, own = part[:, first] - level, part[:, top] - level
    away = float(np.sqrt(np.square(foot).sum() * np.square(wave).sum()))
    return bool(np.square(foot).sum() > np.square(own).sum() and float(foot @ wave) < -0.7 * away)


def _less_line(x: np.ndarray, first: int, last: int) -> np.ndarray:
    """``x`` less the straight line through its samples ``first`` and ``last``."""
    share = (np.arange(x.shape[1]) - first) / max(last - first, 1)
    result: np.ndarray = x - x[:, [first]] * (1 - share) - x[:, [last]] * share
    return result


def _valley(height: np.ndarray, at: int, step: int, reach: int, share: float = 0.04) -> int:
    """The lowest sample on one side of a hill, the nearest one of about equally low ones."""
    stop = max(at - reach, 0) if step < 0 else min(at + reach, len(height) - 1)
    side = height[stop : at + 1][::-1] if step < 0 else height[at : stop + 1]
    low = float(side.min())
    near = int(np.argmax(side <= low + share * (height[at] - low)))
    return at + step * near


def find_t_off(beat: np.ndarray, peak: int, qrs_off: float, latest: float) -> float | None:
    """Sample where the T wave that peaks at ``peak`` ends, before ``latest``; None where it does not come down.

    The wave's foot is taken as a parabola: the square root of its flank, a straight line between 10 and 50 % of the
    height, is followed to zero. A second hill of the same wave counts. Zero is the line between the beats, and behind
    a wave that comes down well, the level it comes down to.
    """
    means = smooth(beat, 9)
    height = np.sqrt(np.square(means).mean(axis=0))
    stop = int(min(latest, len(height) - 1))
    if stop - peak < 0.03 * RATE:
        return None
    after = height[peak : stop + 1]
    top = peak
    for at in find_peaks(after[: int(0.17 * RATE) + 8], 0.3 * after[0], 8).tolist():
        least = after[: at + 1].min()
        if at >= 8 and after[at] > 1.15 * least and least > 0.3 * after[0]:
            top = peak + at
    valleys = top + find_peaks(-height[top : stop + 1], -0.3 * height[top], 12)
    low = int(valleys[0]) if len(valleys) else _valley(height, top, 1, stop - top, 0.02)
    if height[low] > 0.6 * height[top]:
        return None
    if height[low] < 0.3 * height[top]:
        start = int(qrs_off)
        share = np.clip((np.arange(len(height)) - start) / max(low - start, 1), 0, None)
        level = means[:, max(low - 4, 0) : low + 5].mean(axis=1, keepdims=True)
        height = np.sqrt(np.square(means - level * share).mean(axis=0))
    floor = quantile(height, 0.2) / height[top]
    end = _foot(height, top, 1, low, float(np.clip(1.5 * floor, 0.1, 0.3)))
    return None if end is None else min(end, low + 0.04 * RATE)


def _foot(height: np.ndarray, top: int, step: int, stop: int, least: float = 0.1, power: float = 0.5) -> float | None:
    """Where a hill begins (step -1) or ends (1): the zero of a line through the square root of its flank."""
    flank = height[stop : top + 1][::-1] if step < 0 else height[top : stop + 1]
    share = flank / flank[0]
    inside = np.flatnonzero(share < 0.5)
    if not len(inside):
        return None
    first = int(inside[0])
    below = np.flatnonzero(share[first:] < least)
    last = first + int(below[0]) if len(below) else len(share) - 1
    fall = share[: last - 3] - share[4 : last + 1] if last >= 8 else np.zeros(1)
    steepest = int(np.argmax(fall))
    tail = np.flatnonzero(fall[steepest:] < 0.3 * fall[steepest])  # a slow end, a U wave
    if len(tail):
        last = min(last, max(steepest + int(tail[0]) + 2, first + 2))
    if last - first < 3:
        first = max(last - 4, 0)
        if last - first < 2:
            return None
    places = np.arange(first, last + 1)
    values = np.maximum(share[first : last + 1], 0) ** power
    centred = places - places.mean()
    slope = float(centred @ values) / float(centred @ centred)
    start = float(values.mean()) - slope * float(places.mean())
    if slope >= 0:
        return None
    end = min(-start / slope, first + 2.5 * (last - first) + 20)
    return float(top + step * end)


def deviation(beat: np.ndarray) -> np.ndarray:
    """Deviation from the line over all leads (root mean square), mV, smoothed over 18 ms."""
    result: np.ndarray = np.sqrt(np.square(smooth(beat, 9)).mean(axis=0))
    return result
