"""D3 on real recordings: every record's leads are what its header calls them (benchmarks/lead_checks.py)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ecglm.types import LEADS, Record

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "lead_checks.py"


@pytest.fixture(scope="module")
def lead_checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lead_checks", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Source → how many records it has here.
INTEGER = {
    "ptb-xl, 500 Hz": 200,
    "ptb-xl, 100 Hz": 999,
    "ptb-xl, challenge edition": 39,
    "cpsc and cpsc-extra": 43,
    "georgia": 28,
    "ptb": 1,
    "csn": 60,
}
#: Source → (records, bound of the median in microvolts: what float16, or a rounding before release, leaves).
FLOAT = {"cpsc, original structs": (10, 0.5), "code15": (10, 4.0), "sph": (10, 1.0)}
#: The only real record with samples beyond 3 LSB: aVR and aVF have a spike of nine samples that I, II, III have not.
SINGLE = {"ptb-xl, 500 Hz": ["folder/00000/00162_hr"]}


@pytest.mark.realdata
@pytest.mark.parametrize("name", INTEGER)
def test_d03_integer_sources_are_within_three_steps(shared, lead_checks, name):
    result = lead_checks.check(name, shared)
    assert result["records"] == INTEGER[name]
    assert result["beyond"] == {}
    assert max(result["median"].values()) <= lead_checks.BOUND_LSB
    assert list(result["single_samples"]) == SINGLE.get(name, [])


@pytest.mark.realdata
@pytest.mark.parametrize("name", FLOAT)
def test_d03_float_sources_are_within_a_bound_in_microvolts(shared, lead_checks, name):
    result = lead_checks.check(name, shared)
    count, bound = FLOAT[name]
    assert (result["records"], result["unit"]) == (count, "uV")
    assert max(result["median"].values()) <= bound


def test_d03_the_check_sees_swapped_leads(lead_checks):
    """aVR and aVL exchanged, as between the families of ECG-Bench, is hundreds of microvolts off."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 0.5, (2, 5000))
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    signal = np.stack([*limb, *rng.normal(0, 0.5, (6, 5000))]).astype(np.float32)
    right = Record(record_id="x", signal=signal, sampling_rate=500, leads=LEADS)
    assert lead_checks.relations(right).max() < 1e-3
    swapped = Record(record_id="x", signal=signal[[0, 1, 2, 4, 3, 5, *range(6, 12)]], sampling_rate=500, leads=LEADS)
    medians = lead_checks.relations(swapped)[:, 0]
    assert medians[0] < 1e-3 and medians[3] < 1e-3
    assert min(medians[1], medians[2]) > 100
