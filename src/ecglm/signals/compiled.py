"""How the numeric loops of signals and store are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` with numba, once per machine; where no folder can hold the cache, once per process.

    One thread, and no liberty with the order of operations: the same bits on every machine.
    """
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no locator available: neither this package's folder nor the user's can be written
        return numba.njit(function, nogil=True, error_model="numpy")
