"""A representative beat of every lead, and where its QRS complex begins and ends over all leads together."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from ecglm.signals.beats import RATE
from ecglm.signals.compiled import compiled

#: Longest stretch before and after the middle of the QRS that a representative beat holds, s.
BEFORE, AFTER = 0.60, 0.80
#: Slope that counts as the QRS complex: this share of its largest slope above what the rest of the beat has …
_QRS_SHARE = 0.055
#: … but not less than this, in mV/s over all leads: the flank of a P wave or an ST segment.
_QRS_LEAST = 3.5
_QRS_LONGEST, _QRS_SHORTEST = 0.24, 0.06
#: Samples between the values of the line that is taken away.
_GRID = 20
#: More beats than that make a median no better.
MOST_BEATS = 24
#: The complex is looked for so far from the middle of a beat, s.
_QRS_NEAR = 0.13
#: How much sharper than anything else near the complex a pacing stimulus bends.
_SPIKE = 2.5
#: The middle of a paced complex lies about that many samples behind the stimulus.
PACED_MIDDLE = int(0.08 * RATE)
#: How much of its bend over 12 ms a stimulus has over 4 ms already.
_NARROW = 0.6


def straighten(x: np.ndarray, at: np.ndarray, level_at: int) -> np.ndarray:
    """``(num_leads, num_samples)`` less a spline through its level just before every QRS complex.

    at: ``(num_beats,)`` samples; level_at: samples from there to the middle of the 20 ms that are averaged. Takes away
    an offset and what wanders between beats, and leaves ST alone: both its ends lie on the line.
    """
    half = RATE // 100
    knots = at + level_at
    knots = knots[(knots >= half) & (knots < x.shape[1] - half)]
    if not len(knots):
        return x - np.median(x, axis=1, keepdims=True)
    levels = np.stack([x[:, k - half : k + half + 1].mean(axis=1) for k in knots], axis=1)
    if len(knots) < 3:
        return x - levels.mean(axis=1, keepdims=True)
    # the line is slow: a value every 40 ms is enough of it
    grid = np.arange(0, x.shape[1] + _GRID, _GRID)
    line = CubicSpline(knots, levels, axis=1, bc_type="natural")(np.clip(grid, knots[0], knots[-1]))
    out = np.empty_like(x)
    _less_drift(x, np.ascontiguousarray(line), _GRID, out)
    return out


@compiled
def _less_drift(x: np.ndarray, line: np.ndarray, grid: int, out: np.ndarray) -> None:
    """``x`` less a line given at every ``grid``-th sample."""
    for lead in range(len(x)):
        for block in range(line.shape[1] - 1):
            start, stop = block * grid, min((block + 1) * grid, x.shape[1])
            value = line[lead, block]
            step = (line[lead, block + 1] - value) / grid
            for k in range(start, stop):
                out[lead, k] = x[lead, k] - value
                value += step


def representative(
    x: np.ndarray, at: np.ndarray, neighbours: np.ndarray, level_at: int | None = None, most: int = MOST_BEATS
) -> tuple[np.ndarray, int]:
    """Median beat ``(num_leads, width)`` of the beats at ``at``, and the sample of it where they are aligned.

    neighbours: all beats, those of other classes too: what belongs to the complex before or after is not averaged.
    level_at: samples from ``at`` to the middle of 20 ms whose mean is taken from every beat first (None: nothing is).
    most: beats that are looked at, evenly spread.
    """
    usual = float(np.median(np.diff(neighbours))) if len(neighbours) > 1 else 2.0 * RATE
    before = int(min(BEFORE * RATE, 0.85 * usual))
    after = int(min(AFTER * RATE, max(usual - 0.07 * RATE, 0.25 * RATE)))
    if len(at) > most:
        at = at[np.linspace(0, len(at) - 1, most).astype(np.int64)]
    start, stop = at - before, at + after
    place = np.searchsorted(neighbours, at)
    earlier, later = np.full(len(at), -(1 << 40)), np.full(len(at), 1 << 40)
    has = place > 0
    earlier[has] = neighbours[place[has] - 1] + int(0.12 * RATE)
    has = place + 1 < len(neighbours)
    later[has] = neighbours[place[has] + 1] - int(0.07 * RATE)
    low = np.maximum(np.maximum(start, earlier), 0) - start
    high = np.minimum(np.minimum(stop, later), x.shape[1]) - start
    beat, half = np.zeros((len(x), before + after)), RATE // 100
    levels = np.zeros((len(x), len(at)))
    if level_at is not None:
        for k, sample in enumerate(np.clip(at + level_at, half, x.shape[1] - half - 1)):
            levels[:, k] = x[:, sample - half : sample + half + 1].mean(axis=1)
    _median_beat(np.ascontiguousarray(x), start, low, np.maximum(high, low), levels, beat)
    return beat, before


@compiled
def _median_beat(
    x: np.ndarray, start: np.ndarray, low: np.ndarray, high: np.ndarray, levels: np.ndarray, beat: np.ndarray
) -> None:
    num_leads, width = beat.shape
    values = np.empty(len(start))
    for lead in range(num_leads):
        row = x[lead]
        last = 0.0
        for j in range(width):
            count = 0
            for k in range(len(start)):
                if low[k] <= j < high[k]:
                    value = row[start[k] + j] - levels[lead, k]
                    place = count
                    while place > 0 and values[place - 1] > value:
                        values[place] = values[place - 1]
                        place -= 1
                    values[place] = value
                    count += 1
            if count > 0:
                last = 0.5 * (values[(count - 1) // 2] + values[count // 2])
            beat[lead, j] = last


def smooth(x: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean over an odd ``width``, the ends repeated."""
    half = width // 2
    padded = np.concatenate([np.repeat(x[..., :1], half + 1, axis=-1), x, np.repeat(x[..., -1:], half, axis=-1)], -1)
    total = np.cumsum(padded, axis=-1)
    result: np.ndarray = (total[..., width:] - total[..., :-width]) / width
    return result


