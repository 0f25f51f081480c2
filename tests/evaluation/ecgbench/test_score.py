"""Whole scorings: both modes in one table, intervals, gaps, counts, from anywhere, and in one line what cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from appendix_fixture import EXPECTED, make_fixture
from bench_data import gold_rows, write_answers, write_gold

from ecglm import __version__
from ecglm.cli import main
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.ecgbench.measure import measure
from ecglm.evaluation.ecgbench.runs import find_runs
from ecglm.evaluation.ecgbench.score import Gold, score_run, write_scores
from ecglm.evaluation.ecgbench.strict import tasks_of
from ecglm.evaluation.ecgbench.subsets import SUBSETS
from ecglm.evaluation.ecgbench.table import percent, results_table, with_interval
from ecglm.files import file_sha256

PTB = gold_rows("ptb-test", [("q", label) for label in ("MI", "CD", "NORM", "MI", "HYP", "STTC")], "0000{}_hr-0.png")


@pytest.fixture(scope="module")
def appendix(tmp_path_factory):
    return make_fixture(tmp_path_factory.mktemp("appendix"))


@pytest.fixture
def bench(tmp_path):
    """Six items of three patients, a model that is right four times, and two controls."""
    write_gold(tmp_path / "data", "ptb-test", PTB)
    people = {f"ptb-xl/0000{n}": f"p{n // 2}" for n in range(6)}
    (tmp_path / "data" / "patients.json").write_text(json.dumps(people))
    real = ["MI", "CD", "NORM", "MI", "NORM", "unknown"]
    for name, texts in {"m": real, "m@blank": ["NORM"] * 6, "m@swap": ["MI"] * 6}.items():
        control = name.partition("@")[2] or "real"
        answers = {f"ptb-test-{n}": text for n, text in enumerate(texts)}
        path = tmp_path / "preds" / name / "ptb-test" / "step-final.jsonl"
        write_answers(path, answers, metadata={"control": control})
    return tmp_path


def run_of(home, **options):
    runs, _ = find_runs([home / "preds"], list(SUBSETS.values()))
    return score_run(runs[0], Gold(home / "data"), num_resamples=200, **options)


def test_both_modes_stand_in_one_file_with_all_that_a_score_needs(appendix):
    runs, _ = find_runs([appendix / "pred"], list(SUBSETS.values()))
    done = score_run(runs[0], Gold(appendix / "gold"), mode="both", num_resamples=50)
    scores = json.loads(write_scores(done).read_text())
    for task, figures in EXPECTED.items():
        told = scores["pulse"]["real"][task]
        assert {name: told[name] for name in figures} == pytest.approx(figures, abs=1e-12)
    assert scores["mode"] == "both" and scores["task_version"] == 1 and scores["ecglm"] == __version__
    assert scores["strict"]["real"]["mmmu-ecg"]["accuracy"]["n"] == 200
    assert scores["fingerprints"]["data"]["ptb-test"] == file_sha256(appendix / "gold" / "ptb-test.json")
    assert scores["pulse"]["real"]["mmmu-ecg"]["n_drawn"] > 0
    assert set(scores["counts"]["real"]["mmmu-ecg"]) == {"n", "n_read", "n_unparsed", "n_failed", "n_missing"}
    header, *body = results_table([scores])
    assert header[3:5] == ["strict [95 %]", "pulse"]
    cells = {(row[0], row[1]): row for row in body}
    assert cells[("ptb-test", "macro F1")][4] == "77.7" and cells[("code15-test", "macro F1")][3] == "–"


def test_intervals_are_over_patients_and_the_gap_over_the_same_resamples(bench):
    done = run_of(bench)
    scores = done.scores
    f1 = scores["strict"]["real"]["ptb-test"]["f1"]
    assert f1["value"] == pytest.approx((1 + 1 + 2 / 3 + 0 + 0) / 5)
    blank = scores["strict"]["blank"]["ptb-test"]["f1"]["value"]
    swap = scores["strict"]["swap"]["ptb-test"]["f1"]["value"]
    gap = scores["gap"]["ptb-test"]
    assert gap["control"] == ("swap" if swap > blank else "blank")
    assert gap["value"] == pytest.approx(f1["value"] - max(blank, swap))
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert scores["gap_to"]["ptb-test"]["blank"]["value"] == pytest.approx(f1["value"] - blank)
    assert scores["counts"]["real"]["ptb-test"] == {
        "n": 6, "n_read": 5, "n_unparsed": 1, "n_failed": 0, "n_missing": 0
    }  # fmt: skip
    assert any("only 3 patients" in warning for warning in scores["warnings"])
    assert not any("not known" in warning for warning in scores["warnings"])


def test_the_interval_equals_a_bootstrap_written_out(bench):
    gold = Gold(bench / "data")
    runs, _ = find_runs([bench / "preds"], [SUBSETS["ptb-test"]])
    done = score_run(runs[0], gold, num_resamples=300, seed=5)
    readings = done.readings["real"]["ptb-test"]
    task = tasks_of(SUBSETS["ptb-test"], gold("ptb-test"))[0]
    table = task.statistics(readings)
    patients = np.array([int(item.patient_id[1:]) for item in task.items])
    drawn = np.random.default_rng(5).integers(3, size=(300, 3))
    values = []
    for sample in drawn:
        rows = np.concatenate([np.flatnonzero(patients == p) for p in sample])
        values.append(float(task.metrics["hamming"](table[rows].sum(0))))
    found = done.scores["strict"]["real"]["ptb-test"]["hamming"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-9)
    again: dict = {"strict": {}, "classes": {}, "gap": {}, "gap_to": {}, "warnings": []}
    measure(again, task, {"real": readings}, 300, 5)
    assert again["strict"]["real"]["ptb-test"]["hamming"] == found and not again["gap"]


def test_items_a_control_lacks_or_failed_are_left_out_of_the_gap(bench):
    path = bench / "preds" / "m@blank" / "ptb-test" / "step-final.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["metadata"]["error"] = "endpoint_failed: 500"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    scores = run_of(bench).scores
    assert scores["gap"]["ptb-test"]["n"] == 4
    assert scores["counts"]["blank"]["ptb-test"]["n_failed"] == scores["counts"]["blank"]["ptb-test"]["n_missing"] == 1
    assert any("ptb-test, blank: 1 of 6 have no row" in warning for warning in scores["warnings"])


def test_p02_the_same_bytes_from_any_folder_and_any_place(bench, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    args = ["--data", str(bench / "data"), "--num-resamples", "50", "--mode", "both"]
    assert main(["ecgbench", "score", str(bench / "preds"), *args]) == 0
    first = (bench / "preds" / "m" / "scores.json").read_bytes()
    moved = tmp_path_factory.mktemp("moved") / "x"
    bench.rename(moved)
    monkeypatch.chdir(moved)
    assert main(["ecgbench", "score", "preds/m", "--data", "data", "--num-resamples", "50", "--mode", "both"]) == 0
    assert (moved / "preds" / "m" / "scores.json").read_bytes() == first


def test_p01_every_command_runs_end_to_end(appendix, capsys):
    args = ["ecgbench", "score", str(appendix / "pred"), "--data", str(appendix / "gold"), "--num-resamples", "20"]
    assert main([*args, "--mode", "both", "--explain"]) == 0
    told = capsys.readouterr().out
    assert "f1 77.7 auc 86.9 hl 11.8" in told and "F1: 0.7773, AUC: 0.8689" in told
    assert "inside_a_word" in told and "drawn_by_lot" in told
    assert main([*args, "--mode", "pulse", "--subsets", "mmmu-ecg"]) == 0
    assert "accuracy 41.5" in capsys.readouterr().out


def test_a_file_that_stops_the_original_is_a_warning_beside_strict_and_an_error_alone(bench):
    path = bench / "preds" / "m" / "ptb-test" / "step-final.jsonl"
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    both = run_of(bench, mode="both").scores
    assert both["strict"]["real"]["ptb-test"] and not both["pulse"]["real"]
    assert any("line 2: blank" in warning for warning in both["warnings"])
    with pytest.raises(EcglmError, match="line 2: blank"):
        run_of(bench, mode="pulse")


def test_a_path_that_the_original_would_pass_over_is_told(bench):
    (bench / "preds" / "m").rename(bench / "preds" / "report-model")
    for control in ("blank", "swap"):
        (bench / "preds" / f"m@{control}").rename(bench / "preds" / f"report-model@{control}")
    scores = run_of(bench, mode="both").scores
    assert not scores["pulse"]["real"] and scores["strict"]["real"]["ptb-test"]
    assert any("would not find it" in warning for warning in scores["warnings"])


def test_choices_of_another_number_are_not_counted_by_the_original(tmp_path):
    write_gold(tmp_path / "data", "mmmu-ecg", gold_rows("mmmu-ecg", [("q", "A")] * 3))
    write_answers(tmp_path / "preds" / "m" / "mmmu-ecg" / "step-final.jsonl", {"mmmu-ecg-0": "A"})
    scores = run_of(tmp_path, mode="both").scores
    assert scores["strict"]["real"]["mmmu-ecg"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert not scores["pulse"]["real"]
    assert any("wants 200 rows" in warning for warning in scores["warnings"])


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"cpsc-test-0": "AF"}, "it is of cpsc-test"),
        ({"ptb-test-0": "MI", "cpsc-test-0": "AF"}, "line 2: id 'cpsc-test-0' is not in ptb-test"),
    ],
)
def test_p07_wrong_and_mixed_subsets_are_one_line(tmp_path, texts, told):
    write_gold(tmp_path / "data", "ptb-test", PTB)
    write_gold(tmp_path / "data", "cpsc-test", gold_rows("cpsc-test", [("q", "AF")]))
    write_answers(tmp_path / "preds" / "m" / "ptb-test" / "step-final.jsonl", texts)
    with pytest.raises(EcglmError, match=told):
        run_of(tmp_path)


def test_mistakes_of_the_command_line_are_one_line(bench, capsys):
    data = ["--data", str(bench / "data")]
    preds = str(bench / "preds")
    for args, told in (
        ([preds, "--data", str(bench / "no")], "no such folder; make it with ecglm ecgbench prepare"),
        ([preds, *data, "--subsets", "ptb"], "no subset 'ptb'"),
        ([preds, *data, "--explain"], "--mode both"),
        ([str(bench / "no"), *data], "no such predictions"),
        ([preds, *data, "--num-resamples", "0"], "1 or more"),
        ([str(bench / "preds" / "m@blank"), *data], "only answers under blank"),
    ):
        assert main(["ecgbench", "score", *args]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    with pytest.raises(ConfigError, match="no such mode"):
        run_of(bench, mode="lenient")


def test_unknown_patients_are_told_and_stores_may_know_them(bench):
    (bench / "data" / "patients.json").unlink()
    assert any("patients of 6 of 6 items not known" in w for w in run_of(bench).scores["warnings"])
    runs, _ = find_runs([bench / "preds"], list(SUBSETS.values()))
    known = Gold(bench / "data", {f"ptb-xl/0000{n}": "one" for n in range(6)})
    scores = score_run(runs[0], known, num_resamples=20).scores
    assert scores["strict"]["real"]["ptb-test"]["f1"]["low"] is None
    assert any("one patient only" in warning for warning in scores["warnings"])


def test_judged_subsets_are_pointed_at(bench):
    write_answers(bench / "preds" / "m" / "arena" / "step-final.jsonl", {"x": "y"})
    assert any("arena: not scored by rule; see ecglm ecgbench judge" in w for w in run_of(bench).scores["warnings"])
    arena, _ = find_runs([bench / "preds" / "m" / "arena" / "step-final.jsonl"], list(SUBSETS.values()))
    with pytest.raises(EcglmError, match="no file of a rule-scored subset"):
        score_run(arena[0], Gold(bench / "data"))


def test_cells_of_the_table():
    assert percent(None) == "–" and percent(0.8244) == "82.4" and percent(-0.0) == "0.0"
    assert with_interval({"value": 0.1, "low": -0.02, "high": 0.2}, signed=True) == "+10.0 [-2.0, 20.0]"
    assert with_interval({"value": 0.1, "low": None, "high": None}) == "10.0"
    assert with_interval(None) == with_interval({"value": None, "low": None, "high": None}) == "–"
