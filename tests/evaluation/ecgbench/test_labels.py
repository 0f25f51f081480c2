"""Labels in answers: the original's substrings, and whole words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.evaluation.ecgbench.labels import (
    answer_line,
    pulse_gold,
    pulse_labels,
    stands_alone,
    strict_labels,
    strict_normality,
)
from ecglm.evaluation.ecgbench.subsets import SUBSETS

PTB, CPSC, CODE = SUBSETS["ptb-test"], SUBSETS["cpsc-test"], SUBSETS["code15-test"]

#: Text, subset, the original's labels, ours (None: cannot be read).
CONSEQUENCES = [
    ("ABNORMAL", PTB, {"NORM"}, None),
    ("NORMAL", PTB, {"NORM"}, None),
    ("ABNORMAL", CPSC, {"NORM"}, None),
    ("STEMI", PTB, {"MI"}, None),
    ("STEMI", CPSC, {"STE"}, None),
    ("II-AVB", CPSC, {"I-AVB"}, None),
    ("III-AVB", CPSC, {"I-AVB"}, None),
    ("AFL", CPSC, {"AF"}, None),
    ("AFIB", CPSC, {"AF"}, None),
    ("LAST", CODE, {"ST"}, None),
    ("ST-T", CODE, {"ST"}, None),
    ("HYPERTROPHY", PTB, {"HYP"}, {"HYP"}),  # our own list has the full name
    ("hypertrophy", PTB, set(), {"HYP"}),
    ("myocardial infarction", PTB, set(), {"MI"}),
    ("mi", PTB, set(), None),
    ("MI; STTC", PTB, {"MI", "STTC"}, {"MI", "STTC"}),
]


@pytest.mark.parametrize(("text", "subset", "original", "ours"), CONSEQUENCES)
def test_p05_substrings_in_pulse_whole_words_in_strict(text, subset, original, ours):
    assert pulse_labels(text, subset) == original
    assert strict_labels(text, subset.labels) == (None if ours is None else frozenset(ours))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("NORM", {"NORM"}),
        ("ABNORMAL", {"ABNORMAL"}),
        ("RBBB Answer: ABNORMAL", {"ABNORMAL"}),
        ("ABNORMAL; AF", {"ABNORMAL", "AF"}),
        ("NORM RBBB", {"NORM", "RBBB"}),
        ("Answer: RBBB Answer: ST", {"ST"}),
        ("none", set()),
    ],
)
def test_code15_in_pulse_reads_behind_the_last_answer_mark(text, labels):
    assert pulse_labels(text, CODE) == labels


def test_code15_gold_is_one_of_two_words_or_substrings():
    assert pulse_gold("NORM", CODE) == {"NORM"}
    assert pulse_gold("ABNORMAL", CODE) == {"ABNORMAL"}
    assert pulse_gold("NORM.", CODE) == frozenset()  # not exactly: then the six labels alone
    assert pulse_gold("1dAVb; ST", CODE) == {"1dAVb", "ST"}
    assert pulse_gold("ABNORMAL", PTB) == {"NORM"}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("There is no MI, but STTC.", {"STTC"}),
        ("no MI but STTC", None),  # nothing ends the denial
        ("not MI; CD", {"CD"}),
        ("CD without HYP", {"CD"}),
        ("absence of MI. NORM", {"NORM"}),
        ("MI ruled out, STTC", {"STTC"}),
        ("ruled out MI\nHYP", {"HYP"}),
        ("Notable MI", {"MI"}),  # 'not' is a word here
        ("none", set()),
        ("None of these.", set()),
        ("I cannot tell", None),
        ("", None),
        ("MI-like", None),
        ("aMI", None),
        ("MI2", None),
        ("(MI)", {"MI"}),
        ("NORM/CD", {"NORM", "CD"}),
        ("MI first.\nAnswer: CD", {"CD"}),
        ("Answer: MI\nAnswer:\nHYP and more", {"HYP"}),
        ("**Answer:** STTC", {"STTC"}),
        ("CD, MI\nanswer: none", set()),
        ("Conduction  Disturbance and ST/T changes", {"CD", "STTC"}),
        ("A NORMAL ECG", {"NORM"}),
        ("an abnormal ECG", None),
    ],
)
def test_strict_labels_of_ptb(text, labels):
    found = strict_labels(text, PTB.labels)
    assert found == (None if labels is None else frozenset(labels))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("first-degree AV block", {"I-AVB"}),
        ("First degree atrioventricular block", {"I-AVB"}),
        ("second-degree AV block", None),
        ("ST-segment depression", {"STD"}),
        ("ST elevation", {"STE"}),
        ("Right Bundle Branch Block with premature ventricular contractions", {"RBBB", "PVC"}),
    ],
)
def test_full_names_in_any_case_with_hyphen_or_blank(text, labels):
    found = strict_labels(text, CPSC.labels)
    assert found == (None if labels is None else frozenset(labels))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("NORM: No\nMI: Yes\nSTTC: absent\nCD: negative.\nHYP: No", {"MI"}),
        ("NORM (no), MI (yes), CD (not seen)", {"MI"}),
        ('{"NORM": 0, "MI": 1, "CD": false, "HYP": true}', {"MI", "HYP"}),
        ("| MI | no |\n| CD | yes |", {"CD"}),
        ("MI: no ST elevation, CD", {"MI", "CD"}),  # no verdict on MI itself
        (
            "\uff2d\uff29\uff0c\uff23\uff24\uff0c\u4e0d\u662f NORM",
            {"MI", "CD", "NORM"},
        ),  # full-width letters and commas
        ("Answer:\n- MI\n* CD\n3. HYP\nThe axis is NORM", {"MI", "CD", "HYP"}),
        ("Answer:\nMI\nCD", {"MI"}),
    ],
)
def test_tables_objects_lists_and_full_width_signs(text, labels):
    assert strict_labels(text, PTB.labels) == frozenset(labels)


def test_a_size_is_no_verdict():
    assert strict_labels("STE: 0.2 mV, STD: 0.", CPSC.labels) == {"STE"}


def test_names_of_several_beats_and_hyphens_of_other_kinds():
    assert strict_labels("frequent PVCs, no PACs, I\u2011AVB", CPSC.labels) == {"PVC", "I-AVB"}


@pytest.mark.parametrize(
    "text", ["ST depression in V1", "ST segment elevation", "ST changes", "ST and T abnormalities"]
)
def test_an_st_segment_is_no_sinus_tachycardia(text):
    assert strict_labels(text, SUBSETS["code15-test"].labels) is None
    assert strict_labels(f"ST; {text}", SUBSETS["code15-test"].labels) == {"ST"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("NORM", "NORM"),
        ("ABNORMAL: no", None),
        ("ABNORMAL", "ABNORMAL"),
        ("The ECG is abnormal.", "ABNORMAL"),
        ("normal ECG", "NORM"),
        ("NORM or ABNORMAL", None),
        ("none", None),
        ("AF", None),
        ("not ABNORMAL, NORM", "NORM"),
    ],
)
def test_normality_is_one_word_or_unreadable(text, word):
    assert strict_normality(text) == word


def test_the_answer_line_is_the_last_one_and_may_stand_below_its_mark():
    assert answer_line("a\nAnswer: b\nc") == "b"
    assert answer_line("Answer: a Answer: b") == "b"
    assert answer_line("Answer:\n\n  b\nc") == "b"
    assert answer_line("no mark") == "no mark"
    assert stands_alone("MI", "no MI") and not stands_alone("MI", "STEMI")


@given(
    st.lists(st.sampled_from(sorted(PTB.labels)), unique=True, min_size=1), st.sampled_from([", ", "; ", " / ", "\n"])
)
def test_any_list_of_labels_is_read_the_same_by_both_modes(labels, joint):
    text = joint.join(labels)
    assert strict_labels(text, PTB.labels) == frozenset(labels) == pulse_labels(text, PTB)


@given(st.text(alphabet="MINORSTCDHYP-aB12;,. \n", max_size=40))
def test_a_whole_label_in_strict_is_always_a_substring(text):
    found = strict_labels(text, dict.fromkeys(PTB.labels, ())) or frozenset()
    assert all(label in text for label in found)
