"""Recipes of ``ecglm align``: those of the project parse, and what cannot work is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecglm import config as strict
from ecglm.errors import ConfigError
from ecglm.training.align_recipe import AlignRecipe, short
from ecglm.verbs.align import is_alignment

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
OURS = sorted((FOLDER / "align").glob("*.yaml"))
GOOD = "name: x\nmodel: runs/x/best\ndata: {pairs: [p.jsonl], stores: [s], files: [q.parquet]}\n"


def read(text: str) -> AlignRecipe:
    return strict.loads(text, AlignRecipe, "r.yaml")


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.stem)
def test_every_recipe_is_read_and_told_apart(path: Path) -> None:
    recipe = strict.load(path, AlignRecipe)
    assert recipe.name == f"align-{path.stem}" and recipe.method == path.stem.partition("-")[0]
    assert path.read_text().startswith("#") and is_alignment(str(path))
    assert strict.loads(strict.dumps(recipe), AlignRecipe) == recipe


def test_recipes_of_other_verbs_are_no_alignments(tmp_path: Path) -> None:
    assert {"dpo", "ipo"} <= {p.stem for p in OURS}
    assert not any(is_alignment(str(p)) for p in FOLDER.rglob("*.yaml") if p.parent.name != "align")
    assert not is_alignment(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("{")
    assert not is_alignment(str(tmp_path / "bad.yaml"))


def test_what_a_recipe_leaves_out() -> None:
    recipe = read(GOOD)
    assert (recipe.method, recipe.beta, recipe.label_smoothing, recipe.train.lr) == ("dpo", 0.1, 0.0, 1e-5)
    assert recipe.per_token is False
    assert read(GOOD + "method: ipo\n").per_token is True
    assert read(GOOD + "method: ipo\nmean: false\n").per_token is False
    assert read(GOOD + "mean: true\n").per_token is True
    assert (short(recipe).train.max_steps, short(recipe).train.lr) == (6, 1e-5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("beta: 0\n", "beta must be above 0, found 0"),
        ("beta: -1\n", "beta must be above 0"),
        ("label_smoothing: 0.5\n", "label_smoothing must be at least 0 and below 0.5"),
        ("label_smoothing: 0.1\nmethod: ipo\n", "label_smoothing is of method dpo, not of ipo"),
        ("method: kto\n", "'method' must be"),
        ("grpo: {}\n", "section grpo is of method grpo, not of dpo"),
        ("train: {packing: true}\n", "train.packing is not for ecglm align"),
        ("train: {sharding: fsdp}\n", "train.sharding is not for ecglm align"),
        ("train: {augment: {noise: {p: 0.5}}}\n", "train.augment"),
        ("train: {parts: [head]}\n", "train.parts: no part 'head'"),
        ("lora: {rank: 0}\n", "rank must be 1 or more"),
        ("bta: 1\n", "unknown key 'bta' (did you mean 'beta'?)"),
    ],
)
def test_what_cannot_work_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"^r\.yaml, line \d+: ") as error:
        read(GOOD + text)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{stores: [s]}", "data.pairs names no preference file"),
        ("{pairs: [p], tasks: [rhythm]}", "data.tasks are of method grpo"),
        ("{pairs: [p], val_share: 1.0}", "data.val_share must be above 0 and below 1"),
        ("{pairs: [p], stores: [s], files: [q]}\nmethod: grpo", "data.pairs are of the methods dpo and ipo"),
        (
            "{files: [q]}\nmethod: grpo\ngrpo: {rewards: {format: 1}}",
            "method grpo asks the questions of data.files about ECGs of data.stores",
        ),
        (
            "{files: [q], stores: [s]}\nmethod: grpo\nmean: true\ngrpo: {rewards: {format: 1}}",
            "mean is of the methods dpo and ipo",
        ),
    ],
)
def test_data_that_does_not_fit_the_method(data: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(f"name: x\nmodel: m\ndata: {data}\n")
    assert told in str(error.value)
