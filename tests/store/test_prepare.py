"""prepare: same bytes however it is run, resumable, honest about rejects, clear about mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import store_fakes
from store_fakes import FakePipeline, FakeSource, tree

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.store import finish, progress, writer
from ecglm.store import prepare as prepare_module
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.verify import verify
from ecglm.types import Record

SOURCE, PIPELINE = store_fakes.SOURCE, FakePipeline()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "store"
    prepare(SOURCE, PIPELINE, out, progress=False)
    return tree(out)


def start_run(out: Path, workers: int = 1, sleep_s: float = 0.02) -> subprocess.Popen:
    command = [sys.executable, store_fakes.__file__, str(out), str(workers), str(sleep_s)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def kill(run: subprocess.Popen) -> list[str]:
    """kill -9; the processes that it leaves behind."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.send_signal(signal.SIGKILL)
    run.wait()
    return children


def gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def reject_log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def test_same_bytes_for_two_workers_and_another_place(tmp_path, uninterrupted):
    out = tmp_path / "änother place" / "store 2"
    prepare(SOURCE, PIPELINE, out, workers=2, progress=False)
    assert tree(out) == uninterrupted
    assert sorted(uninterrupted) == sorted(
        ["accounting.json", "index.parquet", "manifest.json", "plan.json", "rejects.jsonl"]
        + [f"shards/{n:05d}.i16" for n in range(6)]
    )


def test_the_manifest_says_what_made_the_store(uninterrupted):
    manifest = json.loads(uninterrupted["manifest.json"])
    settings = manifest["settings"]
    assert manifest["kind"] == "segment-store"
    assert settings["pipeline"] == {"name": "fake-cut", "version": 1, "rate": 100, "seg_len": 50, "gain": 1.0}
    assert (settings["rate"], settings["seg_len"], settings["units"]) == (100, 50, "uV")
    assert manifest["inputs"]["source"] == {**SOURCE.fingerprint(), "name": "fake", "version": "1"}
    assert set(manifest["outputs"]) == set(uninterrupted) - {"manifest.json", "plan.json"}


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_then_the_same_command_gives_the_same_files(tmp_path, uninterrupted, workers):
    out = tmp_path / "store"
    run = start_run(out, workers)
    wait_for(lambda: len(list(out.glob("parts/*.json"))) >= 2)
    orphans = kill(run)
    assert not (out / "manifest.json").exists()
    with pytest.raises(TornOutputError, match="unfinished"):
        SegmentStore(out)
    wait_for(lambda: all(map(gone, orphans)))  # they notice and leave
    finished = {note.stem for note in out.glob("parts/*.json")}
    assert 2 <= len(finished) < 6
    log = tmp_path / "read.log"
    summary = prepare(replace(SOURCE, read_log=str(log)), PIPELINE, out, progress=False)
    assert tree(out) == uninterrupted
    assert not summary.reused
    read_again = {int(key.split("/")[1]) // 16 for key in log.read_text().split()}
    assert read_again == {n for n in range(6) if f"{n:05d}" not in finished}


def test_a_worker_leaves_when_its_parent_is_killed(tmp_path):
    out = tmp_path / "store"
    run = start_run(out, workers=2, sleep_s=2.0)  # 32 s a shard: none can end by itself in the time of this test
    wait_for(lambda: len(list(out.glob("shards/.tmp-*"))) == 2)
    children = kill(run)
    assert len(children) >= 2
    wait_for(lambda: all(map(gone, children)), seconds=20)


def test_killed_before_the_end_was_tidied_up(tmp_path, uninterrupted):
    out = tmp_path / "store"
    prepare(SOURCE, PIPELINE, out, progress=False)
    (out / "parts").mkdir()
    (out / "parts" / "00000.json").write_text("{}")
    assert prepare(SOURCE, PIPELINE, out, progress=False).reused
    assert tree(out) == uninterrupted


@pytest.mark.parametrize("damaged", ["shards/00001.i16", "parts/00001.arrow"])
def test_a_finished_part_that_rotted_is_made_again(tmp_path, uninterrupted, monkeypatch, damaged):
    out = tmp_path / "store"

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(SOURCE, PIPELINE, out, progress=False)
    data = bytearray((out / damaged).read_bytes())
    data[100] ^= 1
    (out / damaged).write_bytes(data)
    log = tmp_path / "read.log"
    prepare(replace(SOURCE, read_log=str(log)), PIPELINE, out, progress=False)
    assert log.read_text().split() == [f"fake/{n:03d}" for n in range(16, 32)]
    assert tree(out) == uninterrupted


def test_two_processes_one_winner(tmp_path, uninterrupted):
    out = tmp_path / "store"
    run = start_run(out, sleep_s=0.01)
    wait_for(lambda: (out / "plan.json").exists())
    with pytest.raises(EcglmError, match="another process is working on it"):
        prepare(SOURCE, PIPELINE, out, progress=False)
    assert run.wait() == 0
    assert tree(out) == uninterrupted
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("full", ["shards/00003.i16", "parts/00003.arrow", "index.parquet", "rejects.jsonl"])
def test_disk_full_names_the_file_and_leaves_no_torn_one(tmp_path, uninterrupted, monkeypatch, full):
    out = tmp_path / "store"
    with monkeypatch.context() as patch:

        def full_disk(file, mode="r", **options):
            name = full.replace("/", os.sep).rsplit(os.sep, 1)[-1]
            return open("/dev/full" if "w" in mode and str(file).endswith(f"-{name}") else file, mode, **options)

        patch.setattr(writer, "open", full_disk, raising=False)
        with pytest.raises(EcglmError, match="no space left") as caught:
            prepare(SOURCE, PIPELINE, out, progress=False)
    assert str(out / full) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob(".tmp-*"))
    assert (out / "shards/00002.i16").read_bytes() == uninterrupted["shards/00002.i16"]
    prepare(SOURCE, PIPELINE, out, progress=False)
    assert tree(out) == uninterrupted


