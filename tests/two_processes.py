"""Trainings in two processes, and what it means that they are the same training as another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ecglm.files import read_jsonl
from ecglm.training.recipe import Recipe


def exact(recipe: Recipe) -> Recipe:
    """Without dropout, whose random numbers differ from process to process."""
    return replace(
        recipe, model=replace(recipe.model, encoder_options={**recipe.model.encoder_options, "dropout": 0.0})
    )


def torchrun(how: str, folder: Path, recipes: Sequence[Path], *, seconds: float = 240) -> Any:
    """Run ranks.py in two processes on the CPU; the finished process, with its output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    script = Path(__file__).parent / "training" / "ranks.py"
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": tests}
    return subprocess.run(
        [*command, str(script), how, str(folder), *map(str, recipes)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=seconds,
    )


def metrics(folder: Path, key: str) -> dict[int, float]:
    return {r["step"]: r[key] for r in read_jsonl(folder / "metrics.jsonl") if key in r}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "best" / "ecg.safetensors") | load_file(folder / "best" / "llm" / "model.safetensors")


def assert_same_training(ours: Path, theirs: Path) -> None:
    for key in ("loss", "eval_loss", "learning_rate"):
        assert metrics(ours, key) == pytest.approx(metrics(theirs, key), rel=1e-5, abs=1e-6), key
    assert metrics(ours, "grad_norm") == pytest.approx(metrics(theirs, "grad_norm"), rel=1e-4)
    assert metrics(ours, "tokens").keys() == metrics(theirs, "tokens").keys()
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
