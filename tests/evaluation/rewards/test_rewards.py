"""Each reward against truths made by hand, and what no answer may gain: rewards/base.py and the modules beside it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm import registry
from ecglm.evaluation.rewards import base, formats, grounded, labels, length, numbers  # noqa: F401

YES_NO = {"reference": "yes", "metadata": {"question_type": "yes-no", "choices": ["yes", "no"]}}
RHYTHM = {
    "reference": "sinus rhythm",
    "metadata": {"question_type": "choice", "choices": ["sinus rhythm", "atrial fibrillation", "paced rhythm"]},
}
SEVERAL = {
    "reference": "MI, STTC",
    "metadata": {"question_type": "multi-label", "choices": ["NORM", "MI", "STTC", "CD"], "answers": ["MI", "STTC"]},
}
RATE = {"reference": "70 bpm", "task": "rate", "metadata": {"question_type": "number"}}
AXIS = {"reference": "-175 degrees", "task": "axis", "metadata": {"question_type": "number"}}
REPORT = {"reference": "Sinus rhythm. Left bundle branch block.", "metadata": {"question_type": "text"}}
#: As measured_rows.py has them: rate 70, PR 160, QRS 150.
MEASURED = {"heart_rate": 70.0, "pr_ms": 160.0, "qrs_ms": 150.0, "qt_ms": 400.0, "axis_deg": 20.0}


def value(name: str, completion: str, row: dict, prompt: str = "What does it show?") -> float:
    (found,) = registry.get("rewards", name)([prompt], [completion], [row])
    return found


@pytest.mark.parametrize(
    ("completion", "row", "expected"),
    [
        ("yes", YES_NO, 1.0),
        (" Yes. ", YES_NO, 1.0),
        ("no", YES_NO, 0.0),
        ("", YES_NO, 0.0),
        ("yes, no", YES_NO, 0.0),
        ("yes or no", YES_NO, 0.0),
        ("<think>Regular, P waves.</think><answer>yes</answer>", YES_NO, 1.0),
        ("<answer>yes</answer>", YES_NO, 1.0),
        ("<answer>yes</answer><answer>no</answer>", YES_NO, 0.0),
        ("<answer>yes</answer> <ANSWER>no</ANSWER>", YES_NO, 0.0),
        ("<answer>yes", YES_NO, 0.0),
        ("yes</answer>", YES_NO, 0.0),
        ("<answer></answer>", YES_NO, 0.0),
        ("< answer >yes</ answer >", YES_NO, 1.0),
        ("sinus rhythm", RHYTHM, 1.0),
        ("sinus rhythm, atrial fibrillation, paced rhythm", RHYTHM, 0.0),
        ("STTC, MI", SEVERAL, 1.0),
        ("MI", SEVERAL, 0.0),
        ("72 bpm", RATE, 1.0),
        ("76 bpm", RATE, 0.0),
        ("70 or 71 bpm", RATE, 0.0),
        ("The rate is about 72 bpm, or so.", RATE, 1.0),
        ("72 bpm over the whole strip, no ectopics", RATE, 1.0),
        ("not 72 bpm", RATE, 0.0),
        ("It isn’t 72 bpm.", RATE, 0.0),
        ("72 bpm or something else", RATE, 0.0),
        ("anything but 72 bpm", RATE, 0.0),
        ("72 bpm is wrong", RATE, 0.0),
        ("maybe 72", RATE, 0.0),
        ("72 bpm?", RATE, 0.0),
        ("at least 72 bpm", RATE, 0.0),
        (">= 72 bpm", RATE, 0.0),
        ("over about 72 bpm", RATE, 0.0),
        ("178 degrees", AXIS, 1.0),  # 7 degrees across the seam
    ],
)
def test_correct(completion: str, row: dict, expected: float) -> None:
    assert value("correct", completion, row) == expected


def test_correct_does_not_judge_free_texts() -> None:
    assert math.isnan(value("correct", "Sinus rhythm.", REPORT))


@pytest.mark.parametrize(
    ("completion", "row", "expected"),
    [
        ("MI, STTC", SEVERAL, 1.0),
        ("MI", SEVERAL, 2 / 3),
        ("MI, CD", SEVERAL, 0.5),
        ("NORM", SEVERAL, 0.0),
        ("NORM, MI, STTC, CD", SEVERAL, 0.0),  # whoever names all has chosen none
        ("<think>x</think><answer>MI</answer>", SEVERAL, 2 / 3),
        ("sinus rhythm", RHYTHM, 1.0),
        ("sinus rhythm, paced rhythm", RHYTHM, 0.0),
        ("Left bundle branch block. Sinus rhythm.", REPORT, 1.0),
        ("Sinus rhythm.", REPORT, 2 / 3),
        ("No left bundle branch block.", REPORT, 0.0),
        ("", REPORT, 0.0),
    ],
)
def test_f1(completion: str, row: dict, expected: float) -> None:
    assert value("f1", completion, row) == pytest.approx(expected)


def test_f1_needs_labels_in_the_reference() -> None:
    assert math.isnan(value("f1", "70", RATE))
    assert math.isnan(value("f1", "Sinus rhythm.", {**REPORT, "reference": "Dear colleague, thank you."}))


def test_all_choices_are_right_where_the_reference_names_all() -> None:
    row = {"reference": "a, b", "metadata": {"question_type": "multi-label", "choices": ["a", "b"]}}
    assert value("f1", "b, a", row) == 1.0


def test_a_reasoned_reference_is_compared_by_its_answer() -> None:
    row = {**YES_NO, "reference": "<think>P waves.</think><answer>yes</answer>"}
    assert value("correct", "yes", row) == 1.0
    assert value("f1", "<answer>no</answer>", row) == 0.0


def test_repeating_the_question_earns_nothing() -> None:
    prompt = "<ecg>\nDoes the ECG show left bundle branch block, sinus rhythm?"
    answer = "does the ECG show left bundle branch block, sinus rhythm"
    assert value("f1", answer, REPORT, prompt) == 0.0
    assert value("plain_format", answer, REPORT, prompt) == 0.0
    assert value("f1", "Sinus rhythm, left bundle branch block", REPORT, prompt) == 1.0


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" <think>a\nb</think>\n<answer>c</answer>\n", 1.0),
        ("<think>a</think> so <answer>b</answer>", 0.0),
        ("x<think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>.", 0.0),
        ("<think></think><answer>b</answer>", 0.0),
        ("<think>...</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<think>b</think></think><answer>c</answer>", 0.0),
        ("<think>a</think><answer>b</answer><think>a</think><answer>b</answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<THINK>a</THINK><answer>b</answer>", 0.0),
        ("<answer>b</answer>", 0.0),
        ("b", 0.0),
        ("", 0.0),
    ],
)
def test_think_format(completion: str, expected: float) -> None:
    assert value("think_format", completion, RHYTHM) == expected


@pytest.mark.parametrize(
    ("completion", "row", "expected"),
    [
        ("paced rhythm", RHYTHM, 1.0),  # wrong, but well formed
        ("a nice rhythm", RHYTHM, 0.0),
        ("<answer>paced rhythm</answer>", RHYTHM, 0.0),
        ("MI, CD", SEVERAL, 1.0),
        ("MI, me", SEVERAL, 0.0),
        ("90 bpm", RATE, 1.0),
        ("between 60 and 90", RATE, 0.0),
        ("Anything.", REPORT, 1.0),
        (" ", REPORT, 0.0),
    ],
)
def test_plain_format(completion: str, row: dict, expected: float) -> None:
    assert value("plain_format", completion, row) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Heart rate 70 bpm.", 1.0),
        ("Heart rate 90 bpm.", 0.0),
        ("Heart rate 70 bpm, PR 160 ms, QRS 90 ms.", 2 / 3),
        ("<think>Rate 71 bpm, QRS 148 ms.</think><answer>wide QRS</answer>", 1.0),
        ("Rate 70 bpm. Rate 74 bpm.", 0.0),  # two numbers for one quantity, each within the tolerance
        ("Rate 70 bpm. Rate 140 bpm. PR 160 ms.", 1 / 2),
        ("Sinus rhythm.", 0.0),  # nothing stated
        ("", 0.0),
        ("QTc 410 ms.", 0.0),  # not measured here: cannot be checked
    ],
)
def test_grounded(completion: str, expected: float) -> None:
    assert value("grounded", completion, {**REPORT, "measured": MEASURED}) == pytest.approx(expected)


def test_grounded_gives_nothing_for_what_the_question_says() -> None:
    prompt = "The heart rate is 70 bpm. Describe the rhythm."
    row = {**REPORT, "measured": MEASURED}
    assert value("grounded", "The heart rate is 70 bpm.", row, prompt) == 0.0
    assert value("grounded", "The heart rate is 70 bpm, PR 160 ms.", row, prompt) == 1.0


def test_grounded_is_not_computed_without_measurements() -> None:
    assert math.isnan(value("grounded", "Rate 70 bpm.", REPORT))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [("70", 1.0), ("75", 1.0), ("80", 0.5), ("60", 0.5), ("85", 0.0), ("200", 0.0), ("70 80", 0.0), ("fast", 0.0)],
)
def test_near_number(completion: str, expected: float) -> None:
    assert value("near_number", completion, RATE) == pytest.approx(expected)


def test_near_number_asks_for_a_number() -> None:
    assert math.isnan(value("near_number", "70", YES_NO))
    assert math.isnan(value("near_number", "70", {**RATE, "reference": "unknown"}))


@pytest.mark.parametrize(("words", "expected"), [(0, 0.0), (100, 0.0), (150, -0.5), (200, -1.0), (900, -1.0)])
def test_brief(words: int, expected: float) -> None:
    assert value("brief", " ".join(["word"] * words), REPORT) == pytest.approx(expected)


# --- properties

TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(["yes", "no", "MI", "STTC", ",", "70", "rate", "bpm", "PR 160 ms", "<answer>", "</answer>",
                              "<think>", "</think>", "sinus rhythm", ".", "\n"]), max_size=14).map(" ".join),
)  # fmt: skip
ROWS = st.sampled_from([YES_NO, RHYTHM, SEVERAL, RATE, AXIS, REPORT, {**REPORT, "measured": MEASURED}])


@pytest.mark.parametrize("name", registry.names("rewards"))
@settings(max_examples=40)
@given(prompt=TEXTS, completion=TEXTS, row=ROWS)
def test_a_reward_lies_in_its_span_and_is_unknown_by_the_row_alone(name: str, prompt: str, completion: str, row: dict):
    function = registry.get("rewards", name)
    low, high = function.span
    (found,) = function([prompt], [completion], [row])
    (other,) = function([prompt], ["something else"], [row])
    assert math.isnan(found) == math.isnan(other)
    assert math.isnan(found) or low <= found <= high


@given(st.integers(20, 300), st.integers(20, 300))
def test_nearer_numbers_never_earn_less(one: int, other: int) -> None:
    near, far = sorted((one, other), key=lambda n: abs(n - 70))
    assert value("near_number", f"{near} bpm", RATE) >= value("near_number", f"{far} bpm", RATE)


@given(st.sets(st.sampled_from(["Rate 70 bpm.", "PR 160 ms.", "QRS 150 ms.", "QT 400 ms.", "Axis 20 degrees."])))
def test_one_more_wrong_statement_costs_and_one_more_right_one_does_not(right: set[str]) -> None:
    row = {**REPORT, "measured": {**MEASURED, "qtc_bazett_ms": 410.0}}
    before = value("grounded", " ".join(sorted(right)), row)
    assert before == (1.0 if right else 0.0)
    assert value("grounded", " ".join([*sorted(right), "QTc 600 ms."]), row) < max(before, 0.01)
    assert value("grounded", " ".join([*sorted(right), "QTc 410 ms."]), row) == 1.0


@given(TEXTS, TEXTS)
def test_tags_around_nothing_but_the_answer_are_read_as_the_answer(reasoning: str, answer: str) -> None:
    inside = base.TAG.sub("", answer)
    reasoned = f"<think>{base.TAG.sub('', reasoning)}</think><answer>{inside}</answer>"
    if not base.TAG.search(inside) and len(base.TAG.findall(reasoned)) == 4:
        assert base.answer_in(reasoned) == inside.strip()
