"""Signals that stand in two splits under different record ids: identical or nearly so, found in linear time.

Every heart beat is an anchor: the window around it is described by eight leads at 100 Hz, whitened, and hashed by the
signs of random projections (Charikar 2002). Copies share beats wherever they were cut, so they meet in a bucket; each
meeting is then checked on the signals themselves, shifted onto each other.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecglm.store.reader import SegmentStore
from ecglm.types import SPLITS

#: Leads that are not sums of others (I, II, V1–V6); rate in Hz and width in Hz of the Gaussian low-pass they are
#: described with, so that a signal and its copy of another rate or phase of sampling read the same.
_LEADS = (0, 1, 6, 7, 8, 9, 10, 11)
_RATE, _WIDTH = 100, 12.0
#: Rate in Hz at which two signals are laid onto each other.
_FINE = 250
#: A beat's window: from so many samples before its steepest moment to so many after it; every second sample is read.
#: At most so many beats of a segment are anchors.
_BEFORE, _AFTER, _BEATS = 30, 90, 10
#: Bins of the whole segment, for signals without beats.
_BINS = 64
#: A pair meets when all bits of one band agree.
_BANDS, _BITS = 8, 28
#: Segments from which the whitening is learned, and the components kept of it.
_SAMPLE, _COMPONENTS = 2000, 48
#: With how many segments of each other split a segment in a crowded bucket is compared; all would be quadratic.
_KEPT = 4
#: Correlation of the low-passed slopes over all leads from which two segments are near duplicates. Copies with noise of
#: 10 µV have 0.9988 and more; different patients 0.90 at most among PTB-XL's, 0.997 among synthetic regular rhythms.
NEAR = 0.998
#: Samples at 250 Hz that a shift told by beats may be wrong by; and the cosine below which no pair is looked at closer.
_LAGS, _ROUGH = 8, 0.97
#: Two segments are compared where they overlap: at least this share of the shorter.
_OVERLAP = 0.5


@dataclass(frozen=True)
class Duplicate:
    """Two records of different splits with the same signal.

    ``correlation`` is 1 where every sample is identical. ``shift_s``: by how much ``other`` starts later.
    """

    record: str
    split: str
    other: str
    other_split: str
    correlation: float
    shift_s: float = 0.0


def _smooth(segments: np.ndarray, rate: int, wanted: int = _RATE) -> np.ndarray:
    """float32 ``(n, 8, seconds * wanted)``: the independent leads, low-passed, at one rate whatever theirs is."""
    length = segments.shape[-1]
    size = max(2, round(length * wanted / rate))
    spectrum = np.fft.rfft(segments[:, _LEADS, :], axis=-1)[..., : size // 2 + 1]
    hertz = np.arange(spectrum.shape[-1]) * rate / length
    spectrum = spectrum * np.exp(-0.5 * (hertz / _WIDTH) ** 2)
    return (np.fft.irfft(spectrum, size, axis=-1) * (size / length)).astype(np.float32)


def _unit(windows: np.ndarray) -> np.ndarray:
    """float32 ``(n, 8 * bins)``: mean-free per lead, of unit norm; zero where the signal is flat."""
    flat = (windows - windows.mean(axis=-1, keepdims=True)).reshape(len(windows), windows.shape[1] * windows.shape[2])
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > 1e-4, flat / np.maximum(norm, 1e-4), 0).astype(np.float32)


def _whole(smooth: np.ndarray) -> np.ndarray:
    """float32 unit vectors ``(n, 8 * 64)`` of whole segments."""
    smooth = np.repeat(smooth, -(-_BINS // smooth.shape[-1]), axis=-1)
    edges = np.arange(_BINS + 1) * smooth.shape[-1] // _BINS
    return _unit(np.add.reduceat(smooth, edges[:-1], axis=-1) / np.diff(edges))


def _beats(smooth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where hearts beat in ``(n, 8, samples)`` at 100 Hz: (segment numbers, samples with a fraction).

    A beat is where the slope energy over all leads is highest within 0.3 s, and at least a quarter of the segment's
    highest; only beats whose window lies in the segment, the strongest first.
    """
    energy = (np.diff(smooth, axis=-1) ** 2).sum(axis=1)
    if energy.shape[1] < _BEFORE + _AFTER + 8:
        return np.empty(0, np.int64), np.empty(0)
    padded = np.pad(energy, ((0, 0), (2, 2)))
    energy = np.add.reduce([padded[:, k : k + energy.shape[1]] * w for k, w in enumerate((1, 2, 3, 2, 1))])
    highest = np.lib.stride_tricks.sliding_window_view(np.pad(energy, ((0, 0), (15, 15))), 31, axis=1).max(axis=-1)
    high = np.partition(energy, -4, axis=1)[:, -4:-3]
    found = (energy == highest) & (energy > 0.25 * high) & (energy > 1e-7)
    found[:, : _BEFORE + 2] = found[:, energy.shape[1] - _AFTER - 2 :] = False
    rows, at = np.nonzero(found)
    left, peak, right = (energy[rows, at + d] for d in (-1, 0, 1))
    bend = left - 2 * peak + right
    exact = at + np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1), 0)
    order = np.lexsort((at, -peak, rows))
    rank = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
    kept = order[rank < _BEATS]
    return rows[kept], exact[kept]


