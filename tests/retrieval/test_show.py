"""`ecglm index`: what a user types and sees, on synthetic and real recordings."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import wfdb
from PIL import Image

from cli_tools import done, ecglm
from ecglm.errors import EcglmError
from ecglm.retrieval.index import Index
from ecglm.retrieval.show import find_stores, lines
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, Neighbour
from index_world import people


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A test patient's ECG as a WFDB pair."""
    folder = tmp_path_factory.mktemp("ecg")
    record = next(r for r in people() if r.split == "test")
    wfdb.wrsamp(
        "mine", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=record.signal.T.astype(np.float64),
        fmt=["16"] * 12, write_dir=str(folder),
    )  # fmt: skip
    return folder / "mine.hea"


def test_build_and_search_from_the_command_line(tmp_path, people_store, people_index, recording):
    told = done("index", "build", people_store.path, "--out", tmp_path / "index")
    assert f"index: {len(people_index)} training ECGs of {len(people_index.patients)} patients by features" in told
    assert "left out: split_test" in told and told.rstrip().endswith(f"index: {tmp_path / 'index'}")
    assert "was complete already, reused" in done("index", "build", people_store.path, "--out", tmp_path / "index")
    found = done("index", "search", tmp_path / "index", "--ecg", recording, "--k", 3, "--out", tmp_path / "found")
    index = Index.load(tmp_path / "index")
    table = json.loads((tmp_path / "found" / "neighbours.json").read_text())
    assert len(table["neighbours"]) == 3
    for place, n in enumerate(table["neighbours"], 1):
        assert n["record"] in index.records
        assert f"{place:3d}  {n['distance']:8.4f}  {n['record']}" in found
        assert found.count(n["report"]) == 1, "each report once"
        with Image.open(tmp_path / "found" / f"{place}.png") as picture:
            assert picture.size == (1100, 850)
    assert "lead II: heart_rate" in found and found.rstrip().endswith("(query.png, 1.png, 2.png, 3.png)")
    assert not set(json.dumps(table).split('"')) & index.patients, "no patient ids in what is written"


def test_the_same_search_is_reused_and_another_does_not_write_over_it(tmp_path, people_index, recording):
    search = ("index", "search", people_index.path, "--ecg", recording, "--out", tmp_path / "found")
    done(*search)
    before = {p.name: p.read_bytes() for p in (tmp_path / "found").iterdir()}
    done(*search)
    assert {p.name: p.read_bytes() for p in (tmp_path / "found").iterdir()} == before
    assert "use --overwrite" in ecglm(*search, "--k", 2).error
    done(*search, "--k", 2, "--overwrite")
    assert not (tmp_path / "found" / "3.png").exists()


