"""Preparing the subsets: the published layout, original bytes, resuming, hostile sources, drawings from recordings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench_data import picture, rows, talk, write_parquet, write_source
from PIL import Image

from ecglm.cli import main
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.evaluation.ecgbench import pictures
from ecglm.evaluation.ecgbench.gold import read_gold
from ecglm.evaluation.ecgbench.prepare import prepare_ecgbench
from ecglm.evaluation.ecgbench.subsets import SUBSETS
from ecglm.files import read_jsonl, read_manifest
from ecglm.records.picture_files import read_picture
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from small_bench import FakePtbXl
from tiny_world import tree


def quiet(text):
    """No progress lines."""


def made(source, out, **options):
    return prepare_ecgbench(source, out, say=quiet, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"), 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six recordings of 10 s under names of PTB-XL."""
    folder = tmp_path_factory.mktemp("store") / "s"
    source = FakePtbXl(num_patients=6, seed=5, records_per_patient=(1, 1))
    prepare(source, get_pipeline("default", rate=100, seg_len=1000), folder, progress=False)
    return folder


def test_all_nine_subsets_in_the_published_layout_with_original_bytes(source, tmp_path):
    found = made(source, tmp_path / "out")
    assert set(found.items) == set(SUBSETS) and set(found.items.values()) == {5}
    for subset, items in rows(5).items():
        told = json.loads((tmp_path / "out" / f"{subset}.json").read_text())
        assert [list(item) for item in told] == [["id", "image", "conversations"]] * 5
        assert [i["id"] for i in told] == [i["id"] for i in items]
        assert [i["conversations"] for i in told] == [i["conversations"] for i in items]
        table = pq.read_table(source / subset).to_pylist()
        for item, row in zip(told, table, strict=True):
            assert (tmp_path / "out" / "images" / item["image"]).read_bytes() == row["image"]["bytes"]
        assert len(read_gold(tmp_path / "out", subset)) == 5
    assert (tmp_path / "out" / "rejects.jsonl").read_text() == ""