def quantile(values: np.ndarray, share: float) -> float:
    """The value that about this share of the others lies below."""
    place = int(share * (len(values) - 1))
    return float(np.partition(values, place)[place])


def speed(beat: np.ndarray) -> np.ndarray:
    """Slope over all leads (root mean square) in mV/s: means of 8 ms, 8 ms apart."""
    means = smooth(beat, 5)
    slope = np.zeros_like(means)
    slope[:, 2:-2] = (means[:, 4:] - means[:, :-4]) * (RATE / 4)
    return np.sqrt(np.square(slope).mean(axis=0))


def find_qrs(beat: np.ndarray, middle: int, coarse: bool = False) -> tuple[float, float] | None:
    """First and last sample of the QRS complex around ``middle``, over all leads; None where no complex stands out.

    What is steep near the middle belongs to it, a plateau between two steep parts too; from there outward to where the
    slope over all leads has fallen to a small share of the largest for 16 ms, and on to where it is that of the PR or
    ST segment. coarse: the source was sampled below 200 Hz; what rings between its samples is smoothed away first, and
    what that adds to the width is taken off.
    """
    if coarse:
        beat = smooth(beat, 9)
    v = speed(beat)
    low = max(middle - int(_QRS_NEAR * RATE), 0)
    near = v[low : middle + int(_QRS_NEAR * RATE)]
    if near.size < 10:
        return None
    top, quiet = float(near.max()), quantile(v, 0.2)
    if top < 3 * quiet or top <= 0:
        return None
    height = np.sqrt(np.square(beat - np.median(beat, axis=1, keepdims=True)).mean(axis=0))
    steep = np.flatnonzero(near > 0.25 * top) + low
    first, last = _connected(steep, low + int(np.argmax(near)), height)
    threshold = max(quiet + _QRS_SHARE * (top - quiet), 1.8 * quiet, min(_QRS_LEAST, 0.25 * top))
    reach = int(_QRS_LONGEST * RATE)
    on, off = _outward(v, first, -1, threshold, reach), _outward(v, last, 1, threshold, reach)
    off = _with_late_r(v, height, off, 0.1 * top, threshold) if off - on < 0.13 * RATE else off
    if last - on > _QRS_SHORTEST * RATE:
        off = _before_t(v, height, last, off, 0.2 * top)
    on, off = _creep(v, on, -1, top, 2), _creep(v, off, 1, top, 4)
    return (on + 1.5, off - 2.5) if coarse else (float(on), off - 1.0)


def _creep(v: np.ndarray, at: int, step: int, top: float, most: int) -> int:
    """The last flat stretch of a complex: up to ``most`` samples further out, to where the slope is what it is beyond
    (the PR or the ST segment)."""
    beyond = v[max(at - 24, 0) : max(at - 8, 0)] if step < 0 else v[at + 8 : at + 32]
    if len(beyond) < 8:
        return at
    level = 1.35 * float(np.median(beyond)) + 0.042 * top
    for _ in range(most):
        if not 0 < at < len(v) - 1 or v[at] < level:
            break
        at += step
    return at