def test_a_mistake_in_a_worker_reaches_the_user(tmp_path):
    with pytest.raises(EcglmError, match="gave the record 'fake/other'"):
        prepare(FakeSource(num=40, misnamed=True), PIPELINE, tmp_path / "store", workers=2, progress=False)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_finished_is_reused_and_other_settings_are_stale(tmp_path):
    out = tmp_path / "store"
    log = tmp_path / "read.log"
    first = prepare(FakeSource(num=20), PIPELINE, out, progress=False)
    again = prepare(FakeSource(num=20, read_log=str(log)), PIPELINE, out, workers=2, progress=False)
    assert (first.reused, again.reused) == (False, True)
    assert not log.exists()
    assert (again.num_records, again.num_segments, again.num_keys) == (20, 40, 20)
    others = [
        (FakeSource(num=21), PIPELINE, None),
        (FakeSource(num=20), FakePipeline(version=2), None),
        (FakeSource(num=20), FakePipeline(gain=2.0), None),
        (FakeSource(num=20), PIPELINE, 5),
    ]
    for source, pipeline, limit in others:
        with pytest.raises(StaleOutputError, match="--overwrite"):
            prepare(source, pipeline, out, limit=limit, progress=False)
    prepare(FakeSource(num=20), FakePipeline(version=2), out, overwrite=True, progress=False)
    assert SegmentStore(out).manifest["settings"]["pipeline"]["version"] == 2


