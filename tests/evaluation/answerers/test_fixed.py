"""Baselines: most frequent and random answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.base import Request
from ecglm.evaluation.answerers.fixed import (
    FixedAnswerer,
    check_name,
    majority_answer,
    random_choice,
    random_label_set,
)


def test_the_most_frequent_answer_and_the_first_of_equals():
    assert majority_answer(["b", "a", "b", "c"]) == "b"
    assert majority_answer(["b", "a"]) == "a"


def test_random_letters_are_uniform_seeded_and_the_items_own():
    drawn = Counter(random_choice("ABCD", 0, f"mmmu-ecg/{n}") for n in range(4000))
    assert set(drawn) == set("ABCD")
    assert max(abs(n - 1000) for n in drawn.values()) < 120  # 4.4 standard deviations
    assert [random_choice("ABCD", 1, str(n)) for n in range(40)] != [
        random_choice("ABCD", 0, str(n)) for n in range(40)
    ]
    assert random_choice(["yes", "no"], 0, "x") in ("yes", "no")


def test_random_label_sets_name_each_label_half_of_the_time():
    labels = ["NORM", "MI", "STTC", "CD", "HYP"]
    drawn = [random_label_set(labels, 0, str(n)).split(", ") for n in range(3000)]
    share = np.mean([[label in d for label in labels] for d in drawn], axis=0)
    assert share == pytest.approx(np.full(5, 0.5 / (1 - 0.5**5)), abs=0.05)  # tossed again where none was named
    assert all(d and set(d) <= set(labels) for d in drawn)


def test_answers_by_id_and_names_that_are_known():
    requests = [Request(i, ()) for i in ("b", "a")]
    assert [r.text for r in FixedAnswerer("majority", {"a": "1", "b": "2"}).answer(requests)] == ["2", "1"]
    with pytest.raises(EcglmError, match=r"no baseline 'majorty' \(did you mean 'majority'"):
        check_name("majorty")