def test_p19_two_runs_are_byte_equal_in_the_datasets_order(source, tmp_path):
    made(source, tmp_path / "a")
    for subset in ("arena", "ptb-test", "code15-test"):  # in parts, in another order
        made(source, tmp_path / "b", subsets=[subset])
    made(source, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    backwards = list(reversed(rows(5)["ptb-test"]))
    write_parquet(tmp_path / "src", "ptb-test", backwards)
    made(tmp_path / "src", tmp_path / "c")
    ids = [item["id"] for item in json.loads((tmp_path / "c" / "ptb-test.json").read_text())]
    assert ids == [item["id"] for item in backwards]


def test_several_parquet_files_are_read_by_name(tmp_path):
    items = rows(4)["ptb-test"]
    first = write_parquet(tmp_path / "src", "ptb-test", items[2:])
    first.rename(first.with_name("test-00001-of-00002.parquet"))
    path = write_parquet(tmp_path / "src", "ptb-test", items[:2])
    path.rename(path.with_name("test-00000-of-00002.parquet"))
    made(tmp_path / "src", tmp_path / "out")
    assert [i.id for i in read_gold(tmp_path / "out", "ptb-test")] == [i["id"] for i in items]


def test_json_and_json_lines_with_pictures_beside_them(tmp_path):
    items = rows(2)["ptb-test"]
    (tmp_path / "src" / "images" / "ptb-xl").mkdir(parents=True)
    (tmp_path / "src" / "ptb-xl").mkdir()
    for n, place in enumerate(("images/ptb-xl", "ptb-xl")):
        (tmp_path / "src" / place / f"0000{n + 1}_hr-0.png").write_bytes(picture(n))
    (tmp_path / "src" / "ptb-test.json").write_text(json.dumps(items))
    old = [
        {"id": f"ptb-report-{n}-0", "image": i["image_path"], "conversation": talk("q", "a")}
        for n, i in enumerate(items)
    ]
    (tmp_path / "src" / "ptb-test-report.jsonl").write_text("".join(json.dumps(i) + "\n" for i in old))
    found = made(tmp_path / "src", tmp_path / "out")
    assert found.items == {"ptb-test": 2, "ptb-test-report": 2}
    assert (tmp_path / "out" / "images" / "ptb-xl" / "00002_hr-0.png").read_bytes() == picture(1)
    alone = made(tmp_path / "src" / "ptb-test.json", tmp_path / "alone")
    assert alone.items == {"ptb-test": 2}


def bomb():
    """A PNG that says it has 60,000 x 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


HOSTILE = [
    ("../../evil.png", None, "image_path_unsafe"),
    ("/etc/evil.png", None, "image_path_unsafe"),
    ("a/./b.png", None, "image_path_unsafe"),
    ("C:evil.png", None, "image_path_unsafe"),
    ("a\\..\\evil.png", None, "image_path_unsafe"),
    ("~root/evil.png", None, "image_path_unsafe"),
    ("a\x00b.png", None, "image_path_unsafe"),
    ("x" * 300 + ".png", None, "image_path_unsafe"),
    ("good/0.png", b"not a picture", "image_corrupt"),
    ("good/1.png", picture(1)[:60], "image_corrupt"),
    ("good/2.png", bomb(), "image_too_large"),
    ("good/3.png", b"", "image_corrupt"),
    ("good/4.png", "missing", "image_missing"),
    ("taken.png", picture(2), "image_path_taken"),
    ("taken.png/below.png", picture(2), "image_path_taken"),
]


def test_hostile_sources_lose_the_item_never_a_file_elsewhere(tmp_path):
    good = [("taken.png", picture(0), "")]
    items, cells = [], []
    for n, (path, data, _) in enumerate(good + HOSTILE):
        items.append({"id": f"i{n}", "image_path": path, "conversations": talk("q", "MI")})
        cells.append({"bytes": picture(n) if data is None else None if data == "missing" else data, "path": None})
    write_parquet(tmp_path / "src", "ptb-test", items, cells)
    outside = set(tmp_path.rglob("*"))
    found = made(tmp_path / "src", tmp_path / "x" / "out")
    assert found.items == {"ptb-test": 1}
    rejects = read_jsonl(tmp_path / "x" / "out" / "rejects.jsonl")
    assert [row["reason"] for row in rejects] == [reason for _, _, reason in HOSTILE]
    assert [row["position"] for row in rejects] == list(range(1, len(HOSTILE) + 1))
    counted = found.rejects["ptb-test"]
    assert sum(counted.values()) == len(HOSTILE) and counted["image_path_unsafe"] == 8
    assert "15 left out" in found.lines()[0] and "2082 are published" in found.lines()[0]
    new = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")} - {
        p.relative_to(tmp_path).parts[0] for p in outside
    }
    assert new == {"x"}
    assert [p.name for p in (tmp_path / "x" / "out" / "images").rglob("*") if p.is_file()] == ["taken.png"]


def test_links_out_of_the_source_are_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(1))
    (tmp_path / "src" / "images").mkdir(parents=True)
    (tmp_path / "src" / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "src" / "images" / "b.png").write_bytes(picture(2))
    items = [{"id": n, "image": f"{n}.png", "conversations": talk("q", "MI")} for n in "ab"]
    (tmp_path / "src" / "ptb-test.json").write_text(json.dumps(items))
    found = made(tmp_path / "src", tmp_path / "out")
    assert found.rejects["ptb-test"] == {"image_path_unsafe": 1}


def test_items_of_another_form_are_counted(tmp_path):
    good = {"id": "g", "image": "g.png", "conversations": talk("q", "MI")}
    bad = [
        ("missing_id", {"image": "a.png", "conversations": talk("q", "MI")}),
        ("duplicate_id", {**good, "image": "h.png"}),
        ("empty_turn", {"id": "e", "image": "g.png", "conversations": talk(" ", "MI")}),
        ("no_turns", {"id": "n", "image": "g.png"}),
        ("malformed_item", [1]),
        ("bad_characters", {"id": "s", "image": "g.png", "conversations": talk("q", "\ud800")}),
        ("bad_characters", {"id": "\ud800", "image": "g.png", "conversations": talk("q", "MI")}),
    ]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "g.png").write_bytes(picture(0))
    (tmp_path / "src" / "ptb-test.json").write_text(json.dumps([good, *(item for _, item in bad)]))
    made(tmp_path / "src", tmp_path / "out")
    reasons = [row["reason"] for row in read_jsonl(tmp_path / "out" / "rejects.jsonl")]
    assert reasons == [reason for reason, _ in bad]
    (tmp_path / "src" / "ptb-test.json").write_text(json.dumps([{}]))
    with pytest.raises(EcglmError, match=r"no item can be used \(missing_id 1\)"):
        made(tmp_path / "src", tmp_path / "none")


@pytest.mark.parametrize("kills", [2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, kills):
    source = write_source(tmp_path / "src", 20)
    made(source, tmp_path / "whole")
    command = [
        sys.executable,
        "-m",
        "ecglm",
        "ecgbench",
        "prepare",
        "--source",
        str(source),
        "--out",
        str(tmp_path / "out"),
    ]
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "out" / "images").rglob("*.png"))) < 15 * (kill + 1) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out" / "manifest.json").exists()
        with pytest.raises(TornOutputError):
            read_manifest(tmp_path / "out", "ecgbench-data")
    images = [p for p in (tmp_path / "out" / "images").rglob("*.png") if not p.name.startswith(".tmp-")]
    before = {p: p.stat().st_mtime_ns for p in images}
    made(source, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in before} == before  # done pictures are not written again
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_folder_is_reused_and_another_is_not_replaced(source, tmp_path):
    made(source, tmp_path / "out", subsets=["arena"], limit=2)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert made(source, tmp_path / "out", subsets=["arena"], limit=2).items == {"arena": 2}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    with pytest.raises(StaleOutputError, match="--overwrite"):
        made(source, tmp_path / "out", subsets=["arena"])
    other = write_source(tmp_path / "src", 3)
    with pytest.raises(StaleOutputError, match="arena was made from other files"):
        made(other, tmp_path / "out", subsets=["arena"], limit=2)
    assert made(other, tmp_path / "out", subsets=["arena"], overwrite=True).items == {"arena": 3}
    (tmp_path / "out" / "arena.json").write_text("[]")
    with pytest.raises(TornOutputError, match=r"arena\.json: differs"):
        made(other, tmp_path / "out", subsets=["arena"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(EcglmError, match="choose another --out"):
        made(source, tmp_path / "mine", overwrite=True)


def test_mistakes_are_one_line(source, store, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for args, told in (
        (["--source", str(tmp_path / "no")], "no such folder"),
        (["--source", str(source), "--subsets", "ptb"], "no subset 'ptb'"),
        (["--source", str(tmp_path)], "no <subset>.json and no folder"),
        (["--source", str(source), "--pictures", "clean"], "--store"),
        (["--source", str(source), "--limit", "0"], "1 or more"),
        (["--source", str(source), "--store", str(tmp_path)], "segment-store"),
        (["--source", str(source / "arena" / "test-00000-of-00001.parquet"), "--subsets", "mmmu-ecg"], "mmmu-ecg"),
    ):
        assert main(["ecgbench", "prepare", *args, *out]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    with pytest.raises(ConfigError):
        made(source, tmp_path / "out", stores=[store], pictures="sepia")
    (tmp_path / "torn" / "arena").mkdir(parents=True)
    (tmp_path / "torn" / "arena" / "test-0.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(EcglmError, match="cannot be read as Parquet"):
        made(tmp_path / "torn", tmp_path / "out")


def bare(folder, num=8):
    """Questions of PTB-XL and one photograph subset, without any picture; two recordings are not in the store."""
    folder.mkdir(parents=True)
    for subset in ("ptb-test", "ecgqa-test", "mmmu-ecg"):
        (folder / f"{subset}.json").write_text(json.dumps(rows(num)[subset]))
    return folder


def test_pictures_are_drawn_from_recordings_and_patients_known(store, tmp_path):
    source = bare(tmp_path / "src")
    found = made(source, tmp_path / "clean", stores=[store])
    assert found.items == {"ptb-test": 6, "ecgqa-test": 6}
    assert found.rejects["ptb-test"] == {"ecg_not_in_store": 2}
    page = read_picture(tmp_path / "clean" / "images" / "ptb-xl" / "00001_hr-0.png")
    assert page.shape == (pictures.SIZE[1], pictures.SIZE[0], 3)
    gold = read_gold(tmp_path / "clean", "ptb-test")
    assert [item.patient_id for item in gold] == [f"ptb-xl/p{n}" for n in range(1, 7)]
    assert all(item.patient_known for item in gold)
    made(source, tmp_path / "photo", stores=[store], pictures="pulse", seed=1, subsets=["ptb-test"], limit=2)
    made(source, tmp_path / "again", stores=[store], pictures="pulse", seed=1, subsets=["ptb-test"], limit=2)
    assert tree(tmp_path / "photo") == tree(tmp_path / "again")
    shown = read_picture(tmp_path / "photo" / "images" / "ptb-xl" / "00001_hr-0.png")
    assert shown.shape == page.shape and (shown != page).any()
    made(source, tmp_path / "other", stores=[store], pictures="pulse", seed=2, subsets=["ptb-test"], limit=1)
    assert (read_picture(tmp_path / "other" / "images" / "ptb-xl" / "00001_hr-0.png") != shown).any()


def test_photographs_cannot_be_drawn(store, tmp_path):
    with pytest.raises(EcglmError, match=r"no item can be used \(image_missing 8\)"):
        made(bare(tmp_path / "src"), tmp_path / "out", stores=[store], subsets=["mmmu-ecg"])


def test_what_can_be_drawn_is_drawn_and_photographs_keep_their_pictures(source, store, tmp_path):
    said = []
    found = prepare_ecgbench(source, tmp_path / "out", stores=[store], pictures="clean", say=said.append)
    assert set(found.items) == set(SUBSETS) and set(found.items.values()) == {5}
    drawn = {"ptb-test", "ptb-test-report", "ecgqa-test"}  # the store is of PTB-XL
    for subset in SUBSETS:
        table = pq.read_table(source / subset).to_pylist()
        for row in table:
            kept = (tmp_path / "out" / "images" / row["image_path"]).read_bytes()
            assert (kept != row["image"]["bytes"]) == (subset in drawn), subset
    assert "arena: original pictures, it shows photographs" in said
    assert "csn-test-no-cot: original pictures, no store has recordings of csn" in said
    before = tree(tmp_path / "out")
    made(source, tmp_path / "out", stores=[store], pictures="clean")
    assert tree(tmp_path / "out") == before
    with pytest.raises(
        EcglmError, match=r"arena: no item can be used \(missing_id 1\)"
    ):  # what is wrong with the data stops, as ever
        write_parquet(tmp_path / "src", "arena", [{**rows(1)["arena"][0], "id": ""}])
        write_parquet(tmp_path / "src", "ptb-test", rows(1)["ptb-test"])
        made(tmp_path / "src", tmp_path / "bad", stores=[store])


def test_stores_beside_original_pictures_only_tell_the_patients(source, store, tmp_path):
    made(source, tmp_path / "out", stores=[store], pictures="original", subsets=["ptb-test"])
    row = pq.read_table(source / "ptb-test").to_pylist()[0]
    kept = (tmp_path / "out" / "images" / row["image_path"]).read_bytes()
    assert kept == row["image"]["bytes"]
    assert read_gold(tmp_path / "out", "ptb-test")[0].patient_id == "ptb-xl/p1"


def test_segments_of_another_length_are_refused(tmp_path):
    source = FakePtbXl(num_patients=1, seed=5, records_per_patient=(1, 1))
    prepare(source, get_pipeline("default", rate=100, seg_len=500), tmp_path / "s", progress=False)
    with pytest.raises(EcglmError, match="segments of 5 s, ECGBench shows 10 s; prepare a store with --seg-len 1000"):
        made(bare(tmp_path / "src"), tmp_path / "out", stores=[tmp_path / "s"])


def test_the_datasets_home_may_be_the_hub(tmp_path, monkeypatch):
    sys.path.append(str(os.path.join(os.path.dirname(__file__), "..", "..", "conversations")))
    import hub_server

    server, address = hub_server.start()
    try:
        source = write_source(tmp_path / "src", 2)
        files = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*.parquet")}
        monkeypatch.setattr(hub_server.Handler, "files", {**files, "evil.py": b"raise SystemExit"})
        code = (
            "from ecglm.cli import main; raise SystemExit(main(['ecgbench', 'prepare', '--source', 'me/ecg', '--out', "
            f"{str(tmp_path / 'out')!r}, '--subsets', 'arena', 'ptb-test']))"
        )
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
            "HF_ENDPOINT": address,
            "HF_TOKEN": hub_server.Handler.token,
            "HF_HOME": str(tmp_path / "home"),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        made(source, tmp_path / "direct", subsets=["arena", "ptb-test"])
        assert tree(tmp_path / "out") == tree(tmp_path / "direct")
        asked = [path for method, path, _ in hub_server.Handler.seen if "/resolve/" in path]
        assert not any("evil.py" in path or "cpsc-test" in path or "ptb-test-report" in path for path in asked)
    finally:
        server.shutdown()
        server.server_close()


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    """40 pictures of 750 KB each go through; Python never holds more than a few of them."""
    import tracemalloc

    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), np.uint8)
    path = tmp_path / "noise.bmp"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    items = [{"id": f"i{n}", "image_path": f"{n}.bmp", "conversations": talk("q", "MI")} for n in range(40)]
    write_parquet(tmp_path / "src", "ptb-test", items, [{"bytes": data, "path": None}] * 40)
    tracemalloc.start()
    try:
        made(tmp_path / "src", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(data)


@pytest.mark.realdata
def test_real_recordings_of_ptb_xl_become_pictures(ptb_xl, tmp_path):
    from ecglm.records.ptb_xl import PtbXl

    prepare(
        PtbXl(root=ptb_xl), get_pipeline("default", rate=100, seg_len=1000), tmp_path / "s", progress=False, limit=12
    )
    from ecglm.store.reader import SegmentStore

    records = SegmentStore(tmp_path / "s").records()[:4]
    items = [
        {"id": f"q{n}", "image": f"ptb/{r.split('/')[1]}_hr-0.jpg", "conversations": talk("Which?", "NORM")}
        for n, r in enumerate(records)
    ]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "ptb-test.json").write_text(json.dumps(items))
    found = made(tmp_path / "src", tmp_path / "out", stores=[tmp_path / "s"], pictures="pulse")
    assert found.items == {"ptb-test": len(records)}
    gold = read_gold(tmp_path / "out", "ptb-test")
    assert all(item.patient_known and item.patient_id.startswith("ptb-xl/") for item in gold)
    assert all(read_picture(tmp_path / "out" / "images" / item.image).std() > 10 for item in gold)
