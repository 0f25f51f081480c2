"""A tiny model that answers sometimes with its reasons and sometimes without, and recipes that reward the former."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ecglm.training.align_recipe import AlignData, AlignRecipe, AlignTrainConfig, GrpoConfig
from ecglm.training.run import train
from ecglm.types import Turn
from tiny_world import World

REWARDS = {"think_format": 1.0, "correct": 1.0}


def both_ways(world: World, path: Path) -> Path:
    """The questions about axes twice, with the plain answer and with a reasoned one."""
    found = []
    for c in world.conversations():
        if c.task == "axis":
            answer = c.turns[-1].text
            reasoned = f"<think>leads</think><answer>{answer}</answer>"
            for name, text in (("plain", answer), ("reasoned", reasoned)):
                found.append(replace(c, id=f"{c.id}/{name}", turns=(*c.turns[:-1], Turn("assistant", text))))
    return world.write(path, found)


def reasoning_run(world: World, folder: Path, steps: int = 60) -> tuple[Path, Path]:
    """``(checkpoint folder, conversations)`` of a model that has learned both ways."""
    data = both_ways(world, folder / "both.parquet")
    recipe = world.recipe(max_steps=steps, eval_every=steps)
    run = train(replace(recipe, data=replace(recipe.data, files=(str(data),))), folder / "sft", say=lambda text: None)
    return run.best, data


def recipe(world: World, model: Path, data: Path, *, beta: float = 0.0, **changes: Any) -> AlignRecipe:
    """changes: fields of AlignTrainConfig or GrpoConfig."""
    own = {n: changes.pop(n) for n in list(changes) if n in GrpoConfig.__dataclass_fields__}
    grpo = {"num_samples": 6, "max_new_tokens": 32, "rewards": REWARDS, **own}
    usual = {"max_steps": 6, "batch_size": 4, "lr": 2e-3, "eval_every": 3, "warmup_steps": 1, "log_every": 1}
    return AlignRecipe(
        name="tiny-grpo",
        model=str(model),
        data=AlignData(stores=(str(world.store),), files=(str(data),)),
        method="grpo",
        beta=beta,
        grpo=GrpoConfig(**grpo),
        train=AlignTrainConfig(**{**usual, **changes}),
    )
