"""verbs/evaluations.py: predict, score, compare and report as a user meets them, with controls and perturbations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_tools import done, ecglm


@pytest.fixture(scope="module")
def predictions(world, signal_run: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("predictions") / "signal"
    common = ("--model", signal_run / "best", "--data", world.data, "--store", world.store, "--max-new-tokens", 6)
    done("predict", *common, "--out", out, "--controls", "blank", "perturb-wander", "perturb-lead-dropout")
    return out


def test_perturbations_stand_apart_in_scores_tables_and_report(predictions: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (predictions / "predictions.jsonl").read_text().splitlines()]
    names = {"perturb-wander", "perturb-lead-dropout"}
    assert {row["control"] for row in rows} == {"real", "blank", *names}
    said = done("score", predictions, "--num-resamples", 20)
    scores = json.loads((predictions / "scores.json").read_text())
    assert set(scores["robustness"]["rhythm"]["accuracy"]) == names
    assert set(scores["gap_to"]["rhythm"]["accuracy"]) == {"blank", "majority"}
    for text in (said, done("compare", predictions)):
        before, after = text.split("Robustness: ")
        assert "baseline wander" in after and "baseline wander" not in before
    done("report", predictions, "--out", tmp_path / "report.html")
    assert "<h2>Robustness</h2>" in (tmp_path / "report.html").read_text()


def test_mistakes_are_one_line(predictions: Path, world, signal_run: Path, tmp_path: Path) -> None:
    common = ("--model", signal_run / "best", "--data", world.data, "--store", world.store, "--out", tmp_path / "o")
    assert "did you mean 'perturb-wander'" in ecglm("predict", *common, "--controls", "perturb-wandr").error
    assert "'mains': 50 Hz cannot be shown at 50" in ecglm("predict", *common, "--controls", "perturb-mains").error
    assert "no such predictions" in ecglm("compare", tmp_path / "nothing").error
    (tmp_path / "empty").mkdir()
    assert "not scored yet; run ecglm score" in ecglm("compare", tmp_path / "empty").error