def _connected(steep: np.ndarray, top_at: int, height: np.ndarray) -> tuple[int, int]:
    """First and last of the steep samples around the steepest, no two of them further apart than 60 ms: or 120 ms with
    a plateau between them, as in paced complexes. A pause of 16 ms on the line parts a T wave from its complex."""
    most, start = height[steep[0] : steep[-1] + 1].max(), steep[0]
    gaps = []
    for place in np.flatnonzero(np.diff(steep) > 0.016 * RATE).tolist():
        before, behind = int(steep[place]), int(steep[place + 1])
        least, gap = height[before : behind + 1].min(), (behind - before) / RATE
        paused = least < 0.1 * most and before - start > _QRS_SHORTEST * RATE
        if paused or gap > (0.12 if least > 0.45 * most else 0.06):
            gaps.append(place)
            start = behind
    starts, stops = np.array([0, *(g + 1 for g in gaps)]), np.array([*gaps, len(steep) - 1])
    group = int(np.searchsorted(steep[stops], top_at))
    return int(steep[starts[group]]), int(steep[stops[group]])


def _with_late_r(v: np.ndarray, height: np.ndarray, off: int, steep: float, threshold: float) -> int:
    """The end of a complex, behind a plateau of its last wave that looked like one: from there it comes down by more
    than half within 80 ms, steeply, which no ST segment does."""
    part = height[off : off + int(0.08 * RATE)]
    if len(part) < 10 or part[0] < 0.3 * height[max(off - 60, 0) : off + 1].max() or part.min() > 0.4 * part[0]:
        return off
    down = int(np.argmax(v[off : off + int(np.argmax(part <= 0.4 * part[0])) + 5]))
    return _outward(v, off + down, 1, threshold, int(0.1 * RATE)) if v[off + down] > steep else off


def _before_t(v: np.ndarray, height: np.ndarray, last: int, off: int, slow: float) -> int:
    """The end of a complex ``last`` … ``off``, or where in between it came down to the line and slowly left it again:
    there the T wave begins without an ST segment."""
    if off - last < 4:
        return off
    turn = last + int(np.argmin(v[last : min(off, last + 40) + 1]))
    most = height[max(last - 40, 0) : last + 1].max()
    again = v[turn : off + 1].max() > 1.3 * v[turn] and height[turn : off + 1].max() > height[turn] + 0.08 * most
    return turn if v[turn] < slow and height[turn] < 0.15 * most and again else off


def find_spike(beat: np.ndarray, middle: int, coarse: bool = False) -> int | None:
    """Sample of a pacing stimulus near the complex; None without one.

    By far the sharpest bend there, and over within 8 ms of its peak, which no R wave is. Below 200 Hz (coarse) a
    stimulus is as broad as an R wave: there it must stand at the beginning of what without it still is a wide complex.
    """
    narrow, broad = (4, 4) if coarse else (2, 6)
    around = 16 if coarse else 10
    sharp = _bend(beat, narrow)
    low, high = max(middle - int(0.16 * RATE), 6), min(middle + int(0.08 * RATE), beat.shape[1] - 6)
    if high - low < 20:
        return None
    at = low + int(np.argmax(sharp[low:high]))
    rest = np.concatenate([sharp[low : max(at - around, low)], sharp[at + around : high]])
    if not rest.size or sharp[at] < _SPIKE * rest.max() or sharp[at] < 0.05:
        return None
    if not coarse:
        return at if sharp[at] > _NARROW * _bend(beat, broad)[at - 3 : at + 4].max() else None
    ends = np.array([max(at - 12, 0), min(at + 12, beat.shape[1] - 1)])
    clean, share = beat.copy(), np.linspace(0, 1, int(ends[1] - ends[0]) + 1)
    clean[:, ends[0] : ends[1] + 1] = beat[:, [ends[0]]] * (1 - share) + beat[:, [ends[1]]] * share
    left = find_qrs(clean, at + PACED_MIDDLE, coarse)
    wide = left is not None and left[1] - left[0] >= 0.125 * RATE and abs(left[0] - at) < 0.035 * RATE
    return at if wide else None


def _bend(beat: np.ndarray, reach: int) -> np.ndarray:
    """Second difference over ``reach`` samples to both sides, over all leads (root mean square), mV."""
    bend = np.zeros(beat.shape[1])
    middle, before, behind = beat[:, reach:-reach], beat[:, : -2 * reach], beat[:, 2 * reach :]
    bend[reach:-reach] = np.sqrt(np.square(2 * middle - before - behind).mean(axis=0))
    return bend


def _outward(v: np.ndarray, start: int, step: int, threshold: float, reach: int, hold: int = 8) -> int:
    """First sample in that direction from which on the slope stays below the threshold for ``hold`` samples."""
    quiet = 0
    at = start
    for k in range(1, reach):
        at = start + step * k
        if not 0 <= at < len(v):
            return at - step
        quiet = quiet + 1 if v[at] < threshold else 0
        if quiet == hold:
            break
    return at - step * quiet
