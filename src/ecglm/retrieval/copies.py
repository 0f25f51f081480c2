"""The same signal under another name: a key of its microvolts, and a sketch that noise and rates hardly change."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from ecglm.randomness import generator_for
from ecglm.store.writer import to_microvolts

#: Leads that are not sums of others (I, II, V1-V6); means of so many stretches of time; numbers of a sketch.
_LEADS, _BINS, SKETCH = (0, 1, 6, 7, 8, 9, 10, 11), 250, 64
#: Cosine of two sketches from which the signals are one. A record of PTB-XL and the same at the other rate have 0.93
#: and more, ECGs of two patients 0.75 at most; regular rhythms of synthetic patients may look like copies.
COPY = 0.92


def content_key(segment: np.ndarray) -> int:
    """First 64 bits of the sha256 of a segment's microvolts, int16 little-endian in C order ``(12, num_samples)``.

    segment: float32 in mV, or int16 in microvolts already. RejectedRecord for NaN and for what a store cannot hold.
    """
    microvolts = segment.astype("<i2", copy=False) if segment.dtype == np.int16 else to_microvolts(segment)
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(microvolts).data).digest()[:8], "little")


def sketches(segments: np.ndarray) -> np.ndarray:
    """float16 ``(n, 64)``: unit vectors of ``(n, 12, num_samples)`` in mV; zero where the signal is flat.

    How eight leads change between 250 stretches of time, turned by a fixed random projection: two sketches have nearly
    the cosine of the changes. Baselines, filters and rates of sampling change little of it, a shift in time changes it.
    """
    length = segments.shape[-1]
    if length < _BINS:
        segments = np.repeat(segments, -(-_BINS // length), axis=-1)
    edges = np.arange(_BINS + 1) * segments.shape[-1] // _BINS
    means = np.add.reduceat(segments[:, _LEADS, :].astype(np.float32, copy=False), edges[:-1], axis=-1) / np.diff(edges)
    # in double precision: how a product is cut for threads must not show in the bytes
    changes = np.diff(means, axis=-1).astype(np.float64).reshape(len(segments), -1)
    turned = changes @ _projection(changes.shape[1])
    norm = np.linalg.norm(turned, axis=1, keepdims=True)
    return np.where(norm > 1e-6, turned / np.maximum(norm, 1e-6), 0.0).astype(np.float16)


@lru_cache(maxsize=2)
def _projection(size: int) -> np.ndarray:
    return generator_for(0, "sketch").standard_normal((size, SKETCH))


def copies_of(sketch: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the sketches ``(m, 64)`` are of the same signal as one ``(64,)``: bool ``(m,)``."""
    return others.astype(np.float64) @ sketch.astype(np.float64) >= COPY
