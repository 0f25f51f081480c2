"""Recipes: every one that comes with the project can be read, and every mistake is told with its line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from ecglm import config as strict
from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.towers import known_name
from ecglm.training.recipe import Recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
#: All but those of ``ecglm pretrain`` and ``ecglm align``, which have schemas of their own.
RECIPES = sorted(p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("pretrain") and p.parent.name != "align")

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
    assert recipe.name == "-".join(path.relative_to(FOLDER).with_suffix("").parts)
    assert recipe.data.files and recipe.data.stores
    assert path.read_text().startswith("#"), "a recipe's first line says what it is for"
    registry.get("objectives", recipe.train.objective)
    registry.get("encoders", known_name(recipe.model))
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


def with_model(representation: str, model: str) -> str:
    text = GOOD.replace("signal:\n  num_tokens: 8\n", representation)
    return text.replace("  llm: tiny\n", f"  llm: tiny\n{model}")


def test_at_most_one_representation() -> None:
    with pytest.raises(ConfigError, match="r, line 1: give at most one representation, found signal and symbols"):
        strict.loads(with_model("signal: {}\nsymbols: {}\n", ""), Recipe, "r")


def test_words_may_stand_beside_one_other() -> None:
    both = strict.loads(with_model("signal: {}\nfeatures: {items: [rate]}\n", ""), Recipe)
    assert (both.representation, both.words, both.shown) == ("signal", "features", "signal + features")
    assert both.representation_options == both.signal and strict.loads(strict.dumps(both), Recipe) == both
    alone = strict.loads(with_model("features: {}\n", ""), Recipe)
    assert (alone.representation, alone.words, alone.shown) == ("features", None, "features")
    page = strict.loads(with_model("features: {}\nimage: {}\n", "  encoder: vit\n"), Recipe)
    assert (page.representation, page.words) == ("image", "features")
    with pytest.raises(ConfigError, match="r, line 1: give at most one representation, found signal and symbols"):
        strict.loads(with_model("signal: {}\nsymbols: {}\nfeatures: {}\n", ""), Recipe, "r")


@pytest.mark.parametrize("name", ["signal", "symbols", "stacked"])
def test_percentiles_and_their_mode_go_together(name: str) -> None:
    model = "  encoder: vit\n" if name == "stacked" else ""
    good = with_model(f"{name}: {{normalise: percentile, percentiles: p.json}}\n", model)
    assert strict.loads(good, Recipe).representation_options.files() == {"percentiles": "p.json"}
    for given, told in (
        ("normalise: percentile", f"r, line 5: {name}.normalise percentile needs {name}.percentiles; ecglm store"),
        ("percentiles: p.json", f"r, line 5: {name}.percentiles is for {name}.normalise percentile"),
    ):
        with pytest.raises(ConfigError) as error:
            strict.loads(with_model(f"{name}: {{{given}}}\n", model), Recipe, "r")
        assert str(error.value).startswith(told)
    with pytest.raises(ConfigError, match=r"line 5: symbols\.percentiles: the tokenizer has its own"):
        given = "symbols: {tokenizer: t.json, normalise: percentile, percentiles: p.json}\n"
        strict.loads(with_model(given, ""), Recipe, "r")


def test_without_a_section_it_is_what_the_encoder_reads() -> None:
    recipe = strict.loads(with_model("", ""), Recipe)
    assert (recipe.representation, recipe.signal) == ("signal", None)
    assert recipe.representation_options == registry.get("representations", "signal").Options()
    assert strict.loads(strict.dumps(recipe), Recipe) == recipe


@pytest.mark.parametrize("encoder, shown", [("resnet1d", "signal"), ("vit", "image"), ("clip", "image")])
def test_the_representation_follows_from_the_encoder(encoder: str, shown: str) -> None:
    assert strict.loads(with_model("", f"  encoder: {encoder}\n"), Recipe).representation == shown


def test_every_registered_representation_has_a_section_with_its_options() -> None:
    given = {f.name: f.type for f in dataclasses.fields(Recipe)}
    for name in registry.names("representations"):
        assert given[name] == registry.get("representations", name).Options | None


@pytest.mark.parametrize(
    "representation, model, told",
    [
        ("symbols: {}\n", "  encoder_options: {dropout: 0.1}\n", "feeds no encoder, but model.encoder_options"),
        ("symbols: {}\n", "  encoder: merl\n", "feeds no encoder, but model.encoder 'merl' is given"),
        ("signal: {}\n", "  encoder: null\n", "'signal' feeds an encoder, but model.encoder is empty; name one"),
        ("", "  encoder: null\n", "neither a representation nor model.encoder is given"),
        ("", "  encoder: resnet\n", "did you mean 'resnet1d'"),
        (
            "image: {}\n",
            "",
            r"'image' gives a picture, but encoder 'resnet1d' reads a signal; choose another representation "
            r"\(.*signal.*\) or another encoder \(clip, siglip, siglip2, vit\)",
        ),
        ("stacked: {}\n", "", "'stacked' gives a picture, but encoder 'resnet1d' reads a signal"),
        ("signal: {}\n", "  encoder: vit\n", r"'signal' gives a signal, but encoder 'vit' reads a picture; .*image"),
    ],
)
def test_a_pair_that_cannot_work_is_refused(representation: str, model: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        strict.loads(with_model(representation, model), Recipe, "r.yaml")
    assert str(error.value).startswith("r.yaml, line 1: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "augment, told",
    [
        ("{nois: {}}", r"train\.augment: no effect 'nois' \(did you mean 'noise'\?\)"),
        ("{noise: {sd: -1}}", r"train\.augment\.noise\.sd must lie between 0 and 10"),
        ("{noise: 1}", r"train\.augment\.noise must be"),
        ("[noise]", r"'train\.augment' must be"),
    ],
)
def test_an_unknown_augmentation_is_refused_with_its_line(augment: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        strict.loads(GOOD + f"  augment: {augment}\n", Recipe, "r.yaml")
    assert str(error.value).startswith(("r.yaml, line 11: ", "r.yaml, line 13: ")) and "\n" not in str(error.value)


def test_augmentation_is_plain_data_and_comes_back() -> None:
    recipe = strict.loads(GOOD + "  augment: {noise: {p: 0.3, sd: 1e-1}, wander:, mains: {}}\n", Recipe)
    assert recipe.train.augment == {"noise": {"p": 0.3, "sd": 0.1}, "wander": None, "mains": {}}
    found = {c.effect.name: (c.p, c.options) for c in recipe.train.augmentation().effects}
    assert found == {"noise": (0.3, {"sd": 0.1}), "wander": (0.5, {}), "mains": (0.5, {})}
    assert strict.loads(strict.dumps(recipe), Recipe) == recipe
    with pytest.raises(ConfigError, match=r"train\.augment\.image varies pictures, but representation 'signal' gives"):
        strict.loads(GOOD + "  augment: {image: {}}\n", Recipe)


def test_a_plugins_representation_has_its_section(tmp_path: Path) -> None:
    """In a process of its own: registered before the recipe is read, as an entry point's module is."""
    code = '''
from dataclasses import dataclass
from ecglm.registry import register
from ecglm.representations.base import RecipeOptions, Representation

@register("representations", "notes")
class Notes(Representation):
    added_tokens = ()

@dataclass(frozen=True, kw_only=True)
class MineOptions(RecipeOptions):
    """Mine. width: in mm."""
    width: int = 3

@register("representations", "mine")
class Mine(Representation):
    Options = MineOptions

from ecglm import config
from ecglm.training.recipe import Recipe
recipe = config.loads("name: x\\ndata: {files: [a], stores: [b]}\\nmine: {width: 5}\\n", Recipe)
print(recipe.representation, recipe.mine.width, recipe.representation_options)
try:
    config.loads("name: x\\ndata: {files: [a], stores: [b]}\\nnotes: {}\\nfeatures: {}\\n", Recipe)
except Exception as error:
    print(error)
'''
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == (
        "mine 5 MineOptions(width=5)\n"
        "recipe, line 1: give at most one representation of words alone, found features and notes\n"
    ), done.stderr
