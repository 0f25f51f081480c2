"""Pretraining recipes: those of the project parse, and what cannot work is refused with its line and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecglm import config, registry
from ecglm.errors import ConfigError
from ecglm.training.check import check_recipe
from ecglm.training.pretrain_recipe import OBJECTIVES, REPRESENTATIONS, PretrainRecipe
from ecglm.verbs.pretraining import is_pretraining

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
OURS = sorted([*RECIPES.glob("pretrain-*.yaml"), *(RECIPES / "paper").glob("pretrain-*.yaml")])

GOOD = """
name: x
data: {stores: [stores/x]}
encoder: {name: st_mem, options: {size: tiny}}
masked: {mask_ratio: 0.5}
"""


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.relative_to(RECIPES).as_posix())
def test_the_projects_recipes_parse(path):
    recipe = config.load(path, PretrainRecipe)
    assert path.stem.endswith(recipe.name.removeprefix("pretrain-").removeprefix("paper-")) or recipe.name == path.stem
    assert config.loads(config.dumps(recipe), PretrainRecipe) == recipe
    assert is_pretraining(str(path))
    lines = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("ecglm pretrain recipes/" in line for line in lines)


def test_every_objective_has_a_recipe():
    used = {config.load(path, PretrainRecipe).objective for path in OURS}
    assert used == {"masked", "merl", "clip", "siglip", "captioning"} == set(OBJECTIVES)


def test_a_training_recipe_is_no_pretraining_recipe():
    assert not is_pretraining(str(RECIPES / "tiny.yaml"))
    assert not is_pretraining(str(RECIPES / "absent.yaml"))


def test_an_objective_of_encoders_trains_no_language_model(world):
    with pytest.raises(
        ConfigError, match=r"train\.objective 'masked' pretrains an encoder: write a recipe for ecglm pre"
    ):
        check_recipe(world.recipe(objective="masked"))


def test_what_a_recipe_says():
    recipe = config.loads(GOOD, PretrainRecipe)
    assert (recipe.objective, recipe.representation_for("st_mem"), recipe.masked.mask_ratio) == (
        "masked",
        "signal",
        0.5,
    )
    assert recipe.probe is None
    assert set(REPRESENTATIONS) >= {"signal", "stacked", "image"} and "symbols" not in REPRESENTATIONS
    assert not isinstance(registry.get("objectives", "sft"), type)  # the one that trains language models


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("masked: {mask_ratio: 0.5}", ""), "one objective is needed .* found none"),
        (("masked: {mask_ratio: 0.5}", "masked: {}\nmerl: {}"), "one objective is needed .* found masked and merl"),
        (("mask_ratio: 0.5", "mask_ratio: 1.5"), "masked.mask_ratio must lie between 0 and 1"),
        (("mask_ratio", "mask_rate"), "line 5: unknown key 'masked.mask_rate' .did you mean 'mask_ratio'"),
        (("name: st_mem", "name: st-mem"), "no encoders named 'st-mem'.*did you mean 'st_mem'"),
        (("name: st_mem, options: {size: tiny}", "options: {}"), "give a name or start_from"),
        (("name: st_mem", "start_from: runs/x, name: st_mem"), "give a name or start_from"),
        (("name: st_mem, options: {size: tiny}", "start_from: a, options: {size: tiny}"), "leave encoder.options out"),
        (("name: st_mem, options: {size: tiny}", "name: random"), "'random' never learns"),
        (
            ("encoder:", "stacked: {}\nencoder:"),
            "'st_mem' reads a signal, which representation 'stacked' does not give",
        ),
        (("encoder:", "stacked: {}\nsignal: {}\nencoder:"), "at most one representation"),
        (("encoder:", "train: {objective: masked}\nencoder:"), "train.objective is not for pretraining"),
        (("encoder:", "train: {parts: [encoder]}\nencoder:"), "train.parts is not for pretraining"),
        (("encoder:", "probe: {shares: [0.0]}\nencoder:"), "probe.shares must be above 0"),
        (("encoder:", "symbols: {}\nencoder:"), "unknown key 'symbols'"),
    ],
)
def test_bad_recipes_are_refused(change, message):
    assert change[0] in GOOD
    with pytest.raises(ConfigError, match=message):
        config.loads(GOOD.replace(*change), PretrainRecipe)
