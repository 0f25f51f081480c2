"""export: what other programs read is what the store holds, to the last microvolt; names are safe."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_fakes import RATE, SEG_LEN, FakePipeline, FakeSource, tree

from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.records.folder import Folder
from ecglm.records.formats import read
from ecglm.signals.pipeline import get_pipeline
from ecglm.store import export as export_module
from ecglm.store import export_files, export_hf
from ecglm.store.export import export
from ecglm.store.export_files import file_stem
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, Record

ODD = 'Befund «größer»;\n"quoted", with\tcomma\r\nand a line # that is no comment'


@dataclass(frozen=True, kw_only=True)
class Reports(FakeSource):
    """Ten patients in official folds; one report with everything in it that a table or a header may stumble over."""

    name: ClassVar[str] = "fake"

    def read(self, key: str) -> Record:
        record = super().read(key)
        number = int(key[-3:])
        return replace(
            record,
            report=ODD if number == 3 else record.report,
            report_en="larger" if number == 3 else "",
            report_origin="phrases" if number == 3 else "",
            metadata={"age": 40 + number, "sex": "female" if number % 2 else "male"},
            patient_known=number != 5,
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "store"
    prepare(Reports(num=20, folds=True), FakePipeline(), out, progress=False)
    return SegmentStore(out)


def microvolts(store: SegmentStore) -> np.ndarray:
    """All segments, read from the shard files by hand."""
    data = b"".join(file.read_bytes() for file in sorted((store.path / "shards").iterdir()))
    return np.frombuffer(data, "<i2").reshape(-1, 12, store.seg_len)


def test_hugging_face_datasets_reads_it_with_its_features(tmp_path, store):
    datasets = pytest.importorskip("datasets")
    summary = export(store.path, tmp_path / "hf", to="hf", progress=False)
    # folds 1–8 are 16 records of two segments, 9 and 10 are two each
    assert summary.splits == {"train": 32, "validation": 4, "test": 4}
    assert "splits: test 4, train 32, validation 4" in summary.lines()
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=cache)
    assert {name: len(rows) for name, rows in found.items()} == summary.splits
    assert found["train"].features["signal"] == datasets.Array2D(shape=(12, SEG_LEN), dtype="int16")
    by_id = {row["segment_id"]: row for rows in found.with_format("numpy").values() for row in rows}
    exact = microvolts(store)
    for i in range(len(store)):
        ours, theirs = store.row(i), by_id[store.row(i)["segment_id"]]
        np.testing.assert_array_equal(theirs["signal"], exact[i])
        for name in ("record_id", "patient_id", "patient_known", "start_s", "fold", "report", "report_en"):
            assert theirs[name] == ours[name], name
        assert list(theirs["labels"]) == ours["labels"] and json.loads(theirs["metadata"]) == ours["metadata"]
        np.testing.assert_array_equal(theirs["snr_db"], np.asarray(ours["snr_db"], np.float32))
    files = {"train": str(tmp_path / "hf/data/train-*.parquet"), "test": str(tmp_path / "hf/data/test-*.parquet")}
    plain = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
    assert len(plain["train"]) == 32 and plain["test"].features["signal"].shape == (12, SEG_LEN)
    card = (tmp_path / "hf/README.md").read_text()
    assert "path: data/validation-*.parquet" in card and store.fingerprint in card and "microvolts" in card


def test_hf_files_and_row_groups_are_of_bounded_size(tmp_path, store, monkeypatch):
    monkeypatch.setattr(export_hf, "FILE_SEGMENTS", 12)
    monkeypatch.setattr(export_hf, "GROUP_SEGMENTS", 4)
    monkeypatch.setattr(export_module, "_BATCH", 7)
    export(store.path, tmp_path / "hf", to="hf", progress=False)
    names = sorted(os.listdir(tmp_path / "hf/data"))
    assert names == [
        "test-00000-of-00001.parquet",
        *[f"train-{n:05d}-of-00003.parquet" for n in range(3)],
        "validation-00000-of-00001.parquet",
    ]
    tables = [pq.ParquetFile(tmp_path / "hf/data" / name) for name in names[1:4]]
    assert [t.metadata.num_rows for t in tables] == [12, 12, 8]
    assert [t.metadata.num_row_groups for t in tables] == [3, 3, 2]
    ids = [i for t in tables for i in t.read(["segment_id"]).column(0).to_pylist()]
    assert ids == [f"fake/{n:03d}#{k}" for n in range(16) for k in range(2)]


def test_records_without_an_official_split_are_unassigned(tmp_path):
    prepare(FakeSource(num=3), FakePipeline(), tmp_path / "store", progress=False)
    assert export(tmp_path / "store", tmp_path / "hf", to="hf", progress=False).splits == {"unassigned": 6}
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))
    assert len(found["unassigned"]) == 6


@pytest.mark.parametrize("to", ["npy", "wfdb"])
def test_our_own_source_reads_it_back_within_half_a_microvolt(tmp_path, store, to):
    out = tmp_path / to
    summary = export(store.path, out, to=to, progress=False)
    assert (summary.num_segments, summary.num_records, summary.num_files) == (40, 20, 40 if to == "npy" else 80)
    source = Folder(root=out)
    assert source.keys() == [f"folder/data/00000/fake_{n:03d}_{k}" for n in range(20) for k in range(2)]
    exact = microvolts(store)
    for i, key in enumerate(source.keys()):
        record, row = source.read(key), store.row(i)
        assert record.sampling_rate == RATE and record.leads == LEADS
        assert np.abs(1000 * record.signal.astype(np.float64) - exact[i]).max() < 0.001
        assert record.patient_id == f"folder/{row['patient_id']}"
        assert record.labels == tuple(row["labels"]) and record.fold == row["fold"]
        assert record.report == row["report"].strip()
        assert record.metadata["age"] == row["metadata"]["age"] and record.metadata["sex"] == row["metadata"]["sex"]
    index = pq.read_table(out / "segments.parquet")
    assert index.column("segment_id").to_pylist() == store.index.column("segment_id").to_pylist()
    assert all((out / name).is_file() for name in index.column("file").to_pylist())
    assert index.column("report_en").to_pylist() == store.index.column("report_en").to_pylist()


@pytest.mark.parametrize("to", ["npy", "wfdb"])
def test_a_store_of_the_export_holds_the_same_microvolts(tmp_path, to):
    """Real pipelines on the way: nothing is filtered, resampled or rounded a second time."""
    pipeline = get_pipeline("default", rate=RATE, seg_len=200, preset="none")
    prepare(FakeSource(num=6, num_samples=400), pipeline, tmp_path / "a", progress=False)
    export(tmp_path / "a", tmp_path / "files", to=to, progress=False)
    prepare(Folder(root=tmp_path / "files"), pipeline, tmp_path / "b", progress=False)
    a, b = SegmentStore(tmp_path / "a"), SegmentStore(tmp_path / "b")
    assert len(a) == len(b) == 12
    assert np.abs(microvolts(a).astype(int) - microvolts(b)).max() == 0


def test_the_wfdb_package_reads_it_back(tmp_path, store):
    wfdb = pytest.importorskip("wfdb")
    export(store.path, tmp_path / "w", to="wfdb", progress=False)
    exact = microvolts(store)
    names = (tmp_path / "w/RECORDS").read_text().split()
    assert len(names) == 40
    for i, name in enumerate(names):
        record = wfdb.rdrecord(str(tmp_path / "w" / name), physical=False)
        assert (record.fs, record.sig_len, record.sig_name) == (RATE, SEG_LEN, list(LEADS))
        assert record.adc_gain == [1000.0] * 12 and record.units == ["mV"] * 12 and record.fmt == ["16"] * 12
        np.testing.assert_array_equal(record.d_signal.T, exact[i])
        assert record.checksum == [c - 65536 if c > 32767 else c for c in record.calc_checksum()]
        assert record.init_value == exact[i][:, 0].tolist()
        physical = wfdb.rdrecord(str(tmp_path / "w" / name)).p_signal.T
        assert np.abs(1000 * physical - exact[i]).max() < 1e-6
    comments = wfdb.rdheader(str(tmp_path / "w" / names[6])).comments
    assert "record: fake/003" in comments and "labels: rhythm:SR; superclass:0" in comments
    assert "patient: fake/p1" in comments and "Sex: female" in comments and "Age: 43" in comments
    assert not any("patient" in c for c in wfdb.rdheader(str(tmp_path / "w" / names[10])).comments)  # not known
    ours = read(tmp_path / "w" / f"{names[6]}.hea")
    assert "checksum_mismatch" not in ours.metadata["notes"]


def test_npy_files_hold_millivolts_and_no_objects(tmp_path, store):
    export(store.path, tmp_path / "n", to="npy", progress=False)
    array = np.load(tmp_path / "n/data/00000/fake_007_1.npy", allow_pickle=False)
    assert array.dtype == np.float32 and array.shape == (12, SEG_LEN)
    np.testing.assert_array_equal(array, store[15])


def test_limit_takes_the_first_segments(tmp_path, store):
    for to in ("hf", "npy", "wfdb"):
        summary = export(store.path, tmp_path / to, to=to, limit=5, progress=False)
        assert (summary.num_segments, summary.num_records) == (5, 3)
    assert len((tmp_path / "wfdb/RECORDS").read_text().split()) == 5
    for limit in (0, -1):
        with pytest.raises(ConfigError, match="limit"):
            export(store.path, tmp_path / "x", to="npy", limit=limit, progress=False)


@pytest.mark.parametrize("to", ["hf", "npy", "wfdb"])
def test_same_bytes_in_any_place_reused_stale_overwritten(tmp_path, store, to):
    out = tmp_path / "one"
    assert not export(store.path, out, to=to, progress=False).reused
    export(store.path, tmp_path / "änother place" / "two", to=to, progress=False)
    assert tree(out) == tree(tmp_path / "änother place" / "two")
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    again = export(store.path, out, to=to, progress=False)
    assert again.reused and "reused" in again.lines()[-1]
    with pytest.raises(StaleOutputError, match="--overwrite"):
        export(store.path, out, to=to, limit=3, progress=False)
    next(file for file in sorted((out / "data").rglob("*")) if file.is_file()).unlink()
    with pytest.raises(TornOutputError, match="--overwrite"):
        export(store.path, out, to=to, progress=False)
    export(store.path, out, to=to, overwrite=True, progress=False)
    assert tree(out) == tree(tmp_path / "änother place" / "two")


@pytest.mark.parametrize("to", ["hf", "npy", "wfdb"])
def test_an_interrupted_export_is_made_anew(tmp_path, store, to, monkeypatch):
    take = SegmentStore.microvolts

    def stop(self, indices):
        if indices[0]:
            raise KeyboardInterrupt
        return take(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(export_module, "_BATCH", 7)
        patch.setattr(SegmentStore, "microvolts", stop)
        with pytest.raises(KeyboardInterrupt):
            export(store.path, tmp_path / "out", to=to, progress=False)
    assert not (tmp_path / "out/manifest.json").exists() and not list((tmp_path / "out").rglob(".tmp-*"))
    export(store.path, tmp_path / "out", to=to, progress=False)
    export(store.path, tmp_path / "straight", to=to, progress=False)
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")


def test_foreign_folders_and_the_store_itself_are_left_alone(tmp_path, store):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    before = tree(store.path)
    for overwrite in (False, True):
        with pytest.raises(EcglmError, match="another --out"):
            export(store.path, tmp_path / "notes", to="npy", overwrite=overwrite, progress=False)
        for out in (store.path, store.path.parent, store.path / "export"):
            with pytest.raises(EcglmError, match="choose another --out"):
                export(store.path, out, to="npy", overwrite=overwrite, progress=False)
    assert tree(store.path) == before and os.listdir(tmp_path / "notes") == ["mine.txt"]


def test_mistakes_are_named(tmp_path, store):
    with pytest.raises(ConfigError, match=r"cannot export to 'wfbd' \(did you mean 'wfdb'\?\); formats: hf, npy, wfdb"):
        export(store.path, tmp_path / "x", to="wfbd", progress=False)
    with pytest.raises(EcglmError, match="no such segment-store"):
        export(tmp_path / "nothing" / "here", tmp_path / "x", to="npy", progress=False)
    prepare(FakeSource(num=3), FakePipeline(), tmp_path / "torn", progress=False)
    (tmp_path / "torn/shards/00000.i16").write_bytes(b"")
    with pytest.raises(TornOutputError, match=r"00000\.i16"):
        export(tmp_path / "torn", tmp_path / "x", to="npy", progress=False)
    assert not (tmp_path / "x").exists()


def test_disk_full_is_one_line(tmp_path, store, monkeypatch):
    def full_disk(file, mode="r", **options):
        return open("/dev/full" if str(file).endswith("fake_003_0.npy") else file, mode, **options)

    monkeypatch.setattr(export_files, "open", full_disk, raising=False)
    with pytest.raises(EcglmError, match=r"fake_003_0\.npy: no space left") as caught:
        export(store.path, tmp_path / "x", to="npy", progress=False)
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300))
def test_file_names_are_safe_whatever_the_id(segment_id):
    stem = file_stem(segment_id)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,120}", stem)
    assert Path("x", stem).parent == Path("x")


def test_names_of_files():
    assert file_stem("ptb-xl/00001#0") == "ptb-xl_00001_0"
    assert file_stem("../../etc/passwd#0") == "______etc_passwd_0"
    long = [file_stem("a" * 200 + tail) for tail in ("x", "y")]
    assert long[0] != long[1] and len(long[0]) <= 120


@dataclass(frozen=True, kw_only=True)
class Clashing(FakeSource):
    """Ids that differ only in what file names cannot show."""

    name: ClassVar[str] = "clash"

    def keys(self) -> list[str]:
        return ["clash/a b", "clash/A_b", "clash/../../up"]

    def read(self, key: str) -> Record:
        return replace(FakeSource(num=3).read("fake/001"), record_id=key)


@pytest.mark.parametrize("to", ["npy", "wfdb"])
def test_two_segments_of_one_file_name_are_an_error(tmp_path, to):
    prepare(Clashing(), FakePipeline(), tmp_path / "store", progress=False)
    with pytest.raises(EcglmError, match=r"'clash/a b#0' and 'clash/A_b#0' would both be written to 'clash_a_b_0'"):
        export(tmp_path / "store", tmp_path / "x", to=to, progress=False)
    assert export(tmp_path / "store", tmp_path / "hf", to="hf", progress=False).num_segments == 6


@pytest.mark.realdata
def test_real_records_through_wfdb_and_back(tmp_path, ptb_xl):
    from ecglm.records.ptb_xl import PtbXl

    wfdb = pytest.importorskip("wfdb")
    pipeline = get_pipeline("default", rate=250, seg_len=2500)
    prepare(PtbXl(root=ptb_xl, resolution="500"), pipeline, tmp_path / "store", limit=8, progress=False)
    export(tmp_path / "store", tmp_path / "w", to="wfdb", progress=False)
    exact = microvolts(SegmentStore(tmp_path / "store"))
    for name, expected in zip((tmp_path / "w/RECORDS").read_text().split(), exact, strict=True):
        np.testing.assert_array_equal(wfdb.rdrecord(str(tmp_path / "w" / name), physical=False).d_signal.T, expected)


@pytest.mark.parametrize("to", ["hf", "npy", "wfdb"])
def test_a_store_of_rejects_alone_gives_an_empty_export(tmp_path, to):
    source = FakeSource(num=2, bad=((0, "flat"), (1, "flat")))
    prepare(source, FakePipeline(), tmp_path / "store", max_reject=1, progress=False)
    summary = export(tmp_path / "store", tmp_path / "x", to=to, progress=False)
    assert (summary.num_segments, summary.num_files) == (0, 0)
    assert export(tmp_path / "store", tmp_path / "x", to=to, progress=False).reused
