"""Kill -9 anywhere, run the same command again: the same bytes as if nothing had happened (D36)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecglm import config as strict
from ecglm.errors import EcglmError, StaleOutputError
from ecglm.files import read_jsonl, read_manifest
from ecglm.training.recipe import Recipe
from ecglm.training.resume import resume_point
from ecglm.training.run import train
from tiny_world import tree

#: Eight training ECGs in batches of two: an epoch has four steps. States are saved every third step and logs written
#: every second, so that neither fits the other nor the epochs.
POINTS = [
    "step-1",  # before any state
    "step-5",  # epoch 2, from a state in the middle of epoch 1
    "step-7",  # epoch 2, from a state in its middle
    "step-10",  # epoch 3, from a state in its middle
    "optimizer-2",  # state of step 6 half written
    "state-2",  # state of step 6 without its manifest
    "best-2",  # best checkpoint of step 6 half written
    "end-1",  # trained to the end, nothing of the run's own written
]


@pytest.fixture(scope="module")
def recipe(world) -> Recipe:
    """With augmentation, so that a resumed run must know its epoch to show the same ECGs."""
    augment = {"noise": {"p": 0.5, "sd": 0.2}, "lead-dropout": None}
    return world.recipe(max_steps=11, batch_size=2, eval_every=3, log_every=2, warmup_steps=2, augment=augment)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    return train(recipe, tmp_path_factory.mktemp("whole") / "run", say=lambda text: None).path


def run_killed(folder: Path, recipe: Recipe, points: list[str]) -> list[str]:
    """Let a process each train the recipe to the points; how each ended, a line per point."""
    (folder / "recipe.yaml").write_text(strict.dumps(recipe))
    script = Path(__file__).with_name("killed.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "recipe.yaml"), str(folder), *points],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.fixture(scope="module")
def killed(recipe: Recipe, tmp_path_factory) -> Path:
    """One folder per kill point, as its killed process left it."""
    folder = tmp_path_factory.mktemp("killed")
    ended = run_killed(folder, recipe, [*POINTS, "full-2"])
    assert ended == [*(f"{point} {int(signal.SIGKILL)}" for point in POINTS), "full-2 ended"]
    return folder


def final(folder: Path) -> dict[str, bytes]:
    """What must be equal: everything but the plan."""
    return {name: data for name, data in tree(folder).items() if name != "plan.json"}


def test_the_world_is_as_the_kill_points_say(whole: Path, recipe: Recipe) -> None:
    rows = read_jsonl(whole / "metrics.jsonl")
    assert [r["step"] for r in rows if "eval_loss" in r] == [3, 6, 9, 11]  # the last step too, and once only
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 12))
    assert read_manifest(whole, "training-run")["counts"]["train"]["sequences"] == 8


@pytest.mark.parametrize("point", POINTS)
def test_d36_killed_and_run_again_equals_uninterrupted(point: str, killed: Path, whole: Path, recipe: Recipe) -> None:
    folder = killed / point
    left = tree(folder)
    assert "manifest.json" not in left
    assert not [n for n in left if n.endswith((".bin", ".pt", ".pth", ".pkl"))]  # states hold no pickle either
    states = {p.name for p in folder.glob("states/checkpoint-*")}
    said: list[str] = []
    result = train(recipe, folder, say=said.append)
    assert not result.reused
    resumed = [line for line in said if line.startswith("goes on from")]
    expected = {
        "step-1": (set(), []),
        "step-5": ({"checkpoint-3"}, ["goes on from checkpoint-3"]),
        "step-7": ({"checkpoint-3", "checkpoint-6"}, ["goes on from checkpoint-6"]),
        "step-10": ({"checkpoint-6", "checkpoint-9"}, ["goes on from checkpoint-9"]),
        "optimizer-2": ({"checkpoint-3", "checkpoint-6"}, ["goes on from checkpoint-3"]),
        "state-2": ({"checkpoint-3", "checkpoint-6"}, ["goes on from checkpoint-3"]),
        "best-2": ({"checkpoint-3"}, ["goes on from checkpoint-3"]),
        "end-1": ({"checkpoint-9", "checkpoint-11"}, ["goes on from checkpoint-11"]),
    }[point]
    assert (states, resumed) == expected
    ours, theirs = final(folder), final(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_full_disk_leaves_the_state_before_and_is_one_line(killed: Path, whole: Path, recipe: Recipe) -> None:
    """The state of step 6 does not fit: a real limit on file sizes, set by the process itself."""
    folder = killed / "full-2"
    told = (killed / "full-2.txt").read_text()
    assert "\n" not in told and "states: cannot be written" in told
    assert resume_point(folder / "states") == str(folder / "states" / "checkpoint-3")
    said: list[str] = []
    train(recipe, folder, say=said.append)
    assert "goes on from checkpoint-3" in said
    assert final(folder) == final(whole)


def test_d36_accumulated_steps_go_on_bit_for_bit_and_workers_change_nothing(world, tmp_path: Path) -> None:
    """Eight batches of one in steps of three, three and two, by Adam; killed in epoch 2, with two worker processes."""
    augment = {"noise": {"p": 0.5, "sd": 0.2}}
    changes = {"optimizer": "adam", "save_every": 2, "eval_every": 3, "augment": augment, "num_workers": 2}
    recipe = world.recipe(batch_size=1, accumulation=3, max_steps=7, **changes)
    assert run_killed(tmp_path, recipe, ["step-4"]) == [f"step-4 {int(signal.SIGKILL)}"]
    said: list[str] = []
    train(recipe, tmp_path / "step-4", say=said.append)
    assert "goes on from checkpoint-4" in said
    alone = replace(recipe, train=replace(recipe.train, num_workers=0))
    whole = final(train(alone, tmp_path / "whole", say=lambda text: None).path)
    found = final(tmp_path / "step-4")
    differs = {name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)}
    assert differs <= {"recipe.yaml"}


def test_a_process_killed_from_outside_loses_nothing(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """As a user does it: the command line, SIGKILL at some moment of training, the command line again."""
    (tmp_path / "recipe.yaml").write_text(strict.dumps(recipe))
    code = (
        "import sys, time, torch; torch.set_num_threads(1)\n"
        "from ecglm.training import trainer\n"
        "step = trainer.ElmTrainer.training_step\n"
        "trainer.ElmTrainer.training_step = lambda *a, **k: (time.sleep(0.2), step(*a, **k))[1]\n"
        "from ecglm.cli import main\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and any(r["step"] >= 4 for r in read_jsonl(metrics, allow_torn=True)):
            break
        time.sleep(0.02)
    assert process.poll() is None, "training ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "manifest.json").exists()
    train(recipe, tmp_path / "run", say=lambda text: None)
    assert final(tmp_path / "run") == final(whole)


def test_a_torn_state_is_removed_and_the_newest_whole_one_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    (folder / "checkpoint-4").mkdir(parents=True)
    assert resume_point(folder) is None
    assert not (folder / "checkpoint-4").exists()
    for step in (4, 12, 8):
        (folder / f"checkpoint-{step}").mkdir()
        manifest = {"kind": "training-state", "manifest_version": 1, "settings": {"step": step}}
        (folder / f"checkpoint-{step}" / "state.json").write_text(json.dumps(manifest))
    assert resume_point(folder) == str(folder / "checkpoint-12")  # by number, not by name or time
    assert resume_point(tmp_path / "absent") is None


def test_twice_the_same_bytes(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # whatever happened before in the process
    train(recipe, tmp_path / "again", say=lambda text: None)
    assert final(tmp_path / "again") == final(whole)


def test_a_finished_run_is_reused_and_another_recipe_refused(
    world, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    result = train(recipe, run, say=lambda text: None)
    assert result.reused
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    manifest = read_manifest(run / "best", "checkpoint")
    assert (result.val_loss, result.best_step) == (manifest["val_loss"], manifest["step"])
    other = world.recipe(max_steps=11, batch_size=2, eval_every=3, log_every=2, warmup_steps=2, lr=1e-4)
    with pytest.raises(StaleOutputError, match="--overwrite"):
        train(other, run, say=lambda text: None)
    assert not train(other, run, overwrite=True, say=lambda text: None).reused
    assert final(run) != final(whole)


def test_a_run_refused_at_the_start_does_not_bind_its_folder(world, recipe: Recipe, tmp_path: Path) -> None:
    bad = strict.from_dict(Recipe, {**strict.to_dict(recipe), "model": {"connector": "linea"}})
    with pytest.raises(EcglmError, match="did you mean 'linear'"):
        train(bad, tmp_path / "run", say=lambda text: None)
    short = world.recipe(max_steps=2)
    assert not train(short, tmp_path / "run", say=lambda text: None).reused
