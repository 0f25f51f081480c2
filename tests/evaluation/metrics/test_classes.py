"""Hamming loss and binary AUC against scikit-learn; multiple choice by letter and by text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import hamming_loss, roc_auc_score

from ecglm import registry
from ecglm.evaluation.metrics.auc_binary import AUC_BINARY
from ecglm.evaluation.metrics.hamming import HAMMING
from ecglm.evaluation.metrics.mcq_accuracy import picked

CLASSES = ("norm", "mi", "sttc", "cd", "hyp")
subsets = st.sets(st.sampled_from(CLASSES))


def rows_of(pairs):
    return [
        {
            "reference": ", ".join(sorted(g)) or "none of these",
            "prediction": ", ".join(sorted(p)),
            "metadata": {"question_type": "multi-label"},
        }
        for g, p in pairs
    ]


def binary(sets):
    return np.array([[c in s for c in CLASSES] for s in sets], dtype=int)


@given(st.lists(st.tuples(subsets, subsets), min_size=1, max_size=25))
def test_hamming_and_auc_equal_sklearn(pairs):
    gold, stated = binary([g for g, _ in pairs]), binary([p for _, p in pairs])
    assert HAMMING(rows_of(pairs), CLASSES) == pytest.approx(hamming_loss(gold, stated), abs=1e-12)
    defined = [c for c in range(len(CLASSES)) if 0 < gold[:, c].sum() < len(gold)]
    got = AUC_BINARY(rows_of(pairs), CLASSES)
    if not defined:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(np.mean([roc_auc_score(gold[:, c], stated[:, c]) for c in defined]), abs=1e-12)


def test_spec_vectors():
    """Section 4.4 of the evaluation facts; the second over the classes with positives and negatives in the gold."""
    gold = [{"norm"}, {"mi", "cd"}, {"sttc"}, {"hyp"}]
    pairs = list(zip(gold, [{"norm"}, {"mi"}, {"sttc", "cd"}, set()], strict=True))
    assert AUC_BINARY(rows_of(pairs), CLASSES) == pytest.approx(0.7666666666666667, abs=1e-12)
    assert HAMMING(rows_of(pairs), CLASSES) == pytest.approx(0.15, abs=1e-12)
    pairs = list(zip([{"norm"}, set(), {"mi"}, set()], [{"norm"}, set(), set(), set()], strict=True))
    assert AUC_BINARY(rows_of(pairs), ("norm", "mi")) == pytest.approx(0.75, abs=1e-12)
    assert HAMMING(rows_of(pairs), ("norm", "mi")) == pytest.approx(0.125, abs=1e-12)


def test_a_constant_answer_has_the_auc_of_chance():
    pairs = [({"norm"}, {"norm"}), ({"mi"}, {"norm"}), ({"mi"}, {"norm"})]
    assert AUC_BINARY(rows_of(pairs), CLASSES) == 0.5


def test_a_failed_row_misses_its_classes(make_row):
    good = make_row("MI, CD", "MI, CD", "multi-label", choices=["MI", "CD", "HYP", "NORM"])
    failed = {**good, "prediction": None, "error": "out of memory"}
    assert registry.get("metrics", "hamming")([good, failed]) == 2 / 8
    assert registry.get("metrics", "hamming")([]) != 0.0


OPTIONS = ["Sinus rhythm", "Atrial fibrillation", "Paced rhythm", "Atrial flutter"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Atrial fibrillation", "atrial fibrillation"),
        ("atrial fibrillation.", "atrial fibrillation"),
        ("B", "atrial fibrillation"),
        ("b", "atrial fibrillation"),
        ("(B)", "atrial fibrillation"),
        ("B.", "atrial fibrillation"),
        ("b) atrial something", "atrial fibrillation"),
        ("B: it is irregular", "atrial fibrillation"),
        ("Option B", "atrial fibrillation"),
        ("The answer is B", "atrial fibrillation"),
        ("The correct option is (b)", "atrial fibrillation"),
        ("B\n\nBecause no P waves are seen.", "atrial fibrillation"),
        ("answer" + " " * 100_000 + "?", ""),
        ("Answer: B", "atrial fibrillation"),
        ("The answer is atrial fibrillation", "atrial fibrillation"),
        ("It shows atrial fibrillation with a fast rate", "atrial fibrillation"),
        ("A normal ECG", ""),  # an article, no letter
        ("atrial fibrillation or atrial flutter", ""),
        ("H", ""),  # only four choices
        ("", ""),
        ("no idea", ""),
        ("paced rhythms", ""),
    ],
)
def test_choice_picked_by_letter_or_text(make_row, answer, expected):
    row = make_row("Atrial fibrillation", answer, "choice", choices=OPTIONS)
    assert picked(row) == expected
    assert registry.get("metrics", "mcq_accuracy")([row]) == float(expected == "atrial fibrillation")


def test_a_choice_within_a_longer_one_is_not_counted_apart(make_row):
    row = make_row("ST elevation", "there is inferior ST elevation", choices=["ST elevation", "inferior ST elevation"])
    assert picked(row) == "inferior st elevation"
