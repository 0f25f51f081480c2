"""merge: shards of one plan become the single run's files, other stores one store that says where all comes from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import store_fakes
from store_fakes import FakePipeline, FakeSource, signal_of, tree

from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.store import merge as merge_module
from ecglm.store import merge_shards, writer
from ecglm.store.merge import merge
from ecglm.store.prepare import parse_shard, prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.verify import verify
from ecglm.types import Record

PIPELINE = FakePipeline()
#: Seven shards of 16 records (the last holds 4); rejects in the first, a middle and the last; two lost segments.
SOURCE = FakeSource(num=100, bad=((3, "flat"), (50, "flat"), (99, "too_short")), special=((4, 40.0), (70, 40.0)))


@dataclass(frozen=True, kw_only=True)
class OtherSource(FakeSource):
    """The same records under another name."""

    name: ClassVar[str] = "other"

    def keys(self) -> list[str]:
        return [key.replace("fake/", "other/") for key in super().keys()]

    def read(self, key: str) -> Record:
        record = super().read(key.replace("other/", "fake/"))
        return replace(record, record_id=key, patient_id=f"other/{record.patient_id}")

    def accounting(self) -> dict[str, list[str]]:
        return {"not_on_disk": ["other/y"]}


def prepare_shards(folder: Path, of: int, source: FakeSource = SOURCE) -> list[Path]:
    outs = [folder / f"part {number}" for number in range(1, of + 1)]
    for number, out in enumerate(outs, 1):
        prepare(source, PIPELINE, out, shard=f"{number}/{of}", max_reject=1, progress=False)
    return outs


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "store"
    prepare(SOURCE, PIPELINE, out, progress=False)
    return tree(out)


@pytest.fixture(scope="module")
def thirds(tmp_path_factory):
    return prepare_shards(tmp_path_factory.mktemp("thirds"), 3)


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    prepare(SOURCE, PIPELINE, folder / "fake", progress=False)
    prepare(OtherSource(num=40, bad=((0, "flat"),)), PIPELINE, folder / "other", progress=False)
    return folder / "fake", folder / "other"


@pytest.mark.parametrize("of", [1, 2, 7])
def test_the_shards_of_a_plan_merge_to_the_files_of_a_single_run(tmp_path, single, of):
    outs = prepare_shards(tmp_path, of)
    merge(outs[::-1], tmp_path / "whole", progress=False)  # in any order
    assert tree(tmp_path / "whole") == single
    records = [record for out in outs for record in SegmentStore(out).records()]
    assert records == [f"fake/{n:03d}" for n in range(100) if n not in (3, 50, 99)]


def test_a_shard_is_a_complete_store_of_whole_shard_files(thirds, single):
    shards = [bytes_ for name, bytes_ in single.items() if name.startswith("shards/")]
    found = []
    for number, out in enumerate(thirds, 1):
        report = verify(out)
        store = SegmentStore(out)
        assert store.manifest["settings"]["shard"] == {"number": number, "of": 3}
        assert report.num_records == store.manifest["counts"]["records"]
        first = store.row(0)
        np.testing.assert_allclose(store[0], signal_of(int(first["record_id"][-3:]))[:, :50], atol=5.1e-4)
        found += [bytes_ for name, bytes_ in tree(out).items() if name.startswith("shards/")]
    assert found == shards
    assert [len(SegmentStore(out).manifest["shard_segments"]) for out in thirds] == [2, 2, 3]


def test_a_shard_is_resumed_reused_and_told_apart(tmp_path, thirds):
    again = prepare(SOURCE, PIPELINE, thirds[1], shard="2/3", progress=False)
    assert again.reused and again.shard == "2/3" and "shard 2/3 of the whole" in "\n".join(again.lines())
    for shard in ("1/3", "2/4", None):
        with pytest.raises(StaleOutputError, match="--overwrite"):
            prepare(SOURCE, PIPELINE, thirds[1], shard=shard, progress=False)
    out = tmp_path / "killed"
    code = (
        "from dataclasses import replace\n"
        "from store_fakes import FakePipeline, FakeSource\n"
        "from ecglm.store.prepare import prepare\n"
        f"source = FakeSource(num=100, bad={SOURCE.bad}, special={SOURCE.special}, sleep_s=0.02)\n"
        f"prepare(source, FakePipeline(), {str(out)!r}, shard='2/3', progress=False)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=Path(store_fakes.__file__).parent)
    end = time.monotonic() + 30
    while not list(out.glob("parts/*.json")):
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (out / "manifest.json").exists()
    prepare(SOURCE, PIPELINE, out, shard="2/3", progress=False)
    assert tree(out) == tree(thirds[1])


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "a/b", "1/0", "-1/4", "1/4/2", "1.5/4", "١/٤", "1/99999999"])
def test_a_shard_that_is_none_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match=r"shard must be i/n .* such as 1/4") as caught:
        prepare(SOURCE, PIPELINE, tmp_path / "x", shard=text, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()
    assert parse_shard(" 4/4 ") == (4, 4)


def test_more_shards_than_files_is_a_clear_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"shard 2/8: the 100 records fill 7 shard files; use i/n with n up to 7"):
        prepare(SOURCE, PIPELINE, tmp_path / "x", shard="2/8", progress=False)


def test_missing_and_foreign_shards_are_named(tmp_path, thirds, two_sources):
    with pytest.raises(EcglmError, match=r"shard 2/3 of fake is missing among the 2 stores .* --shard 2/3"):
        merge([thirds[0], thirds[2]], tmp_path / "x", progress=False)
    (halves,) = prepare_shards(tmp_path / "halves", 1)
    with pytest.raises(EcglmError, match=r"another plan than .* \(other number of shards\)"):
        merge([thirds[0], halves], tmp_path / "x", progress=False)
    prepare(replace(SOURCE, num=96, bad=()), PIPELINE, tmp_path / "b", shard="2/3", progress=False)
    with pytest.raises(EcglmError, match=r"another plan than .* \(other keys, source\)"):
        merge([thirds[0], tmp_path / "b", thirds[2]], tmp_path / "x", progress=False)
    with pytest.raises(EcglmError, match=r"is shard 1/3 of a whole, .* is none; merge the shards"):
        merge([thirds[0], two_sources[1]], tmp_path / "x", progress=False)
    with pytest.raises(EcglmError, match="is the same store as"):
        merge([*thirds, thirds[0]], tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()


def test_stores_of_different_sources_become_one_with_provenance(tmp_path, two_sources):
    fake, other = (SegmentStore(path) for path in two_sources)
    summary = merge(two_sources, tmp_path / "both", progress=False)
    both = SegmentStore(tmp_path / "both")
    assert verify(both.path).num_records == 97 + 39
    assert len(both) == len(fake) + len(other)
    assert both.records() == fake.records() + other.records()
    for record in ("fake/000", "fake/070", "fake/098", "other/001", "other/039"):
        store = fake if record.startswith("fake") else other
        theirs, ours = store.segments_of(record), both.segments_of(record)
        np.testing.assert_array_equal(both.take(ours), store.take(theirs))
        for a, b in zip(theirs, ours, strict=True):
            rows = [
                {k: repr(v) for k, v in s.row(i).items() if k not in ("shard", "row")}  # NaN is not equal to NaN
                for s, i in ((store, a), (both, b))
            ]
            assert rows[0] == rows[1]
    manifest = both.manifest
    assert [(e["origin"], e["first_segment"], e["fingerprint"]) for e in manifest["merged"]] == [
        ("fake", 0, fake.fingerprint),
        ("other", len(fake), other.fingerprint),
    ]
    for entry, store in zip(manifest["merged"], (fake, other), strict=True):
        for name in ("settings", "inputs", "counts", "rejected", "rejected_segments", "accounting", "reports"):
            assert entry[name] == store.manifest[name], name
    assert manifest["settings"]["pipeline"] == fake.manifest["settings"]["pipeline"]
    assert manifest["counts"]["keys"] == 140 and manifest["rejected"] == {"flat": 3, "too_short": 1}
    assert manifest["accounting"] == {"fake/no_metadata": 2, "other/not_on_disk": 1}
    log = [json.loads(line) for line in (both.path / "rejects.jsonl").read_text().splitlines()]
    assert [(row["record_id"], row["origin"]) for row in log if "segment" not in row] == [
        *[(f"fake/{n:03d}", "fake") for n in (3, 50, 99)],
        ("other/000", "other"),
    ]
    assert sum("segment" in row for row in log) == 2
    text = "\n".join(summary.lines())
    assert "fake + other: 136 of 140 records kept" in text and "other/not_on_disk 1" in text
    assert str(tmp_path) not in (both.path / "manifest.json").read_text()  # no place of this machine in it


def test_a_merged_store_can_be_merged_again(tmp_path, two_sources):
    third = FakeSource(num=30, bad=((7, "flat"),))

    class Third(OtherSource):
        name = "fake"

        def keys(self):
            return [f"third/{n:03d}" for n in range(self.num)]

        def read(self, key):
            return replace(FakeSource.read(third, f"fake/{key[-3:]}"), record_id=key)

    prepare(Third(num=30), PIPELINE, tmp_path / "third", progress=False)
    merge(two_sources, tmp_path / "both", progress=False)
    merge([tmp_path / "third", tmp_path / "both"], tmp_path / "all", progress=False)
    manifest = SegmentStore(tmp_path / "all").manifest
    assert [(e["origin"], e["first_segment"]) for e in manifest["merged"]] == [
        ("fake", 0),
        ("fake-2", 58),
        ("other", 58 + 192),
    ]
    assert set(manifest["accounting"]) == {"fake/not_on_disk", "fake-2/no_metadata", "other/not_on_disk"}
    log = [json.loads(line) for line in (tmp_path / "all/rejects.jsonl").read_text().splitlines()]
    assert [row["origin"] for row in log] == ["fake", *["fake-2"] * 5, "other"]
    assert verify(tmp_path / "all").num_segments == 58 + 192 + 78


def test_many_shards_are_joined_so_that_a_reader_can_map_them(tmp_path, two_sources, monkeypatch):
    monkeypatch.setattr(merge_module, "MAX_SHARDS", 4)  # 7 + 3 shards come in
    merge(two_sources, tmp_path / "both", progress=False)
    both = SegmentStore(tmp_path / "both")
    assert len(both.manifest["shard_segments"]) == 4
    verify(both.path)
    expected = np.concatenate([SegmentStore(path)[:] for path in two_sources])
    np.testing.assert_array_equal(both[:], expected)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (FakePipeline(rate=200), r"rate 200, but .* has 100"),
        (FakePipeline(seg_len=25), r"seg_len 25, but .* has 50"),
        (FakePipeline(gain=2.0), r"pipeline gain 2.0, but .* has gain 1.0; prepare one of them again"),
        (FakePipeline(version=2), r"pipeline version 2, but .* has version 1"),
    ],
)
def test_stores_that_do_not_fit_are_refused(tmp_path, two_sources, pipeline, message):
    prepare(FakeSource(num=3), pipeline, tmp_path / "b", progress=False)
    with pytest.raises(EcglmError, match=message) as caught:
        merge([two_sources[1], tmp_path / "b"], tmp_path / "x", progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "x").exists()


def test_a_record_in_two_stores_is_refused(tmp_path, two_sources):
    prepare(FakeSource(num=3), PIPELINE, tmp_path / "b", progress=False)
    with pytest.raises(EcglmError, match=r"record id 'fake/000' is in .*fake and in .*b \(3 such ids\)"):
        merge([two_sources[0], tmp_path / "b"], tmp_path / "x", progress=False)


def test_merging_with_itself_alone_or_into_itself_is_refused(tmp_path, two_sources):
    fake, other = two_sources
    with pytest.raises(EcglmError, match="is the same store as"):
        merge([fake, other, fake], tmp_path / "x", progress=False)
    with pytest.raises(EcglmError, match="one store alone"):
        merge([fake], tmp_path / "x", progress=False)
    with pytest.raises(EcglmError, match="nothing to merge"):
        merge([], tmp_path / "x", progress=False)
    before = tree(fake)
    for out in (fake, fake.parent, fake / "inside"):
        with pytest.raises(EcglmError, match="choose another --out"):
            merge([fake, other], out, overwrite=True, progress=False)
    assert tree(fake) == before


@pytest.mark.parametrize("damage", ["manifest.json", "index.parquet", "rejects.jsonl", "shards/00001.i16", "rows"])
def test_a_torn_store_is_named_and_nothing_finished(tmp_path, two_sources, damage):
    prepare(FakeSource(num=40, bad=((1, "flat"),)), PIPELINE, tmp_path / "b", progress=False)
    file = tmp_path / "b" / ("manifest.json" if damage == "rows" else damage)
    if damage == "manifest.json":
        file.unlink()
    elif damage == "rows":  # the manifest's counts are not those of the index
        manifest = json.loads(file.read_text())
        manifest["shard_segments"] = manifest["shard_segments"][:-1]
        file.write_text(json.dumps(manifest))
    else:
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
    if damage == "rows":
        merge([two_sources[1], tmp_path / "b"], tmp_path / "x", progress=False)
        with pytest.raises(TornOutputError):
            verify(tmp_path / "x")
        return
    with pytest.raises(TornOutputError, match=r"b\b"):
        merge([two_sources[1], tmp_path / "b"], tmp_path / "x", progress=False)
    assert not (tmp_path / "x" / "manifest.json").exists()


def test_finished_is_reused_unfinished_goes_on_other_is_stale(tmp_path, two_sources, monkeypatch):
    out = tmp_path / "both"
    written: list[int] = []
    write = merge_shards._write_part

    def counted(folder, number, *rest):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(number)
        write(folder, number, *rest)

    monkeypatch.setattr(merge_shards, "_write_part", counted)
    with pytest.raises(KeyboardInterrupt):
        merge(two_sources, out, progress=False)
    with pytest.raises(TornOutputError, match="unfinished"):
        SegmentStore(out)
    written.clear()
    monkeypatch.setattr(merge_shards, "_write_part", lambda *a: (written.append(a[1]), write(*a)))
    assert not merge(two_sources, out, progress=False).reused
    assert written == [4, 5, 6, 7, 8, 9]
    merge(two_sources, tmp_path / "straight", progress=False)
    assert tree(out) == tree(tmp_path / "straight")
    assert merge(two_sources, out, progress=False).reused
    with pytest.raises(StaleOutputError, match="--overwrite"):
        merge(two_sources[::-1], out, progress=False)
    merge(two_sources[::-1], out, overwrite=True, progress=False)
    assert SegmentStore(out).records()[0] == "other/001"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(EcglmError, match="another --out"):
            merge(two_sources, tmp_path / "foreign", overwrite=overwrite, progress=False)


def test_disk_full_while_merging_names_the_file(tmp_path, two_sources, monkeypatch):
    def full_disk(file, mode="r", **options):
        return open("/dev/full" if "w" in mode and str(file).endswith("-00003.i16") else file, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(merge_shards, "open", full_disk, raising=False)
        with pytest.raises(EcglmError, match=r"00003\.i16: no space left") as caught:
            merge(two_sources, tmp_path / "both", progress=False)
    assert "\n" not in str(caught.value) and not list((tmp_path / "both").rglob(".tmp-*"))
    merge(two_sources, tmp_path / "both", progress=False)
    verify(tmp_path / "both")


def test_index_rows_come_in_small_batches(tmp_path, two_sources, monkeypatch, single):
    """Bounded memory: rows are read in batches that cross shards, and the result is the same."""
    merge(two_sources, tmp_path / "a", progress=False)
    monkeypatch.setattr(merge_shards, "_BATCH", 5)
    monkeypatch.setattr(merge_module, "_BATCH", 5)
    merge(two_sources, tmp_path / "b", progress=False)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert writer.part_names(0)[0].startswith("parts/") and not os.path.exists(tmp_path / "b" / "parts")


def test_a_store_of_rejects_alone_merges_too(tmp_path):
    rejected = FakeSource(num=3, bad=((0, "flat"), (1, "flat"), (2, "flat")))
    prepare(rejected, PIPELINE, tmp_path / "none", max_reject=1, progress=False)
    prepare(OtherSource(num=3), PIPELINE, tmp_path / "some", progress=False)
    for order, name in ((("none", "some"), "a"), (("some", "none"), "b")):
        summary = merge([tmp_path / part for part in order], tmp_path / name, progress=False)
        assert (summary.num_keys, summary.num_records, summary.reasons) == (6, 3, {"flat": 3})
        verify(tmp_path / name)
