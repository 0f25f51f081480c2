"""The same signal under another name is known; another ECG is not taken for it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ecglm.errors import RejectedRecord
from ecglm.retrieval.copies import content_key, copies_of, sketches
from ecglm.signals.pipeline import get_pipeline
from index_world import people


def test_the_key_is_of_the_microvolts():
    segment = np.array([[0.001, -0.0024], [1.0, 0.0]], np.float32)
    said = hashlib.sha256(np.array([1, -2, 1000, 0], "<i2").tobytes()).hexdigest()
    assert f"{content_key(segment):016x}" == "".join(reversed([said[i : i + 2] for i in range(0, 16, 2)]))
    assert content_key(segment) == content_key(np.array([[1, -2], [1000, 0]], np.int16))
    assert content_key(segment) == content_key(segment + np.float32(0.0002))
    assert content_key(segment) != content_key(segment + np.float32(0.001))


def test_nan_has_no_key():
    with pytest.raises(RejectedRecord, match="nan_in_segment"):
        content_key(np.full((12, 4), np.nan, np.float32))


def test_noise_baseline_and_gain_leave_a_copy_a_copy():
    segments = get_pipeline("default", rate=100, seg_len=500).run(people(1)[0]).signal
    rng = np.random.default_rng(0)
    wander = 0.05 * np.sin(np.linspace(0, 3, segments.shape[-1]))
    changed = {
        "noise": segments + rng.normal(0, 0.005, segments.shape),
        "gain": segments * 1.1,
        "wander": segments + wander,
    }
    for name, other in changed.items():
        assert copies_of(sketches(segments)[0], sketches(other.astype(np.float32)))[0], name


def test_two_patients_are_no_copies_and_flat_is_like_nothing():
    pipeline = get_pipeline("default", rate=100, seg_len=500)
    segments = np.stack([pipeline.run(r).signal[0] for r in people(12, seed=8)])
    found = sketches(np.concatenate([segments, np.zeros_like(segments[:1])]))
    for row in range(len(found)):
        same = copies_of(found[row], found)
        assert same.tolist() == [other == row < len(segments) for other in range(len(found))]


@pytest.mark.realdata
def test_a_record_at_another_rate_is_a_copy_and_no_other_record_is(ptb_xl):
    from ecglm.records.formats import read

    pipeline = get_pipeline("default", rate=100, seg_len=1000)
    fine = sorted((ptb_xl / "records500").rglob("*_hr.hea"))[:40]
    coarse = [ptb_xl / "records100" / f.parent.name / f.name.replace("_hr", "_lr") for f in fine]
    a, b = (sketches(np.stack([pipeline.run(read(f)).signal[0] for f in files])) for files in (fine, coarse))
    for row in range(len(a)):
        assert copies_of(a[row], b).tolist() == [other == row for other in range(len(b))], fine[row]
