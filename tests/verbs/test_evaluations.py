"""verbs/evaluations.py: predict, score, compare and report as a user meets them, with controls and perturbations."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

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
    (tmp_path / "empty" / "scores.json").write_text("[1]")
    for verb in (("compare",), ("report", "--out", tmp_path / "r.html")):
        assert "'format' is not 'ecglm-scores'" in ecglm(verb[0], tmp_path / "empty", *verb[1:]).error
    assert "seed must be 0 or more" in ecglm("score", predictions, "--seed", -1).error


def test_what_is_told_beside_a_comparison_is_of_its_tasks_and_a_changed_file_is_not_reported(
    predictions: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copytree(predictions, copy)
    done("score", copy, "--num-resamples", 20)
    table = tmp_path / "t.csv"
    said = done("compare", copy, "--task", "axis", "--num-resamples", 20, "--out", table)
    assert "axis" in said.split("Robustness: ")[1] and "rhythm" not in said.split("Robustness: ")[1].split("warning")[0]
    with (copy / "predictions.jsonl").open("a") as file:
        file.write("\n")
    assert "has changed since it was scored" in ecglm("report", copy, "--out", tmp_path / "r.html").error


def test_compare_writes_every_form_and_reads_what_score_exports(predictions: Path, world, tmp_path: Path) -> None:
    common = ("--data", world.data, "--store", world.store, "--controls", "blank", "perturb-wander")
    done("predict", "--model", "baseline:nearest", *common, "--out", tmp_path / "nearest")
    done("score", predictions, "--num-resamples", 20)
    said = done("score", tmp_path / "nearest", "--num-resamples", 20, "--export-ecg-bench", tmp_path / "bench")
    assert f"ECG-Bench's files: 6 in {tmp_path / 'bench'}" in said
    forms = [tmp_path / f"table{ending}" for ending in (".txt", ".csv", ".tex", ".html")]
    named = (f"model={predictions}", f"nearest={tmp_path / 'nearest'}", f"theirs={tmp_path / 'bench'}")
    text = done("compare", *named, "--against", "nearest", "--num-resamples", 20, "--out", *forms)
    assert all(f"table: {form}" in text and form.stat().st_size for form in forms)
    assert "difference to nearest" in text and "theirs (perturb-wander)" in text
    assert "p_holm" in (tmp_path / "table.csv").read_text()
    assert "use .txt" in ecglm("compare", *named, "--out", tmp_path / "t.doc").error
    assert "no such model" in ecglm("compare", *named, "--against", "nobody").error


def test_d27_a_report_without_controls_needs_an_express_wish(world, tmp_path: Path) -> None:
    common = ("--data", world.data, "--store", world.store, "--out", tmp_path / "prior", "--controls")
    done("predict", "--model", "baseline:prior", *common, "perturb-noise")
    done("score", tmp_path / "prior", "--num-resamples", 20)
    assert "has no controls" in ecglm("report", tmp_path / "prior", "--out", tmp_path / "r.html").error
    done("report", tmp_path / "prior", "--out", tmp_path / "r.html", "--no-controls-needed")
    assert "No controls were run for prior" in (tmp_path / "r.html").read_text()


def test_d38_the_verb_refuses_a_baseline_on_the_train_split(world, tmp_path: Path) -> None:
    common = ("--data", world.data, "--store", world.store, "--out", tmp_path / "o", "--split", "train")
    assert "not tested on it" in ecglm("predict", "--model", "baseline:majority", *common).error
