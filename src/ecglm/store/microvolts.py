"""Millivolts → int16 microvolts in one pass (numba)."""

from __future__ import annotations

import numpy as np

from ecglm.signals.compiled import compiled


@compiled
def round_microvolts(millivolts: np.ndarray, out: np.ndarray) -> bool:
    """Write ``rint(1000 * millivolts)`` to the int16 array ``out`` of the same length.

    millivolts: float32 or float64, one dimension. False when a value is no number or lies beyond ±32767 µV; what
    ``out`` holds then is of no use.
    """
    misfits = 0
    for i in range(len(millivolts)):
        value = np.rint(np.float64(millivolts[i]) * 1000.0)
        fits = abs(value) <= 32767.0  # not so for NaN
        misfits += not fits
        out[i] = np.int16(np.int32(value if fits else 0.0))
    return misfits == 0
