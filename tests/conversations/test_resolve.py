"""resolve.py: what the stores hold, read from their index alone."""

from __future__ import annotations

import pytest
from official_files import RECORDS, ManyDatasets, patient_of

from ecglm.conversations.resolve import StoreRecords, record_rows
from ecglm.errors import TornOutputError
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resolve") / "store"
    prepare(ManyDatasets(), get_pipeline("default", rate=50, seg_len=100), folder, progress=False)
    return SegmentStore(folder)


def test_records_of_a_store_and_their_patients(store):
    records = StoreRecords(store)
    assert len(store) == 2 * len(RECORDS) and len(records) == len(RECORDS)
    assert all(record in records and records.patient(record) == patient_of(record) for record in RECORDS)
    assert "ptb-xl/99999" not in records and "ptb-xl/1" not in records


def test_the_first_store_speaks_for_a_record_in_two(store, listed_store):
    other = listed_store([{"record_id": "ptb-xl/00001", "patient_id": "ptb-xl/other"}, {"record_id": "x/1"}])
    assert StoreRecords([store, other]).patient("ptb-xl/00001") == "ptb-xl/p0"
    assert StoreRecords([other, store]).patient("ptb-xl/00001") == "ptb-xl/other"
    assert "x/1" in StoreRecords([store, other]) and len(StoreRecords([])) == 0


def test_one_row_per_record_with_its_metadata(store, listed_store):
    rows = list(record_rows(store, ("patient_id", "labels", "report", "metadata", "no_such_column")))
    assert [row["record_id"] for row in rows] == list(RECORDS)
    assert rows[0]["labels"] == ["rhythm:SR"] and rows[0]["metadata"] == {} and "no_such_column" not in rows[0]
    assert [row["record_id"] for row in record_rows(store, (), limit=3)] == list(RECORDS[:3])
    other = listed_store([{"record_id": "ptb-xl/00001", "report": "other"}, {"record_id": "x/1", "report": "new"}])
    two = list(record_rows([store, other], ("report",)))
    assert len(two) == len(RECORDS) + 1 and two[-1] == {"record_id": "x/1", "report": "new"}
    assert len(list(record_rows([store, other], (), limit=len(RECORDS) + 1))) == len(RECORDS) + 1


def test_a_torn_index_is_told(tmp_path):
    prepare(ManyDatasets(), get_pipeline("default", rate=50, seg_len=100), tmp_path / "s", limit=2, progress=False)
    store = SegmentStore(tmp_path / "s")
    (tmp_path / "s" / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(TornOutputError, match=r"index\.parquet: cannot be read") as error:
        StoreRecords(store)
    assert "\n" not in str(error.value)
