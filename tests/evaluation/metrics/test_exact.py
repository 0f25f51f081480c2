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


#: Metrics that are meant for certain references only, or need more than a row's texts.
REFERENCES = {
    "interval_within": "160 ms",
    "axis_within_15": "-30 degrees",
    "grounding": "Heart rate 70 bpm.",
    "grounding_coverage": "Heart rate 70 bpm.",
}
LABELLED = ("label_f1", "label_f1_macro", "label_f1_superclass")
#: A class that is never claimed is never claimed wrongly, so half of its area remains; the other row's class is right.
WORST = {"auc_binary": 0.75}


def test_d22_a_failed_row_scores_zero_in_every_metric_and_stays_in_the_denominator(make_row):
    types = {"closed": "choice", "multi": "multi-label", "number": "number", "text": "text"}
    tried = set()
    for name in registry.names("metrics"):
        metric = registry.get("metrics", name)
        if not metric.higher_is_better:
            continue
        for kind in metric.kinds:
            text = REFERENCES.get(name, "left bundle branch block" if name in LABELLED else "70 of four words here")
            good = make_row(text, text, types[kind], measured={"heart_rate": 71.0})
            rows = [good, make_row("other", "other", types[kind])] if name == "auc_binary" else [good]
            if metric.lacks(rows):
                continue
            tried.add(name)
            failed = {**good, "prediction": None, "error": "out of memory"}
            best = 0.99  # METEOR charges even a perfect answer for its one chunk
            assert metric.fits(good), name
            assert metric(rows) >= best, (name, kind)
            assert metric([failed, *rows[1:]]) == WORST.get(name, 0.0), (name, kind)
            assert metric([failed, *rows]) < 0.95, (name, kind)
    left_out = {name for name in registry.names("metrics") if registry.get("metrics", name).higher_is_better} - tried
    assert left_out <= {"bertscore_p", "bertscore_r", "bertscore_f1", "meteor_nltk"}


def test_every_metric_says_what_it_is_and_its_range(make_row):
    for name in registry.names("metrics"):
        metric = registry.get("metrics", name)
        assert 10 < len(metric.about) <= 130 and "\n" not in metric.about, name
        assert metric.span[0] < metric.span[1], name
        assert metric.kinds and isinstance(metric.higher_is_better, bool), name
