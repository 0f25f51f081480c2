"""DeepSpeed's settings, checked before it is given them: what it would write or leave out is told at the start."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_json

PACKAGE = "deepspeed"
NO_STATES = (
    "DeepSpeed keeps its states in pickled files, which are neither written nor read here: a killed run begins anew "
    "(train.sharding fsdp resumes); best/ is written as ever"
)


def check_deepspeed(path: str) -> int:
    """The ZeRO stage (arXiv 1910.02054) a file of settings asks for.

    Raises EcglmError without the package or the file, ConfigError for settings that cannot be trained with here.
    """
    stage = zero_stage(path)
    if importlib.util.find_spec(PACKAGE) is None:
        raise EcglmError("train.deepspeed needs a package that is not installed: pip install 'ecglm[deepspeed]'")
    return stage


def zero_stage(path: str) -> int:
    """As ``check_deepspeed``, with or without the package."""
    if not Path(path).is_file():
        raise EcglmError(f"train.deepspeed: {path}: no such file; recipes/deepspeed/zero2.json is one")
    settings = read_json(Path(path))
    zero = settings.get("zero_optimization", {}) if isinstance(settings, dict) else None
    if not isinstance(zero, dict):
        raise ConfigError(f"{path}: no settings of DeepSpeed (a JSON object with zero_optimization)")
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3, found {stage!r}")
    for key in ("optimizer", "scheduler"):
        if key in settings:
            raise ConfigError(f"{path}: {key} is what the recipe's train section says; take it out of the file")
    if stage == 3:
        raise ConfigError(
            f"{path}: ZeRO-3 leaves no process with whole weights to write; train.sharding fsdp shards the same, "
            "writes ordinary checkpoints and resumes: drop train.deepspeed and set it, or ask for stage 2"
        )
    return int(stage)
