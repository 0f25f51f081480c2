"""Exact match, plain and normalised, and accuracy."""

from __future__ import annotations

import math

from ecglm import registry


def value(name, rows):
    return registry.get("metrics", name)(rows)


def test_exact_strips_and_nothing_else(make_row):
    rows = [make_row("yes", " yes\n"), make_row("yes", "Yes"), make_row("yes", "yes."), make_row("yes", "")]
    assert value("exact", rows) == 0.25


def test_d37_exact_norm_ignores_case_spaces_and_final_punctuation(make_row):
    rows = [make_row("yes", " Yes. "), make_row("sinus  rhythm", "Sinus Rhythm"), make_row("yes", "no")]
    assert value("exact_norm", rows) == 2 / 3
    assert value("exact", rows) == 0.0


def test_accuracy_follows_the_kind_of_question(make_row):
    right = [
        make_row("yes", "Yes.", "yes-no"),
        make_row("MI, CD", "CD, MI", "multi-label"),
        make_row("70 bpm", "75", "number"),
    ]
    wrong = [
        make_row("yes", "", "yes-no"),
        make_row("MI, CD", "MI", "multi-label"),
        make_row("70 bpm", "76", "number"),
    ]
    assert value("accuracy", right) == 1.0
    assert value("accuracy", wrong) == 0.0
    assert value("accuracy", right + wrong) == 0.5


def test_no_rows_give_no_value():
    for name in registry.names("metrics"):
        assert math.isnan(value(name, [])), name


def test_d22_a_failed_row_scores_zero_in_every_metric_and_stays_in_the_denominator(make_row):
    types = {"closed": "choice", "multi": "multi-label", "number": "number", "text": "text"}
    for name in registry.names("metrics"):
        metric = registry.get("metrics", name)
        if not metric.higher_is_better:
            continue
        for kind in metric.kinds:
            good = make_row("70 of four words here", "70 of four words here", types[kind])
            failed = {**good, "prediction": None, "error": "out of memory"}
            assert metric([good]) > 0.999, (name, kind)
            assert metric([failed]) == 0.0, (name, kind)
            assert metric([good, failed]) < 0.999, (name, kind)
