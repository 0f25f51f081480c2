"""verify: whatever is damaged is found and named."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecglm import files
from ecglm.errors import TornOutputError
from ecglm.store.reader import SegmentStore
from ecglm.store.verify import verify


def test_a_whole_store(fake_store):
    report = verify(fake_store.path)
    assert (report.num_files, report.num_segments, report.num_records) == (6, 80, 40)
    assert "whole" in report.lines()[0]


@pytest.mark.parametrize("name", ["shards/00000.i16", "shards/00002.i16", "index.parquet", "rejects.jsonl"])
def test_one_flipped_bit_names_the_file(fake_store, name):
    file = fake_store.path / name
    data = bytearray(file.read_bytes() or b"\0")
    position = int(np.random.default_rng(0).integers(len(data)))
    data[position] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(TornOutputError, match=f"{name} is altered") as caught:
        verify(fake_store.path)
    assert str(caught.value).count("is altered") == 1


def test_every_problem_is_listed(fake_store):
    (fake_store.path / "shards/00001.i16").unlink()
    shard = fake_store.path / "shards/00000.i16"
    shard.write_bytes(shard.read_bytes()[:-1200])
    with pytest.raises(TornOutputError) as caught:
        verify(fake_store.path)
    assert "shards/00001.i16 is missing" in str(caught.value)
    assert "shards/00000.i16 is altered" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("row", 32, "past the end of their shard, the first at row 32 of shards/00000.i16, which ends at 32"),
        ("row", -1, "past the end"),
        ("shard", 3, "past the end"),
        ("row", 6, "one place of a shard for two segments"),
        ("segment_id", "fake/000#0", "names a segment twice"),
        ("record_id", "fake/none", "other records"),
    ],
)
def test_an_index_that_disagrees_with_the_shards(fake_store, column, value, message):
    index = fake_store.path / "index.parquet"
    table = pq.read_table(index)
    values = table.column(column).to_pylist()
    values[5] = value
    field = table.schema.field(column)
    table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(table, index)
    file = fake_store.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["outputs"]["index.parquet"] = files.file_sha256(index)  # a store that was made wrong, not one that rotted
    file.write_text(json.dumps(manifest))
    with pytest.raises(TornOutputError, match=message):
        verify(fake_store.path)
    if "past the end" in message:
        with pytest.raises(TornOutputError, match="shards/0000"):
            SegmentStore(fake_store.path)[5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["settings"].update(rate=101), "fingerprint"),
        (lambda m: m["counts"].update(records=39), "record counts do not add up"),
        (lambda m: m["counts"].update(segments=81), "segment counts do not add up"),
        (lambda m: m["outputs"].pop("shards/00002.i16"), "list of shards"),
    ],
)
def test_an_altered_manifest(fake_store, change, message):
    file = fake_store.path / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(TornOutputError, match=message):
        verify(fake_store.path)
