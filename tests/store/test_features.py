"""The table of measurements of a store: rows, columns, workers, reuse, and the verb."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecglm.cli import main
from ecglm.errors import ConfigError, StaleOutputError
from ecglm.signals.features import ecg_bench_288, feature_names
from ecglm.signals.measured import measure
from ecglm.store import features
from ecglm.store.features import write_features
from ecglm.store.reader import SegmentStore


def test_a_row_per_segment_with_what_measure_says(world, tmp_path):
    store = SegmentStore(world.store)
    summary = write_features(world.store, tmp_path / "a.parquet", limit=6, progress=False)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert summary.num_segments == len(rows) == 6 and summary.measured == sum(r["heart_rate"] is not None for r in rows)
    for k, row in enumerate(rows):
        assert row["segment_id"] == store.index.column("segment_id")[k].as_py()
        expected = measure(store[k], store.rate).row()
        assert {name: row[name] for name in expected} == expected


def test_the_288_in_columns_of_their_names(world, tmp_path):
    write_features(world.store, tmp_path / "b.parquet", kind="ecg_bench_288", limit=3, progress=False)
    table = pq.read_table(tmp_path / "b.parquet")
    store = SegmentStore(world.store)
    assert table.column_names == ["segment_id", "record_id", *feature_names()]
    found = np.stack([table.column(name).to_numpy() for name in feature_names()], axis=1)
    np.testing.assert_array_equal(found, ecg_bench_288(store[0:3], store.rate))


def test_workers_and_batches_change_nothing(world, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_BATCH", 4)
    for workers in (1, 2):
        write_features(world.store, tmp_path / f"{workers}.parquet", limit=12, workers=workers, progress=False)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_the_same_table_is_reused_and_another_refused(world, tmp_path):
    out = tmp_path / "a.parquet"
    write_features(world.store, out, limit=2, progress=False)
    assert write_features(world.store, out, limit=2, progress=False).reused
    with pytest.raises(StaleOutputError, match="--overwrite"):
        write_features(world.store, out, limit=3, progress=False)
    out.write_bytes(b"something else")
    with pytest.raises(StaleOutputError):
        write_features(world.store, out, limit=2, progress=False)
    assert not write_features(world.store, out, limit=3, overwrite=True, progress=False).reused


@pytest.mark.parametrize(("options", "what"), [({"kind": "measurd"}, "measured"), ({"limit": 0}, "limit")])
def test_wrong_options_are_refused(world, tmp_path, options, what):
    with pytest.raises(ConfigError, match=what):
        write_features(world.store, tmp_path / "a.parquet", **options)


def test_the_verb_writes_a_table_or_prints_a_line(world, tmp_path, capsys):
    assert main(["features", str(world.store), "--segment", "0"]) == 0
    assert capsys.readouterr().out.startswith("Heart rate ")
    out = tmp_path / "f.parquet"
    assert main(["features", str(world.store), "--out", str(out), "--limit", "2"]) == 0
    assert "2 segments, kind measured" in capsys.readouterr().out and out.exists()
    assert main(["features", str(world.store)]) == 2
    assert "--out" in capsys.readouterr().err
