"""Interpolating cubic spline between fixed time axes, for rows of leads (``recursion.to_lanes``; numba)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.interpolate

from ecglm.signals.compiled import compiled

#: Sub- and superdiagonals of the collocation matrix of a cubic not-a-knot spline.
BAND = 3


@dataclass(frozen=True)
class Spline:
    """Banded LU factors of the collocation matrix, and the four basis functions alive at each new point.

    factors: ``(num_in, 7)``, row by row from 3 below the diagonal to 3 above; multipliers below. first: ``(num_out,)``
    the first of the four; weights: ``(num_out, 4)``.
    """

    factors: np.ndarray
    first: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=16)
def make_spline(num_in: int, num_out: int, duration_s: float) -> Spline:
    """Spline through ``num_in`` points, read at ``num_out``, both evenly from 0 to ``duration_s``, ends included."""
    old, new = np.linspace(0, duration_s, num_in), np.linspace(0, duration_s, num_out)
    knots = np.concatenate([np.repeat(old[0], 4), old[2:-2], np.repeat(old[-1], 4)])  # not-a-knot
    matrix = scipy.interpolate.BSpline.design_matrix(old, knots, 3)
    banded = np.zeros((num_in, 2 * BAND + 1))
    for offset in range(-BAND, BAND + 1):
        diagonal = matrix.diagonal(offset)
        banded[max(0, -offset) : max(0, -offset) + len(diagonal), BAND + offset] = diagonal
    _factorise(banded)
    read = scipy.interpolate.BSpline.design_matrix(new, knots, 3).tocsr()
    first = read.indices.reshape(num_out, 4)[:, 0].astype(np.int64)
    return Spline(banded, first, read.data.reshape(num_out, 4).copy())


@compiled
def _factorise(banded: np.ndarray) -> None:
    """LU in place, without pivoting: a collocation matrix is totally positive (de Boor and Pinkus 1977)."""
    size = len(banded)
    for k in range(size):
        for i in range(k + 1, min(size, k + BAND + 1)):
            factor = banded[i, BAND + k - i] / banded[k, BAND]
            banded[i, BAND + k - i] = factor
            for j in range(k + 1, min(size, k + BAND + 1)):
                banded[i, BAND + j - i] -= factor * banded[k, BAND + j - k]


@compiled
def interpolate(factors: np.ndarray, first: np.ndarray, weights: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Spline values of float64 ``(num_in, lanes)`` into ``out`` ``(num_leads, num_out)``, num_leads <= lanes."""
    size, lanes = rows.shape
    solved = np.zeros((size + 2 * BAND, lanes))  # zeros around, so that the band needs no ends
    for i in range(size):
        for lane in range(lanes):
            value = rows[i, lane]
            for k in range(BAND):
                value -= factors[i, k] * solved[i + k, lane]
            solved[i + BAND, lane] = value
    for step in range(size):
        i = size - 1 - step
        inverse = 1.0 / factors[i, BAND]
        for lane in range(lanes):
            value = solved[i + BAND, lane]
            for k in range(BAND):
                value -= factors[i, BAND + 1 + k] * solved[i + BAND + 1 + k, lane]
            solved[i + BAND, lane] = value * inverse
    for m in range(len(first)):
        at = BAND + first[m]
        for lead in range(len(out)):
            value = 0.0
            for k in range(4):
                value += weights[m, k] * solved[at + k, lead]
            out[lead, m] = value
