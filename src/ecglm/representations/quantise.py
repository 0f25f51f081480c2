"""The quantiser of ECG-Byte (arXiv 2412.14373): millivolts to 26 symbols and back."""

from __future__ import annotations

import numpy as np

from ecglm.representations.normalise import EPSILON
from ecglm.signals.compiled import compiled

NUM_SYMBOLS = 26
FIRST_SYMBOL = ord("a")


@compiled
def _quantise(rows, low, high, out):
    for r in range(rows.shape[0]):
        row, symbols, bottom, span = rows[r], out[r], low[r], high[r] - low[r] + EPSILON
        for i in range(row.size):
            z = (np.float64(row[i]) - bottom) / span  # divided, not multiplied by 1 / span: never a bin off
            z = z if z > 0.0 else 0.0
            z = z if z < 1.0 else 1.0
            bin_of = np.int32(z * NUM_SYMBOLS)
            symbols[i] = np.uint8(FIRST_SYMBOL + min(bin_of, np.int32(NUM_SYMBOLS - 1)))


def quantise_rows(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Symbols of each row between its own bounds: uint8 ``(n, m)`` of rows ``(n, m)``; low, high: mV, ``(n,)``."""
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    out = np.empty(rows.shape, np.uint8)
    _quantise(np.ascontiguousarray(rows), low.astype(np.float64), high.astype(np.float64), out)
    return out


def quantise(segment: np.ndarray, low: float, high: float) -> np.ndarray:
    """Symbols 'a'..'z' (uint8 97..122, same shape) of mV: ``min(floor(26 * z), 25)``.

    ``z = (x - low) / (high - low + 1e-6)`` in float64, clipped to [0, 1]. The segment holds no NaN.
    """
    return quantise_rows(segment.reshape(1, -1), np.array([low]), np.array([high])).reshape(segment.shape)


def dequantise(symbols: np.ndarray, low: float, high: float, *, compat: bool = False) -> np.ndarray:
    """float32 mV at the bin centres; within ``(high - low) / 52 + 1e-6`` of what lay inside the range.

    compat: ``z = q / 25`` as ECG-Bench does, which is off by up to a whole bin at both ends.
    """
    q = symbols.astype(np.float64) - FIRST_SYMBOL
    z = q / (NUM_SYMBOLS - 1) if compat else (q + 0.5) / NUM_SYMBOLS
    return (low + z * (high - low + EPSILON)).astype(np.float32)
