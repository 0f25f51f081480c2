"""Mode ``strict``: figures against scikit-learn and by hand, fixed label space, code15 as two tasks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from bench_data import OPTIONS, gold_rows, talk, write_answers, write_gold
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, hamming_loss, roc_auc_score

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.answers import read_answers
from ecglm.evaluation.ecgbench.gold import gold_item, read_gold
from ecglm.evaluation.ecgbench.strict import (
    CODE_15_LABELS,
    CODE_15_NORMALITY,
    Reading,
    Task,
    f1_of_each,
    tasks_of,
)
from ecglm.evaluation.ecgbench.subsets import SUBSETS


def scored(tmp_path, subset, pairs, texts):
    """Task name → metric → value of a model's answers (None: no text; absent: no row)."""
    items = read_gold(write_gold(tmp_path / "gold", subset, gold_rows(subset, pairs)), subset)
    answers = {f"{subset}-{n}": text for n, text in texts.items()}
    found = read_answers(write_answers(tmp_path / "m" / subset / "step-final.jsonl", answers), subset, items)
    result = {}
    for task in tasks_of(SUBSETS[subset], items):
        readings = task.readings(found)
        sums = task.statistics(readings).sum(0)
        result[task.name] = {name: float(value(sums)) for name, value in task.metrics.items()}
        result[task.name] |= {"states": [r.state for r in readings], "undefined": task.undefined()}
    return result


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_figures_equal_scikit_learn_over_the_fixed_label_space(data):
    labels = sorted(SUBSETS["ptb-test"].labels)
    sets = st.frozensets(st.sampled_from(labels))
    gold = data.draw(st.lists(sets, min_size=1, max_size=12))
    read = data.draw(st.lists(sets, min_size=len(gold), max_size=len(gold)))
    right = {str(n): row for n, row in enumerate(gold)}
    metrics = tasks_of(SUBSETS["ptb-test"], [])[0].metrics
    task = Task("t", SUBSETS["ptb-test"], (), tuple(labels), metrics, right, lambda item, text: (None, ""))
    sums = task.statistics([Reading(str(n), gold[n], read[n]) for n in range(len(gold))]).sum(0)
    true = np.array([[label in row for label in labels] for row in gold], int)
    said = np.array([[label in row for label in labels] for row in read], int)
    held = [c for c in range(len(labels)) if true[:, c].any()]
    split = [c for c in held if not true[:, c].all()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = [f1_score(true[:, c], said[:, c], zero_division=0) for c in held]
        auc = [roc_auc_score(true[:, c], said[:, c]) for c in split]
    assert task.undefined() == [label for c, label in enumerate(labels) if c not in held]
    assert float(metrics["f1"](sums)) == pytest.approx(np.mean(each) if held else np.nan, abs=1e-12, nan_ok=True)
    assert f1_of_each(sums)[held] == pytest.approx(np.array(each), abs=1e-12)
    assert float(metrics["auc_binary"](sums)) == pytest.approx(
        np.mean(auc) if split else np.nan, abs=1e-12, nan_ok=True
    )
    assert float(metrics["hamming"](sums)) == pytest.approx(hamming_loss(true.ravel(), said.ravel()), abs=1e-12)


def test_p06_the_label_space_is_fixed_and_absent_labels_are_listed(tmp_path):
    found = scored(tmp_path, "ptb-test", [("q", "MI"), ("q", "CD")], {0: "MI; NORM", 1: "CD"})["ptb-test"]
    assert found["undefined"] == ["NORM", "STTC", "HYP"]
    assert found["f1"] == 1.0  # MI and CD; the extra NORM is no gold label's mistake …
    assert found["hamming"] == pytest.approx(1 / 10)  # … but a wrong cell
    part = scored(tmp_path / "part", "ptb-test", [("q", "MI"), ("q", "CD")], {0: "MI"})["ptb-test"]
    assert part["states"] == ["read", "missing"] and part["f1"] == 0.5  # CD stays in the mean


def test_p07_p09_missing_failed_and_unreadable_count_as_wrong(tmp_path):
    pairs = [("q", "MI")] * 4
    found = scored(tmp_path, "ptb-test", pairs, {0: "MI", 1: None, 2: "heart attack"})["ptb-test"]
    assert found["states"] == ["read", "failed", "unparsed", "missing"]
    assert found["f1"] == pytest.approx(2 * 1 / (2 * 1 + 3))


def test_a_constant_answer_on_the_real_subset_has_auc_one_half(tmp_path):
    pairs = [("q", "NORM"), ("q", "MI"), ("q", "CD; HYP"), ("q", "STTC")]
    found = scored(tmp_path, "ptb-test", pairs, dict.fromkeys(range(4), "NORM"))["ptb-test"]
    assert found["auc_binary"] == 0.5  # of NORM all hit and none passed, of the others the reverse
    assert found["f1"] == pytest.approx(0.4 / 5)


def test_code15_is_two_tasks(tmp_path):
    pairs = [("q", "NORM"), ("q", "ABNORMAL"), ("q", "ST; AF"), ("q", "RBBB"), ("q", "ABNORMAL")]
    texts = {0: "NORM", 1: "NORM or ABNORMAL", 2: "ST", 3: "LAST", 4: "Answer: ABNORMAL"}
    found = scored(tmp_path, "code15-test", pairs, texts)
    assert list(found) == [CODE_15_LABELS, CODE_15_NORMALITY]
    assert found[CODE_15_NORMALITY]["accuracy"] == pytest.approx(2 / 3)
    assert found[CODE_15_NORMALITY]["f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert found[CODE_15_LABELS]["states"] == ["read", "unparsed"]
    assert found[CODE_15_LABELS]["f1"] == pytest.approx(1 / 3)  # ST 1, AF 0, RBBB 0
    only = scored(tmp_path / "one", "code15-test", [("q", "NORM")], {0: "NORM"})
    assert list(only) == [CODE_15_NORMALITY]


def test_p03_unreadable_choices_are_wrong_never_drawn(tmp_path):
    pairs = [(f"What?{OPTIONS}", "B. two")] * 5
    texts = {0: "B", 1: "no idea", 2: "(B)", 3: "B. ... A.", 4: "It is two"}
    found = scored(tmp_path, "csn-test-no-cot", pairs, texts)["csn-test-no-cot"]
    assert found["states"] == ["read", "unparsed", "read", "read", "read"]
    assert found["accuracy"] == 0.8


def test_letters_are_those_of_the_rows_own_options(tmp_path):
    pairs = [("What? A. one B. two C. three", "C. three"), ("What? no list", "H")]
    found = scored(tmp_path, "g12-test-no-cot", pairs, {0: "H", 1: "H"})["g12-test-no-cot"]
    assert found["states"] == ["unparsed", "read"] and found["accuracy"] == 0.5


def test_a_list_that_lacks_the_right_answer_is_not_trusted(tmp_path):
    pairs = [("What? A. one B. two (D missing)", "D. four")]
    assert scored(tmp_path, "mmmu-ecg", pairs, {0: "D"})["mmmu-ecg"]["accuracy"] == 1.0


@pytest.mark.parametrize(("answer", "letter"), [("B", "B"), ("B. two", "B"), ("(C)", "C"), ("Answer: D", "D")])
def test_right_letters(answer, letter):
    item = gold_item({"id": "1", "image": "a", "conversations": talk("What?", answer)}, SUBSETS["mmmu-ecg"])
    assert tasks_of(SUBSETS["mmmu-ecg"], [item])[0].right["1"] == {letter}


def test_an_answer_that_is_no_choice_is_refused():
    item = gold_item({"id": "1", "image": "a", "conversations": talk("What?", "yes")}, SUBSETS["mmmu-ecg"])
    with pytest.raises(EcglmError, match="item '1': its answer 'yes' is none of ABCD"):
        tasks_of(SUBSETS["mmmu-ecg"], [item])


def test_p08_sets_take_options_from_the_item_and_unknown_items_are_wrong(tmp_path):
    question = "Which? Options: lead I, lead V1, none"
    pairs = [(question, ["lead I", "lead V1"]), (question, ["none"]), (question, ["lead V1"]), (question, ["none"])]
    texts = {0: "Lead V1, lead I.", 1: "none, surely", 2: "lead V1", 3: "no"}
    found = scored(tmp_path, "ecgqa-test", pairs, texts)["ecgqa-test"]
    assert found["accuracy"] == 0.5
    assert found["answer_f1"] == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    assert found["states"] == ["read", "read", "read", "unparsed"]
