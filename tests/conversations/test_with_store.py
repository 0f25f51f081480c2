"""Mapping from prepared stores: records → segments → conversations → file, nothing replaced."""

from __future__ import annotations

import csv

import pytest

from ecglm.conversations.ecg_qa import map_ecg_qa
from ecglm.conversations.from_labels import map_labels
from ecglm.conversations.table import collect, read_conversations, write_conversations
from ecglm.records.ptb_xl import PtbXl
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.audit import audit
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits


def test_synthetic_store(tmp_path):
    source = Synthetic(num_patients=12, rate=250)
    prepare(source, get_pipeline("default", rate=100, seg_len=500), tmp_path / "store", progress=False)
    store = SegmentStore(tmp_path / "store")
    assert len(store) == 2 * len(source.keys())  # two segments of 5 s each, one question per task all the same
    splits = assign_splits(store)
    tasks = ["rhythm", "rate", "report", "normal"]
    result = collect(map_labels(store, tasks=tasks, splits=splits))
    assert result.counts == {"in": 4 * len(source.keys()), "mapped": 4 * len(source.keys())}
    for conversation in result.conversations:
        record = source.read(conversation.ecgs[0])
        assert conversation.patients == (record.patient_id,)
        assert conversation.split == splits[record.patient_id]
        if conversation.task == "report":
            assert conversation.turns[1].text == record.report
    settings, inputs = {"corpus": "labels"}, {"store": store.fingerprint}
    write_conversations(tmp_path / "c.parquet", result, settings, inputs)
    assert read_conversations(tmp_path / "c.parquet") == result.conversations
    report = audit(result.conversations, store)
    assert report.ok and not report.findings, report.lines()


@pytest.mark.realdata
def test_ptb_xl_store(tmp_path, ptb_xl, shared):
    prepare(
        PtbXl(root=ptb_xl, resolution="100"),
        get_pipeline("default", rate=100, seg_len=1000),
        tmp_path / "store",
        limit=60,
        progress=False,
    )
    store = SegmentStore(tmp_path / "store")
    ids = store.records()
    assert len(ids) == 60
    with open(ptb_xl / "ptbxl_database.csv", newline="") as handle:
        table = {f"ptb-xl/{int(row['ecg_id']):05d}": row for row in csv.DictReader(handle)}
    result = collect(map_labels(store, splits=assign_splits(store)))
    assert result.rejected == []
    asked = {(c.ecgs[0], c.task): c for c in result.conversations}
    for record in ids:
        row = table[record]
        normal = asked[record, "normal"]
        assert normal.turns[1].text == ("yes" if "'NORM'" in row["scp_codes"] else "no")
        assert normal.split == {"9": "val", "10": "test"}.get(row["strat_fold"], "train")
        assert normal.patients == (f"ptb-xl/{int(float(row['patient_id']))}",)
        rhythm = asked.get((record, "rhythm"))
        if "'AFIB'" in row["scp_codes"]:
            assert "atrial fibrillation" in rhythm.turns[1].text
        axis = asked.get((record, "axis"))
        assert (axis is not None) == (row["heart_axis"] in ("MID", "LAD", "ALAD", "RAD", "ARAD"))
        assert (record, "rate") not in asked and (record, "st") not in asked
    questions = collect(map_ecg_qa(store, root=shared / "ecg-qa"))
    assert questions.counts["mapped"] > 0 and questions.rejected == []
    assert {ecg for c in questions.conversations for ecg in c.ecgs} <= set(ids)
    for c in questions.conversations:
        assert c.patients == tuple(f"ptb-xl/{int(float(table[ecg]['patient_id']))}" for ecg in c.ecgs)
