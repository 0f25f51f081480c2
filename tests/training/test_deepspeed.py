"""DeepSpeed's settings: what is read, and what is refused before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.training import deepspeed
from ecglm.training.deepspeed import check_deepspeed
from ecglm.training.run import train

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "deepspeed"
WITHOUT = importlib.util.find_spec("deepspeed") is None


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.json")), ids=lambda p: p.stem)
def test_our_settings_are_read(file: Path, monkeypatch) -> None:
    monkeypatch.setattr(deepspeed, "PACKAGE", "json")
    assert check_deepspeed(str(file)) == int(file.stem.removeprefix("zero"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"zero_optimization": {"stage": 3}}, "train.sharding fsdp"),
        ({"zero_optimization": {"stage": 7}}, "0, 1, 2 or 3, found 7"),
        ({"zero_optimization": 2}, "no settings of DeepSpeed"),
        ({"optimizer": {"type": "Adam"}}, "take it out"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(settings, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=told):
        check_deepspeed(str(tmp_path / "x.json"))


@pytest.mark.skipif(not WITHOUT, reason="deepspeed is installed")
def test_without_the_package_one_line_says_how_to_get_it(world, tmp_path: Path) -> None:
    recipe = world.recipe(max_steps=2)
    recipe = replace(recipe, train=replace(recipe.train, deepspeed=str(RECIPES / "zero2.json")))
    with pytest.raises(EcglmError, match=r"pip install 'ecglm\[deepspeed\]'"):
        train(recipe, tmp_path / "run", say=lambda text: None)