def _windows(smooth: np.ndarray, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """float32 unit vectors ``(n, 8 * 60)`` of the windows around each beat, read between the samples."""
    start = at - _BEFORE
    whole = np.floor(start).astype(np.int64)
    part = (start - whole)[:, None, None].astype(np.float32)
    index = whole[:, None] + np.arange(0, _BEFORE + _AFTER, 2)
    first, second = (smooth[rows[:, None], :, index + d].swapaxes(1, 2) for d in (0, 1))
    return _unit(first * (1 - part) + second * part)


@dataclass
class _Hasher:
    """Vectors → ``_BANDS`` hashes each. mean, basis: of the whitening, which spreads what all ECGs have in common."""

    mean: np.ndarray
    basis: np.ndarray

    @classmethod
    def whitening(cls, vectors: np.ndarray, rng: np.random.Generator) -> _Hasher:
        mean = vectors.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(vectors - mean, rowvar=False, bias=True).astype(np.float64))
        values, axes = values[::-1][:_COMPONENTS], axes[:, ::-1][:, :_COMPONENTS]
        scale = axes / np.sqrt(np.maximum(values, 0) + 0.01 * values[0] + 1e-12)
        planes = rng.standard_normal((scale.shape[1], _BANDS * _BITS))
        return cls(mean, (scale @ planes).astype(np.float32))

    @classmethod
    def plain(cls, size: int, rng: np.random.Generator) -> _Hasher:
        return cls(np.zeros(size, np.float32), rng.standard_normal((size, _BANDS * _BITS)).astype(np.float32))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """uint32 ``(n, _BANDS)``."""
        signs = ((vectors - self.mean) @ self.basis > 0).reshape(len(vectors), _BANDS, _BITS)
        return (signs * (1 << np.arange(_BITS)).astype(np.uint32)).sum(axis=-1, dtype=np.uint32)


@dataclass
class _Seen:
    """What is remembered of all segments: one row per anchor, a few dozen bytes each."""

    segment: list[np.ndarray] = field(default_factory=list)
    at_s: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)

    def add(self, segment: np.ndarray, at_s: np.ndarray, hashes: np.ndarray) -> None:
        self.segment.append(segment.astype(np.int32))
        self.at_s.append(at_s.astype(np.float32))
        self.hashes.append(hashes)

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.segment:
            return np.empty(0, np.int32), np.empty(0, np.float32), np.empty((0, _BANDS), np.uint32)
        return np.concatenate(self.segment), np.concatenate(self.at_s), np.concatenate(self.hashes)


def correlation(one: np.ndarray, other: np.ndarray, lags: Sequence[int] = (0,)) -> tuple[float, float]:
    """(highest Pearson correlation, its lag): two signals ``(leads, samples)``, all leads together, mean-free per lead.

    At lag k sample i of ``other`` stands on sample i + k of ``one``; compared is the overlap. Between two lags the top
    is read off a parabola. 0 for a flat signal, or where nothing overlaps.
    """
    values = []
    for lag in lags:
        a, b = one[:, max(lag, 0) :], other[:, max(-lag, 0) :]
        size = min(a.shape[1], b.shape[1])
        if size <= 1:
            values.append(0.0)
            continue
        a, b = (x[:, :size] - x[:, :size].mean(axis=1, keepdims=True, dtype=np.float64) for x in (a, b))
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        values.append(float((a * b).sum() / norm) if norm > 1e-9 else 0.0)
    best = int(np.argmax(values))
    if not 0 < best < len(values) - 1:
        return values[best], float(lags[best])
    left, peak, right = values[best - 1 : best + 2]
    bend = left - 2 * peak + right
    if bend >= 0:
        return peak, float(lags[best])
    step = 0.5 * (left - right) / bend
    return min(peak - 0.25 * (left - right) * step, 1.0), float(lags[best]) + step


