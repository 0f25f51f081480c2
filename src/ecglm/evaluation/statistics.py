"""Patient bootstrap: percentile intervals, and paired differences on the same resamples.

Patients, not rows, are resampled, because the rows of one patient are not independent. Everything works on additive
statistics (see ``metrics/base.py``): a resample is a weighted sum of per-patient sums, one matrix product for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

#: Below this many patients an interval is printed with a warning.
FEW_PATIENTS = 30

_BLOCK = 2_000_000  # weights worked on at once


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval (None where undefined), and the number of rows behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def patient_sums(patients: Sequence[str], statistics: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """Row statistics ``(num_rows, k)`` summed per patient, in the order of ``keys``: ``(num_patients, k)``."""
    position = {key: i for i, key in enumerate(keys)}
    sums = np.zeros((len(keys), statistics.shape[1]))
    np.add.at(sums, np.array([position[p] for p in patients], dtype=np.int64), statistics)
    return sums


def resample_weights(num_patients: int, *, num_resamples: int, seed: int) -> np.ndarray:
    """How often each patient stands in each bootstrap resample: uint16 ``(num_resamples, num_patients)``."""
    generator = np.random.default_rng(seed)
    weights = np.empty((num_resamples, num_patients), dtype=np.uint16)
    block = max(1, _BLOCK // num_patients)
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = generator.integers(num_patients, size=(size, num_patients))
        drawn += np.arange(size)[:, None] * num_patients
        counts = np.bincount(drawn.ravel(), minlength=size * num_patients)
        weights[start : start + size] = counts.reshape(size, num_patients)
    return weights


def resampled_sums(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums over the resamples: ``(num_patients, k)`` and their weights → ``(num_resamples, k)``.

    The same weights for two systems make a paired comparison.
    """
    result = np.empty((len(weights), sums.shape[1]))
    block = max(1, _BLOCK // max(1, len(sums)))
    for start in range(0, len(weights), block):
        result[start : start + block] = weights[start : start + block].astype(np.float64) @ sums
    return result


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 percentiles of resampled values; undefined (NaN) resamples are left out."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None, None
    low, high = np.percentile(known, [2.5, 97.5])
    return clean(low), clean(high)


def clean(value: float) -> float | None:
    """A plain float, rounded so that the order of summation never shows; None for NaN."""
    return None if np.isnan(value) else round(float(value), 12) + 0.0


def estimate(point: float, resampled: np.ndarray, n: int, num_patients: int) -> Estimate:
    """A point value with the interval of its resamples; no interval from fewer than two patients."""
    low, high = interval(resampled) if num_patients > 1 else (None, None)
    return Estimate(clean(point), low, high, n)


def patient_bootstrap(
    patients: Sequence[str],
    statistics: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A metric with its patient-bootstrap interval. patients: one key per row; statistics: ``(num_rows, k)``."""
    keys = sorted(set(patients))
    sums = patient_sums(patients, statistics, keys)
    weights = resample_weights(len(keys), num_resamples=num_resamples, seed=seed)
    resampled = value(resampled_sums(sums, weights))
    return estimate(float(value(sums.sum(axis=0))), resampled, len(patients), len(keys))


def paired_difference(
    patients: Sequence[str],
    first: np.ndarray,
    second: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``value(first) − value(second)`` of two systems on the same rows, both from the same resamples."""
    k = first.shape[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return value(sums[..., :k]) - value(sums[..., k:])

    both = np.concatenate([first, second], axis=1)
    return patient_bootstrap(patients, both, difference, num_resamples=num_resamples, seed=seed)
