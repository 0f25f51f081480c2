"""Recipes that are long enough to learn something: run by `make test-all`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ecglm import config
from ecglm.conversations.make import map_corpus
from ecglm.evaluation.predict import predict
from ecglm.evaluation.score import score
from ecglm.quickstart import quickstart
from ecglm.records.synthetic import Synthetic
from ecglm.records.synthetic_rhythm import RHYTHMS
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.recipe import DataConfig, Recipe
from ecglm.training.run import train

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def silent(text: str) -> None:
    pass


@pytest.mark.slow
def test_every_class_of_the_generator(tmp_path: Path) -> None:
    """The recipe with all nine rhythms runs, and reads them from the ECG, on patients it has not seen."""
    recipe = config.load(RECIPES / "synthetic-all.yaml", Recipe)
    pipeline = get_pipeline("default", rate=100, seg_len=1000)
    prepare(Synthetic(num_patients=2000), pipeline, tmp_path / "store", workers=2, progress=False)
    store = SegmentStore(tmp_path / "store")
    questions = tmp_path / "questions.parquet"
    map_corpus("labels", [store], questions, splits=dict(assign_splits(store)), tasks=list(recipe.data.tasks))
    data = DataConfig(files=(str(questions),), stores=(str(store.path),), tasks=recipe.data.tasks)
    run = train(dataclasses.replace(recipe, data=data), tmp_path / "run", say=silent)
    predict(run.best, questions, data.stores, tmp_path / "out", controls=("blank",), tasks=("rhythm",), say=silent)
    scores = score(tmp_path / "out")
    assert len(scores["confusion"]["rhythm"]["labels"]) == len(RHYTHMS)
    assert scores["controls"]["real"]["rhythm"]["accuracy"]["value"] >= 0.75
    assert scores["gaps"]["rhythm"]["accuracy"]["low"] > 0.4


@pytest.mark.slow
def test_the_quickstart_reaches_its_bars(tmp_path: Path) -> None:
    """Rhythm, six classes, test patients of another seed: signal 0.90, ECG-Byte 0.80, blank at most majority + 0.05."""
    signal, ecg_byte = quickstart(tmp_path / "out", say=silent)
    for run, bar in ((signal, 0.90), (ecg_byte, 0.80)):
        rhythm = {control: tasks["rhythm"]["accuracy"]["value"] for control, tasks in run.scores["controls"].items()}
        majority = run.scores["baselines"]["majority"]["rhythm"]["accuracy"]["value"]
        assert rhythm["real"] >= bar, run.name
        assert rhythm["blank"] <= majority + 0.05, run.name


@pytest.mark.slow
@pytest.mark.realdata
def test_real_ecgs_are_read(tmp_path: Path, ptb_xl: Path) -> None:
    """PTB-XL fold 10, normal or not: at least 0.75, and the gap to the blank control above zero."""
    signal, _ = quickstart(tmp_path / "out", data=ptb_xl, say=silent)
    assert signal.scores["controls"]["real"]["normal"]["accuracy"]["value"] >= 0.75
    assert signal.scores["gap_to"]["normal"]["accuracy"]["blank"]["low"] > 0
