"""Reading answers: kinds, labels, numbers, choices."""

from __future__ import annotations

import pytest

from ecglm import registry
from ecglm.evaluation.metrics import base
from ecglm.evaluation.score import score


def test_every_metric_is_registered_by_name():
    expected = {"accuracy", "answer_f1", "answer_set", "bleu", "bleu_sacre", "exact", "exact_norm", "macro_f1"}
    assert set(registry.names("metrics")) >= expected | {"rate_mae", "within_5_bpm", "rougeL"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Yes. ", "yes"),
        ("Sinus\n  Rhythm!?", "sinus rhythm"),
        ("ST/T change", "st/t change"),
        ("AV-block 2:1", "av-block 2:1"),
        ("...", ""),
        ("e\u0301", "\u00e9"),
    ],
)
def test_normalise(text, expected):
    assert base.normalise(text) == expected


@pytest.mark.parametrize(
    ("question_type", "choices", "kind"),
    [
        ("yes-no", ["yes", "no"], "closed"),
        ("choice", [], "closed"),
        ("multi-label", [], "multi"),
        ("number", [], "number"),
        ("text", [], "text"),
        ("single-verify", [], "closed"),
        ("single-choose", [], "multi"),
        ("comparison_consecutive-query", [], "multi"),
        ("", ["a"], "closed"),
        ("", [], "text"),
    ],
)
def test_kind_of_a_question(make_row, question_type, choices, kind):
    assert base.answer_kind(make_row("x", "x", question_type, choices=choices)) == kind


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("MI, CD", {"mi", "cd"}),
        ("CD; MI.", {"mi", "cd"}),
        ("MI\nCD", {"mi", "cd"}),
        ("MI and CD", {"mi", "cd"}),
        ("st and t change", {"st and t change"}),
        ("block, complete", {"block, complete"}),
        ("MI, block, complete, CD", {"mi", "block, complete", "cd"}),
        ("MI, MI", {"mi"}),
        ("", set()),
        (" . ", set()),
    ],
)
def test_labels_of_an_answer(make_row, text, labels):
    row = make_row("MI", text, "multi-label", choices=["MI", "CD", "ST and T change", "block, complete"])
    assert base.predicted_labels(row) == labels


def test_gold_labels_come_from_the_answer_list_where_there_is_one(make_row):
    row = make_row("a b", "a", "single-query", metadata={"answers": ["A", "b"]})
    assert base.reference_labels(row) == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72 bpm", 72.0),
        ("The rate is 72.5 per minute.", 72.5),
        ("72, that is 72 bpm", 72.0),
        ("60-100", None),
        ("60 to 100", None),
        ("fast", None),
        ("V1", None),
        ("\u221230 degrees", -30.0),  # a minus sign, not a hyphen
        ("9" * 400, None),  # beyond what a float holds
        ("", None),
    ],
)
def test_number_in_an_answer(text, number):
    assert base.number_in(text) == number


def test_unparsed(make_row):
    choices = ["yes", "no"]
    assert not base.is_unparsed(make_row("yes", "No.", "yes-no", choices=choices))
    assert base.is_unparsed(make_row("yes", "maybe", "yes-no", choices=choices))
    assert base.is_unparsed(make_row("yes", "", "yes-no", choices=choices))
    assert base.is_unparsed(make_row("MI", "MI, foo", "multi-label", choices=["MI", "CD"]))
    assert base.is_unparsed(make_row("72", "fast", "number"))
    assert not base.is_unparsed(make_row("a text", "anything", "text"))


def reasoning_row(make_row, turn, prediction):
    """A row of ecg-reasoning: every turn has its own options."""
    turns = [
        {"question_type": "initial_diagnostic_question", "options": ["Yes", "No"], "answer_idx": [0]},
        {"question_type": "lead_grounding", "options": ["Lead I", "Lead II", "Lead V3"], "answer_idx": [0, 2]},
        {"question_type": "measurement_grounding", "options": ["[200ms - 210ms]", "Above 240ms"], "answer_idx": [1]},
    ]
    reference = ["Yes", "Lead I, Lead V3", "Above 240ms"][turn]
    return make_row(reference, prediction, "multi-turn-choice", turn=turn, metadata={"turns": turns})


def test_a_turn_is_scored_against_its_own_options(make_row):
    rows = [reasoning_row(make_row, turn, "yes") for turn in range(3)]
    assert [base.answer_kind(row) for row in rows] == ["closed", "multi", "closed"]
    assert [base.question_type(row) for row in rows][1] == "lead_grounding"
    assert base.choices_of(rows[2]) == ("[200ms - 210ms]", "above 240ms")
    assert [base.is_unparsed(row) for row in rows] == [False, True, True]
    assert base.reference_labels(rows[1]) == {"lead i", "lead v3"}
    accuracy, choice = registry.get("metrics", "accuracy"), registry.get("metrics", "mcq_accuracy")
    right = [reasoning_row(make_row, t, a) for t, a in enumerate(["yes.", "Lead V3, Lead I", "B"])]
    assert accuracy(right[:2]) == 1.0 and accuracy(right[2:]) == 0.0 and choice([right[0], right[2]]) == 1.0
    assert accuracy([reasoning_row(make_row, 1, "Lead I")]) == 0.0
    assert registry.get("metrics", "answer_f1")([reasoning_row(make_row, 1, "Lead I")]) == 2 / 3


def test_turns_with_options_of_their_own_have_no_class_set(make_row):
    rows = [reasoning_row(make_row, turn, "yes") for turn in range(3) for _ in range(4)]
    rows = [{**row, "id": f"r{i}", "patient_id": f"p{i}", "task": "ecg-reasoning"} for i, row in enumerate(rows)]
    found = score(rows, num_resamples=20)
    assert found["main"] == {"ecg-reasoning": "accuracy"}
    by_type = found["by_question_type"]["real"]["ecg-reasoning"]
    assert by_type["initial_diagnostic_question"]["accuracy"]["value"] == 1.0
    assert by_type["lead_grounding"]["answer_f1"]["value"] == 0.0
    assert all("macro_f1" not in metrics for metrics in by_type.values())
    assert "rougeL" not in found["controls"]["real"]["ecg-reasoning"]
