"""The preference file stays whole whatever happens to its writers, and what people said can be learned from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.samples import Samples
from ecglm.demo.shown import Origin, Shown
from ecglm.demo.talk import ModelName, Talk
from ecglm.demo.uploads import read_upload
from ecglm.errors import EcglmError
from ecglm.files import read_jsonl
from ecglm.prompts.people import people
from ecglm.records.synthetic import Synthetic
from ecglm.store.reader import SegmentStore
from ecglm.training.pairs import Splits
from ecglm.training.preferences import read_pairs
from ecglm.types import Conversation

TWO = (ModelName("a", "f1"), ModelName("b", "f2"))
STORE = Origin("store", "ptb-xl/00009", "store-f", ("ptb-xl/4711", "ptb-xl/00009"), "train")
FIELDS = (
    *("version", "id", "source", "turns", "ecgs", "split", "people", "chosen", "rejected", "answer", "thumb"),
    *("model", "other"),
)


def shown(origin: Origin = Origin(), size: float = 1.0) -> Shown:  # noqa: B008 - frozen
    values = np.round(size * np.sin(np.arange(12 * 2500)).reshape(1, 12, 2500), 3).astype(np.float32)
    return Shown("smith 12-May-2020.hea", prepared=values, origin=origin)


def asked(*ecgs: Shown, texts: tuple[str, str] = ("Sinus rhythm.", "Atrial fibrillation.")) -> Talk:
    talk = Talk(TWO)
    for ecg in ecgs or (shown(),):
        talk.add_ecg(ecg)
    for model, answers in enumerate(talk.ask("What is the rhythm?").answers):
        talk.answered(answers[0].id, texts[model])
    return talk


def answer_ids(talk: Talk) -> list[str]:
    return [answers[-1].id for answers in talk.questions[-1].answers]


@pytest.fixture
def log(tmp_path: Path) -> PreferenceLog:
    return PreferenceLog(tmp_path / "kept" / "preferences.jsonl")


# --- rows


def test_a_thumb_is_the_contracts_row(log):
    talk = asked(shown(STORE))
    row = log.thumb(talk, answer_ids(talk)[0], 1)
    assert tuple(sorted(row)) == tuple(sorted(FIELDS)) and read_jsonl(log.path) == [row] == log.rows()
    assert (row["version"], row["source"], row["thumb"], row["answer"]) == (1, "thumbs", 1, "Sinus rhythm.")
    assert row["chosen"] is row["rejected"] is row["other"] is None
    assert row["turns"] == [{"role": "user", "text": "<ecg>\nWhat is the rhythm?"}]
    assert row["model"] == {"name": "a", "fingerprint": "f1"} and row["split"] == "train"
    [ecg] = row["ecgs"]
    values = np.rint(shown().segments[0].astype(np.float64) * 1000).astype("<i2")
    assert ecg == {
        "record": "ptb-xl/00009",
        "store": "store-f",
        "file": None,
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        "rate": 250,
        "segment": 0,
    }
    hashed = people([Conversation("1", "c", "t", "train", ("ptb-xl/00009",), ("ptb-xl/4711",), ())])
    assert sorted(map(int, row["people"])) == hashed.tolist()


def test_p23_nothing_of_the_patient_is_in_the_file(log):
    talk = asked(shown(STORE), shown())
    log.correct(talk, answer_ids(talk)[0], "Paced.", keep=True)
    text = log.path.read_text() + " ".join(p.name for p in log.path.parent.rglob("*"))
    assert not any(word in text for word in ("4711", "smith", "May", str(log.path.parent)))


def test_corrections_and_comparisons_are_pairs(log):
    talk = asked()
    one, two = answer_ids(talk)
    row = log.correct(talk, one, "  A <ecg> with\r\nsinus rhythm, 64 bpm. ")
    assert (row["chosen"], row["rejected"]) == ("A [ecg] with\nsinus rhythm, 64 bpm.", "Sinus rhythm.")
    row = log.compare(talk, two, one)
    assert (row["chosen"], row["rejected"]) == ("Atrial fibrillation.", "Sinus rhythm.")
    assert (row["model"]["name"], row["other"]["name"]) == ("b", "a")
    new = talk.again(one)
    talk.answered(new.id, "Paced.")
    row = log.compare(talk, new.id, one)
    assert row["model"] == row["other"] == {"name": "a", "fingerprint": "f1"}


def test_what_cannot_be_judged_is_one_line_and_no_row(log):
    talk = asked(texts=("Same.", " Same. "))
    one, two = answer_ids(talk)
    waiting = talk.ask("And the axis?").answers[0][0].id
    for act, said in [
        (lambda: log.thumb(talk, waiting, 1), "no complete answer"),
        (lambda: log.thumb(talk, one, 2), "1, -1 or nothing"),
        (lambda: log.thumb(Talk(TWO), one, 1), "no such answer"),
        (lambda: log.correct(talk, one, " Same."), "is the answer itself"),
        (lambda: log.correct(talk, one, " "), "the correction is empty"),
        (lambda: log.compare(talk, one, two), "both answers are the same"),
        (lambda: log.compare(talk, one, one), "two different answers"),
    ]:
        with pytest.raises(EcglmError, match=said):
            act()
    assert log.rows() == []


@pytest.mark.parametrize(
    ("splits", "expected"),
    [(("train",), "train"), (("train", "test"), "test"), (("val", "train"), "val"), (("train", ""), ""), (("",), "")],
)
def test_d10_a_row_has_the_split_of_the_worst_of_its_ecgs(log, splits, expected):
    origins = [Origin("store", f"db/{n}", "f", (), split) for n, split in enumerate(splits)]
    talk = asked(*(shown(o, n + 1) for n, o in enumerate(origins)))
    assert log.thumb(talk, answer_ids(talk)[0], 1)["split"] == expected


# --- ECGs


def test_p23_an_upload_is_kept_only_when_the_user_agreed(log):
    talk = asked()
    assert log.thumb(talk, answer_ids(talk)[0], 1)["ecgs"][0]["file"] is None
    assert not (log.path.parent / "ecgs").exists()
    [ecg] = log.thumb(talk, answer_ids(talk)[0], 1, keep=True)["ecgs"]
    kept = np.load(log.path.parent / ecg["file"], allow_pickle=False)
    assert kept.dtype == np.dtype("<i2") and kept.shape == (12, 2500)
    assert hashlib.sha256(kept.tobytes("C")).hexdigest() == ecg["sha256"] == Path(ecg["file"]).stem
    np.testing.assert_array_equal(kept, np.rint(shown().segments[0].astype(np.float64) * 1000))
    assert [p.name for p in (log.path.parent / "ecgs").iterdir()] == [f"{ecg['sha256']}.npy"]


@pytest.mark.parametrize(("origin", "kept"), [(STORE, False), (Origin("synthetic", "synthetic/s0-p1-1"), True)])
def test_store_ecgs_are_named_and_synthetic_ones_always_kept(log, origin, kept):
    talk = asked(shown(origin))
    assert (log.thumb(talk, answer_ids(talk)[0], 1, keep=not kept)["ecgs"][0]["file"] is not None) == kept


def test_a_picture_is_named_by_its_pixels_and_not_kept(log):
    picture = np.zeros((20, 30, 3), np.uint8)
    talk = asked(Shown("x.png", picture=picture))
    [ecg] = log.thumb(talk, answer_ids(talk)[0], 1, keep=True)["ecgs"]
    assert (ecg["file"], ecg["rate"]) == (None, None)
    assert ecg["sha256"] == hashlib.sha256(picture.tobytes()).hexdigest()


def test_p23_files_are_the_owners_alone(log):
    talk = asked()
    log.thumb(talk, answer_ids(talk)[0], 1, keep=True)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in log.path.parent.rglob("*")}
    assert modes.pop("preferences.jsonl") == 0o600 and modes.pop("ecgs") == 0o700 and set(modes.values()) == {0o600}


# --- what ecglm align makes of it


def test_align_reads_what_people_said(log):
    """The round trip: every kind of row, and a mind that was changed."""
    talk = asked(shown(STORE))
    one, two = answer_ids(talk)
    log.thumb(talk, one, -1)
    log.thumb(talk, one, 1)
    log.thumb(talk, two, -1)
    log.correct(talk, two, "Sinus rhythm, 64 bpm.", keep=True)
    log.compare(talk, one, two)
    other = asked(shown(size=0.5), texts=("One.", "Two."))
    log.correct(other, answer_ids(other)[0], "Better.", keep=True)
    log.thumb(other, answer_ids(other)[1], 1)
    log.thumb(other, answer_ids(other)[1], None)
    found = read_pairs([log.path])
    pairs = {(p.source, p.chosen, p.rejected) for p in found.pairs}
    assert pairs == {
        ("thumbs", "Sinus rhythm.", "Atrial fibrillation."),
        ("correction", "Sinus rhythm, 64 bpm.", "Atrial fibrillation."),
        ("compare", "Sinus rhythm.", "Atrial fibrillation."),
        ("correction", "Better.", "One."),
    }
    assert Counter(r["reason"] for r in found.refused) == {"replaced": 2, "no_pair": 1}
    assert found.num_rows == 8 and found.paired_rows == 5
    uploaded = next(p for p in found.pairs if p.chosen == "Better.")
    [ecg] = uploaded.ecgs
    assert ecg.rate == 250 and ecg.file is not None
    kept = np.load(ecg.folder / ecg.file, allow_pickle=False)
    assert hashlib.sha256(kept.tobytes()).hexdigest() == ecg.sha256
    named = next(p for p in found.pairs if p.source == "compare")
    assert named.ecgs[0].record == "ptb-xl/00009" and len(named.people) == 2
    assert [t.text for t in named.turns] == ["<ecg>\nWhat is the rhythm?"]


def test_d10_align_refuses_held_out_samples_and_uploads_of_the_same_ecgs(world, tmp_path):
    """Somebody rates a sample of each split, and drops the file of each as well."""
    store = SegmentStore(world.store)
    splits = {record: c.split for c in world.conversations() for record in c.ecgs}
    source, log = Synthetic(num_patients=12, seed=3), PreferenceLog(tmp_path / "p.jsonl")
    samples, known = Samples([store], splits=splits, count=6), Splits([store], [str(world.data)])
    for number, sample in enumerate(samples.all()):
        taken = samples.get(sample.title)
        record = source.read(taken.origin.record)
        np.savez(tmp_path / f"{number}.npz", signal=record.signal, rate=500, units="mV", leads=np.array(record.leads))
        dropped = read_upload([tmp_path / f"{number}.npz"], folder=tmp_path, pipeline=taken.pipeline)
        assert dropped.sha256() == taken.sha256() and dropped.origin == Origin()
        for ecg in (taken, dropped):
            talk = asked(ecg)
            log.compare(talk, *answer_ids(talk), keep=True)
    found = read_pairs([log.path], known.check)
    refused = Counter(r["reason"] for r in found.refused)
    assert refused == {"split_test": 4, "split_val": 4} and len(found.pairs) == 4


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=200), answer=st.text(min_size=1, max_size=200))
def test_any_text_survives_the_file(tmp_path_factory, text, answer):
    log = PreferenceLog(tmp_path_factory.mktemp("log") / "p.jsonl")
    talk = asked(texts=(answer, "x"))
    try:
        row = log.correct(talk, answer_ids(talk)[0], text)
    except EcglmError:
        return
    assert log.rows() == [row] and len(log.path.read_bytes().split(b"\n")) == 2
    pairs = read_pairs([log.path]).pairs
    assert [p.chosen for p in pairs] == [row["chosen"].strip()]


# --- the file

WRITER = """
import sys
from ecglm.demo.preferences import PreferenceLog
log, name = PreferenceLog(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
number = 0
while number < int(sys.argv[3]):
    log.add({"id": f"{name}-{number}", "text": name * 3000})
    print(number, flush=True)
    number += 1
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_p23_several_processes_and_threads_write_whole_rows(tmp_path):
    path = tmp_path / "p.jsonl"
    processes = [writer(path, name, 40) for name in "ab"]
    log = PreferenceLog(path)
    go(processes)

    def write(name: str) -> None:
        for number in range(40):
            log.add({"id": f"{name}-{number}", "text": name * 3000})

    threads = [threading.Thread(target=write, args=(name,)) for name in "cd"]
    [t.start() for t in threads], [t.join() for t in threads]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    rows = read_jsonl(path)
    assert Counter(row["id"] for row in rows) == {f"{n}-{k}": 1 for n in "abcd" for k in range(40)}
    assert all(row["text"] == row["id"][0] * 3000 for row in rows)
    for name in "abcd":  # each writer's rows in its order
        assert [r["id"] for r in rows if r["id"][0] == name] == [f"{name}-{k}" for k in range(40)]


def test_p23_a_writer_waits_for_one_in_the_middle_of_a_row(tmp_path):
    log = PreferenceLog(tmp_path / "p.jsonl")
    other = os.open(log.path, os.O_WRONLY | os.O_APPEND)
    fcntl.flock(other, fcntl.LOCK_EX)
    os.write(other, b'{"id": "first ')
    threads = [
        threading.Thread(target=log.add, args=({"id": "second"},), daemon=True),
        threading.Thread(target=PreferenceLog, args=(log.path,), daemon=True),
    ]
    [t.start() for t in threads]
    threads[0].join(0.2)
    assert all(t.is_alive() for t in threads)
    os.write(other, b'half"}\n')
    os.close(other)
    [t.join(10) for t in threads]
    assert [r["id"] for r in read_jsonl(log.path)] == ["first half", "second"]


def test_a_killed_writer_loses_no_row_it_had_told_of(tmp_path):
    path = tmp_path / "p.jsonl"
    process = writer(path, "a", 100_000)
    go([process])
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines() if line]
    process.wait()
    log = PreferenceLog(path)
    log.add({"id": "after"})
    ids = [row["id"] for row in read_jsonl(path)]
    assert ids[: len(told)] == [f"a-{k}" for k in range(len(told))] and ids[-1] == "after" and len(ids) <= len(told) + 2


