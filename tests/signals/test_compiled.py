"""Compiled loops run where nothing can be cached, and their cache is used where it can."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from ecglm.signals import compiled as compiled_module
from ecglm.signals.compiled import compiled
from ecglm.store.microvolts import round_microvolts


def total(values):
    found = 0.0
    for value in values:
        found += value
    return found


def test_without_a_place_for_the_cache(monkeypatch):
    plain = numba.njit

    def no_place(function, **options):
        if options.get("cache"):
            raise RuntimeError(f"cannot cache function '{function.__name__}': no locator available")
        return plain(function, **options)

    monkeypatch.setattr(compiled_module.numba, "njit", no_place)
    assert compiled(total)(np.arange(4.0)) == 6.0


def test_sums_keep_their_order():
    """1e16 + 1 - 1e16 is 0 from left to right and 1 in any other order."""
    assert compiled(total)(np.array([1e16, 1.0, -1e16])) == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_microvolts(dtype):
    values = np.array([0.0004, 0.0006, -0.0016, 32.767, -32.767, 0.0125], dtype=dtype)
    out = np.empty(6, np.int16)
    assert round_microvolts(values, out)
    assert out.tolist() == [0, 1, -2, 32767, -32767, 12 if dtype == np.float64 else round(float(values[5]) * 1000)]
    for bad in (np.nan, np.inf, -np.inf, 32.7676, -32.768, 1e30):
        values[3] = bad
        assert not round_microvolts(values, out)
