"""D13: the model reads the same symbols of an ECG in training, in prediction and in use, and what is cut is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ecglm.evaluation.predict import predict
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.assistant import load
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.examples import Prompter
from ecglm.records.synthetic import Synthetic
from ecglm.store.reader import SegmentStore
from ecglm.training.run import train


@pytest.fixture(scope="module", params=["balanced", "tail"])
def run(request, world, tmp_path_factory):
    """(folder of a run whose ECGs are nearly all cut, what it said)."""
    recipe = world.recipe(symbols=True, max_steps=2, eval_every=2)
    symbols = replace(recipe.symbols, max_ecg_tokens=40, policy=request.param)
    said: list[str] = []
    result = train(replace(recipe, symbols=symbols), tmp_path_factory.mktemp("run") / "run", say=said.append)
    return result.path, said


@pytest.fixture
def built(monkeypatch) -> dict[str, list[list[int]]]:
    """Question → the ECG's ids in every prompt built from now on."""
    found: dict[str, list[list[int]]] = {}
    build = Prompter.build

    def spy(self, example_id, turns, ecgs, **options):
        example = build(self, example_id, turns, ecgs, **options)
        known = set(self.ecg_ids)
        found.setdefault(example_id, []).append([i for i in example.input_ids.tolist() if i in known])
        return example

    monkeypatch.setattr(Prompter, "build", spy)
    return found


def test_d13_token_sequence_equal_in_training_prediction_and_use(run, world, built, tmp_path) -> None:
    folder, _ = run
    assistant = load(folder / "best")
    store = SegmentStore(world.store)
    rows = world.conversations("test")
    ElmDataset(rows, EcgSource([store], assistant.bundle.representation), assistant.bundle.prompter)
    trained = {name: ids[0] for name, ids in built.items()}
    assert len(trained) == len(rows) and all(len(ids) <= 40 for ids in trained.values())
    built.clear()
    predict(folder / "best", world.data, [world.store], tmp_path / "out", max_new_tokens=2, say=lambda t: None)
    assert {name: ids[0] for name, ids in built.items()} == trained
    built.clear()
    source = Synthetic(num_patients=12, seed=3)
    for row in rows:
        assistant.ask(source.read(row.ecgs[0]), row.turns[0].text, max_new_tokens=2)
        assert built.pop("ask")[0] == trained[row.id]


def test_d13_what_is_cut_is_counted_and_said(run, world, tmp_path) -> None:
    folder, said = run
    policy = read_manifest(folder / "best", "checkpoint")["settings"]["representation"]["policy"]
    representation = load(folder / "best").bundle.representation
    store = SegmentStore(world.store)
    shown = {r: representation(store[store.segments_of(r)[0]], store.rate).shown for r in store.records()}
    counts = read_manifest(folder, "training-run")["counts"]
    for split in ("train", "val"):
        ecgs = {e for c in world.conversations(split) for e in c.ecgs}
        cut = [shown[e] for e in sorted(ecgs) if shown[e]]
        assert (counts[split]["ecgs"], counts[split]["ecgs_cut"]) == (len(ecgs), len(cut))
        means = {lead: pytest.approx(sum(c[lead] for c in cut) / len(cut), abs=1e-4) for lead in ("I", "V1")}
        assert counts[split]["ecg_shown"] == means
        if policy == "tail":
            assert counts[split]["ecg_shown"]["I"] > counts[split]["ecg_shown"]["V1"]
        line = next(t for t in said if t.startswith(f"{split}: ") and "cut" in t)
        assert line.startswith(f"{split}: {len(cut)} of {len(ecgs)} ECGs are longer than max_ecg_tokens and cut")
    told: list[str] = []
    options = {"max_new_tokens": 2, "controls": ("no-ecg",), "say": told.append}
    predict(folder / "best", world.data, [world.store], tmp_path / "out", **options)
    rows = read_jsonl(tmp_path / "out" / "predictions.jsonl")
    for row in rows:
        expected = [shown[e] for e in row["ecgs"]] if row["control"] == "real" else []
        assert row.get("ecg_shown", []) == (expected if any(expected) else [])
    number = sum("ecg_shown" in r for r in rows)
    assert number > 0 and read_manifest(tmp_path / "out", "predictions")["num_ecg_cut"] == number
    assert any(t.startswith(f"{number} of {len(rows)} answers are about an ECG longer") for t in told)


def test_an_ecg_within_the_limit_leaves_no_trace(symbols_run, world) -> None:
    counts = read_manifest(symbols_run, "training-run")["counts"]
    representation = load(symbols_run / "best").bundle.representation
    store = SegmentStore(world.store)
    cut = {r for r in store.records() if representation(store[store.segments_of(r)[0]], store.rate).shown}
    for split in ("train", "val"):
        ecgs = {e for c in world.conversations(split) for e in c.ecgs}
        assert ("ecgs_cut" in counts[split]) is bool(ecgs & cut)
