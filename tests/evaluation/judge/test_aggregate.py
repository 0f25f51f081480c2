"""Judgements as numbers: strict means against hand-made ones, and the originals' aggregations."""

from __future__ import annotations

import json

import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.judge.aggregate import check_aggregate, gem, pulse, summarise
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.judgements import Judged
from ecglm.evaluation.judge.prompts import Exchange
from ecglm.evaluation.judge.reply import Entry
from ecglm.evaluation.judge.rubric import Criterion, rubric_named
from ecglm.evaluation.judge.values import value_of, values_of

REPORT, ARENA, GROUNDING = (rubric_named(n) for n in ("report", "arena", "grounding"))
JUDGE = {"provider": "endpoint", "model": "j"}


def judged(rubric, *scores, **extra):
    names = [c.name for c in rubric.criteria]
    given = dict(zip(names, scores, strict=False)) | extra
    return Judged("judged", json.dumps({name: {"Score": score, "Explanation": "x"} for name, score in given.items()}))


def item(number, patient=None, control="real"):
    return Item(f"i{number}", (Exchange("", "r", "p"),), patient or f"p{number}", control=control)


def summary(found, items=None, rubric=REPORT, aggregate="strict"):
    items = items or [item(n) for n in range(len(found))]
    return summarise(items, found, rubric, JUDGE, aggregate, num_resamples=200)


def test_means_with_the_judges_failures_and_the_models_failures():
    found = summary(
        [judged(REPORT, 10, 6, 2), judged(REPORT, 4, 2, 0), Judged("failed", "no", "not_json"), Judged("missing")]
    )
    assert {k: v["value"] for k, v in found["scores"].items()} == pytest.approx(
        {"Diagnosis": 14 / 3, "Waveform": 8 / 3, "Rhythm": 2 / 3, "overall": (60 + 20 + 0) / 3}
    )
    assert {k: v["value"] for k, v in found["scores_failures_as_zero"].items()} == pytest.approx(
        {"Diagnosis": 14 / 4, "Waveform": 8 / 4, "Rhythm": 2 / 4, "overall": 80 / 4}
    )
    assert found["scores"]["Rhythm"]["n"] == 3 and found["scores_failures_as_zero"]["Rhythm"]["n"] == 4
    assert (found["n"], found["n_judged"], found["n_failed"], found["n_missing"]) == (4, 2, 1, 1)


def test_intervals_are_of_patients():
    rows = [judged(REPORT, s, s, s) for s in (0, 10, 0, 10, 0, 10)]
    by_item = summary(rows)["scores"]["Rhythm"]
    by_patient = summary(rows, [item(n, f"p{n // 2}") for n in range(6)])["scores"]["Rhythm"]
    assert by_patient["value"] == by_item["value"] == 5.0
    assert by_patient["low"] == by_patient["high"] == 5.0  # each patient has a 0 and a 10
    assert by_item["low"] < 5.0 < by_item["high"]
    one = summary(rows, [item(n, "same") for n in range(6)])
    assert one["scores"]["Rhythm"]["low"] is None and "only 1 patients" in one["warnings"][0]


def test_patients_that_are_not_known_are_said():
    found = summarise(
        [Item("a", (Exchange("", "r", "p"),))], [judged(REPORT, 1, 1, 1)], REPORT, JUDGE, num_resamples=20
    )
    assert any("name no patient" in text for text in found["warnings"])


def test_no_item_judged_is_no_number():
    found = summary([Judged("failed", None, "timeout")] * 2)
    assert found["scores"] == {} and found["scores_failures_as_zero"]["Rhythm"]["value"] == 0.0


def test_controls_and_the_gap_to_them():
    items = [item(n, control=c) for c in ("real", "blank") for n in range(3)]
    scores = [9, 8, 7, 3, 2, 4]
    rows = [judged(REPORT, s, s, s) for s in scores[:-1]] + [Judged("failed", "x", "not_json")]
    found = summary(rows, items)
    assert found["scores"]["Rhythm"]["value"] == 8.0
    assert found["controls"]["blank"]["scores"]["Rhythm"]["value"] == 2.5
    assert found["controls"]["blank"]["n_failed"] == 1
    assert found["gaps"]["blank"]["Rhythm"]["value"] == 6.0 and found["gaps"]["blank"]["Rhythm"]["n"] == 2
    disturbed = [item(n, control=c) for c in ("real", "perturb-noise") for n in range(3)]
    lost = summary([judged(REPORT, s, s, s) for s in (9, 8, 7, 8, 8, 8)], disturbed)
    assert lost["gaps"] == {} and lost["robustness"]["perturb-noise"]["Rhythm"]["value"] == 0.0
    with pytest.raises(EcglmError, match="no items with control 'real'"):
        summary(rows[:3], items[3:])


def test_more_than_one_model_behind_the_endpoint_is_said():
    two = [Judged("judged", judged(REPORT, 1, 1, 1).reply, served_model=m) for m in ("a", "b")]
    found = summary(two)
    assert found["served_models"] == ["a", "b"]
    assert any("answered as 2 models: a, b" in text for text in found["warnings"])


# --- values of one item


