from __future__ import annotations

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.records.units import implausible, is_rate, lead_name, lead_names, millivolts
from ecglm.types import LEADS


@pytest.mark.parametrize("lead", LEADS)
def test_lead_names_in_any_case(lead):
    assert lead_name(lead) == lead_name(lead.upper()) == lead_name(f" {lead.lower()} ") == lead


@pytest.mark.parametrize("text", ["", "IV", "V7", "MLII", "lead I", "V1 V2", "1"])
def test_other_names_are_no_leads(text):
    assert lead_name(text) is None


def test_the_option(tmp_path):
    assert lead_names("standard", "x") == LEADS
    assert lead_names("v6, avr ,II", "x") == ("V6", "aVR", "II")
    assert lead_names(["V6", "I"], "x") == ("V6", "I")
    with pytest.raises(EcglmError, match=r"x: 'aVX' is no lead \(did you mean 'aV.'\?\)"):
        lead_names("I,aVX", "x")
    with pytest.raises(EcglmError, match="V1 stands twice"):
        lead_names("V1,v1", "x")
    with pytest.raises(EcglmError, match="empty"):
        lead_names([], "x")


def test_units_and_rates():
    assert [millivolts(u) for u in ("mV", " MV ", "uV", "µV", "V", "mmHg", "")] == [1, 1, 1e-3, 1e-3, 1e3, None, None]
    assert [is_rate(r) for r in (100, 62.5, 0, -1, float("nan"), float("inf"), 1e9)] == [True, True, *[False] * 5]


def test_implausible_is_about_the_median_lead():
    assert not implausible(np.array([0.0, 0.0, 1.0, 1.0, 2.0]))
    assert implausible(np.array([0.0, 0.0, 0.0, 1.0, 2.0]))
    assert implausible(np.array([1500.0, 900.0]))
    assert not implausible(np.array([0.1, np.nan, 0.1]))
    assert implausible(np.array([0.05, 0.05, np.nan, np.nan]))
    assert not implausible(np.array([np.nan, np.nan]))