@pytest.mark.parametrize(
    "tail", ['{"id": "torn", "te', "{", '"text"', "12", "\0\0\0\0", "x" * 200_000, '{"a": "\udcff']
)
def test_a_torn_tail_is_mended_at_open_and_before_a_row(tmp_path, tail):
    path = tmp_path / "p.jsonl"
    data = tail.encode(errors="surrogateescape")
    whole = b'{"id": "1"}\n' + b'{"id": "2", "text": "' + b"y" * 100_000 + b'"}\n'
    path.write_bytes(whole + data)
    log = PreferenceLog(path)
    assert path.read_bytes() == whole
    with open(path, "ab") as file:  # another writer, of an older kind, dies
        file.write(data)
    log.add({"id": "3"})
    assert [r["id"] for r in read_jsonl(path)] == ["1", "2", "3"]


@pytest.mark.parametrize("before", ["", '{"id": "0"}\n'])
def test_a_whole_row_without_its_line_break_is_kept(tmp_path, before):
    (tmp_path / "p.jsonl").write_text(before + '{"id": "1"}')
    log = PreferenceLog(tmp_path / "p.jsonl")
    log.add({"id": "2"})
    assert [r["id"] for r in read_jsonl(log.path)][-2:] == ["1", "2"]
    assert log.path.read_text().startswith(before)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    log = PreferenceLog(tmp_path / "p.jsonl")
    log.add({"id": "1"})
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(EcglmError, match=r"p\.jsonl: cannot be written"):
            log.add({"id": "2", "text": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.path.read_bytes() == before
    log.add({"id": "3"})
    assert [r["id"] for r in log.rows()] == ["1", "3"]


def test_places_that_cannot_be_written_are_told_at_once(tmp_path):
    with pytest.raises(EcglmError, match="is a folder"):
        PreferenceLog(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EcglmError):
        PreferenceLog(tmp_path / "file" / "p.jsonl")


def test_values_that_json_has_not_are_refused(log):
    with pytest.raises(ValueError, match="JSON"):
        log.add({"id": float("nan")})
    assert log.rows() == []


def test_rows_hold_no_clock_and_no_place(tmp_path):
    """Two logs in two folders: the same but for the ids nobody can guess."""
    texts = []
    for name in ("one", "two/deeper"):
        log = PreferenceLog(tmp_path / name / "p.jsonl")
        talk = asked()
        row = log.thumb(talk, answer_ids(talk)[0], 1, keep=True)
        texts.append(json.dumps({**row, "id": ""}))
        assert sorted(os.listdir(log.path.parent)) == ["ecgs", "p.jsonl"]
    assert texts[0] == texts[1]
