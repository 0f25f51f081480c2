"""The tiny world with an index of its training ECGs, and recipes that tell of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ecglm.retrieval.index import Index, build_index
from ecglm.training.recipe import RagConfig, Recipe
from tiny_world import World


def quiet(text: str) -> None:
    """No progress lines."""


def make_index(world: World, folder: Path) -> Index:
    return build_index([world.store], folder, data=world.data, min_quality="any", say=quiet)


def rag_recipe(world: World, index: Path, rag: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """The tiny recipe, told of one neighbour. rag: fields of RagConfig; changes: of TrainConfig."""
    recipe = world.recipe(**changes)
    section = RagConfig(index=str(index), **{"max_tokens": 120, **(rag or {})})
    return replace(recipe, rag=section, model=replace(recipe.model, max_len=400))
