"""Label F1 counted by hand, and against scikit-learn on random reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ecglm import registry
from ecglm.evaluation.metrics.findings import SUPERCLASSES, statements


def value(name, pairs):
    rows = [{"reference": t, "prediction": s, "metadata": {"question_type": "text"}} for t, s in pairs]
    return registry.get("metrics", name)(rows)


def test_micro_by_hand():
    """AFIB found, LVH denied and so missed, RVH made up: TP 1, FP 1, FN 1; then SR found."""
    pairs = [("Atrial fibrillation. LVH.", "AFib, no LVH. Possible RVH."), ("Sinus rhythm", "sinus rhythm")]
    assert value("label_f1", pairs) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1), abs=1e-12)
    # over the statements of the references: AFIB 1, LVH 0, SR 1
    assert value("label_f1_macro", pairs) == pytest.approx(2 / 3, abs=1e-12)


def test_superclasses_by_hand():
    """HYP: LVH against RVH is the same class. CD: missed. MI only made up: no class of the mean."""
    pairs = [("LVH. LBBB.", "RVH."), ("LVH", "LVH, inferior infarct")]
    assert value("label_f1_superclass", pairs) == pytest.approx((1.0 + 0.0) / 2, abs=1e-12)


def test_a_denied_statement_is_none():
    assert value("label_f1", [("No LVH.", "No LVH.")]) != 1.0
    assert math.isnan(value("label_f1", [("No LVH.", "no evidence of LVH")]))
    assert value("label_f1", [("No LVH.", "LVH")]) == 0.0
    assert value("label_f1", [("LVH", "")]) == 0.0


TERMS = {"AFIB": "atrial fibrillation", "LVH": "LVH", "CLBBB": "left bundle branch block",
         "IMI": "old inferior infarct", "NDT": "non-diagnostic T wave abnormalities", "NORM": "normal ECG"}  # fmt: skip
reports = st.sets(st.sampled_from(sorted(TERMS)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(reports, reports), min_size=1, max_size=12))
def test_label_f1_equals_sklearn(pairs):
    def said(names):
        denied = [f"No {TERMS[name]}." for name in sorted(set(TERMS) - {"NORM"} - names)]
        return " ".join([*(f"{TERMS[name].capitalize()}." for name in sorted(names)), *denied, "Nothing else."])

    texts = [(said(truth), said(stated)) for truth, stated in pairs]

    def matrix(side, names, of=lambda name: name):
        return np.array([[any(of(n) == c for n in pair[side]) for c in names] for pair in pairs], dtype=int)

    codes = sorted(TERMS)
    truth, answer = matrix(0, codes), matrix(1, codes)
    got = value("label_f1", texts)
    if not (truth | answer).any():
        assert math.isnan(got)
        return
    assert got == pytest.approx(f1_score(truth, answer, average="micro", zero_division=0), abs=1e-12)
    for name, classes, of in (
        ("label_f1_macro", codes, lambda n: n),
        ("label_f1_superclass", SUPERCLASSES, lambda n: statements()[n]),
    ):
        truth, answer = matrix(0, classes, of), matrix(1, classes, of)
        with_gold = truth.any(axis=0)
        expected = [f1_score(truth[:, c], answer[:, c], zero_division=0) for c in np.flatnonzero(with_gold)]
        assert value(name, texts) == pytest.approx(np.mean(expected), abs=1e-12) if expected else True
