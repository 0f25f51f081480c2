"""Leads are found by name, whatever their order and spelling; nothing is guessed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.errors import RejectedRecord
from ecglm.signals.leads import canonical_leads
from ecglm.types import LEADS

SIGNAL = np.arange(12 * 5, dtype=np.float32).reshape(12, 5)


@given(order=st.permutations(range(12)), upper=st.lists(st.booleans(), min_size=12, max_size=12))
def test_any_order_and_case_give_the_same_rows(order, upper):
    names = [LEADS[i].upper() if up else f" {LEADS[i].lower()} " for i, up in zip(order, upper, strict=True)]
    assert np.array_equal(canonical_leads(SIGNAL[list(order)], names), SIGNAL)


@pytest.mark.parametrize(
    ("names", "rows", "reason", "told"),
    [
        (LEADS[:11], range(11), "lead_missing", "V6"),
        (("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), range(8), "lead_missing", "aVR"),
        ((*LEADS[:11], "V5"), range(12), "lead_duplicate", "V5"),
        ((*LEADS[:11], "v5"), range(12), "lead_duplicate", "V5"),
        ((*LEADS[:11], "MCL1"), range(12), "lead_unknown", "MCL1"),
        ((*LEADS, "vx"), [*range(12), 0], "lead_unknown", "vx"),
        (LEADS[:11], range(12), "leads_mismatch", "11 lead names"),
        ((), [], "lead_missing", "I, II"),
    ],
)
def test_leads_that_are_not_the_twelve_are_rejected(names, rows, reason, told):
    with pytest.raises(RejectedRecord) as caught:
        canonical_leads(SIGNAL[list(rows)], names)
    assert caught.value.reason == reason
    assert told in caught.value.detail
