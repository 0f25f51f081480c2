"""SegmentStore: values, indices, processes, torn and stale stores."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import numpy as np
import pytest
from store_fakes import SEG_LEN, signal_of

from ecglm.errors import EcglmError, StaleOutputError, TornOutputError
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import LEAD_COLUMNS
from ecglm.types import LEADS


def change_manifest(store: SegmentStore, change) -> None:
    file = store.path / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def expected(position: int) -> np.ndarray:
    """Segment ``position`` of the fake source, in millivolts at microvolt steps."""
    record, segment = divmod(position, 2)
    exact = signal_of(record)[:, segment * SEG_LEN : (segment + 1) * SEG_LEN].astype(np.float64)
    return np.round(exact * 1000) / 1000


def read_in_child(store: SegmentStore, position: int, queue) -> None:
    queue.put(float(store[position][2, 3]))


def test_every_segment_comes_back_to_half_a_microvolt(fake_store):
    assert len(fake_store) == 80
    half = 0.0005 + 5 * 2.0**-24  # half a microvolt, and the last bit of a float32 up to 5 mV
    for position in range(80):
        segment = fake_store[position]
        assert segment.dtype == np.float32 and segment.shape == (12, SEG_LEN)
        np.testing.assert_array_equal(segment, expected(position).astype(np.float32))
        source = signal_of(position // 2)[:, position % 2 * SEG_LEN :][:, :SEG_LEN]
        assert np.abs(segment.astype(np.float64) - source).max() <= half


def test_what_it_returns_is_the_callers(fake_store):
    segment = fake_store[3]
    segment[:] = 7
    np.testing.assert_array_equal(fake_store[3], expected(3).astype(np.float32))


def test_indices_like_those_of_a_list(fake_store):
    np.testing.assert_array_equal(fake_store[-1], fake_store[79])
    np.testing.assert_array_equal(fake_store[np.int64(5)], fake_store[5])
    assert fake_store[3:9:2].shape == (3, 12, SEG_LEN) and fake_store[80:].shape == (0, 12, SEG_LEN)
    np.testing.assert_array_equal(fake_store[3:9:2][1], fake_store[5])
    taken = fake_store.take([70, 0, -80, 33])
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, np.stack([expected(i).astype(np.float32) for i in (70, 0, 0, 33)]))
    for bad in (80, -81):
        with pytest.raises(IndexError, match="store of 80"):
            fake_store[bad]
        with pytest.raises(IndexError):
            fake_store.take([0, bad])


def test_stored_microvolts_and_batches_for_a_data_loader(fake_store):
    data = b"".join((fake_store.path / f"shards/{n:05d}.i16").read_bytes() for n in range(3))
    stored = np.frombuffer(data, "<i2").reshape(80, 12, SEG_LEN)
    taken = fake_store.microvolts([70, 0, -1])
    assert taken.dtype == np.int16
    np.testing.assert_array_equal(taken, stored[[70, 0, 79]])
    np.testing.assert_array_equal(fake_store.__getitems__([3, 70]), fake_store.take([3, 70]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_data_loader_gets_whole_batches(fake_store, workers):
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(fake_store, batch_size=32, num_workers=workers, collate_fn=torch.from_numpy)
    batches = list(loader)
    assert [tuple(b.shape) for b in batches] == [(32, 12, SEG_LEN), (32, 12, SEG_LEN), (16, 12, SEG_LEN)]
    assert all(b.dtype == torch.float32 for b in batches)
    np.testing.assert_array_equal(torch.cat(batches).numpy(), fake_store[:])
    plain = next(iter(DataLoader(fake_store, batch_size=3)))  # torch's own collate
    np.testing.assert_array_equal(plain.numpy(), fake_store[:3])


def test_facts_and_rows(fake_store):
    assert (fake_store.rate, fake_store.seg_len, fake_store.leads) == (100, SEG_LEN, LEADS)
    assert fake_store.records() == [f"fake/{n:03d}" for n in range(40)]
    assert fake_store.segments_of("fake/007") == [14, 15]
    assert fake_store.segments_of("fake/unknown") == []
    row = fake_store.row(15)
    for name in LEAD_COLUMNS:  # the fake pipeline measures nothing
        assert len(measured := row.pop(name)) == 12 and all(np.isnan(measured))
    assert row == {
        "segment_id": "fake/007#1",
        "record_id": "fake/007",
        "patient_id": "fake/p3",
        "patient_known": True,
        "source": "fake",
        "start_s": 0.5,
        "fold": None,
        "split": "",
        "report": "Befund Nr. 7 – größer",
        "report_en": "",
        "report_origin": "",
        "labels": ["rhythm:SR", "superclass:1"],
        "metadata": {"age": 7, "measurements": {"heart_rate": 60.5}},
        "quality": {"flags": ["wander"], "snr": 12.5},
        "flags": ["wander"],
        "shard": 0,
        "row": 15,
    }
    assert fake_store.index.num_rows == 80
    assert b"pandas" not in (fake_store.index.schema.metadata or {})


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(fake_store, method):
    fake_store[0], fake_store.index  # maps and tables are open here already
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(fake_store, 41, queue), daemon=True)
    child.start()
    assert queue.get(timeout=60) == float(np.float32(expected(41)[2, 3]))
    child.join(30)
    assert child.exitcode == 0


def test_a_pickled_store_carries_no_data(fake_store):
    fake_store[0], fake_store.index
    data = pickle.dumps(fake_store)
    assert len(data) < 5000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again[77], fake_store[77])
    assert again.segments_of("fake/001") == [2, 3]


def test_no_store_and_no_manifest(tmp_path, fake_store):
    with pytest.raises(EcglmError, match="no such segment-store"):
        SegmentStore(tmp_path / "nothing" / "here")
    (fake_store.path / "manifest.json").unlink()
    with pytest.raises(TornOutputError, match="unfinished"):
        SegmentStore(fake_store.path)


def test_a_missing_or_short_shard_is_named(fake_store):
    shard = fake_store.path / "shards/00001.i16"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(TornOutputError, match=rf"00001\.i16: {len(data) - 1} bytes, {len(data)} expected"):
        SegmentStore(fake_store.path)
    shard.unlink()
    with pytest.raises(TornOutputError, match=r"00001\.i16: missing"):
        SegmentStore(fake_store.path)
    with pytest.raises(TornOutputError, match=r"00001\.i16"):
        fake_store[40]  # opened before the shard went


def test_a_torn_index_is_named(fake_store):
    index = fake_store.path / "index.parquet"
    index.write_bytes(index.read_bytes()[:-40])
    with pytest.raises(TornOutputError, match=r"index\.parquet"):
        SegmentStore(fake_store.path)[0]
    index.unlink()
    with pytest.raises(TornOutputError, match=r"index\.parquet: missing"):
        SegmentStore(fake_store.path)


def test_another_format_version_is_stale(fake_store):
    change_manifest(fake_store, lambda manifest: manifest["settings"].update(format_version=99))
    with pytest.raises(StaleOutputError, match=r"format 99.*--overwrite"):
        SegmentStore(fake_store.path)


def test_another_version_of_a_known_pipeline_is_stale(fake_store):
    pipeline = {"name": "default", "version": 99}
    change_manifest(fake_store, lambda manifest: manifest["settings"].update(pipeline=pipeline))
    with pytest.raises(StaleOutputError, match=r"version 99 of the pipeline 'default'.*--overwrite"):
        SegmentStore(fake_store.path)


def test_another_kind_of_output_is_refused(fake_store):
    change_manifest(fake_store, lambda manifest: manifest.update(kind="checkpoint"))
    with pytest.raises(EcglmError, match="is a 'checkpoint', a segment-store is needed"):
        SegmentStore(fake_store.path)
