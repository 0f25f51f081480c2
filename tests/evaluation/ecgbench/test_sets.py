"""ECG-QA's sets of candidates in both modes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.evaluation.ecgbench.gold import ONLY_ANSWER
from ecglm.evaluation.ecgbench.sets import gold_set, pulse_candidates, pulse_set, set_f1, strict_set


def test_candidates_are_what_the_prompt_lists_last():
    assert pulse_candidates("Options: x Options: yes, no,\n" + ONLY_ANSWER) == ["yes", "no", ""]
    assert pulse_candidates({"prompt": "Q? Options: lead I, lead V1"}) == ["lead I", "lead V1"]
    assert pulse_candidates("no list, at all") == ["no list", "at all"]


def test_p08_capitals_never_match_in_pulse_and_do_in_strict():
    options = ["lead I", "lead V1"]
    assert pulse_set("lead V1", options) == frozenset()
    assert strict_set("lead V1", options) == ({"lead v1"}, True)
    assert gold_set(["lead V1"]) == {"lead v1"}


def test_pulse_finds_no_in_none_and_the_empty_candidate_everywhere():
    assert pulse_set("none", ["no", "none", "yes"]) == {"no", "none"}
    assert pulse_set("anything", ["yes", ""]) == {""}


@pytest.mark.parametrize(
    ("text", "found", "known"),
    [
        ("Yes.", {"yes"}, True),
        ("lead I, lead II", {"lead i", "lead ii"}, True),
        ("lead I; lead II\nyes", {"lead i", "lead ii", "yes"}, True),
        ("lead I and lead II", {"lead i", "lead ii"}, True),
        ("wide and notched qrs", {"wide and notched qrs"}, True),  # one option with 'and' in it
        ("yes, maybe", {"yes", "maybe"}, True),
        ("I think so", {"i think so"}, False),
        ("", set(), False),
        ("Reasons.\nAnswer: yes", {"yes"}, True),
        ("**Yes**", {"yes"}, True),
        ("`yes`.", {"yes"}, True),
        ("- lead I\n2. lead II", {"lead i", "lead ii"}, True),
        ('["lead I", "lead II"]', {"lead i", "lead ii"}, True),
        ("lead I\uff0clead II\u3002", {"lead i", "lead ii"}, True),
        ("lead I" + " " * 50_000 + "and lead II", {"lead i", "lead ii"}, True),
    ],
)
def test_strict_splits_at_commas_lines_and_the_word_and(text, found, known):
    assert strict_set(text, ["yes", "no", "lead I", "lead II", "wide and notched qrs"]) == (frozenset(found), known)


def test_set_f1_by_hand():
    assert set_f1(frozenset("ab"), frozenset("bc")) == 0.5
    assert set_f1(frozenset("a"), frozenset("ab")) == pytest.approx(2 / 3)
    assert set_f1(frozenset(), frozenset("a")) == 0.0
    assert set_f1(frozenset("a"), frozenset("a")) == 1.0


@given(st.lists(st.sampled_from(["yes", "no", "none", "lead i"]), unique=True, min_size=1))
def test_a_list_of_options_is_read_back(stated):
    assert strict_set(", ".join(stated), ["yes", "no", "none", "lead I"]) == (frozenset(stated), True)
