"""``ecglm pairs`` and ``ecglm align`` with rewards as a user types them: verbs/pairs.py, verbs/rewarding.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecglm import config as strict
from ecglm.cli import main
from ecglm.evaluation.rewards.mixture import Mixture
from ecglm.files import read_jsonl
from ecglm.training.align_recipe import AlignRecipe
from grpo_world import recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "align"


def typed(world: Any, model: Path, out: Path, *more: str) -> list[str]:
    own = ["--model", model, "--data", world.data, "--store", world.store, "--out", out]
    drawn = ["--samples", "3", "--temperature", "1.5", "--max-new-tokens", "16", "--devices", "cpu"]
    return ["pairs", *map(str, own), *drawn, *more]


def test_by_rules_and_by_the_trial_judge(
    world: Any, signal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, more in (("rules", ["--rewards", "f1", "plain_format:0.5"]), ("judge", ["--judge.provider", "dummy"])):
        out = tmp_path / f"{name}.jsonl"
        assert main(typed(world, signal_run / "best", out, "--rank", name, *more)) == 0
        said = capsys.readouterr().out
        assert f"{len(read_jsonl(out))} pairs" in said and str(out) in said
    assert all(r["source"] == "ranked" for r in read_jsonl(out))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--split", "test"], "pairs are for training"),
        (["--rewards", "corect"], "no rewards named 'corect'"),
        (["--rewards", "correct:x"], "NAME:WEIGHT"),
        (["--rank", "judge", "--rewards", "f1"], "--rewards are for --rank rules"),
        (["--judge.provider", "dummy"], "are for --rank judge"),
        (["--rank", "judge"], "--judge.model: say which model judges"),
        (["--rank", "judge", "--judge.model", "m"], "--judge.base-url: say where"),
        (["--rank", "judge", "--judge.provider", "dummy", "--rubric", "arena"], "is for whole conversations"),
        (["--rank", "judge", "--judge.provider", "dummy", "--rubric", "reprot"], "no rubric 'reprot'"),
    ],
)
def test_mistakes_are_one_line(
    world: Any, signal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    assert main(typed(world, signal_run / "best", tmp_path / "p.jsonl", *more)) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert not (tmp_path / "p.jsonl").exists()


def test_rewards_are_checked_by_validate_and_learned_from_by_align(
    world: Any, signal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"max_steps": 2, "eval_every": 2, "num_samples": 2, "max_new_tokens": 6, "rewards": {"correct": 1.0}}
    given = recipe(world, signal_run / "best", world.data, **small)
    file = tmp_path / "grpo.yaml"
    file.write_text(strict.dumps(given))
    assert main(["validate", str(file)]) in (0, None)
    said = capsys.readouterr().out
    assert f"train: {len(world.conversations('train'))} questions" in said and "rewards 1 correct" in said
    assert main(["align", str(file), "--out", str(tmp_path / "run")]) == 0
    assert "val_reward" in capsys.readouterr().out
    file.write_text(strict.dumps(given).replace("correct:", "corect:"))
    assert main(["align", str(file), "--out", str(tmp_path / "other")]) == 2
    assert "no rewards named 'corect'" in capsys.readouterr().err


def test_the_recipe_that_ships_names_known_rewards() -> None:
    found = strict.load(RECIPES / "grpo.yaml", AlignRecipe)
    assert found.method == "grpo" and found.grpo is not None
    assert Mixture(found.grpo.rewards).weights == {"correct": 1.0, "plain_format": 0.2}
