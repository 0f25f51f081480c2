"""Every registered corpus: mapped from its official layout onto one store, reconciled, read by others, trained on."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest
from official_files import ManyDatasets, patient_of, splits, write_corpora

from ecglm import registry
from ecglm.conversations.make import lines, map_corpus, options_of, reads_files, takes_splits
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_json, read_jsonl
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.training.run import train
from tiny_world import World

CORPORA = sorted(set(registry.names("conversations")))
#: Corpora that are officially tests, and those that have official splits.
TEST_ONLY = {"ecgbench", "ecg-grounding-test", "ecg-reasoning"}
OWN_SPLITS = {*TEST_ONLY, "ecg-qa-ptbxl", "ecg-qa-mimic", "ecg-expert-qa"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("every")


@pytest.fixture(scope="module")
def store(folder):
    pipeline = get_pipeline("default", rate=50, seg_len=200)
    prepare(ManyDatasets(), pipeline, folder / "store", progress=False)
    return SegmentStore(folder / "store")


@pytest.fixture(scope="module")
def mapped(folder, store):
    """Corpus → its conversations file."""
    roots, files = write_corpora(folder / "corpora"), {}
    for corpus in CORPORA:
        options = {"tasks": ["rhythm"]} if corpus == "labels" else {"root": roots[corpus]}
        if takes_splits(corpus):
            options["splits"] = splits()
        files[corpus] = folder / f"{corpus}.parquet"
        map_corpus(corpus, [store], files[corpus], **options)
    return files


def test_all_the_corpora_of_the_field_are_here(mapped):
    assert set(mapped) >= {
        *("ecg-qa-ptbxl", "ecg-qa-mimic", "pretrain-mimic", "ecg-instruct-45k", "ecg-instruct-pulse", "ecgbench"),
        *("ecg-grounding", "ecg-grounding-pulse", "ecg-grounding-test", "ecg-expert-qa", "ecg-reasoning", "labels"),
    }


@pytest.mark.parametrize("corpus", CORPORA)
def test_counts_reconcile_and_the_logs_say_the_same(mapped, corpus):
    path = mapped[corpus]
    manifest = read_json(f"{path}.manifest.json")
    counts = manifest["counts"]
    assert counts["in"] == sum(n for name, n in counts.items() if name != "in")
    listed = read_jsonl(f"{path}.rejects.jsonl") + read_jsonl(f"{path}.set_aside.jsonl")
    assert counts["in"] - counts["mapped"] == len(listed) == 0
    assert counts["mapped"] == len(read_conversations(path)) == manifest["num_conversations"]
    assert lines(manifest, path)[0] == f"{counts['in']} of {counts['in']} items mapped"


@pytest.mark.parametrize("corpus", CORPORA)
def test_ids_patients_and_splits(mapped, corpus):
    for c in read_conversations(mapped[corpus]):
        assert c.corpus == corpus and c.id == f"{corpus}/{c.split}/{c.source_id}"
        assert c.patients == tuple(map(patient_of, c.ecgs))
        if corpus in TEST_ONLY:
            assert c.split == "test"
        elif corpus not in OWN_SPLITS:
            assert c.split == splits()[c.patients[0]]
        json.dumps(dict(c.metadata), allow_nan=False)


@pytest.mark.parametrize("corpus", CORPORA)
def test_what_a_corpus_needs_is_told_by_its_signature(mapped, corpus, store, tmp_path):
    assert reads_files(corpus) == (corpus != "labels")
    assert takes_splits(corpus) == (corpus not in OWN_SPLITS)
    assert "limit" in options_of(corpus)
    if reads_files(corpus):
        with pytest.raises(ConfigError, match="reads files: say where with --root"):
            map_corpus(corpus, [store], tmp_path / "x.parquet")
        with pytest.raises(EcglmError, match="no such file or folder"):
            map_corpus(corpus, [store], tmp_path / "x.parquet", root=tmp_path / "none")
        if takes_splits(corpus):
            with pytest.raises(ConfigError, match="has no official split; give splits"):
                map_corpus(corpus, [store], tmp_path / "x.parquet", root=tmp_path)
        else:
            with pytest.raises(ConfigError, match="has its own official splits"):
                map_corpus(corpus, [store], tmp_path / "x.parquet", root=tmp_path, splits=splits())
    assert not (tmp_path / "x.parquet").exists()


def test_the_datasets_library_and_pandas_read_them_all_alike(mapped, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in mapped.values()]
    rows = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(tmp_path))
    frames = pd.concat([pd.read_parquet(path) for path in paths])
    ours = [c for path in mapped.values() for c in read_conversations(path)]
    assert rows["id"][:] == frames["id"].tolist() == [c.id for c in ours]
    assert [len(turns) for turns in rows["turns"][:]] == [len(c.turns) for c in ours]


def test_mapping_again_reuses_what_is_there(mapped, store, folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("mapped again")

    path = mapped["ecg-instruct-pulse"]
    before = path.read_bytes()
    monkeypatch.setitem(registry._things["conversations"], "ecg-instruct-pulse", _same_signature(never))
    root = folder / "corpora" / "ECGInstruct"
    map_corpus("ecg-instruct-pulse", [store], path, root=root, splits=splits())
    assert path.read_bytes() == before


def _same_signature(function):
    from ecglm.conversations.ecg_instruct_pulse import map_ecg_instruct_pulse

    function.__signature__ = __import__("inspect").signature(map_ecg_instruct_pulse)
    function.__module__ = map_ecg_instruct_pulse.__module__
    return function


@pytest.mark.parametrize("corpus", CORPORA)
def test_d16_every_corpus_trains_two_steps(mapped, corpus, store, folder, tmp_path):
    """One row schema for all. Splits are made anew here, so that the tests of the field have something to train on."""
    rows = read_conversations(mapped[corpus])
    order = {p: n for n, p in enumerate(dict.fromkeys(p for c in rows for p in c.patients))}
    for number, c in enumerate(rows):
        split = "val" if (order[c.patients[0]] if c.patients else number) % 3 == 0 else "train"
        rows[number] = dataclasses.replace(c, split=split, id=f"{c.id}/{number}")
    rows = [c for c in rows if len({order[p] % 3 == 0 for p in c.patients}) <= 1]
    write_conversations(tmp_path / "c.parquet", rows, {}, {})
    world = World(tmp_path, folder / "store", tmp_path / "c.parquet")
    recipe = world.recipe(max_steps=2, eval_every=2)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, max_len=2048))
    assert train(recipe, tmp_path / "run", say=lambda text: None).best_step == 2
