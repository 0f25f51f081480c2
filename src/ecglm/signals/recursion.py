"""Recursive (b, a) filter over all leads at once, compiled: scipy.signal.lfilter's operations in its order."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def filter_in_place(b: np.ndarray, a: np.ndarray, state: np.ndarray, rows: np.ndarray, backward: bool) -> None:
    """Filter float64 ``(num_samples, num_leads)`` in place, from the end when ``backward``.

    b, a: coefficients of equal length, ``a[0] == 1``. state: ``(len(a) - 1, num_leads)``, changed. No operation is
    fused or reordered, so the result is lfilter's to the last bit, whatever the processor.
    """
    num_samples, num_leads = rows.shape
    order = len(a) - 1
    out = np.empty(num_leads)
    for step in range(num_samples):
        row = rows[num_samples - 1 - step] if backward else rows[step]
        for lead in range(num_leads):
            out[lead] = state[0, lead] + b[0] * row[lead]
        for k in range(order - 1):
            for lead in range(num_leads):
                state[k, lead] = state[k + 1, lead] + row[lead] * b[k + 1] - out[lead] * a[k + 1]
        for lead in range(num_leads):
            state[order - 1, lead] = row[lead] * b[order] - out[lead] * a[order]
            row[lead] = out[lead]
