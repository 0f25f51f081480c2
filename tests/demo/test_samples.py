"""Samples are the same each time, say nothing of whom they are, and carry their split for the preference file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ecglm.conversations.table import read_conversations
from ecglm.demo.samples import Samples
from ecglm.errors import EcglmError
from ecglm.records.synthetic_rhythm import RHYTHMS
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.reader import SegmentStore


@pytest.fixture(scope="module")
def store(world: Any) -> SegmentStore:
    return SegmentStore(world.store)


@pytest.fixture(scope="module")
def splits(world: Any) -> dict[str, str]:
    return {record: c.split for c in read_conversations(world.data) for record in c.ecgs}


def test_samples_of_a_store_are_its_segments(store, splits):
    samples = Samples([store], splits=splits, count=6)
    assert [s.title for s in samples.all()] == [f"Sample {n}" for n in range(1, 7)] and len(samples) == 6
    for sample in samples.all():
        shown = samples.get(sample.title)
        np.testing.assert_array_equal(shown.segments, store.take(store.segments_of(shown.origin.record)))
        assert shown.origin.kind == "store" and shown.origin.store == store.fingerprint
        assert shown.origin.split == sample.split == splits[shown.origin.record]
        row = store.row(store.segments_of(shown.origin.record)[0])
        assert set(shown.origin.people) == {row["patient_id"], row["record_id"]}


def test_all_splits_are_among_them_by_turns_test_first(store, splits):
    found = [s.split for s in Samples([store], splits=splits, count=6).all()]
    assert found[:3] == ["test", "val", "train"]
    assert {s.split for s in Samples([store], count=6).all()} == {""}


def test_p23_no_id_is_in_what_people_see(store, splits):
    samples = Samples([store], splits=splits, count=10)
    for sample in samples.all():
        shown, truth = samples.get(sample.title), samples.reveal(sample.title)
        told = f"{sample} {shown!r} {shown.name} {shown.titles()} {shown.measurements()} {truth}"
        assert "synthetic/" not in told and shown.origin.record.rpartition("/")[2] not in told


def test_the_same_seed_gives_the_same_samples(store, splits):
    first, again, other = (
        [s.get(e.title).origin.record for e in s.all()]
        for s in (Samples([store], splits=splits, count=5, seed=seed) for seed in (0, 0, 1))
    )
    assert first == again != other


def test_without_a_store_each_rhythm_is_made_on_the_spot():
    pipeline = get_pipeline("default", rate=100, seg_len=500).config()
    samples, again = Samples(pipeline=pipeline, count=len(RHYTHMS)), Samples(pipeline=pipeline, count=len(RHYTHMS))
    assert [s.title for s in samples.all()][:2] == ["Synthetic 1", "Synthetic 2"]
    for sample, rhythm in zip(samples.all(), RHYTHMS, strict=True):
        shown = samples.get(sample.title)
        assert shown.segments.shape[1:] == (12, 500) and shown.origin.kind == "synthetic"
        np.testing.assert_array_equal(shown.segments, again.get(sample.title).segments)
        assert f"rhythm:{rhythm}" in samples.reveal(sample.title).labels
        assert samples.reveal(sample.title).report


def test_a_store_is_revealed_as_its_table_says(store):
    samples = Samples([store], count=3)
    for sample in samples.all():
        record, truth = samples.get(sample.title).origin.record, samples.reveal(sample.title)
        row = store.row(store.segments_of(record)[0])
        assert truth.report == row["report_en"] and truth.labels == tuple(row["labels"])


def test_what_does_not_exist_is_one_line(store):
    samples = Samples([store], count=3)
    for title in ("Sample 4", "Sample 0", "", "synthetic/s3-p00000-1", "<b>" * 50):
        with pytest.raises(EcglmError, match="there are 3"):
            samples.get(title)
        with pytest.raises(EcglmError, match="there are 3"):
            samples.reveal(title)


def test_segments_are_found_by_id(store):
    samples = Samples([store], count=1)
    segment_id = store.row(4)["segment_id"]
    assert samples.holds(segment_id) and not samples.holds("x")
    shown = samples.of_segment(segment_id, "Neighbour 2")
    np.testing.assert_array_equal(shown.segments[0], store[4])
    assert shown.name == "Neighbour 2"
    with pytest.raises(EcglmError, match="no open store"):
        samples.of_segment("x")


def test_a_small_store_has_as_many_samples_as_records(store):
    assert len(Samples([store], count=1000)) == len(store.records())
