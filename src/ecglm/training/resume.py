"""States of a training on the disk: which are whole, which is the newest, and whether anything is left to do."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from transformers import TrainerState

from ecglm.errors import TornOutputError
from ecglm.files import output_state, read_manifest, write_manifest
from ecglm.training.options import TrainConfig
from ecglm.training.state import sync

KIND, MANIFEST = "training-state", "state.json"
STATES, KEPT = "states", 2


def begin_output(folder: Path, kind: str, plan: str, overwrite: bool) -> str:
    """``output_state`` of a run's folder, cleared of what a killed run left half written there."""
    state = output_state(folder, kind, plan, overwrite)
    if state == "finished":  # a kill between the manifest and this left them behind
        shutil.rmtree(folder / STATES, ignore_errors=True)
    for leftover in [*folder.glob(".tmp-*"), *folder.glob(".old-*")]:  # of a run killed while saving
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return state


def finish_state(states: Path, step: int, processes: int) -> None:
    """Make the state of ``step`` whole: everything to the disk, then its manifest; then older states go."""
    folder = states / f"checkpoint-{step}"
    sync(folder)
    write_manifest(folder / MANIFEST, KIND, {"step": step, "processes": processes}, {}, {})
    for old in sorted(states.glob("checkpoint-*"), key=_step_of)[:-KEPT]:
        shutil.rmtree(old)


def resume_point(states: Path) -> str | None:
    """The newest complete state in ``states``; torn ones (a run killed while saving) are removed."""
    found: list[tuple[int, Path]] = []
    for folder in states.glob("checkpoint-*"):
        try:
            manifest = read_manifest(folder / MANIFEST, KIND)
        except TornOutputError:
            shutil.rmtree(folder)
            continue
        found.append((int(manifest["settings"]["step"]), folder))
    return str(max(found)[1]) if found else None


def is_over(state: Path, config: TrainConfig) -> bool:
    """Whether a state is that of the last step: nothing is left to train, and one step more would be one too many."""
    saved = TrainerState.load_from_json(str(state / "trainer_state.json"))
    return saved.global_step >= saved.max_steps or out_of_patience(saved, config)


def out_of_patience(state: TrainerState, config: TrainConfig) -> bool:
    """Whether the last ``patience`` validations all gained no more than ``min_delta`` over the best before."""
    if config.patience is None:
        return False
    best, waited = math.inf, 0
    for loss in (row["eval_loss"] for row in state.log_history if "eval_loss" in row):
        if loss < best - config.min_delta:
            best, waited = loss, 0
        else:
            waited += 1
    return waited >= config.patience


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
