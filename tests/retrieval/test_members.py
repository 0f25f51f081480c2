"""Quality rules, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.retrieval.members import _too_bad, training_members
from index_world import people, store_of, with_flat_lead

FINE = {
    "flags": [],
    **{name: [0.0] * 12 for name in ("nan_share", "flat_share", "clip_share")},
    "snr_db": [20.0] * 12,
}


@pytest.mark.parametrize(
    ("change", "usable", "good"),
    [
        ({}, "", ""),
        ({"flags": ["flat_lead"]}, "flat_lead", "flat_lead"),
        ({"flat_share": [0.0] * 11 + [1.0]}, "flat_lead", "flat_lead"),
        ({"flat_share": [0.9] * 12}, "", ""),
        ({"nan_share": [0.011] + [0.0] * 11}, "missing_samples", "missing_samples"),
        ({"nan_share": [0.01] + [0.0] * 11}, "", ""),
        ({"flags": ["amplitude_implausible"]}, "amplitude_implausible", "amplitude_implausible"),
        ({"flags": ["saturated"]}, "", "saturated"),
        ({"clip_share": [0.06] + [0.0] * 11}, "", "saturated"),
        ({"flags": ["einthoven"]}, "", "einthoven"),
        ({"snr_db": [4.9] + [20.0] * 11}, "", "noisy_lead"),
        ({"snr_db": [float("nan")] + [20.0] * 11}, "", ""),
        ({"flags": None, "snr_db": None, "clip_share": None}, "", ""),
    ],
)
def test_why_an_ecg_is_not_good_enough(change, usable, good):
    row = {**FINE, **change}
    assert [_too_bad(row, least) for least in ("any", "usable", "good")] == ["", usable, good]


def test_every_segment_is_a_member_left_out_or_rejected(tmp_path):
    records = people(10, duration_s=12.0)
    store = store_of(tmp_path / "store", [*records, with_flat_lead(records[0], "bad/1")])
    for segments in ("first", "all"):
        found = training_members([store], segments=segments)
        assert found.table.num_rows + len(found.rejects) + sum(found.left_out.values()) == len(store)
        assert np.all(np.diff(found.table.column("position").to_numpy()) > 0)
