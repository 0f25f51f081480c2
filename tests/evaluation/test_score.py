"""Scores: values, intervals, gaps, controls, counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.score import score, score_file
from ecglm.evaluation.statistics import interval, resample_weights
from ecglm.evaluation.task_rows import gap_to_best


def quick(rows, **options):
    return score(rows, num_resamples=options.pop("num_resamples", 200), **options)


def test_values_are_those_counted_by_hand(make_run):
    rows = make_run()
    found = quick(rows)
    real = [r for r in rows if r["control"] == "real"]
    right = np.mean([r["prediction"] == r["reference"] for r in real])
    prior = np.mean([r["reference"] == "sinus rhythm" for r in real])
    accuracy = found["controls"]["real"]["rhythm"]["accuracy"]
    assert found["main"] == {"rhythm": "accuracy"}
    assert accuracy["value"] == pytest.approx(right, abs=1e-11)
    assert accuracy["n"] == 80
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert found["controls"]["blank"]["rhythm"]["accuracy"]["value"] == pytest.approx(prior, abs=1e-11)
    gap = found["gaps"]["rhythm"]["accuracy"]
    assert gap["value"] == pytest.approx(right - prior, abs=1e-11)
    assert gap["low"] > 0
    assert found["baselines"]["majority"]["rhythm"]["accuracy"]["value"] == pytest.approx(prior, abs=1e-11)
    assert found["gap_to"]["rhythm"]["accuracy"]["majority"]["value"] == pytest.approx(right - prior, abs=1e-11)
    assert found["counts"]["real"]["rhythm"] == {
        "n": 80,
        "n_failed": 0,
        "n_missing": 0,
        "n_unparsed": 0,
        "n_empty": 0,
        "num_patients": 40,
    }


def test_the_gap_is_paired_and_its_interval_is_that_of_the_differences(make_run):
    """Real and blank differ on exactly the rows that only real has right: a proportion with a known error."""
    rows = make_run(num_patients=100, controls=("real", "blank"))
    gap = score(rows)["gaps"]["rhythm"]["accuracy"]
    by_id = {}
    for row in rows:
        by_id.setdefault((row["patient_id"], row["id"]), {})[row["control"]] = row["prediction"] == row["reference"]
    patients = sorted({p for p, _ in by_id})
    means = [np.mean([v["real"] - v["blank"] for (p, _), v in by_id.items() if p == patient]) for patient in patients]
    assert gap["value"] == pytest.approx(np.mean(means), abs=1e-11)
    assert (gap["high"] - gap["low"]) / 3.92 == pytest.approx(np.std(means) / 10, rel=0.1)


def test_a_model_that_ignores_the_ecg_has_a_gap_of_zero(make_run):
    gap = quick(make_run(skill=0.0))["gaps"]["rhythm"]["accuracy"]
    assert (gap["value"], gap["low"], gap["high"]) == (0.0, 0.0, 0.0)


def test_the_gap_is_to_the_best_control(make_row):
    rows = []
    for n in range(10):
        for control, right in (("real", n < 9), ("blank", n < 3), ("noise", n < 5)):
            answer = "a" if right else "b"
            rows.append(make_row("a", answer, id=f"r{n}", patient_id=f"p{n}", control=control, choices=["a", "b"]))
    found = quick(rows)
    assert found["gaps"]["rhythm"]["accuracy"]["control"] == "noise"
    assert found["gaps"]["rhythm"]["accuracy"]["value"] == pytest.approx(0.4)
    pairwise = found["gap_to"]["rhythm"]["accuracy"]
    assert pairwise["blank"]["value"] == pytest.approx(0.6)
    assert pairwise["noise"]["value"] == pytest.approx(0.4)


def perturbed_rows(make_row):
    """10 questions: right 9 times on the true ECG, 6 times disturbed, 3 times blank."""
    rows = []
    for n in range(10):
        for control, right in (("real", n < 9), ("blank", n < 3), ("perturb-noise", n < 6)):
            answer = "a" if right else "b"
            rows.append(make_row("a", answer, id=f"r{n}", patient_id=f"p{n}", control=control, choices=["a", "b"]))
    return rows


def test_a_perturbation_is_a_loss_and_no_rival_of_the_gap(make_row):
    found = quick(perturbed_rows(make_row))
    gap = found["gaps"]["rhythm"]["accuracy"]
    assert (gap["control"], gap["value"]) == ("blank", pytest.approx(0.6))
    assert set(found["gap_to"]["rhythm"]["accuracy"]) == {"blank", "majority"}
    lost = found["robustness"]["rhythm"]["accuracy"]
    assert set(lost) == {"perturb-noise"}
    assert lost["perturb-noise"]["value"] == pytest.approx(0.3)
    assert lost["perturb-noise"]["low"] < 0.3 < lost["perturb-noise"]["high"]
    assert found["controls"]["perturb-noise"]["rhythm"]["accuracy"]["value"] == 0.6


def test_a_row_missing_under_a_perturbation_leaves_the_gap_alone(make_row):
    rows = perturbed_rows(make_row)
    whole = quick(rows)
    cut = quick([r for r in rows if (r["control"], r["id"]) != ("perturb-noise", "r0")])
    assert cut["gaps"] == whole["gaps"] and cut["gap_to"] == whole["gap_to"]
    assert cut["robustness"]["rhythm"]["accuracy"]["perturb-noise"]["n"] == 9
    assert any("missing under 'perturb-noise'" in warning for warning in cut["warnings"])


def test_perturbations_alone_are_no_controls(make_row):
    found = quick([r for r in perturbed_rows(make_row) if r["control"] != "blank"])
    assert found["controls_missing"] and found["gaps"]["rhythm"] == {}
    assert found["robustness"]["rhythm"]["accuracy"]["perturb-noise"]["value"] == pytest.approx(0.3)


def test_where_less_is_better_the_gap_is_positive_for_the_better(make_row):
    rows = []
    for n in range(6):
        for control, stated in (("real", 72), ("blank", 80), ("noise", 90)):
            rows.append(make_row("70 bpm", f"{stated}", "number", id=f"r{n}", patient_id=f"p{n}", control=control))
    found = quick(rows)
    gap = found["gaps"]["rhythm"]["rate_mae"]
    assert (gap["control"], gap["value"]) == ("blank", 8.0)
    assert found["main"]["rhythm"] == "within_5_bpm"


def test_a_control_without_any_number_is_no_rival(make_row):
    rows = []
    for n in range(4):
        rows.append(make_row("70 bpm", "70", "number", id=f"r{n}", patient_id=f"p{n}"))
        rows.append(make_row("70 bpm", "fast", "number", id=f"r{n}", patient_id=f"p{n}", control="blank"))
    found = quick(rows)
    assert found["controls"]["blank"]["rhythm"]["rate_mae"]["value"] is None
    assert found["gaps"]["rhythm"]["rate_mae"]["value"] is None
    assert found["gaps"]["rhythm"]["within_5_bpm"]["value"] == 1.0
    assert found["counts"]["blank"]["rhythm"]["n_unparsed"] == 4


def test_d22_failed_rows_count(make_row):
    rows = [make_row("yes", "yes", "yes-no", id=f"r{n}", patient_id=f"p{n}") for n in range(8)]
    rows += [
        make_row("yes", None, "yes-no", id=f"f{n}", patient_id=f"q{n}", error="CUDA out of memory") for n in range(2)
    ]
    found = quick(rows)
    accuracy = found["controls"]["real"]["rhythm"]["accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (0.8, 10)
    assert found["counts"]["real"]["rhythm"]["n_failed"] == 2
    assert any("2 rows failed" in warning for warning in found["warnings"])


def test_d27_scores_without_controls_say_so(make_run):
    found = quick(make_run(controls=("real",)))
    assert found["controls_missing"] is True
    assert found["gaps"] == {"rhythm": {}}
    assert any("no controls" in warning for warning in found["warnings"])
    assert quick(make_run())["controls_missing"] is False


def test_d37_what_is_not_part_of_the_answer_does_not_count(make_row):
    rows = [make_row("yes", " yes ", "yes-no", id=f"r{n}", patient_id=f"p{n}", choices=["yes", "no"]) for n in (1, 2)]
    assert quick(rows)["controls"]["real"]["rhythm"]["accuracy"]["value"] == 1.0


def test_d39_every_condition_is_a_row_of_its_own(make_run):
    found = quick(make_run(controls=("real", "perturb", "blank")))
    assert list(found["controls"]) == ["real", "blank", "perturb"]
    assert found["controls"]["real"] != found["controls"]["perturb"]


def test_rows_missing_from_a_control_leave_the_gap_alone(make_run):
    rows = make_run(num_patients=30)
    whole = quick(rows)
    kept = {r["id"] for r in rows if r["patient_id"] < "synthetic/p2"}
    some = quick([r for r in rows if r["control"] == "real" or r["id"] in kept])
    only = quick([r for r in rows if r["id"] in kept])
    assert some["controls"]["real"]["rhythm"]["accuracy"] == whole["controls"]["real"]["rhythm"]["accuracy"]
    assert some["counts"]["blank"]["rhythm"]["n_missing"] == 60 - len(kept)
    assert some["gaps"]["rhythm"]["accuracy"]["value"] == only["gaps"]["rhythm"]["accuracy"]["value"]
    assert any("missing under 'blank', left out" in warning for warning in some["warnings"])


def test_rows_missing_from_the_real_run_are_wrong(make_row):
    rows = [make_row("a", "a", id=f"r{n}", patient_id=f"p{n}", control="blank") for n in range(4)]
    rows += [make_row("a", "a", id=f"r{n}", patient_id=f"p{n}") for n in range(3)]
    found = quick(rows)
    assert found["controls"]["real"]["rhythm"]["accuracy"]["value"] == 0.75
    assert found["counts"]["real"]["rhythm"]["n_missing"] == 1
    assert found["gaps"]["rhythm"]["accuracy"]["value"] == -0.25


def test_question_types_are_scored_apart_and_a_mixed_task_by_accuracy(make_row):
    rows = []
    for n in range(6):
        fields = {"patient_id": f"p{n}"}
        rows.append(make_row("yes", "yes", "yes-no", id=f"y{n}", choices=["yes", "no"], **fields))
        rows.append(make_row("AF", "AF" if n < 2 else "sinus", "choice", id=f"c{n}", choices=["AF", "sinus"], **fields))
    found = quick(rows)
    types = found["by_question_type"]["real"]["rhythm"]
    assert types["yes-no"]["accuracy"]["value"] == 1.0
    assert types["choice"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert types["choice"]["macro_f1"]["value"] == pytest.approx(0.5)
    assert found["main"]["rhythm"] == "accuracy"
    assert found["controls"]["real"]["rhythm"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert "macro_f1" not in found["controls"]["real"]["rhythm"]


def test_attribute_types_are_scored_apart(make_row):
    rows = [
        make_row("yes", answer, "single-verify", id=f"r{n}", patient_id=f"p{n}", metadata={"attribute_type": kind})
        for n, (answer, kind) in enumerate([("yes", "noise"), ("no", "noise"), ("yes", "scp_code")])
    ]
    found = quick(rows)["by_attribute_type"]["real"]["rhythm"]
    assert (found["noise"]["accuracy"]["value"], found["scp_code"]["accuracy"]["value"]) == (0.5, 1.0)


def test_classes_confusion_and_undefined_classes(make_row):
    choices = ["AF", "Sinus", "Paced"]
    answers = [("AF", "AF"), ("AF", "Sinus"), ("Sinus", "Sinus"), ("Sinus", "nonsense"), ("Sinus", "sinus.")]
    rows = [
        make_row(truth, stated, id=f"r{n}", patient_id=f"p{n}", choices=choices)
        for n, (truth, stated) in enumerate(answers)
    ]
    found = quick(rows)
    assert found["confusion"]["rhythm"] == {
        "question_type": "choice",
        "labels": choices,
        "columns": [*choices, "(other)"],
        "matrix": [[1, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]],
    }
    classes = found["per_class"]["real"]["rhythm"]
    assert classes["AF"]["f1"]["value"] == pytest.approx(2 / 3)
    assert classes["AF"]["accuracy"]["value"] == 0.5
    assert classes["Sinus"]["f1"]["value"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert (classes["AF"]["f1"]["n"], classes["Sinus"]["f1"]["n"]) == (2, 3)
    assert classes["Paced"]["f1"]["value"] is None
    assert found["undefined_classes"] == {"rhythm": ["Paced"]}
    assert found["controls"]["real"]["rhythm"]["macro_f1"]["value"] == pytest.approx(2 / 3)
    assert found["counts"]["real"]["rhythm"]["n_unparsed"] == 1


def test_few_patients_one_patient_and_no_patients(make_row):
    def warnings(patients):
        rows = [make_row("a", "a", id=f"r{n}", patient_id=p) for n, p in enumerate(patients)]
        return quick(rows)["warnings"], quick(rows)["controls"]["real"]["rhythm"]["accuracy"]

    assert any("only 5 patients" in w for w in warnings([f"p{n}" for n in range(5)])[0])
    assert not any("patient" in w for w in warnings([f"p{n}" for n in range(30)])[0])
    told, accuracy = warnings(["p"] * 5)
    assert any("one patient only" in w for w in told)
    assert (accuracy["value"], accuracy["low"]) == (1.0, None)
    assert any("without patient_id" in w for w in warnings([None] * 40)[0])


def test_majority_comes_from_training_where_known(tmp_path, make_run):
    rows = make_run(num_patients=31)
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score(file, num_resamples=10)["baselines"]["from_test"] is True
    (tmp_path / "baselines.json").write_text(json.dumps({"majority": {"rhythm": "paced rhythm"}}))
    found = score(file, num_resamples=10)
    share = np.mean([r["reference"] == "paced rhythm" for r in rows])
    assert found["baselines"]["from_test"] is False
    assert found["baselines"]["majority"]["rhythm"]["accuracy"]["value"] == pytest.approx(share, abs=1e-11)
    assert set(found["inputs"]) == {"predictions.jsonl", "baselines.json"}
    (tmp_path / "baselines.json").write_text("{}")
    with pytest.raises(EcglmError, match="'majority'"):
        score(file)


def test_the_same_rows_give_the_same_bytes_in_any_order(tmp_path, make_run):
    rows = make_run()
    contents = []
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ordered))
        path = score_file(tmp_path / name, num_resamples=100)
        assert path == tmp_path / name / "scores.json"
        contents.append(json.loads(path.read_text()))
        assert path.read_bytes() == score_file(tmp_path / name, num_resamples=100).read_bytes()
        contents[-1].pop("inputs")
    assert contents[0] == contents[1]
    assert contents[0]["format"] == "ecglm-scores"


def test_two_systems_on_the_same_questions(make_run):
    good, poor = make_run(skill=0.9), make_run(skill=0.2)
    versus = quick(good, baseline_rows=poor)["versus"]["rhythm"]["accuracy"]
    a, b = (quick(rows)["controls"]["real"]["rhythm"]["accuracy"]["value"] for rows in (good, poor))
    assert versus["value"] == pytest.approx(a - b, abs=1e-9)
    assert versus["low"] > 0
    same = quick(good, baseline_rows=good)["versus"]["rhythm"]["accuracy"]
    assert (same["value"], same["low"], same["high"]) == (0.0, 0.0, 0.0)


def test_no_resamples_are_refused(make_run):
    with pytest.raises(EcglmError, match="num_resamples"):
        score(make_run(2), num_resamples=0)


def test_a_model_that_guesses_is_hardly_ever_said_to_read_the_ecg():
    """Right by chance alike under every condition: the gap's interval lies above zero in at most 5 of 200 draws."""
    generator = np.random.default_rng(0)
    weights = resample_weights(60, num_resamples=300, seed=0).astype(float)
    above = 0
    for _ in range(200):
        right = (generator.random((60, 5)) < 0.4).astype(float)  # the true ECG and four controls
        values, spread = right.mean(axis=0), weights @ right / 60
        _, gap, differences = gap_to_best(values[0], values[1:], spread[:, 0], spread[:, 1:])
        assert gap == pytest.approx(values[0] - values[1:].max())
        above += interval(differences)[0] > 0
    assert above <= 5
