"""Quality flags on signals whose faults are known, and the policy for missing samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import RejectedRecord
from ecglm.signals.quality import assess, fill_gaps, refuse_bad, trim_zero_padding
from ecglm.types import LEADS

RATE = 500.0


def ecg(num_samples: int = 5000, seed: int = 0) -> np.ndarray:
    """Noise of 0.3 mV sd in I, II and V1–V6; the other limb leads by Einthoven's and Goldberger's relations."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.3, (12, num_samples))
    x[2] = x[1] - x[0]
    x[3], x[4], x[5] = -(x[0] + x[1]) / 2, x[0] - x[1] / 2, x[1] - x[0] / 2
    return x.astype(np.float32)


def test_a_sound_signal_raises_no_flag():
    quality = assess(ecg(), RATE)
    assert quality["flags"] == []
    assert quality["duration_s"] == 10.0
    assert quality["einthoven_mv"] < 1e-6
    assert quality["peak_to_peak_mv"] == pytest.approx(float(np.median(np.ptp(ecg(), axis=1))), abs=1e-6)


def test_assess_changes_nothing_and_is_json():
    x = ecg()
    x[4, 100:110] = np.nan
    before = x.copy()
    json.dumps(assess(x, RATE), allow_nan=False)
    assert np.array_equal(x, before, equal_nan=True)


@pytest.mark.parametrize(
    ("fault", "flags"),
    [
        (lambda x: x.__setitem__((7, slice(None)), 0.2), {"flat_lead"}),
        (lambda x: x.__setitem__((7, slice(None)), np.where(np.arange(5000) % 2, 5e-5, -5e-5)), {"flat_lead"}),
        (lambda x: x.__setitem__(slice(None), 0.2), {"flat", "flat_lead", "amplitude_implausible", "einthoven"}),
        (lambda x: x.__setitem__((9, slice(40, 45)), x[9].max() + 1), {"saturated"}),
        (lambda x: x.__setitem__((9, slice(40, 45)), x[9].min() - 1), {"saturated"}),
        (lambda x: x.__setitem__((9, slice(40, 44)), x[9].max() + 1), set()),
        (lambda x: x.__setitem__((9, slice(40, 50, 2)), x[9].max() + 1), set()),
        (lambda x: x.__imul__(200), {"amplitude_implausible"}),
        (lambda x: x.__imul__(0.01), {"amplitude_implausible"}),
        (lambda x: x.__setitem__(slice(3, 5), x[[4, 3]].copy()), set()),
        (lambda x: x.__setitem__(slice(0, 2), x[[1, 0]].copy()), {"einthoven"}),
        (lambda x: x.__setitem__((3, 77), np.nan), {"nan"}),
        (lambda x: x.__setitem__((3, 77), np.inf), {"nan"}),
        (lambda x: x.__setitem__((3, slice(None)), np.nan), {"nan", "flat_lead"}),
    ],
)
def test_flags(fault, flags):
    x = ecg()
    fault(x)
    assert set(assess(x, RATE)["flags"]) == flags


def test_refuse_bad():
    sound, dead, half = ecg(), np.ones((12, 500), np.float32), ecg()
    half[6:] = 0
    for policy in ("keep", "reject"):
        refuse_bad(assess(sound, RATE), policy)
        with pytest.raises(RejectedRecord, match=r"^flat:"):
            refuse_bad(assess(dead, RATE), policy)
    refuse_bad(assess(half, RATE), "keep")
    with pytest.raises(RejectedRecord, match=r"^flat_lead: flat: V1, V2, V3, V4, V5, V6$"):
        refuse_bad(assess(half, RATE), "reject")
    loud = ecg() * 100
    with pytest.raises(RejectedRecord, match=r"^amplitude_implausible"):
        refuse_bad(assess(loud, RATE), "reject")


@settings(deadline=None, max_examples=40)
@given(row=st.integers(0, 11), start=st.integers(0, 4999), length=st.integers(1, 20))
def test_a_short_gap_becomes_the_straight_line_between_its_neighbours(row, start, length):
    ramp = (np.arange(5000, dtype=np.float32) * 1e-3)[None].repeat(12, axis=0)
    holed = ramp.copy()
    holed[row, start : start + length] = np.nan
    filled = fill_gaps(holed, RATE, "interpolate")
    inside = start > 0 and start + length < 5000
    if inside:
        assert np.allclose(filled, ramp, atol=1e-6)
    else:  # an edge is held, so it stays within the gap's length of the ramp
        assert np.abs(filled - ramp).max() <= length * 1e-3 + 1e-6
    assert np.isnan(holed[row]).sum() == min(start + length, 5000) - start  # the input keeps its gap


@pytest.mark.parametrize(
    ("policy", "missing", "accepted"),
    [
        ("interpolate", slice(100, 120), True),  # 40 ms
        ("interpolate", slice(100, 121), False),  # 42 ms
        ("interpolate", slice(0, 500, 10), True),  # 50 samples, 1 %
        ("interpolate", slice(0, 510, 10), False),  # 51 samples
        ("reject", slice(100, 101), False),
        ("keep", slice(100, 4000), True),
        ("keep", slice(0, 5000), False),  # no sample to hold on to
    ],
)
def test_gap_policy(policy, missing, accepted):
    x = ecg()
    x[5, missing] = np.nan
    if accepted:
        filled = fill_gaps(x, RATE, policy)
        assert np.isfinite(filled).all()
        kept = np.isfinite(x)
        assert np.array_equal(filled[kept], x[kept])
    else:
        with pytest.raises(RejectedRecord, match=r"^nan: lead aVF"):
            fill_gaps(x, RATE, policy)


def test_a_signal_without_gaps_is_returned_itself():
    x = ecg()
    assert fill_gaps(x, RATE, "reject") is x


@pytest.mark.parametrize(("left", "right"), [(581, 581), (0, 1000), (500, 0), (499, 499), (1, 0)])
def test_only_long_zero_padding_is_trimmed(left, right):
    x = ecg(2934)
    padded = np.pad(x, ((0, 0), (left, right)))
    trimmed, start = trim_zero_padding(padded, RATE)
    expected_start = left if left >= 500 else 0  # 1 s at 500 Hz
    expected = padded[:, expected_start : padded.shape[1] - (right if right >= 500 else 0)]
    assert start == expected_start
    assert np.array_equal(trimmed, expected)


def test_a_flat_start_in_some_leads_only_is_no_padding():
    x = ecg()
    x[:11, :1000] = 0
    assert trim_zero_padding(x, RATE)[0].shape == (12, 5000)
    zeros = np.zeros((12, 5000), np.float32)
    assert trim_zero_padding(zeros, RATE)[0].shape == (12, 5000)


@pytest.mark.realdata
def test_known_flat_leads_of_real_records(shared):
    scipy_io = pytest.importorskip("scipy.io")
    for stem, flat in {"JS11438": LEADS[6:], "JS20004": ("V2", "V4", "V6"), "JS20008": ("V2", "V4", "V6")}.items():
        path = next((shared / "csn").rglob(f"{stem}.mat"))
        adc = scipy_io.loadmat(str(path))["val"]
        quality = assess((adc / 1000).astype(np.float32), RATE)
        assert quality["flat_leads"] == list(flat)
