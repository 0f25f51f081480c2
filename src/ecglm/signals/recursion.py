"""Recursive (b, a) filter over all leads at once, compiled: scipy.signal.lfilter's operations in its order."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ecglm.signals.compiled import compiled

#: Leads stand side by side in rows of that many, the rest of a row unused: one loop over a row fills vector registers.
LANES = 16


def to_lanes(signal: np.ndarray, margin: int = 0) -> np.ndarray:
    """``(num_leads, num_samples)`` → float64 ``(num_samples + 2 * margin, 16)``, a row per sample, zeros elsewhere."""
    num_leads, num_samples = signal.shape
    rows = np.zeros((num_samples + 2 * margin, LANES))
    rows[margin : margin + num_samples, :num_leads] = signal.T
    return rows


def from_lanes(rows: np.ndarray, num_leads: int) -> np.ndarray:
    """``(num_samples, 16)`` → ``(num_leads, num_samples)``."""
    return np.ascontiguousarray(rows[:, :num_leads].T)


def filter_in_place(b: np.ndarray, a: np.ndarray, state: np.ndarray, rows: np.ndarray, backward: bool) -> None:
    """Filter float64 ``(num_samples, num_leads)``, at most 16 leads, in place, from the end when ``backward``.

    b, a: coefficients of equal length, ``a[0] == 1``. state: ``(len(a) - 1, num_leads)``. No operation is fused or
    reordered, so the result is lfilter's to the last bit, whatever the processor.
    """
    padded = np.zeros((len(a) - 1, LANES))
    padded[:, : state.shape[1]] = state
    _filter_of_order(len(a) - 1)(b, a, padded.reshape(-1), rows, backward)


@lru_cache(maxsize=16)
def _filter_of_order(order: int) -> Callable[..., Any]:
    """The loop with the order as a constant, so that the states' offsets are constants as well."""

    @compiled
    def run(b: np.ndarray, a: np.ndarray, state: np.ndarray, rows: np.ndarray, backward: bool) -> None:
        for step in range(len(rows)):
            row = rows[len(rows) - 1 - step] if backward else rows[step]
            for lead in range(len(row)):
                value = row[lead]
                out = state[lead] + b[0] * value
                for k in range(order - 1):
                    state[k * LANES + lead] = state[(k + 1) * LANES + lead] + value * b[k + 1] - out * a[k + 1]
                state[(order - 1) * LANES + lead] = value * b[order] - out * a[order]
                row[lead] = out

    return run
