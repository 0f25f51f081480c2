"""The compiled recursion gives scipy's lfilter to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from ecglm.signals.filters import ecg_bench_coefficients
from ecglm.signals.recursion import filter_in_place


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("num_leads", [1, 12, 13])
def test_bit_for_bit(which, backward, num_leads):
    b, a, state = ecg_bench_coefficients(500.0)[which]
    x = np.random.default_rng(which).normal(size=(900, num_leads)).cumsum(axis=0)
    along = x[::-1] if backward else x
    reference, _ = scipy.signal.lfilter(b, a, along, axis=0, zi=state[:, None] * along[:1])
    got = x.copy()
    filter_in_place(b, a, state[:, None] * along[0], got, backward)
    assert np.array_equal(got[::-1] if backward else got, reference)