def duplicates_across(
    store_of: Mapping[str, SegmentStore], splits_of: Mapping[str, Sequence[str]], batch: int = 256
) -> Iterator[Duplicate]:
    """Pairs of different records in different splits with an identical or nearly identical segment, each pair once.

    store_of: record id → its store; splits_of: record id → the splits it is used in. A copy is found whether it was
    scaled, shifted in time (overlapping by half a segment or more), prepared at another rate, or has noise far below
    its own size. Flat segments are passed over. Each segment is read once or twice, and again for each candidate:
    linear in the number of segments, with some 0.6 kB of memory for each.
    """
    places = _places(store_of, splits_of)
    if not places:
        return
    records, stores, positions = zip(*places, strict=True)
    masks = np.array([sum(1 << SPLITS.index(s) for s in splits_of[r]) for r in records], np.int8)
    beats, whole, twins = _describe(stores, positions, batch)
    reported: set[tuple[str, str]] = set()

    def pair(i: int, j: int) -> tuple[int, int] | None:
        """The two segments with the later one first, if theirs is a pair of records not yet reported."""
        i, j = max(i, j), min(i, j)
        if records[i] == records[j] or (records[j], records[i]) in reported or not _apart(masks[i], masks[j]):
            return None
        return i, j

    def told(i: int, j: int, close: float, shift: float) -> Duplicate:
        reported.update([(records[j], records[i]), (records[i], records[j])])
        one, other = ("+".join(splits_of[records[k]]) for k in (i, j))
        return Duplicate(records[i], one, records[j], other, close, shift)

    for i, j in _crowd(twins, masks):
        if found := pair(i, j):
            yield told(*found, 1.0, 0.0)
    tried: set[tuple[int, int, int]] = set()
    slopes = functools.lru_cache(maxsize=512)(_slopes)  # a segment meets many others
    for seen in (whole, beats):
        segment, at_s, hashes = seen.joined()
        for band in range(_BANDS):
            for a, b in _meetings(hashes[:, band], segment, masks):
                found = pair(int(segment[a]), int(segment[b]))
                if not found:
                    continue
                i, j = found
                if segment[a] != i:
                    a, b = b, a
                shift = float(at_s[b] - at_s[a])  # how much later i starts in the signal of j
                key = (i, j, round(shift * 10))
                if key in tried:
                    continue
                tried.add(key)
                close, exact = _compare(
                    slopes(stores[j], positions[j]), slopes(stores[i], positions[i]), shift, stores[i] is stores[j]
                )
                if close >= NEAR:
                    yield told(i, j, min(close, 1 - 1e-9), -exact)


def _places(
    store_of: Mapping[str, SegmentStore], splits_of: Mapping[str, Sequence[str]]
) -> list[tuple[str, SegmentStore, int]]:
    """(record id, store, position) of every segment, store by store."""
    stores = {id(store): store for store in store_of.values()}
    return [
        (record, store, at)
        for store in stores.values()
        for record in sorted(splits_of)
        if store_of.get(record) is store
        for at in store.segments_of(record)
    ]