def test_pictures_lie_where_nothing_else_is_said(tmp_path, people_index, recording, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "pictures: neighbours/mine" in done("index", "search", people_index.path, "--ecg", recording)
    assert (tmp_path / "neighbours" / "mine" / "query.png").exists()


def test_a_store_that_has_moved_is_named_on_the_command_line(tmp_path, people_store, people_index, recording):
    shutil.copytree(people_index.path, tmp_path / "elsewhere" / "index")
    moved = tmp_path / "elsewhere" / "index"
    assert find_stores(Index.load(moved)) == [None]
    told = done("index", "search", moved, "--ecg", recording, "--out", tmp_path / "a", "--k", 1)
    assert "without a picture, their store is not found (name it with --store DIR)" in told
    told = done(
        "index", "search", moved, "--ecg", recording, "--out", tmp_path / "b", "--k", 1, "--store", people_store.path
    )
    assert "(query.png, 1.png)" in told


def test_a_store_the_index_was_not_built_of_is_refused(world, people_index):
    with pytest.raises(EcglmError, match="was not built of this store"):
        find_stores(people_index, [world.store])


def test_excluded_by_name(tmp_path, people_index, recording):
    search = ("index", "search", people_index.path, "--ecg", recording, "--k", 1)
    first = json.loads((done(*search, "--out", tmp_path / "a") and tmp_path / "a" / "neighbours.json").read_text())[
        "neighbours"
    ][0]["record"]
    done(*search, "--out", tmp_path / "b", "--exclude", first)
    second = json.loads((tmp_path / "b" / "neighbours.json").read_text())["neighbours"][0]["record"]
    assert first != second
    told = done(*search, "--out", tmp_path / "d", "--exclude", first, first.rpartition("/")[2])
    assert told.count("--exclude ") == 1, "an id that names nobody is said"
    assert f"--exclude {first.rpartition('/')[2]}: no record or patient of the index" in told
    everyone = done(*search, "--out", tmp_path / "c", "--exclude", *sorted(people_index.patients))
    assert "no neighbour" in everyone and "(query.png)" in everyone


def test_mistakes_are_one_line(tmp_path, people_store, people_index, recording):
    assert "k must be 1 or more" in ecglm("index", "search", people_index.path, "--ecg", recording, "--k", 0).error
    assert "no such ecg-index" in ecglm("index", "search", tmp_path / "no", "--ecg", recording).error
    assert "is a 'segment-store'" in ecglm("index", "search", people_store.path, "--ecg", recording).error
    build = ("index", "build", people_store.path, "--out", tmp_path / "i")
    assert "an index by both takes an encoder" in ecglm(*build, "--by", "both").error
    assert "no store" in ecglm("index", "build", "--out", tmp_path / "i").error


def test_many_pictures_are_not_listed_one_by_one(tmp_path, people_index, recording):
    told = done("index", "search", people_index.path, "--ecg", recording, "--k", 9, "--out", tmp_path / "found")
    assert told.rstrip().endswith("(query.png, 1.png, …, 9.png)")
    assert (tmp_path / "found" / "5.png").exists()


def test_an_index_never_replaces_what_it_is_made_of(tmp_path, people_store):
    shutil.copytree(people_store.path, tmp_path / "in" / "store")
    for out in (tmp_path / "in" / "store", tmp_path / "in"):
        told = ecglm("index", "build", tmp_path / "in" / "store", "--out", out, "--overwrite").error
        assert "which the index is made of; choose another --out" in told
        assert (tmp_path / "in" / "store" / "manifest.json").exists()


def test_lines_without_report_label_or_feature():
    told = lines([Neighbour("a#0", "a", "p", 0.25)])
    assert told == ["  #  distance  record  labels", "  1    0.2500  a       -"]


@pytest.mark.realdata
def test_real_recordings_of_other_sources_find_ptb_xl_neighbours(tmp_path, shared, ptb_xl):
    done("prepare", "ptb-xl", "--root", ptb_xl, "--out", tmp_path / "store", "--rate", 100, "--seg-len", 1000,
         "--set", "resolution=100", "--limit", 60)  # fmt: skip
    done("index", "build", tmp_path / "store", "--out", tmp_path / "index")
    index = Index.load(tmp_path / "index")
    assert index.has_reports and "split_test" in index.manifest["left_out"]
    files = {
        "cpsc": (shared / "cpsc2018" / "A1980.mat",),
        "csn": (sorted((shared / "csn" / "WFDBRecords").rglob("*.hea"))[0],),
        "sph": (shared / "sph" / "SPH00001.h5", "--rate", 500, "--leads", "standard", "--units", "mV"),
    }
    for name, (file, *options) in files.items():
        told = done("index", "search", tmp_path / "index", "--ecg", file, "--out", tmp_path / name, *options)
        assert "(query.png, 1.png, 2.png, 3.png)" in told, name
    # the 500 Hz file of an indexed record is the same ECG: it is not its own neighbour
    store = SegmentStore(tmp_path / "store")
    seen = next(f for f in sorted((ptb_xl / "records500").rglob("*_hr.hea")) if f"ptb-xl/{f.stem[:5]}" in index.records)
    done("index", "search", tmp_path / "index", "--ecg", seen, "--out", tmp_path / "own")
    hits = json.loads((tmp_path / "own" / "neighbours.json").read_text())["neighbours"]
    own = f"ptb-xl/{seen.stem[:5]}"
    patient = {r["record_id"]: r["patient_id"] for r in store.index.to_pylist()}
    assert patient[own] not in {patient[n["record"]] for n in hits} and len(hits) == 3
