"""D16: all corpora in one mix train and are predicted, however the ECG is shown; text alone, too."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conversations"))

from official_files import ManyDatasets, splits, write_corpora

from ecglm import registry
from ecglm.conversations.make import map_corpus, takes_splits
from ecglm.conversations.mix import MixInput, mix
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.errors import EcglmError
from ecglm.evaluation.predict import predict
from ecglm.evaluation.predictions import read_predictions
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.audit import audit
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.training.run import train
from ecglm.types import Conversation, Turn
from tiny_world import World


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> World:
    """A store of records of every dataset, and one mix of every registered corpus."""
    folder = tmp_path_factory.mktemp("mixed")
    prepare(ManyDatasets(), get_pipeline("default", rate=50, seg_len=200), folder / "store", progress=False)
    store = SegmentStore(folder / "store")
    roots, inputs = write_corpora(folder / "corpora"), []
    for corpus in registry.names("conversations"):
        options = {"tasks": ["rhythm"]} if corpus == "labels" else {"root": roots[corpus]}
        if takes_splits(corpus):
            options["splits"] = splits()
        inputs.append(MixInput(folder / f"{corpus}.parquet", 1.5))
        map_corpus(corpus, [store], inputs[-1].path, **options)
    mix(inputs, folder / "mix.parquet")
    return World(folder, folder / "store", folder / "mix.parquet")


def long(recipe):
    return replace(recipe, model=replace(recipe.model, max_len=2048))


def test_d16_the_mix_of_all_corpora_leaks_nothing(everything: World):
    rows = everything.conversations()
    assert {c.corpus for c in rows} == set(registry.names("conversations"))
    assert {c.split for c in rows} == {"train", "val", "test"}
    report = audit(rows, SegmentStore(everything.store))
    assert not any(f.is_leak for f in report.findings), report.lines()


@pytest.mark.parametrize("symbols", [False, True], ids=["signal", "symbols"])
def test_d16_the_mix_trains_two_steps_and_is_predicted(everything: World, tmp_path: Path, symbols: bool):
    run = train(long(everything.recipe(symbols, max_steps=2, eval_every=2)), tmp_path / "run", say=quiet)
    assert run.best_step == 2
    predict(run.best, everything.data, [everything.store], tmp_path / "out", max_new_tokens=2, limit=5, say=quiet)
    assert all(row.get("prediction") is not None for row in read_predictions(tmp_path / "out"))


def text_only(folder: Path) -> Path:
    turns = [
        (Turn("user", f"What is lead {n}?"), Turn("assistant", f"A view of the heart, number {n}.")) for n in range(9)
    ]
    rows = [
        Conversation(f"book/{n}", "book", "knowledge", ("train", "val", "test")[n % 3], (), (), spoken)
        for n, spoken in enumerate(turns)
    ]
    write_conversations(folder / "book.parquet", rows, {}, {})
    return folder / "book.parquet"


def test_d16_text_without_any_ecg_trains_and_is_predicted(everything: World, tmp_path: Path):
    world = World(tmp_path, everything.store, text_only(tmp_path))
    run = train(world.recipe(max_steps=2, eval_every=2), tmp_path / "run", say=quiet)
    options = {"max_new_tokens": 2, "say": quiet, "controls": ("blank", "no-ecg")}
    predict(run.best, world.data, [world.store], tmp_path / "out", **options)
    rows = read_predictions(tmp_path / "out")
    assert len(rows) == 9 and all(row["prediction"] is not None and row["ecgs"] == [] for row in rows)
    with pytest.raises(EcglmError, match=r"name symbols\.tokenizer"):
        train(world.recipe(True, max_steps=2, eval_every=2), tmp_path / "symbols", say=quiet)
    assert len(read_conversations(world.data)) == 9
