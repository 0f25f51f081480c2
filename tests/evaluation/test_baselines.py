"""The majority baseline."""

from __future__ import annotations

import pytest

from ecglm.evaluation.baselines import majority_answers, majority_prediction


def test_most_frequent_answer_per_task_and_question_type(make_row):
    rows = [make_row(a, "", "choice") for a in ["AF", "sinus", "sinus"]]
    rows += [make_row(a, "", "yes-no") for a in ["no"] * 4 + ["yes"]]
    known = majority_answers(rows)
    assert known == {"rhythm": {"": "no", "choice": "sinus", "yes-no": "no"}}
    assert majority_prediction(make_row("x", "", "choice"), known) == "sinus"
    assert majority_prediction(make_row("x", "", "text"), known) == "no"
    assert majority_prediction(make_row("x", "", task="other"), known) == ""
    assert majority_prediction(make_row("x", ""), {"rhythm": "sinus"}) == "sinus"


def test_a_template_is_a_question_of_its_own(make_row):
    rows = [make_row(a, "", "yes-no", metadata={"template_id": t}) for a, t in [("yes", 1), ("no", 2), ("no", 2)]]
    known = majority_answers(rows)
    assert majority_prediction(rows[0], known) == "yes"
    assert majority_prediction(rows[1], known) == "no"


@pytest.mark.parametrize(("answers", "winner"), [(["b", "a"], "a"), (["B", "b", "a"], "B"), (["c", "c", "a"], "c")])
def test_ties_and_spelling(make_row, answers, winner):
    assert majority_answers([make_row(a, "") for a in answers])["rhythm"][""] == winner
    assert majority_answers([make_row(a, "") for a in reversed(answers)])["rhythm"][""] == winner


def test_numbers_have_a_median(make_row):
    rows = [make_row(f"{n} bpm", "", "number", task="rate") for n in (50, 60, 61, 200, 200)]
    assert majority_answers(rows)["rate"]["number"] == "61"
