"""Macro F1 against the definition counted by hand, spec vectors, and its treatment of classes without positives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.evaluation.metrics.macro_f1 import MACRO_F1, counts, f1_per_class, recall_per_class

CLASSES = ("norm", "mi", "sttc", "cd", "hyp")


def rows_of(gold, stated):
    return [
        {
            "reference": ", ".join(sorted(g)) or "none of these",
            "prediction": ", ".join(sorted(p)),
            "metadata": {"question_type": "multi-label"},
        }
        for g, p in zip(gold, stated, strict=True)
    ]


def naive(gold, stated, classes):
    """F1 per class from its definition as the harmonic mean of precision and recall; None without gold positives."""
    scores = []
    for c in classes:
        hits = sum(c in g and c in p for g, p in zip(gold, stated, strict=True))
        positives, claimed = sum(c in g for g in gold), sum(c in p for p in stated)
        if not positives:
            scores.append(None)
        elif not hits:
            scores.append(0.0)
        else:
            precision, recall = hits / claimed, hits / positives
            scores.append(2 * precision * recall / (precision + recall))
    return scores


def test_spec_vectors():
    """Section 4.4 of the evaluation facts; the second is over the classes that occur in the gold answers."""
    gold = [{"norm"}, {"mi", "cd"}, {"sttc"}, {"hyp"}]
    stated = [{"norm"}, {"mi"}, {"sttc", "cd"}, set()]
    assert MACRO_F1(rows_of(gold, stated), CLASSES) == pytest.approx(0.6, abs=1e-12)
    gold, stated = [{"norm"}, set(), {"mi"}, set()], [{"norm"}, set(), set(), set()]
    assert MACRO_F1(rows_of(gold, stated), CLASSES) == pytest.approx(0.5, abs=1e-12)


subsets = st.sets(st.sampled_from(CLASSES))


@given(st.lists(st.tuples(subsets, subsets), min_size=1, max_size=30))
def test_f1_equals_its_definition(pairs):
    gold, stated = [g for g, _ in pairs], [p for _, p in pairs]
    rows = rows_of(gold, stated)
    sums = counts(rows, CLASSES).sum(axis=0)
    expected = naive(gold, stated, CLASSES)
    for got, want in zip(f1_per_class(sums), expected, strict=True):
        assert math.isnan(got) if want is None else got == pytest.approx(want, abs=1e-12)
    known = [score for score in expected if score is not None]
    got = MACRO_F1(rows, CLASSES)
    assert math.isnan(got) if not known else got == pytest.approx(sum(known) / len(known), abs=1e-12)


@given(st.lists(st.tuples(subsets, subsets), min_size=1, max_size=12), st.randoms())
def test_counts_are_additive_and_orderless(pairs, random):
    rows = rows_of([g for g, _ in pairs], [p for _, p in pairs])
    shuffled = random.sample(rows, len(rows))
    np.testing.assert_array_equal(counts(rows, CLASSES).sum(0), counts(shuffled, CLASSES).sum(0))
    np.testing.assert_array_equal(counts(rows + rows, CLASSES).sum(0), 2 * counts(rows, CLASSES).sum(0))


def test_an_answer_outside_the_classes_is_a_miss_and_no_class_of_its_own(make_row):
    rows = [make_row("a", "zebra", choices=["a", "b"]), make_row("b", "b", choices=["a", "b"])]
    sums = counts(rows, ("a", "b")).sum(axis=0)
    np.testing.assert_array_equal(f1_per_class(sums), [0.0, 1.0])
    np.testing.assert_array_equal(recall_per_class(sums), [0.0, 1.0])


def test_the_class_set_is_all_choices_but_classes_without_gold_are_left_out(make_row):
    rows = [make_row("a", "a", choices=["a", "b", "c"]), make_row("b", "c", choices=["a", "b", "c"])]
    assert MACRO_F1(rows) == 0.5