def test_a_finished_store_that_lost_a_shard_is_not_reused(tmp_path):
    out = tmp_path / "store"
    prepare(FakeSource(num=20), PIPELINE, out, progress=False)
    (out / "shards/00001.i16").unlink()
    with pytest.raises(TornOutputError, match=r"00001\.i16: missing"):
        prepare(FakeSource(num=20), PIPELINE, out, progress=False)
    prepare(FakeSource(num=20), PIPELINE, out, overwrite=True, progress=False)
    verify(out)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(EcglmError, match="another --out"):
            prepare(FakeSource(), PIPELINE, tmp_path, overwrite=overwrite, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_limit_takes_the_first_records(tmp_path):
    summary = prepare(FakeSource(num=40), PIPELINE, tmp_path / "store", limit=7, progress=False)
    assert (summary.num_keys, summary.num_records, summary.num_segments) == (7, 7, 14)
    assert SegmentStore(tmp_path / "store").records() == [f"fake/{n:03d}" for n in range(7)]


def test_d28_eight_bad_files_have_eight_reasons(tmp_path):
    reasons = [
        "signal_missing",
        "signal_truncated",
        "header_corrupt",
        "too_short",
        "flat",
        "lead_missing",
        "gain_missing",
        "unsafe",
    ]
    bad = tuple((5 * i, reason) for i, reason in enumerate(reasons))
    out = tmp_path / "store"
    summary = prepare(FakeSource(num=40, bad=bad), PIPELINE, out, max_reject=0.2, progress=False)
    expected = [*reasons[:-1], "unsafe_file_name"]
    rows = reject_log(out)
    assert [(row["record_id"], row["reason"]) for row in rows] == [
        (f"fake/{5 * i:03d}", reason) for i, reason in enumerate(expected)
    ]
    assert all(set(row) == {"record_id", "stage", "reason", "detail"} and row["stage"] == "read" for row in rows)
    assert "'../x.dat'" in rows[-1]["detail"]
    assert summary.num_keys == summary.num_records + summary.num_rejected == 40
    assert summary.reasons == dict.fromkeys(expected, 1)
    assert summary.accounting == {"no_metadata": 2}
    text = "\n".join(summary.lines())
    assert "32 of 40 records" in text and "rejected records: 8 (20.0%)" in text and "no_metadata 2" in text
    store = SegmentStore(out)
    assert len(store) == 64 and store.segments_of("fake/005") == []


@dataclass(frozen=True, kw_only=True)
class Reported(FakeSource):
    """Reports as ``states`` says, one per record; everything else as the fake source has it."""

    states: tuple[tuple[str, str, str], ...] = ()

    def read(self, key: str) -> Record:
        record = super().read(key)
        report, english, origin = self.states[int(key[-3:])]
        return replace(record, report=report, report_en=english, report_origin=origin)


def test_the_summary_says_how_many_reports_are_empty_or_untranslated(tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "_BATCH", 3)  # batches end within records
    states = [
        *[("sinus rhythm", "sinus rhythm", "original")] * 3,
        *[("Sinusrhythmus", "sinus rhythm", "phrases")] * 4,
        *[("Verdacht auf", "suspected", "model:some/name")] * 2,
        *[("unklarer Befund", "", "")] * 5,
        *[("", "", ""), (" ", "", "")],
        ("this record is rejected", "", ""),
    ]
    source = Reported(num=17, states=tuple(states), bad=((16, "flat"),))
    summary = prepare(source, PIPELINE, tmp_path / "store", max_reject=1, progress=False)
    expected = {"with_text": 14, "empty": 2, "english": 3, "phrases": 4, "model": 2, "untranslated": 5}
    assert SegmentStore(tmp_path / "store").manifest["reports"] == summary.reports == expected
    text = "\n".join(summary.lines())
    assert "reports: 14 with text, 3 English, 4 by phrases, 2 by a model, 5 remain untranslated, 2 empty" in text
    assert len(SegmentStore(tmp_path / "store").segments_of("fake/014")) == 2  # kept: its signal is good


def test_without_any_report_the_summary_does_not_speak_of_them(tmp_path):
    source = Reported(num=3, states=(("", "", ""),) * 3)
    summary = prepare(source, PIPELINE, tmp_path / "store", progress=False)
    assert summary.reports["empty"] == 3 and not any("reports:" in line for line in summary.lines())


def test_too_many_rejects_fail_at_the_end_and_again(tmp_path):
    out = tmp_path / "store"
    source = FakeSource(num=40, bad=((1, "flat"), (2, "flat"), (3, "too_short")))
    for _ in range(2):
        with pytest.raises(EcglmError, match=r"3 of 40 records rejected \(7\.5%.*flat 2, too_short 1") as caught:
            prepare(source, PIPELINE, out, progress=False)
        assert str(out / "rejects.jsonl") in str(caught.value)
        assert verify(out).num_records == 37  # finished all the same
    assert prepare(source, PIPELINE, out, max_reject=0.075, progress=False).reused


def test_segments_that_cannot_be_stored_are_rejected_alone(tmp_path):
    out = tmp_path / "store"
    source = FakeSource(num=20, special=((4, 40.0), (6, float("nan"))))
    summary = prepare(source, PIPELINE, out, progress=False)
    assert [(r["record_id"], r["segment"], r["reason"], r["stage"]) for r in reject_log(out)] == [
        ("fake/004", 0, "amplitude_overflow", "store"),
        ("fake/006", 0, "nan_in_segment", "store"),
    ]
    assert (summary.num_records, summary.num_segments, summary.num_rejected_segments) == (20, 38, 2)
    store = SegmentStore(out)
    assert [store.row(i)["segment_id"] for i in store.segments_of("fake/004")] == ["fake/004#1"]
    assert all(np.isfinite(store[i]).all() for i in range(len(store)))


def test_a_record_without_a_storable_segment_is_rejected_whole(tmp_path):
    out = tmp_path / "store"
    source = FakeSource(num=20, special=((4, 40.0),), num_samples=50)
    summary = prepare(source, PIPELINE, out, progress=False)
    assert (summary.num_rejected, summary.num_rejected_segments, summary.num_segments) == (1, 0, 19)
    assert reject_log(out)[0]["reason"] == "amplitude_overflow" and "segment" not in reject_log(out)[0]
    empty = prepare(FakeSource(num=3, num_samples=10), PIPELINE, tmp_path / "empty", max_reject=1, progress=False)
    assert empty.reasons == {"no_segments": 3} and len(SegmentStore(tmp_path / "empty")) == 0
    verify(tmp_path / "empty")


def test_metadata_that_json_does_not_know_is_a_reject(tmp_path):
    source = FakeSource(num=3, metadata={"age": float("nan")})
    summary = prepare(source, PIPELINE, tmp_path / "store", max_reject=1.0, progress=False)
    assert summary.reasons == {"metadata_invalid": 3}


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        (FakeSource(num=0), {}, EcglmError, "no records found"),
        (FakeSource(duplicate=True), {}, EcglmError, "'fake/000' stands twice"),
        (FakeSource(), {"workers": 0}, ConfigError, "workers"),
        (FakeSource(), {"limit": 0}, ConfigError, "limit"),
        (FakeSource(), {"max_reject": 1.5}, ConfigError, "max_reject"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path, source, options, kind, message):
    with pytest.raises(kind, match=message):
        prepare(source, PIPELINE, tmp_path / "store", progress=False, **options)
    assert not (tmp_path / "store").exists()


def test_progress_in_a_log_is_lines_all_the_way(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)
    prepare(FakeSource(num=40, bad=((2, "flat"),), sleep_s=0.01), PIPELINE, tmp_path / "store")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "prepare fake: 40 records"
    assert len(lines) >= 5 and all("records/s" in line and "s left" in line for line in lines[1:-1])
    assert lines[-1].startswith("prepare fake: 40/40 records") and lines[-1].endswith("1 rejected")


def test_memory_does_not_grow_with_the_number_of_records(tmp_path):
    pipeline = FakePipeline(seg_len=2000)

    def peak(num: int) -> int:
        tracemalloc.start()
        prepare(FakeSource(num=num, num_samples=8000), pipeline, tmp_path / str(num), progress=False)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(4)
    assert peak(64) < 1.3 * peak(16)


def test_an_unfinished_run_of_another_plan_can_be_replaced(tmp_path):
    out = tmp_path / "store"
    out.mkdir()
    files.write_json(out / "plan.json", {"kind": "segment-store", "fingerprint": "of another plan"})
    files.write_bytes(out / "shards" / "00000.i16", b"begun")
    with pytest.raises(StaleOutputError):
        prepare(FakeSource(), PIPELINE, out, progress=False)
    prepare(FakeSource(), PIPELINE, out, overwrite=True, progress=False)
    assert verify(out).num_records == 40
