"""The space an index measures distances in: every number in standard deviations of the index's own ECGs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: A number that varies by less than this share of its size is constant: float32 holds no more of it.
_STILL = 1e-6


@dataclass(frozen=True)
class Space:
    """mean, factor: float64 ``(dim,)``; a vector is ``(raw - mean) * factor``.

    The factor is ``1 / (sd * sqrt(num_varying * num_parts))``: each number counts alike within its part (features,
    embedding), and each part alike. So the mean squared length of the members is 1, and the mean squared distance of
    two of them is 2. What never varies has the factor 0.
    """

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def fit(cls, parts: Sequence[np.ndarray]) -> Space:
        """Of the members' raw numbers, one array ``(n, dim)`` per part."""
        means, factors = [], []
        for raw in parts:
            mean = raw.mean(axis=0, dtype=np.float64)
            sd = np.sqrt(np.maximum(_mean_square(raw, mean), 0.0))
            varies = sd > _STILL * np.abs(mean) + 1e-12
            scale = sd * np.sqrt(max(1, int(varies.sum())) * len(parts))
            factors.append(np.divide(1.0, scale, out=np.zeros_like(scale), where=varies))
            means.append(mean)
        return cls(np.concatenate(means), np.concatenate(factors))

    def vectors(self, raw: np.ndarray) -> np.ndarray:
        """float32 ``(n, dim)`` of raw numbers ``(n, dim)``, the parts side by side."""
        out = np.empty(raw.shape, np.float32)
        for start in range(0, len(raw), 4096):  # double precision of some rows at a time
            out[start : start + 4096] = (raw[start : start + 4096].astype(np.float64) - self.mean) * self.factor
        return out

    def raw(self, vectors: np.ndarray, num: int) -> np.ndarray:
        """The first ``num`` raw numbers of vectors ``(n, dim)``, float64; the mean for what never varies."""
        factor = self.factor[:num]
        inverse = np.divide(1.0, factor, out=np.zeros(num), where=factor > 0)
        return self.mean[:num] + vectors[:, :num].astype(np.float64) * inverse


def _mean_square(raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
    total = np.zeros(raw.shape[1])
    for start in range(0, len(raw), 4096):
        total += np.square(raw[start : start + 4096].astype(np.float64) - mean).sum(axis=0)
    return total / max(1, len(raw))
