"""Image encoders end to end by the command line: the recipes of the repository train, answer, resume and move."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cli_tools import done, ecglm
from ecglm import config as strict
from ecglm.files import read_jsonl
from ecglm.models.checkpoint import from_pretrained
from ecglm.prompts.data import EcgSource
from ecglm.representations.render import render
from ecglm.store.reader import SegmentStore
from ecglm.training import run as training
from ecglm.training.recipe import Recipe
from tiny_world import tree

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
KINDS = ["image", "stacked"]


@dataclass(frozen=True)
class Way:
    """What the commands left: the recipe that was trained, and its run."""

    kind: str
    recipe: Path
    run: Path

    @property
    def best(self) -> Path:
        return self.run / "best"


@pytest.fixture(scope="module", params=KINDS)
def way(request, world, tmp_path_factory) -> Way:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = strict.load(RECIPES / f"synthetic-{request.param}.yaml", Recipe)
    values = strict.to_dict(recipe)
    values["data"] = {"files": [str(world.data)], "stores": [str(world.store)], "tasks": ["rhythm"]}
    values["model"]["encoder_options"] = {"size": "nano", "config": {"image_size": 96, "patch_size": 32}}
    values[request.param] |= {"num_tokens": 9}
    values["train"] |= {"batch_size": 4, "eval_every": 2, "max_steps": 4}
    file = folder / "recipe.yaml"
    file.write_text(strict.dumps(strict.from_dict(Recipe, values)))
    done("train", file, "--out", folder / "run")
    return Way(request.param, file, folder / "run")


def test_validate_says_what_would_be_trained(way: Way) -> None:
    said = done("validate", way.recipe)
    assert f": {way.kind}, tiny, 4 steps: valid" in said and " reads 3 x 96 x 96 of each ECG" in said
    wrong = ecglm("validate", way.recipe, "--model.encoder", "resnet1d")
    assert f"'{way.kind}' gives a picture, but encoder 'resnet1d' reads a signal" in wrong.error
    assert "the encoder gives 9 tokens, not 10" in ecglm("validate", way.recipe, f"--{way.kind}.num-tokens", 10).error


def test_the_representation_can_be_chosen_on_the_command_line(way: Way, tmp_path: Path) -> None:
    values = strict.to_dict(strict.load(way.recipe, Recipe))
    (tmp_path / "r.yaml").write_text(strict.dumps(strict.from_dict(Recipe, {**values, way.kind: None})))
    assert ": image, tiny" in done("validate", tmp_path / "r.yaml")
    assert f": {way.kind}, tiny" in done("validate", tmp_path / "r.yaml", f"--{way.kind}.num-tokens", 4)


def test_words_beside_it_and_a_synthesis_of_ones_own_from_the_command_line(way: Way, tmp_path: Path) -> None:
    said = done("validate", way.recipe, "--features.items", "rate", "pr")
    assert f": {way.kind} + features, tiny" in said
    wrong = ecglm("validate", way.recipe, "--features.items", "rat")
    assert "no item 'rat' (did you mean 'rate'?)" in wrong.error
    wrong = ecglm("validate", way.recipe, "--symbols.rate", 25)
    assert f"give at most one representation, found {way.kind} and symbols" in wrong.error
    if way.kind == "image":
        file = tmp_path / "mine.yaml"
        file.write_text("jpeg: {quality: [60, 95]}\nrotation: {degree: 2}\n")
        wrong = ecglm("validate", way.recipe, "--image.synthesis", file)
        assert f"{file}, line 2: unknown key 'rotation.degree' (did you mean 'degrees'?)" in wrong.error
        file.write_text("jpeg: {quality: [60, 95]}\nrotation: {degrees: [-2, 2]}\n")
        done("train", way.recipe, "--image.synthesis", file, "--train.max-steps", 3, "--out", tmp_path / "run")
        file.unlink()
        kept = from_pretrained(tmp_path / "run" / "best").representation.synthesis
        assert kept == {"jpeg": {"quality": [60, 95]}, "rotation": {"degrees": [-2, 2]}}
    odd = ecglm("validate", way.recipe, f"--{way.kind}.num-tokens", 7)
    assert f"{way.kind}.num_tokens: 7 tokens make no grid over the encoder's 3 x 3 patches" in odd.error


def test_it_is_trained_again_for_nothing(way: Way) -> None:
    assert "was complete already, reused" in done("train", way.recipe, "--out", way.run)


def test_killed_and_run_again_it_is_the_same_run(way: Way, tmp_path: Path, monkeypatch) -> None:
    calls = []
    save = training.ElmTrainer._save_checkpoint

    def stop(self, model, trial):
        save(self, model, trial)
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.ElmTrainer, "_save_checkpoint", stop)
    assert ecglm("train", way.recipe, "--out", tmp_path / "run").status == 130 and calls
    monkeypatch.undo()
    assert "goes on from checkpoint-2" in done("train", way.recipe, "--out", tmp_path / "run")
    ours, theirs = tree(tmp_path / "run" / "best"), tree(way.best)
    assert ours.keys() == theirs.keys() and not [n for n in ours if ours[n] != theirs[n]]


def test_predicts_with_controls_scores_and_reports(way: Way, world, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--data", world.data, "--store", world.store, "--controls", "blank", "noise", "--max-new-tokens", 4)
    done("predict", "--model", way.best, *options, "--tasks", "rhythm", "--out", out)
    rows = read_jsonl(out / "predictions.jsonl")
    assert {row["control"] for row in rows} == {"real", "blank", "noise"}
    done("score", out)
    done("report", out, "--out", tmp_path / "report.html")
    assert "rhythm" in (tmp_path / "report.html").read_text()


def test_asked_about_a_file_from_another_place_it_answers_alike(way: Way, tmp_path: Path) -> None:
    signal = np.random.default_rng(0).normal(0, 0.2, (12, 5000)).cumsum(axis=1) % 1
    np.save(tmp_path / "ecg.npy", signal.astype(np.float32))
    file = ("--ecg", tmp_path / "ecg.npy", "--rate", 500, "--leads", "standard", "--units", "mV", "--max-new-tokens", 6)
    here = done("ask", "What is the rhythm?", "--model", way.best, *file)
    moved = shutil.copytree(way.best, tmp_path / "elsewhere")
    assert done("ask", "What is the rhythm?", "--model", moved, *file) == here


def test_the_blank_control_is_blank_paper_and_the_ecg_is_seen(way: Way, world) -> None:
    bundle, store = from_pretrained(way.best), SegmentStore(world.store)
    show = bundle.representation
    ecgs = EcgSource([store], show)
    real = [ecgs.encode(record).tensor for record in store.records()[:2]]
    blank = show(store[0] * 0, store.rate).tensor
    assert {t.dtype.name for t in (*real, blank)} == {"uint8"} and blank.shape == (3, 96, 96) == show.input_shape
    if way.kind == "image":
        paper = render(store[0] * 0, store.rate, line_width=show._line_width(store.seg_len, store.rate))
        assert abs(float(paper.mean()) - float(blank[:, 11:85].mean())) < 3
    else:
        assert not blank.any()
    with torch.no_grad():
        seen = [bundle.elm.encoder(torch.from_numpy(t)[None]) for t in (*real, blank)]
    assert not torch.allclose(seen[0], seen[1], atol=1e-3) and not torch.allclose(seen[0], seen[2], atol=1e-3)
