"""Reading answers: kinds, labels, numbers, choices."""

from __future__ import annotations

import pytest

from ecglm import registry
from ecglm.evaluation.metrics import base


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