def _describe(
    stores: Sequence[SegmentStore], positions: Sequence[int], batch: int
) -> tuple[_Seen, _Seen, dict[bytes, list[int]]]:
    """Anchors at beats, anchors at the start of whole segments, and the segments of each content hash."""
    rng = np.random.default_rng(0)
    plain = _Hasher.plain(len(_LEADS) * _BINS, rng)
    stride = max(1, len(positions) // _SAMPLE)
    sample = []
    for _, segments, rate in _batches(stores[::stride], positions[::stride], batch):
        smooth = _smooth(segments, rate)
        sample.append(_windows(smooth, *_beats(smooth)))
    vectors = np.concatenate(sample)
    hasher = _Hasher.whitening(vectors, rng) if len(vectors) > 1 else None
    beats, whole = _Seen(), _Seen()
    content: dict[bytes, int] = {}
    twins: dict[bytes, list[int]] = {}
    for start, segments, rate in _batches(stores, positions, batch):
        numbers = np.arange(start, start + len(segments))
        smooth = _smooth(segments, rate)
        alive = np.ptp(segments, axis=-1).max(axis=-1) > 1e-4
        for number, segment in zip(numbers[alive].tolist(), segments[alive], strict=True):
            digest = hashlib.blake2b(segment.tobytes(), digest_size=16).digest()
            first = content.setdefault(digest, number)
            if first != number:
                twins.setdefault(digest, [first]).append(number)
        whole.add(numbers[alive], np.zeros(int(alive.sum())), plain(_whole(smooth[alive])))
        rows, at = _beats(smooth)
        if hasher is not None and len(rows):
            seconds = segments.shape[-1] / rate / smooth.shape[-1]
            beats.add(numbers[rows], at * seconds, hasher(_windows(smooth, rows, at)))
    return beats, whole, twins


def _batches(
    stores: Sequence[SegmentStore], positions: Sequence[int], batch: int
) -> Iterator[tuple[int, np.ndarray, int]]:
    """(number of the first, segments float32 (n, 12, L), rate in Hz), each batch from one store."""
    start = 0
    while start < len(positions):
        store, stop = stores[start], start
        while stop < min(len(positions), start + batch) and stores[stop] is store:
            stop += 1
        yield start, store.take(positions[start:stop]), store.rate
        start = stop


def _apart(one: int, other: int) -> bool:
    """Whether two records are in different splits, or one of them in several."""
    return bool(one != other or one & (one - 1))


def _meetings(hashes: np.ndarray, segment: np.ndarray, masks: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of anchors of different splits with equal hashes."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else np.empty(0, np.int64)
    if not len(starts):
        return
    of_anchor = masks[segment]
    mixed = np.bitwise_or.reduceat(of_anchor[order], starts)
    ends = np.r_[starts[1:], len(order)]
    for group in np.flatnonzero((mixed & (mixed - 1) != 0) & (ends - starts > 1)):
        yield from _crowd({b"": order[starts[group] : ends[group]].tolist()}, of_anchor)


def _crowd(groups: Mapping[bytes, Sequence[int]], masks: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of different splits in each group: every member with the first few of each other split."""
    for members in groups.values():
        kept: dict[int, list[int]] = {}
        for member in members:
            for mask, others in kept.items():
                if _apart(int(masks[member]), mask):
                    yield from ((member, other) for other in others)
            same = kept.setdefault(int(masks[member]), [])
            if len(same) < _KEPT:
                same.append(member)


def _compare(a: np.ndarray, b: np.ndarray, shift: float, one_store: bool) -> tuple[float, float]:
    """(correlation, shift in s) of two segments' slopes where ``b`` starts about ``shift`` s after ``a``."""
    middle = round(shift * _FINE)
    overlap = min(a.shape[1], middle + b.shape[1]) - max(0, middle)
    if overlap < 0.95 * _OVERLAP * min(a.shape[1], b.shape[1]):
        return 0.0, shift
    best = 0.0, 0.0
    for trim in (
        0,
        overlap // 5,
    ):  # filters end differently at another rate: the middle tells, where the whole does not
        start, stop = max(0, middle) + trim, max(0, middle) + overlap - trim
        x, y = a[:, start:stop], b[:, start - middle : stop - middle]
        rough = _rough(x, y)
        close, lag = correlation(x, y, range(-_LAGS, _LAGS + 1)) if rough >= _ROUGH else (rough, 0.0)
        best = max(best, (close, middle + lag))
        if close >= NEAR or one_store:
            break
    return best[0], best[1] / _FINE


def _rough(one: np.ndarray, other: np.ndarray) -> float:
    """Highest cosine over the lags of ``_compare``, of the middle of ``one``: it tells most pairs apart."""
    size = one.shape[1] - 2 * _LAGS
    if size < 1:
        return 1.0
    still = one[:, _LAGS : _LAGS + size]
    moved = [other[:, k : k + size] for k in range(2 * _LAGS + 1)]
    norm = float(np.linalg.norm(still))
    return max(float(np.vdot(still, each)) / max(norm * float(np.linalg.norm(each)), 1e-12) for each in moved)


def _slopes(store: SegmentStore, position: int) -> np.ndarray:
    """float32 ``(8, samples)`` at 250 Hz, without the ends, where the low-pass reaches round the segment."""
    slopes = np.diff(_smooth(store[position][None], store.rate, _FINE)[0], axis=-1)
    return slopes[:, 10:-10] if slopes.shape[1] > 60 else slopes
