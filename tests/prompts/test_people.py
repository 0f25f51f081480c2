"""Whom a model was trained on travels with its checkpoint, and evaluating on them is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecglm.conversations.mix import MixInput, mix
from ecglm.errors import EcglmError
from ecglm.evaluation.predict import predict
from ecglm.models.checkpoint import from_pretrained, save_pretrained
from ecglm.prompts.people import people, seen
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_splits
from ecglm.training.run import train
from ecglm.types import Conversation, Turn


def quiet(text: str) -> None:
    pass


def about(*names: str) -> Conversation:
    turns = (Turn("user", "<ecg>" * len(names) + "?"), Turn("assistant", "a"))
    return Conversation("/".join(names), "c", "t", "train", tuple(f"x/{n}" for n in names), names, turns)


def test_people_are_patients_and_ecgs_and_nothing_else():
    rows = [about("p1", "p2"), about("p1"), about()]
    hashes = people(rows)
    assert hashes.dtype == np.uint64 and len(hashes) == 4 and (np.diff(hashes.astype(object)) > 0).all()
    assert len(people([about()])) == 0
    renamed = replace(about("p1"), patients=("somebody",))  # the same ECG under another patient id
    assert seen([about("p3"), about("p3", "p2"), renamed, about()], hashes) == [about("p3", "p2"), renamed]
    assert seen([about("p1")], np.empty(0, np.uint64)) == []


def test_a_checkpoint_remembers_whom_it_learned_from(world, signal_run: Path, tmp_path: Path):
    bundle = from_pretrained(signal_run / "best")
    rows = world.conversations("train")
    assert seen(rows, bundle.trained_on) == rows
    assert seen(world.conversations("val") + world.conversations("test"), bundle.trained_on) == []
    assert len(bundle.trained_on) == len({name for c in rows for name in (*c.patients, *c.ecgs)})
    again = from_pretrained(save_pretrained(bundle, tmp_path / "again"))
    assert (again.trained_on == bundle.trained_on).all()


def test_d02_a_model_is_not_evaluated_on_another_fold(world, tmp_path: Path):
    """Trained on fold 0 of 4; fold 0's test is answered, every other fold's is refused."""
    store = SegmentStore(world.store)
    files = []
    for fold in range(4):
        files.append(tmp_path / f"fold{fold}.parquet")
        mix([MixInput(world.data)], files[-1], splits=fold_splits(store, 4, fold))
    recipe = world.recipe(max_steps=2, eval_every=2)
    run = train(replace(recipe, data=replace(recipe.data, files=(str(files[0]),))), tmp_path / "run", say=quiet)
    options = {"max_new_tokens": 2, "say": quiet}
    assert predict(run.best, files[0], [world.store], tmp_path / "own", **options).num_answers > 0
    for fold in (2, 3):  # fold 1 tests fold 0's validation patients: not learned from
        with pytest.raises(EcglmError, match=r"about patients this model was trained on \(first: ") as error:
            predict(run.best, files[fold], [world.store], tmp_path / f"other{fold}", **options)
        assert "\n" not in str(error.value)
    told = predict(run.best, files[2], [world.store], tmp_path / "asked", allow_seen=True, **options)
    assert told.num_answers > 0
