"""Where the beats of an ECG are and which of them look alike: QRS detection over all leads, alignment, classes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ecglm.signals.compiled import compiled

#: Everything is found and measured at this rate, Hz; other rates are interpolated to it (band-limited, zero-phase).
RATE = 500
#: Boxes whose difference is the slope: 20 ms each, so that 50 Hz falls out and 10 to 25 Hz, the QRS, passes best.
_HALF = 10
#: Half the window in which complexes are compared, and how far they are shifted against each other, in samples.
_REACH, _SHIFT, _STEP = 65, 42, 3
#: No two ventricular beats come closer than that, s.
_REFRACTORY = 0.22
#: A complex belongs to a class when it correlates so well with it over all leads.
_ALIKE = 0.84
_MAX_CLASSES = 6
#: What correlates so well with the usual slopes behind a complex is its T wave: f waves and another rate disturb it.
_ECHO = 0.65
#: Below this sharpness a wave that follows a complex is its T wave.
_SHARP = 1.2


@dataclass(frozen=True)
class Beats:
    """at: ``(num_beats,)`` samples at 500 Hz, ascending, all of one class at the same place of their complex.

    kind: ``(num_beats,)`` class by shape, 0 the dominant one. likeness: mean correlation of the beats with their class.
    reason: why there are none, empty otherwise.
    """

    at: np.ndarray
    kind: np.ndarray
    likeness: float
    reason: str = ""


def find_beats(x: np.ndarray, usable: np.ndarray) -> Beats:
    """Beats of ``(12, num_samples)`` in mV at 500 Hz; usable: bool ``(12,)``, the leads to look at.

    Leads are weighted by how far their complexes rise above what lies between, and at any time the lead that says most
    is not believed: a noisy or loose electrode does not decide. Reasons: ``no_signal``, ``no_qrs``,
    ``no_clear_qrs`` (fibrillation, noise: what there is does not repeat itself).
    """
    nothing = np.empty(0, np.int64)
    if not usable.any():
        return Beats(nothing, nothing, 0.0, "no_signal")
    slopes = np.zeros((int(usable.sum()), x.shape[1]), x.dtype)
    _slopes(np.ascontiguousarray(x if usable.all() else x[usable]), _HALF, slopes)
    energy, level = _energy(slopes)
    if level < 0.02:  # mV of slope in the best lead: nothing that rises
        return Beats(nothing, nothing, 0.0, "no_qrs")
    found = _peaks_of_energy(energy, slopes)
    if not len(found):
        return Beats(nothing, nothing, 0.0, "no_clear_qrs")
    at, kind, likeness = _classes(slopes, found)
    beat = ~_echoes(slopes, at, kind)
    if len(found) > 1 and _early(found, energy) and (kind == kind[0]).sum() == 1:
        beat[0] = False  # the T wave of a complex before the beginning: nothing else looks like it
    at, kind, likeness = at[beat], kind[beat], likeness[beat]
    steady = float(np.median(likeness))
    if steady < 0.6:
        return Beats(nothing, nothing, steady, "no_clear_qrs")
    order = np.argsort(at, kind="stable")
    return Beats(at[order], _by_size(at[order], kind[order]), steady)


@compiled
def _slopes(x: np.ndarray, half: int, out: np.ndarray) -> None:
    """Mean of the next ``half`` samples less mean of the ``half`` before, 0 where they would leave the signal."""
    for lead in range(len(x)):
        row, result = x[lead], out[lead]
        total = 0.0
        for k in range(half):
            total += row[half + k] - row[k]
        scale = 1.0 / half
        for at in range(half, len(row) - half):
            result[at] = total * scale
            total += row[at + half] - 2.0 * row[at] + row[at - half]


def _energy(slopes: np.ndarray) -> tuple[np.ndarray, float]:
    """Slope over all leads, 1 in a usual complex, mean over 80 ms; and the usual slope of the best lead in mV."""
    num = slopes.shape[1]
    size = np.abs(slopes)
    window = RATE if num >= 4 * RATE else RATE // 2
    blocks = size[:, : num // window * window].reshape(len(slopes), -1, window)
    most = blocks.max(axis=2)
    top = np.median(most, axis=1) if num // window > 2 else most.max(axis=1)
    between = np.median(size[:, ::8], axis=1)
    # a slow heart leaves some windows without a complex, whose maximum is then that of a T wave
    top = np.maximum(top, 0.5 * np.quantile(most, 0.8, axis=1))
    crest = np.where(top > 0, top / np.maximum(between, 0.03 * top + 1e-9), 0.0)
    weight = np.clip(crest - 3.0, 0.02, 12.0) * np.minimum(top / 0.1, 1.0)
    scale = np.divide(1.0, top, out=np.zeros_like(top), where=top > 1e-6)
    weight = weight * (scale > 0)
    if weight.sum() <= 0:
        return np.zeros(num), 0.0
    out = np.empty(num)
    _join(slopes, scale, weight / weight.sum(), RATE * 8 // 100, out)
    return out, float(top.max())


@compiled
def _join(slopes: np.ndarray, scale: np.ndarray, weight: np.ndarray, width: int, out: np.ndarray) -> None:
    num_leads, num = slopes.shape
    power, most, of_most = np.zeros(num), np.zeros(num), np.zeros(num)
    for lead in range(num_leads):
        row, s, w = slopes[lead], scale[lead], weight[lead]
        for k in range(num):
            value = min(abs(row[k]) * s, 1.5)
            value *= w * value
            power[k] += value
            if value > most[k]:
                most[k], of_most[k] = value, w
    for k in range(num):  # the lead that says most is not believed
        if of_most[k] < 0.5:
            power[k] = (power[k] - most[k]) / (1.0 - of_most[k])
    total, half = 0.0, width // 2
    for k in range(-half, num):
        if k + half < num:
            total += power[k + half]
        if k - half - 1 >= 0:
            total -= power[k - half - 1]
        if k >= 0:
            out[k] = np.sqrt(max(total, 0.0) / width)


def _peaks_of_energy(energy: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Samples of the complexes: maxima of the energy that stand out, without T waves; empty where none stands out."""
    tops = _maxima(energy, int(_REFRACTORY * RATE))
    if not len(tops):
        return tops
    heights = energy[tops]
    # the usual complex: of the tops above half the highest but a few
    reference = np.quantile(heights, 0.9) if len(heights) > 4 else heights.max()
    level = float(np.median(heights[heights >= 0.5 * reference]))
    floor = float(np.partition(energy[::2], len(energy) // 8)[len(energy) // 8])
    if level < 2.2 * floor:
        return tops[:0]
    strong = _without_t(tops[heights > max(0.38 * level, 1.6 * floor)], energy, slopes)
    if len(strong) < 2:
        return strong
    usual = float(np.median(np.diff(strong)))
    weak = tops[(heights > max(0.24 * level, 2.0 * floor)) & (heights <= max(0.38 * level, 1.6 * floor))]
    added = [
        top
        for low, high in pairwise(strong.tolist())
        if high - low > 1.6 * usual
        for top in weak
        if low + 0.5 * usual < top < high - 0.5 * usual and _sharpness(slopes, top) > _SHARP
    ]
    return np.sort(np.concatenate([strong, np.array(added, np.int64)]))


def _maxima(energy: np.ndarray, distance: int) -> np.ndarray:
    from ecglm.signals.features import find_peaks

    return find_peaks(energy, 0.0, distance)


def _without_t(tops: np.ndarray, energy: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Drop T waves: what follows a complex soon, with less energy, and bends less sharply than a complex does."""
    kept: list[int] = []
    for top in tops.tolist():
        if kept and top - kept[-1] < 0.6 * RATE:
            share = energy[top] / energy[kept[-1]]
            if share < 0.7 and (_sharpness(slopes, top) < _SHARP or (share < 0.4 and top - kept[-1] < 0.36 * RATE)):
                continue
        kept.append(top)
    return _without_regular_t(np.array(kept, np.int64), energy, slopes)


def _early(tops: np.ndarray, energy: np.ndarray) -> bool:
    """Whether the first of them comes so soon and so weak that it may be a T wave."""
    return bool(len(tops) > 2 and tops[0] < 0.45 * RATE and energy[tops[0]] < 0.6 * np.median(energy[tops]))


def _echoes(slopes: np.ndarray, at: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Which of the complexes are T waves: what other complexes of the shape before them show as well, equally late.

    The slopes behind such others, where nothing was found, are averaged and correlated with those of the candidate,
    30 ms to both sides: at another rate a T wave comes a little sooner or later. A premature beat is no such echo.
    """
    num, half, slack = slopes.shape[1], int(0.07 * RATE), int(0.03 * RATE)
    echo = np.zeros(len(at), bool)
    order = np.argsort(at, kind="stable")
    sizes = np.bincount(kind, minlength=_MAX_CLASSES)
    for before, here in pairwise(order.tolist()):
        gap = int(at[here] - at[before])
        if (
            echo[before]
            or gap > 0.5 * RATE
            or kind[here] == kind[before]
            or sizes[kind[here]] > 0.5 * sizes[kind[before]]
        ):
            continue
        low, high = at[here] - half, at[here] + half
        if low < 0 or high > num:
            continue
        total = np.zeros((len(slopes), 2 * (half + slack)))
        count = 0
        for place in at[kind == kind[before]].tolist():
            start, stop = place + gap - half - slack, place + gap + half + slack
            if place == at[before] or stop > num or ((at > place) & (at < stop + half)).any():
                continue
            total += slopes[:, start:stop]
            count += 1
        if count < 2:
            continue
        own, mean = slopes[:, low:high], total / count
        power = float(np.square(own).sum())
        for lag in range(0, 2 * slack + 1, 3):
            part = mean[:, lag : lag + 2 * half]
            product, other = float((own * part).sum()), float(np.square(part).sum())
            if product > _ECHO * np.sqrt(power * other) and other > 0.3 * power:
                echo[here] = True
                break
    return echo


def _without_regular_t(tops: np.ndarray, energy: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Drop tall T waves: what follows nearly every complex, weaker, duller, and always equally late."""
    gaps = np.diff(tops)
    after = 1 + np.flatnonzero((gaps < 0.45 * RATE) & (energy[tops[1:]] < 0.75 * energy[tops[:-1]]))
    if len(after) < 3 or len(after) < 0.4 * len(tops) or gaps[after - 1].std() > 0.02 * RATE:
        return tops
    dull = np.median([_sharpness(slopes, top) for top in tops[after].tolist()])
    sharp = np.median([_sharpness(slopes, top) for top in tops[after - 1].tolist()])
    return np.delete(tops, after) if dull < 0.85 * sharp else tops


def _sharpness(slopes: np.ndarray, at: int) -> float:
    """How much the slope changes within 40 ms against how large it is, in the 160 ms around ``at``: about 2 sin(pi f
    20 ms) at the frequency f that prevails, 1.3 and more in a complex, 0.9 in a T wave."""
    low, high = max(at - 40, _HALF), min(at + 40, slopes.shape[1] - _HALF)
    change = slopes[:, low + _HALF : high + _HALF] - slopes[:, low - _HALF : high - _HALF]
    own = slopes[:, low:high]
    return float(np.sqrt(np.square(change).sum() / max(np.square(own).sum(), 1e-12)))


def _classes(slopes: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, class and correlation with it, of every complex: leader clustering on the slopes, then once more against
    the mean of each class."""
    at = found.copy()
    margin = _REACH + _SHIFT + _STEP + 1
    padded = np.zeros((len(slopes), slopes.shape[1] + 2 * margin), slopes.dtype)
    padded[:, margin:-margin] = slopes
    at += margin
    kind = np.zeros(len(at), np.int64)
    likeness = np.zeros(len(at))
    templates = np.zeros((_MAX_CLASSES, len(slopes), _REACH + 1))
    num = _lead(padded, at, templates, _SHIFT, _ALIKE, kind, likeness, 0)
    _lead(padded, at, templates, _SHIFT // 2, _ALIKE, kind, likeness, num)
    return at - margin, kind, likeness


@compiled
def _match(x: np.ndarray, start: int, template: np.ndarray, power: float) -> float:
    """Correlation of a template with every second sample of ``x`` ``(num_leads, num_samples)`` from ``start`` on."""
    product, own = 0.0, 0.0
    for lead in range(len(template)):
        row = x[lead]
        for j in range(template.shape[1]):
            value = row[start + 2 * j]
            product += value * template[lead, j]
            own += value * value
    return product / np.sqrt(own * power + 1e-12)


@compiled
def _lead(
    x: np.ndarray, at: np.ndarray, templates: np.ndarray, shift: int, alike: float, kind: np.ndarray,
    likeness: np.ndarray, given: int,
) -> int:  # fmt: skip
    """Shift every beat to where it correlates best with one of the templates and say which; ``given``: how many there
    are to begin with, 0: they are founded and averaged on the way."""
    num_leads, width = templates.shape[1], templates.shape[2]
    num, room, reach = given, templates.shape[0], width - 1
    members = np.zeros(room)
    for k in range(len(at)):
        best, best_kind, best_at = -2.0, -1, at[k]
        for c in range(num):
            power = 0.0
            for lead in range(num_leads):
                for j in range(width):
                    power += templates[c, lead, j] * templates[c, lead, j]
            top, top_at = -2.0, at[k]
            for lag in range(-shift, shift + 1, _STEP):
                match = _match(x, at[k] + lag - reach, templates[c], power)
                if match > top:
                    top, top_at = match, at[k] + lag
            coarse = top_at
            for near in range(1 - _STEP, _STEP):
                match = _match(x, coarse + near - reach, templates[c], power)
                if match > top:
                    top, top_at = match, coarse + near
            if top > best:
                best, best_kind, best_at = top, c, top_at
        if given == 0 and best < alike and num < room:
            best_kind, best_at, best = num, at[k], 1.0
            num += 1
        at[k], kind[k], likeness[k] = best_at, best_kind, best
        if given == 0:
            members[best_kind] += 1.0
            share = 1.0 / members[best_kind]
            for lead in range(num_leads):
                for j in range(width):
                    value = x[lead, best_at - reach + 2 * j]
                    templates[best_kind, lead, j] += share * (value - templates[best_kind, lead, j])
    return num


def _by_size(at: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Classes renumbered: the dominant one is the largest; of two about equal ones that whose beats come late."""
    sizes = np.bincount(kind)
    order = np.argsort(-sizes, kind="stable")
    if len(at) > 3 and len(order) > 1 and sizes[order[1]] >= 0.8 * sizes[order[0]]:
        before = np.diff(at)
        waits = [np.median(before[kind[1:] == c]) if (kind[1:] == c).any() else 0.0 for c in order[:2]]
        if waits[1] > 1.15 * waits[0]:
            order[:2] = order[1::-1]
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return number[kind]