@pytest.mark.parametrize(
    ("name", "scores", "value"),
    [
        ("DiagnosisAccuracy", [2, 1, 0], 50.0),
        ("AnalysisCompleteness", [1, 0, 1, 1], 3.0),
        ("AnalysisRelevance", [2, 2, 1], 5.0),
        ("AnalysisRelevance", [], 0.0),
        ("LeadAssessmentCoverage", [1] * 6, 50.0),
        ("LeadAssessmentCoverage", [1] * 20, 100.0),
        ("LeadAssessmentCoverage", [], 0.0),
        ("LeadAssessmentAccuracy", [2] * 6 + [1] * 6, 75.0),
        ("LeadAssessmentAccuracy", [2] * 13, 100.0),
        ("GroundedECGUnderstanding", [80], 80.0),
    ],
)
def test_strict_values_of_gems_criteria(name, scores, value):
    criterion = next(c for c in GROUNDING.criteria if c.name == name)
    assert value_of(criterion, scores) == value


def test_the_overall_score_is_in_percent_of_each_scale():
    from dataclasses import replace

    rubric = replace(REPORT, criteria=(Criterion("A", "x", (1.0, 5.0)), Criterion("B", "x", (0.0, 10.0))))
    graded = {"A": (Entry(2.0, ""),), "B": (Entry(10.0, ""),)}
    assert values_of(rubric, graded) == {"A": 2.0, "B": 10.0, "overall": 62.5}
    assert values_of(rubric, None) == {"A": 1.0, "B": 0.0, "overall": 0.0}
    assert "overall" not in values_of(GROUNDING, None)


# --- as the originals


def test_pulse_takes_the_mean_of_whatever_scores_a_file_has():
    incomplete = Judged("failed", json.dumps({"Diagnosis": {"Score": 9}}), "missing_criterion")
    more = judged(REPORT, 10, 10, 10, Overall=2)
    found = [judged(REPORT, 10, 6, 2), incomplete, more, Judged("failed", "x", "not_json"), Judged("empty")]
    assert pulse(found, REPORT) == {"score": pytest.approx(10 * (6 + 9 + 8 + 0) / 4), "n": 4}
    assert pulse([], REPORT) == {"score": None, "n": 0}


def test_pulse_puts_all_scores_of_conversations_together():
    incomplete = Judged("failed", json.dumps({"Accuracy": {"Score": 10}}), "missing_criterion")
    assert pulse([judged(ARENA, 2, 4, 6), incomplete], ARENA)["score"] == pytest.approx(10 * (2 + 4 + 6 + 10) / 4)


def gems(**lists):
    return Judged("judged", json.dumps({name: [{"Score": s} for s in scores] for name, scores in lists.items()}))


def test_gems_two_scorers_give_different_numbers():
    rows = [
        gems(
            DiagnosisAccuracy=[2, 1, 0],
            AnalysisCompleteness=[1, 1, 0],
            AnalysisRelevance=[2, 1],
            LeadAssessmentCoverage=[1] * 9,
            LeadAssessmentAccuracy=[2] * 9,
            ECGFeatureGrounding=[80, 0],
            EvidenceBasedReasoning=[50, 60],
            ClinicalDiagnosticFidelity=[100],
        ),
        gems(DiagnosisAccuracy=[0], LeadAssessmentCoverage=[1] * 15, EvidenceBasedReasoning=[]),
    ]
    shared = {
        "AnalysisCompleteness": 2.0,
        "AnalysisRelevance": 3.0,
        "LeadAssessmentCoverage": 87.5,
        "LeadAssessmentAccuracy": 75.0,
        "RealisticDiagnosticProcess": 100.0,
        "GroundedECGUnderstanding": 80.0,
    }
    first, latest = (gem(rows, GROUNDING, first=first)["scores"] for first in (True, False))
    assert first == {**shared, "DiagnosisAccuracy": 37.5, "EvidenceBasedReasoning": 27.5}
    assert latest == {**shared, "DiagnosisAccuracy": 33.33, "EvidenceBasedReasoning": 55.0}


def test_gem_works_sums_out_and_counts_what_it_cannot_read():
    rows = [
        Judged("failed", '{"AnalysisCompleteness": [{"Score": 1+1+1, "Explanation": "x"}]}', "not_json"),
        Judged("failed", "nothing", "not_json"),
        Judged("failed", None, "timeout"),
    ]
    found = gem(rows, GROUNDING, first=False)
    assert found["scores"]["AnalysisCompleteness"] == 3.0 and found["scores"]["DiagnosisAccuracy"] is None
    assert (found["n"], found["n_unreadable"]) == (1, 1)


def test_the_originals_number_stands_beside_the_strict_one():
    found = summary([judged(REPORT, 10, 6, 2)], aggregate="pulse")
    assert found["compat"] == {"aggregate": "pulse", "score": 60.0, "n": 1}
    assert found["scores"]["overall"]["value"] == 60.0


@pytest.mark.parametrize(("name", "rubric"), [("gem_v1", REPORT), ("pulse", GROUNDING), ("pulsee", REPORT)])
def test_an_aggregation_of_another_rubric_is_refused(name, rubric):
    with pytest.raises(ConfigError, match="--aggregate"):
        check_aggregate(name, rubric)
