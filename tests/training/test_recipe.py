"""Recipes: every one that comes with the project can be read, and every mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecglm import config as strict
from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.training.recipe import Recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))

GOOD = """\
name: x
data:
  files: [q.parquet]
  stores: [store]
signal:
  num_tokens: 8
model:
  llm: tiny
  tiny: {hidden: 32}
train:
  max_steps: 100
  lr: 1e-4
"""


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_read_and_names_things_that_exist(path: Path) -> None:
    recipe = strict.load(path, Recipe)
    assert recipe.name == path.stem
    assert recipe.data.files and recipe.data.stores
    assert path.read_text().startswith("#"), "a recipe's first line says what it is for"
    registry.get("objectives", recipe.train.objective)
    registry.get("encoders", recipe.model.encoder)
    registry.get("connectors", recipe.model.connector)
    assert strict.loads(strict.dumps(recipe), Recipe) == recipe


def test_values_arrive() -> None:
    recipe = strict.loads(GOOD, Recipe)
    assert recipe.data.files == ("q.parquet",)
    assert (recipe.representation, recipe.signal.num_tokens) == ("signal", 8)
    assert (recipe.train.max_steps, recipe.train.lr, recipe.model.tiny.hidden) == (100, 1e-4, 32)


@pytest.mark.parametrize(
    "old, new, line, told",
    [
        ("  lr: 1e-4", "  learning: 1e-4", 12, "unknown key 'train.learning'"),
        ("  max_steps: 100", "  max_step: 100", 11, r"did you mean 'max_steps'\?"),
        ("  max_steps: 100", "  max_steps: 1.5", 11, "must be a whole number"),
        ("  lr: 1e-4", "  lr: quick", 12, "must be a number"),
        ("  lr: 1e-4", "  schedule: cosin", 12, "'cosine'"),
        ("  lr: 1e-4", "  max_steps: 3", 12, "stands twice"),
        ("  num_tokens: 8", "  leads: II", 6, "must be a list"),
        ("  stores: [store]", "  tasks: [rhythm]", 3, "'data.stores' is missing"),
        ("  lr: 1e-4", "  lr: 0", 11, r"train\.lr must be above 0"),
        ("  lr: 1e-4", "  lr: -1e-3", 11, r"train\.lr must be above 0"),
        ("  lr: 1e-4", "  batch_size: 0", 11, r"train\.batch_size must be 1 or more"),
        ("  max_steps: 100", "  max_steps: 0", 11, r"train\.max_steps must be 1 or more"),
        ("  lr: 1e-4", "  warmup_steps: 100", 11, "below max_steps"),
        ("  lr: 1e-4", "  warmup_steps: -1", 11, "warmup_steps"),
        ("  lr: 1e-4", "  accumulation: 0", 11, "accumulation"),
        ("  lr: 1e-4", "  eval_every: 0", 11, "eval_every"),
    ],
)
def test_a_mistake_is_told_with_its_line(old: str, new: str, line: int, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=told) as error:
        strict.loads(GOOD.replace(old, new), Recipe, "r.yaml")
    assert str(error.value).startswith(f"r.yaml, line {line}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("representation", ["", "signal: {}\nsymbols: {}\n"])
def test_exactly_one_representation(representation: str) -> None:
    text = GOOD.replace("signal:\n  num_tokens: 8\n", representation)
    with pytest.raises(ConfigError, match="exactly one representation"):
        strict.loads(text, Recipe)
