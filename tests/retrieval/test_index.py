"""Build, load, search: what is in an index, what a query never finds, and what damage is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ecglm.conversations.make import map_corpus
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.files import file_sha256
from ecglm.retrieval.index import Exclude, Index, build_index
from ecglm.signals.features import ecg_bench_288, feature_names
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from index_world import RATE, SEG_LEN, people, quiet, renamed, split_of, store_of, with_flat_lead
from kill_tools import finish, kill_when, start
from tiny_world import tree


def index_of(folder: Path, records, **options) -> Index:
    store_of(folder / "store", records)
    return build_index([folder / "store"], folder / "index", say=quiet, **options)


def train_rows(store: SegmentStore) -> list[int]:
    return [i for i, split in enumerate(store.index.column("split").to_pylist()) if split == "train"]


# --- what is in it


def test_only_training_records_stand_in_an_index(people_store, people_index):
    rows = people_store.index.to_pylist()
    assert people_index.records == {r["record_id"] for r in rows if r["split"] == "train"}
    assert people_index.patients == {r["patient_id"] for r in rows if r["split"] == "train"}
    counts, left_out = people_index.manifest["counts"], people_index.manifest["left_out"]
    assert left_out == {f"split_{s}": sum(r["split"] == s for r in rows) for s in ("test", "val")}
    assert counts["in"] == len(rows) == counts["indexed"] + counts["rejected"] + counts["left_out"]
    assert people_index.has_reports and len(people_index) == counts["indexed"]
    assert people_index.facts["fingerprint"] == people_index.fingerprint


def test_a_hit_has_its_report_labels_and_all_features_of_twelve_leads(people_store, people_index):
    first = train_rows(people_store)[0]
    hit = people_index.search(people_store[first : first + 1], RATE, k=1)[0][0]
    position = people_store.index.column("segment_id").to_pylist().index(hit.segment_id)
    row = people_store.row(position)
    assert (hit.record_id, hit.patient_id) == (row["record_id"], row["patient_id"])
    assert hit.report == row["report_en"] and list(hit.labels) == row["labels"]
    assert tuple(hit.features) == feature_names() == people_index.feature_names
    measured = ecg_bench_288(people_store[position], RATE)
    np.testing.assert_allclose(list(hit.features.values()), measured, rtol=1e-4, atol=1e-4)


def test_the_metric_is_as_the_page_says(people_store, people_index):
    """Root mean square of the differences in standard deviations over the features that vary."""
    rows = train_rows(people_store)
    raw = ecg_bench_288(people_store.take(rows), RATE).astype(np.float32).astype(np.float64)
    sd = raw.std(axis=0)
    varies = sd > 1e-6 * np.abs(raw.mean(axis=0)) + 1e-12
    test = people_store.index.column("split").to_pylist().index("test")
    query = ecg_bench_288(people_store[test], RATE).astype(np.float32).astype(np.float64)
    steps = ((raw - query)[:, varies] / sd[varies]) ** 2
    expected = np.sort(np.sqrt(steps.mean(axis=1)))[:4]
    found = [n.distance for n in people_index.search(people_store[test : test + 1], RATE, k=4)[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(k=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_any_search_is_the_naive_one(people_store, people_index, k, seed):
    rng = np.random.default_rng(seed)
    position = int(rng.integers(len(people_store)))
    row = people_store.row(position)
    banned = frozenset(p for p in sorted(people_index.patients) if rng.random() < 0.4)
    found = people_index.search(
        people_store[position : position + 1], RATE, k=k, exclude=[Exclude(frozenset({row["record_id"]}), banned)]
    )[0]
    query = people_index.embed(people_store[position : position + 1], RATE)[0].astype(np.float64)
    told = people_index.table.to_pylist()
    distances = np.sqrt(((people_index.vectors.astype(np.float64) - query) ** 2).sum(axis=1))
    order = sorted(range(len(told)), key=lambda i: (distances[i], i))
    left = [i for i in order if told[i]["patient_id"] not in banned | {row["patient_id"]}]
    assert [n.segment_id for n in found] == [told[i]["segment_id"] for i in left[:k]]


# --- D23


def test_d23_a_query_is_never_its_own_neighbour_nor_its_patients(people_store, people_index):
    rows = people_store.index.to_pylist()
    exclude = [Exclude(frozenset({r["record_id"]}), frozenset({r["patient_id"]})) for r in rows]
    found = people_index.search(people_store[:], RATE, k=len(rows), exclude=exclude)
    for row, hits in zip(rows, found, strict=True):
        assert row["patient_id"] not in {n.patient_id for n in hits}
        assert {split_of(n.patient_id) for n in hits} == {"train"}
        others = [r for r in rows if r["split"] == "train" and r["patient_id"] != row["patient_id"]]
        assert len(hits) == len(others), "exclusion costs no other hit"


def test_d23_an_upload_is_recognised_by_its_signal_alone(people_store, people_index):
    """Nobody says whose ECG it is: neither it nor its patient is found."""
    for position in train_rows(people_store):
        hits = people_index.search(people_store[position : position + 1], RATE, k=50)[0]
        assert people_store.row(position)["patient_id"] not in {n.patient_id for n in hits}


def test_d23_naming_the_record_alone_excludes_its_patient(people_store, people_index):
    rows = people_store.index.to_pylist()
    twice = next(
        r for r in rows if r["split"] == "train" and sum(o["patient_id"] == r["patient_id"] for o in rows) == 2
    )
    other = next(i for i, r in enumerate(rows) if r["split"] == "test")
    exclude = [Exclude(records=frozenset({twice["record_id"]}))]
    hits = people_index.search(people_store[other : other + 1], RATE, k=50, exclude=exclude)[0]
    assert twice["patient_id"] not in {n.patient_id for n in hits}


def test_the_patient_of_a_copy_that_is_far_by_features_is_never_found(tmp_path):
    records = people(8)
    first = next(r for r in records if r.split == "train")
    # of the same patient, and measured as a louder copy of the first is: backwards, it is no copy by its shape
    louder = replace(first, record_id="louder/1", signal=np.ascontiguousarray(3 * first.signal[:, ::-1]))
    index = index_of(tmp_path, [*records, louder])
    query = 3 * index.segments(first)[:1]
    near = index.embed(query, RATE)
    assert index.table["record_id"][int(np.argmin(((index.vectors - near) ** 2).sum(axis=1)))].as_py() == "louder/1"
    hits = index.search(query, RATE, k=1)[0]
    assert hits and hits[0].patient_id != first.patient_id


@pytest.mark.parametrize("noise_uv", [0.0, 1.0, 5.0])
def test_d23_the_same_signal_under_another_name_is_never_found(tmp_path, noise_uv):
    records = people(8)
    first = next(r for r in records if r.split == "train")
    copy = renamed(first, "copies/1", noise_uv=noise_uv)
    again = replace(records[-1], record_id="copies/2", patient_id=copy.patient_id, split="train")
    index = index_of(tmp_path, [*records, copy, again])
    assert {"copies/1", "copies/2"} <= index.records
    hits = index.search(index.segments(first), RATE, k=50, exclude=[Exclude(frozenset({first.record_id}))])[0]
    assert not {n.record_id for n in hits} & {"copies/1", "copies/2", first.record_id}
    assert len(hits) > 2


def test_d23_a_store_of_the_test_split_is_refused(tmp_path):
    store_of(tmp_path / "test", [replace(r, split="test") for r in people(3)])
    with pytest.raises(EcglmError, match="holds no training record \\(splits: test\\)"):
        build_index([tmp_path / "test"], tmp_path / "index", say=quiet)


def test_d23_a_patient_in_train_and_test_is_an_error(tmp_path):
    records = people(6)
    first = next(r for r in records if r.split == "train")
    store_of(tmp_path / "store", [*records, renamed(first, "again/1", patient=first.patient_id, split="test")])
    with pytest.raises(EcglmError, match=f"patient {first.patient_id} is in the splits train and test"):
        build_index([tmp_path / "store"], tmp_path / "index", say=quiet)


def test_d23_nothing_is_built_again_at_load(people_index, monkeypatch):
    monkeypatch.setattr("ecglm.retrieval.search.ecg_bench_288", None)
    assert Index.load(people_index.path).vectors.tobytes() == people_index.vectors.tobytes()


# --- who is a training ECG


def test_conversations_say_who_is_a_training_ecg(tmp_path):
    records = [replace(r, split="") for r in people(12)]
    store = store_of(tmp_path / "store", records)
    with pytest.raises(EcglmError, match="name the conversations a model trains on with --data"):
        build_index([store.path], tmp_path / "index", say=quiet)
    splits = dict(assign_splits(store, seed=1, fractions=(0.5, 0.25, 0.25)))
    map_corpus("labels", [store], tmp_path / "q.parquet", tasks=["rhythm"], seed=0, splits=splits)
    index = build_index([store.path], tmp_path / "index", data=tmp_path / "q.parquet", say=quiet)
    assert index.patients == {p for p, split in splits.items() if split == "train"}


def test_official_folds_count_where_a_store_names_no_split(tmp_path):
    records = [replace(r, split="", fold=1 + i % 10) for i, r in enumerate(people(20))]
    alone = [replace(r, patient_id=r.record_id) for r in records]
    index = index_of(tmp_path, alone)
    assert index.records == {r.record_id for r in alone if r.fold is not None and r.fold <= 8}


def test_a_record_in_two_stores_is_an_error(tmp_path, people_store):
    store_of(tmp_path / "again", people()[:3])
    with pytest.raises(EcglmError, match="is in two of the given stores"):
        build_index([people_store.path, tmp_path / "again"], tmp_path / "index", say=quiet)


def test_stores_prepared_otherwise_are_an_error(tmp_path, people_store):
    store_of(tmp_path / "other", people(3, seed=9), preset="none")
    with pytest.raises(EcglmError, match=r"prepared otherwise than .*: preset none \(there diagnostic\)"):
        build_index([people_store.path, tmp_path / "other"], tmp_path / "index", say=quiet)


def test_bad_ecgs_are_rejected_with_a_reason_and_counted(tmp_path):
    records = people(6)
    flat = with_flat_lead(records[0], "bad/flat")
    tiny = replace(records[0], record_id="bad/tiny", patient_id="bad/tiny", signal=records[0].signal * 1e-3)
    index = index_of(tmp_path, [*records, flat, tiny])
    assert index.manifest["rejected"] == {"amplitude_implausible": 1, "flat_lead": 1}
    logged = [json.loads(line) for line in (index.path / "rejects.jsonl").read_text().splitlines()]
    assert {r["segment_id"]: r["reason"] for r in logged} == {
        "bad/flat#0": "flat_lead",
        "bad/tiny#0": "amplitude_implausible",
    }
    # with everything allowed ECG-Bench's own rule remains
    loose = build_index([tmp_path / "store"], tmp_path / "loose", min_quality="any", say=quiet)
    assert loose.manifest["rejected"] == {"features_near_zero": 1} and "bad/flat" in loose.records


def test_nothing_left_to_index_is_an_error(tmp_path):
    store_of(tmp_path / "store", [with_flat_lead(r, r.record_id + "x") for r in people(3)])
    with pytest.raises(EcglmError, match=r"every training ECG was rejected \(flat_lead \d\); a lower --min-quality"):
        build_index([tmp_path / "store"], tmp_path / "index", say=quiet)


def test_all_segments_of_a_record_make_one_hit(tmp_path):
    records = people(8, duration_s=15.0)
    index = index_of(tmp_path, records, segments="all")
    trained = {r.record_id for r in records if r.split == "train"}
    assert len(index) == 3 * len(trained)
    other = next(r for r in records if r.split == "test")
    hits = index.search(index.segments(other)[:1], RATE, k=len(trained))[0]
    assert {n.record_id for n in hits} == trained and len(hits) == len(trained)
    distances = np.sqrt(((index.vectors - index.embed(index.segments(other)[:1], RATE)) ** 2).sum(axis=1))
    names = index.table.column("record_id").to_pylist()
    for n in hits:
        best = min(d for d, name in zip(distances.tolist(), names, strict=True) if name == n.record_id)
        assert n.distance == pytest.approx(best, rel=1e-5)
    first = build_index([tmp_path / "store"], tmp_path / "first", say=quiet)
    assert len(first) == len(trained) and first.manifest["left_out"]["later_segment"] == 2 * len(trained)


def test_limit_takes_the_first(tmp_path, people_store, people_index):
    index = build_index([people_store.path], tmp_path / "index", limit=3, say=quiet)
    names = people_index.table.column("segment_id").to_pylist()
    assert index.table.column("segment_id").to_pylist() == names[:3]
    assert index.manifest["left_out"]["beyond_limit"] == len(names) - 3


# --- few, none, wrong


def test_fewer_hits_where_fewer_may_be_found(people_store, people_index):
    query = people_store[0:1]
    assert people_index.search(query, RATE, k=3, exclude=[Exclude(patients=people_index.patients)]) == [()]
    kept = sorted(people_index.patients)[0]
    only = people_index.search(query, RATE, k=50, exclude=[Exclude(patients=people_index.patients - {kept})])[0]
    assert {n.patient_id for n in only} == {kept} - {people_store.row(0)["patient_id"]}
    assert people_index.search(people_store[0:0], RATE, k=3) == []


def test_an_index_of_one_ecg_answers(tmp_path):
    records = people(4)
    index = index_of(tmp_path, records, limit=1)
    other = next(r for r in records if r.split == "test")
    assert [n.distance for n in index.search(index.segments(other)[:1], RATE, k=5)[0]] == [0.0]


@pytest.mark.parametrize(
    ("segments", "rate", "told"),
    [
        (np.zeros((1, 12, SEG_LEN), np.float32), 100, "the query is 1 x 12 x 250 at 100 Hz"),
        (np.zeros((1, 12, 500), np.float32), RATE, "the query is 1 x 12 x 500 at 50 Hz"),
        (np.zeros((1, 8, SEG_LEN), np.float32), RATE, "12 leads x 250 samples at 50 Hz, the query is 1 x 8 x 250"),
        (np.zeros((12, SEG_LEN), np.float32), RATE, "the query is 12 x 250 at 50 Hz"),
        (np.full((1, 12, SEG_LEN), np.nan, np.float32), RATE, "query 0: a sample is missing"),
    ],
)
def test_a_query_of_another_kind_is_one_clear_line(people_index, segments, rate, told):
    with pytest.raises(EcglmError, match=told) as found:
        people_index.search(segments, rate, k=1)
    assert "\n" not in str(found.value)


def test_wrong_options_are_told(tmp_path, people_store, people_index):
    def build(**options):
        build_index([people_store.path], tmp_path / "index", say=quiet, **options)

    with pytest.raises(ConfigError, match=r"no by 'feature'.*did you mean 'features'"):
        build(by="feature")
    with pytest.raises(ConfigError, match="an index by both takes an encoder; name one with --encoder"):
        build(by="both")
    with pytest.raises(ConfigError, match="an index by features takes no encoder"):
        build(encoder=tmp_path)
    with pytest.raises(ConfigError, match="workers must be 1 or more"):
        build(workers=0)
    with pytest.raises(EcglmError, match="k must be 1 or more, found 0"):
        people_index.search(people_store[0:1], RATE, k=0)
    with pytest.raises(EcglmError, match="1 queries, but exclusions for 2"):
        people_index.search(people_store[0:1], RATE, k=1, exclude=[Exclude(), Exclude()])
    with pytest.raises(EcglmError, match="no such ecg-index"):
        Index.load(tmp_path / "nothing")


# --- the same bytes, and what damage is told


@pytest.mark.slow  # processes take seconds to start
def test_workers_change_no_byte(people_store, people_index, monkeypatch):
    monkeypatch.setattr("ecglm.retrieval.raw.PART", 8)
    two = build_index([people_store.path], people_index.path.parent / "two", workers=2, say=quiet)
    assert tree(two.path) == tree(people_index.path)


def test_the_place_changes_no_byte(tmp_path, people_store, people_index):
    built = []
    for place in ("here", "there and \u00e4"):
        shutil.copytree(people_store.path, tmp_path / place / "store")
        built.append(build_index([tmp_path / place / "store"], tmp_path / place / "index", say=quiet))
    assert tree(built[0].path) == tree(built[1].path)
    assert built[0].vectors.tobytes() == people_index.vectors.tobytes()


def test_a_finished_index_is_reused_and_another_is_refused(tmp_path, people_store, monkeypatch):
    build_index([people_store.path], tmp_path / "index", say=quiet)
    before = tree(tmp_path / "index")
    told: list[str] = []
    monkeypatch.setattr("ecglm.retrieval.raw.ecg_bench_288", None)
    build_index([people_store.path], tmp_path / "index", say=told.append)
    assert told == [f"{tmp_path / 'index'}: was complete already, reused"] and tree(tmp_path / "index") == before
    with pytest.raises(StaleOutputError, match="--overwrite"):
        build_index([people_store.path], tmp_path / "index", min_quality="good", say=quiet)


def test_an_unfinished_index_goes_on_with_what_is_measured(tmp_path, people_store, people_index, monkeypatch):
    monkeypatch.setattr("ecglm.retrieval.raw.PART", 8)

    def stop(stage: str, done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index([people_store.path], tmp_path / "index", say=quiet, progress=stop)
    with pytest.raises(TornOutputError, match="unfinished"):
        Index.load(tmp_path / "index")
    parts = sorted((tmp_path / "index" / "parts").iterdir())
    assert len(parts) == 1
    parts[0].write_bytes(parts[0].read_bytes()[:-9])  # and what was torn is made again
    seen: list[int] = []
    again = build_index(
        [people_store.path], tmp_path / "index", say=quiet, progress=lambda stage, done, total: seen.append(done)
    )
    assert seen[0] == 0
    assert again.vectors.tobytes() == people_index.vectors.tobytes()
    assert not (tmp_path / "index" / "parts").exists()


@pytest.fixture
def copied(tmp_path, people_index) -> Path:
    shutil.copytree(people_index.path, tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("name", ["vectors.safetensors", "members.parquet", "rejects.jsonl"])
def test_a_missing_cut_or_flipped_file_is_named(copied, name):
    file = copied / name
    whole = file.read_bytes() or b"{}\n"
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], whole[: len(whole) // 2] + b"\1" + whole[-9:]):
        file.write_bytes(damaged)
        with pytest.raises(TornOutputError, match=name):
            Index.load(copied)
    file.unlink()
    with pytest.raises(TornOutputError, match=name):
        Index.load(copied)


def rewrite(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as somebody would who means harm."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"][name] = file_sha256(folder / name)
    manifest["sizes"][name] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_vectors_and_members_that_do_not_belong_together_are_refused(copied, tmp_path, people_store):
    members = copied / "members.parquet"
    table = pq.read_table(members)
    pq.write_table(table.slice(1), members)
    rewrite(copied, "members.parquet")
    with pytest.raises(TornOutputError, match=r"members.parquet: \d+ rows for \d+ vectors"):
        Index.load(copied)
    pq.write_table(table.replace_schema_metadata({b"ecglm.index": b"0" * 64}), members)
    rewrite(copied, "members.parquet")
    with pytest.raises(TornOutputError, match="belongs to another index"):
        Index.load(copied)
    pq.write_table(table.drop_columns(["patient_id"]), members)
    rewrite(copied, "members.parquet")
    with pytest.raises(TornOutputError, match="other arrays or columns"):
        Index.load(copied)


@pytest.mark.parametrize("change", ["short", "nan", "narrow", "extra"])
def test_vectors_that_cannot_be_are_refused(copied, change):
    file = copied / "vectors.safetensors"
    arrays = load_file(file)
    if change == "short":
        arrays["vectors"] = arrays["vectors"][:-1]
    elif change == "nan":
        arrays["vectors"][2, 5] = np.nan
    elif change == "narrow":
        arrays["mean"] = arrays["mean"][:-1]
    else:
        arrays["surplus"] = np.zeros(3)
    save_file(arrays, file)
    rewrite(copied, "vectors.safetensors")
    with pytest.raises(TornOutputError, match=r"vectors\.safetensors|other arrays"):
        Index.load(copied)


def test_an_index_of_another_format_is_refused(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["settings"]["format"] = 99
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="index format 99, this ecglm reads 1"):
        Index.load(copied)


def test_a_table_with_nulls_is_no_members_table(copied):
    members = copied / "members.parquet"
    table = pq.read_table(members)
    column = pa.array([None, *table.column("record_id").to_pylist()[1:]], pa.string())
    pq.write_table(table.set_column(1, "record_id", column), members)
    rewrite(copied, "members.parquet")
    with pytest.raises(TornOutputError, match="empty"):
        Index.load(copied)


@pytest.mark.slow  # processes take seconds to start
def test_a_killed_build_leaves_no_index_and_goes_on(tmp_path, people_store, people_index):
    command = ("index", "build", people_store.path, "--out", tmp_path / "index")
    kill_when(start(*command), lambda: (tmp_path / "index" / "plan.json").exists())
    with pytest.raises(TornOutputError, match="unfinished"):
        Index.load(tmp_path / "index")
    kill_when(start(*command), lambda: any((tmp_path / "index").glob("parts/*")))
    finish(start(*command))
    assert Index.load(tmp_path / "index").vectors.tobytes() == people_index.vectors.tobytes()
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == sorted(p.name for p in people_index.path.iterdir())
