"""``ecglm align`` and ``ecglm validate`` of its recipes, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_tools import done, ecglm
from ecglm import config as strict
from ecglm.verbs.align import is_alignment
from preference_world import of_conversation, recipe, row, write


@pytest.fixture(scope="module")
def file(world, signal_run, tmp_path_factory) -> Path:
    """A recipe on the tiny signal model."""
    folder = tmp_path_factory.mktemp("align")
    rows = [*(of_conversation(c) for c in world.conversations()), row("t", thumb=1, answer="yes")]
    made = recipe(world, signal_run / "best", write(folder / "pairs.jsonl", rows))
    (folder / "r.yaml").write_text(strict.dumps(made))
    return folder / "r.yaml"


def test_a_recipe_is_checked_aligned_and_asked(file: Path, tmp_path: Path, world) -> None:
    assert is_alignment(str(file))
    said = done("validate", file)
    splits = [c.split for c in world.conversations()]
    assert f"  rejected:split_test: {splits.count('test')}" in said and "  rejected:no_pair: 1" in said
    assert "tiny: dpo, beta 0.1, whole weights, 4 steps: valid" in said
    said = done("align", file, "--out", tmp_path / "run", "--lora.rank", 2, "--train.parts", "llm", "--limit", 6)
    assert "learns: llm" in said and "val_margin:" in said
    assert f"checkpoint: {tmp_path / 'run' / 'best'}" in said
    assert "was complete already" in done(
        "align", file, "--out", tmp_path / "run", "--lora.rank", 2, "--train.parts", "llm", "--limit", 6
    )
    done("align", file, "--out", tmp_path / "trial", "--dev", "--method", "ipo")
    best, out = tmp_path / "run" / "best", tmp_path / "predictions"
    done("predict", "--model", best, "--data", world.data, "--store", world.store, "--out", out)
    assert (out / "predictions.jsonl").exists()


def test_mistakes_are_one_line_with_the_mend(file: Path, tmp_path: Path) -> None:
    assert "the recipe comes first" in ecglm("align").error
    assert "beta must be above 0" in ecglm("align", file, "--beta", 0).error
    assert "is no checkpoint folder; name best/ of a run" in ecglm("align", file, "--model", tmp_path).error
    assert "no such preference file" in ecglm("validate", file, "--data.pairs", tmp_path / "none.jsonl").error
    (tmp_path / "bad.yaml").write_text("name: x\nmodel: m\ndata: {pairs: [p]}\nlora: {rnk: 3}\n")
    assert "line 4: unknown key 'lora.rnk' (did you mean 'rank'?)" in ecglm("align", tmp_path / "bad.yaml").error


def test_train_names_the_verb_of_an_alignment(file: Path) -> None:
    assert "run ecglm align on it" in ecglm("train", file).error


def test_options_that_contradict_are_one_line(file: Path, tmp_path: Path) -> None:
    """Without the box that tyro draws around what a recipe's own checks say."""
    for given, expected in (
        (
            ("--train.max_steps", 12, "--train.max_epochs", 2),
            "give train.max_steps or train.max_epochs, found 12 and 2",
        ),
        (("--train.warmup_steps", 99), "train.warmup_steps must be below max_steps"),
        (("--data.val-share", 3), "data.val_share must be above 0 and below 1"),
        (("--limit", -3), "--limit must be 1 or more"),
        (("--method", "grpo"), "data.pairs are of the methods dpo and ipo"),
    ):
        error = ecglm("align", file, "--out", tmp_path / "run", *given).error
        assert expected in error and "\n" not in error.strip() and "╭" not in error, error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: m\ndata: {pairs: [p]}", True),
        ("model: m\nmethod: grpo", True),
        ("model: m\nbeta: 0.2", True),
        ("model: m\nrepresentation: signal\ndata: {files: [f]}", False),
        ("model: {llm: tiny}\ndata: {pairs: [p]}", False),
        ("model: [", False),
        ("- model", False),
    ],
)
def test_a_recipe_is_an_alignment_by_what_it_names(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "r.yaml").write_text(f"{text}\n")
    assert is_alignment(str(tmp_path / "r.yaml")) is expected


def test_a_recipe_of_train_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\nmodel: {llm: tiny}\n")
    assert "as in a recipe of ecglm train" in ecglm("align", tmp_path / "r.yaml").error
