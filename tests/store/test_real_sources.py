"""The store with the real sources and pipelines: synthetic by default, PTB-XL where it is present."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import wfdb
from store_fakes import tree

from ecglm.records.ptb_xl import PtbXl
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.audit import audit
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.store.verify import verify
from ecglm.types import Conversation, Turn


def ask(store: SegmentStore) -> list[Conversation]:
    """One question per record, split by patient."""
    splits = assign_splits(store)
    out = []
    for record in store.records():
        patient = store.row(store.segments_of(record)[0])["patient_id"]
        turns = (Turn("user", "<ecg> Is it normal?"), Turn("assistant", "yes"))
        out.append(Conversation(record, "test", "normal", splits[patient], (record,), (patient,), turns))
    return out


def test_synthetic_records_through_the_default_pipeline(tmp_path):
    source, pipeline = Synthetic(num_patients=12, seed=3), get_pipeline("default")
    one = prepare(source, pipeline, tmp_path / "one", progress=False)
    prepare(source, pipeline, tmp_path / "two", workers=2, progress=False)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert one.num_records == one.num_keys == len(source.keys()) and one.num_rejected == 0
    verify(tmp_path / "one")
    store = SegmentStore(tmp_path / "one")
    for position, key in enumerate(source.keys()):
        truth = pipeline.run(source.read(key)).signal[0]
        row = store.row(position)
        assert row["record_id"] == key and row["labels"] == list(source.read(key).labels)
        assert np.abs(store[position] - truth).max() <= 0.0005 + 1e-6
        # Einthoven and Goldberger survive filters and rounding: three roundings of half a microvolt.
        if not any("flat" in label for label in row["labels"]):
            assert np.abs(store[position][0] + store[position][2] - store[position][1]).max() <= 0.0015 + 1e-4
    report = audit(ask(store), store)
    assert report.ok, report.lines()


@pytest.mark.realdata
def test_ptb_xl_records_through_the_default_pipeline(tmp_path, ptb_xl):
    summary = prepare(PtbXl(root=ptb_xl), get_pipeline("default"), tmp_path / "store", limit=40, progress=False)
    assert (summary.num_keys, summary.num_records, summary.num_segments) == (40, 40, 40)
    verify(tmp_path / "store")
    store = SegmentStore(tmp_path / "store")
    with open(ptb_xl / "ptbxl_database.csv", newline="") as handle:
        table = {f"ptb-xl/{int(row['ecg_id']):05d}": row for row in csv.DictReader(handle)}
    for position, record in enumerate(store.records()):
        row = store.row(position)
        assert row["fold"] == int(table[record]["strat_fold"])
        assert row["patient_id"] == f"ptb-xl/{int(float(table[record]['patient_id']))}"
        assert row["report"] == table[record]["report"]
    splits = assign_splits(store)
    for record, row in table.items():
        if record in store.records():
            fold = int(row["strat_fold"])
            expected = "train" if fold <= 8 else "val" if fold == 9 else "test"
            assert splits[f"ptb-xl/{int(float(row['patient_id']))}"] == expected
    report = audit(ask(store), store)
    assert report.ok, report.lines()


@pytest.mark.realdata
def test_ptb_xl_unfiltered_is_the_recording_to_half_a_microvolt(tmp_path, ptb_xl):
    """wfdb is the independent reader; at the source's own rate and without filters nothing else may change."""
    pipeline = get_pipeline("default", rate=100, seg_len=1000, preset="none")
    prepare(PtbXl(root=ptb_xl, resolution="100"), pipeline, tmp_path / "store", limit=5, progress=False)
    store = SegmentStore(tmp_path / "store")
    for position, record in enumerate(store.records()):
        number = int(record.split("/")[1])
        truth = wfdb.rdrecord(str(ptb_xl / f"records100/00000/{number:05d}_lr")).p_signal.T
        assert np.abs(store[position] - truth).max() <= 0.0005 + 1e-6
