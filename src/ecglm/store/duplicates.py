"""Signals that stand in two splits under different record ids: identical or nearly so, found in linear time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecglm.store.reader import SegmentStore

#: Leads that are not sums of others (I, II, V1–V6), and means per lead, of which the hashes are taken.
_LEADS = (0, 1, 6, 7, 8, 9, 10, 11)
_BINS = 64
#: Sign-of-projection hashes: a pair meets when all bits of one band agree. At correlation 0.995 that is 99 % of pairs.
_BANDS, _BITS = 8, 24
#: How many segments of a split a bucket remembers; more would make crowded buckets quadratic.
_KEPT = 4
#: Correlation over all leads from which two segments are near duplicates.
NEAR = 0.995


@dataclass(frozen=True)
class Duplicate:
    """Two records of different splits with the same signal. ``correlation`` is 1 where every sample is identical."""

    record: str
    split: str
    other: str
    other_split: str
    correlation: float


def _pooled(segments: np.ndarray) -> np.ndarray:
    """float32 ``(n, 8 * bins)``: bin means of the independent leads, mean-free per lead, of unit norm (or zero)."""
    length = segments.shape[-1]
    bins = min(_BINS, length)
    edges = np.arange(bins + 1) * length // bins
    means = np.add.reduceat(segments[:, _LEADS, :], edges[:-1], axis=-1) / np.diff(edges)
    means -= means.mean(axis=-1, keepdims=True)
    flat = means.reshape(len(segments), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > 1e-6, flat / np.maximum(norm, 1e-6), 0).astype(np.float32)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation of two segments ``(12, L)`` over all leads, each lead mean-free; 0 for a flat one."""
    if one.shape != other.shape:  # stores of different rates
        one, other = (_pooled(segment[None])[0][None] for segment in (one, other))
        if one.shape != other.shape:
            return 0.0
    a, b = (segment - segment.mean(axis=-1, keepdims=True, dtype=np.float64) for segment in (one, other))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def duplicates_across(
    store_of: Mapping[str, SegmentStore], splits_of: Mapping[str, Sequence[str]], batch: int = 256
) -> Iterator[Duplicate]:
    """Pairs of different records in different splits with an identical or nearly identical segment, each pair once.

    store_of: record id → its store; splits_of: record id → the splits it is used in. A copy scaled by a gain is found,
    a copy shifted in time is not. Flat segments are passed over. Each segment is read once, and again for each
    candidate: linear in the number of segments.
    """
    rng = np.random.default_rng(0)
    planes: dict[int, np.ndarray] = {}
    weights = (1 << np.arange(_BITS)).astype(np.int64)
    buckets: dict[tuple[int, int, int], dict[str, list[tuple[str, int]]]] = {}
    exact: dict[bytes, dict[str, str]] = {}
    reported: set[frozenset[str]] = set()
    for records, positions, segments in _batches(store_of, splits_of, batch):
        vectors = _pooled(segments)
        size = vectors.shape[1]
        if size not in planes:
            planes[size] = rng.standard_normal((size, _BANDS * _BITS)).astype(np.float32)
        signs = (vectors @ planes[size] > 0).reshape(len(vectors), _BANDS, _BITS)
        hashes = (signs * weights).sum(axis=-1)
        for row, (record, position) in enumerate(zip(records, positions, strict=True)):
            if not vectors[row].any():
                continue
            digest = hashlib.blake2b(segments[row].tobytes(), digest_size=16).digest()
            candidates = dict.fromkeys(_other_splits(exact.get(digest, {}), splits_of[record]), -1)
            keys = [(size, band, int(hashes[row, band])) for band in range(_BANDS)]
            for key in keys:
                for split, kept in buckets.get(key, {}).items():
                    if set(splits_of[record]) - {split}:
                        for other, at in kept:
                            candidates.setdefault(other, at)
            for other, at in candidates.items():
                pair = frozenset((record, other))
                if other == record or pair in reported:
                    continue
                close = 1.0 if at < 0 else correlation(segments[row], store_of[other][at])
                if close >= NEAR:
                    reported.add(pair)
                    identical = at < 0
                    yield Duplicate(
                        record,
                        "+".join(splits_of[record]),
                        other,
                        "+".join(splits_of[other]),
                        1.0 if identical else min(close, 1 - 1e-9),
                    )
            for split in splits_of[record]:
                exact.setdefault(digest, {}).setdefault(split, record)
                for key in keys:
                    kept = buckets.setdefault(key, {}).setdefault(split, [])
                    if len(kept) < _KEPT:
                        kept.append((record, position))


def _other_splits(found: Mapping[str, str], splits: Sequence[str]) -> list[str]:
    """Records found under a split that is not the only one of ``splits``."""
    return [record for split, record in found.items() if set(splits) - {split}]


def _batches(
    store_of: Mapping[str, SegmentStore], splits_of: Mapping[str, Sequence[str]], batch: int
) -> Iterator[tuple[list[str], list[int], np.ndarray]]:
    """(record ids, positions, segments float32 (n, 12, L)) of every segment, store by store."""
    stores = {id(store): store for store in store_of.values()}
    for store in stores.values():
        wanted = [
            (record, at)
            for record in sorted(splits_of)
            if store_of.get(record) is store
            for at in store.segments_of(record)
        ]
        for start in range(0, len(wanted), batch):
            records, positions = zip(*wanted[start : start + batch], strict=True)
            yield list(records), list(positions), store.take(positions)
