"""Letters of multiple choice: the original's alphabetical pick and its dice, and the strict rules."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.letters import pulse_letter, pulse_stream, strict_letter

OPTIONS = ["Atrial fibrillation", "Normal ECG", "Left bundle branch block", "Sinus bradycardia"]


@pytest.mark.parametrize(
    ("text", "original", "strict"),
    [
        ("B", "B", "B"),
        ("B. ... A.", "A", "B"),
        ("ECG shows aVF. Answer: G", "F", None),  # G is none of four options
        ("PAC.", "C", None),
        ("Answer: (D) Atrial", "A", "D"),
        ("(B)", None, "B"),
        ("B)", None, "B"),
        (" B", None, "B"),
        ("b", None, "B"),
        ("Option C", None, "C"),
        ("The correct option is D", "D", "D"),
        ("The correct option is d", None, "D"),
        ("The correct option is (D)", None, "D"),
        ("no idea", None, None),
        ("Answer: none", None, None),
        ("Z", None, None),
    ],
)
def test_p04_alphabet_in_pulse_stated_letter_in_strict(text, original, strict):
    assert pulse_letter(text) == original
    assert strict_letter(text, "ABCD", OPTIONS)[0] == strict


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        ("Answer: B", "B", "stated"),
        ("The answer is B.", "B", "stated"),
        ("the correct option is: [C]", "C", "stated"),
        ("Answer: A. On second thought, the answer is D", "D", "stated"),
        ("Answer: A or B", None, "ambiguous"),
        ("Answer: A and A", "A", "stated"),
        ("Answer: **C**", "C", "stated"),
        ("Correct option: Option B", "B", "stated"),
        ("The answer is a normal ECG", "B", "text"),  # the word "a" is no letter
        ("b.", "B", "alone"),
        ("[c]:", "C", "alone"),
        ("C. Left bundle", "C", "leading"),
        ("D) x", "D", "leading"),
        ("(A) x", "A", "leading"),
        ("A: x", "A", "leading"),
        ("option b because", "B", "leading"),
        ("Option B because", "B", "leading"),
        ("A. and B. fit", None, "ambiguous"),
        ("It is sinus  BRADYCARDIA.", "D", "text"),
        ("Normal ECG or sinus bradycardia", None, "ambiguous"),
        ("A patient with palpitations", None, "none"),
        ("E. other", None, "none"),
        ("", None, "none"),
    ],
)
def test_strict_rules_in_order(text, letter, rule):
    assert strict_letter(text, "ABCD", OPTIONS) == (letter, rule)


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        ("**D**", "D", "alone"),
        ("> b", "B", "alone"),
        ("\\boxed{C}", "C", "alone"),
        ("The final answer is $\\boxed{\\text{C}}$.", "C", "stated"),
        ("B\n\nExplanation: the rhythm is irregular.", "B", "alone"),
        ("A\nB\nC", None, "ambiguous"),
        ("**Answer:** B", "B", "stated"),
        ("<answer>B</answer>", "B", "stated"),
        ('{"answer": "b"}', "B", "stated"),
        ("{'answer': 'D'}", "D", "stated"),
        ("The answer is \u201cB\u201d.", "B", "stated"),
        ("Answer\uff1a\uff08\uff22\uff09", "B", "stated"),  # full-width colon, brackets and letter
        ("The answer is therefore C.", "C", "stated"),
        ("The answer would most likely be B", "B", "stated"),
        ("The correct answer to the question is (B)", "B", "stated"),
        ("The answer is not A.", None, "none"),
        ("Answer: A, and B", None, "ambiguous"),
        ("Answer: A or maybe B", None, "ambiguous"),
        ("Answer: A+B", None, "ambiguous"),
        ("Answer: A-V dissociation", None, "none"),
        ("Answer: A normal ECG would not look so", None, "none"),  # the article, not the letter
        ("Answer: A because it is slow", "A", "stated"),
        ("A. one thing\nB. normal ECG", "A", "leading"),
        ("No sinus bradycardia.", None, "denied"),
        ("There is no evidence of a sinus bradycardia", None, "denied"),
        ("No P waves, so not paced: sinus bradycardia", "D", "text"),
    ],
)
def test_answers_as_chat_models_dress_them(text, letter, rule):
    options = OPTIONS if rule in ("text", "denied") else ()
    assert strict_letter(text, "ABCD", options) == (letter, rule)


def test_the_list_of_options_repeated_is_no_choice():
    options = ["Normal ECG", "Atrial fibrillation", "Paced"]
    copied = "A. Normal ECG\nB. Atrial fibrillation\nC. Paced"
    assert strict_letter(copied, "ABC", options) == (None, "ambiguous")
    assert strict_letter(f"{copied}\nAnswer: B", "ABC", options) == ("B", "stated")
    assert strict_letter("A. Normal ECG\nNot B. Atrial fibrillation", "ABC", options) == ("A", "leading")


def test_long_runs_of_anything_are_read_at_once():
    for text in ("answer" + " " * 50_000 + "x", "$" * 50_000, "\\boxed{" * 8_000, "A" + "\n" * 50_000, "(" * 50_000):
        strict_letter(text, "ABCD", OPTIONS)


def test_without_options_their_texts_cannot_help():
    assert strict_letter("Normal ECG", "ABCD") == (None, "none")


def test_the_original_stops_where_nothing_follows_its_phrase():
    with pytest.raises(EcglmError, match="stops here"):
        pulse_letter("The correct option is ")


def test_p03_the_dice_are_those_of_python_seeded_42():
    ours, theirs = pulse_stream(), random.Random(42)
    assert [ours.choice("ABCD") for _ in range(50)] == [theirs.choice(list("ABCD")) for _ in range(50)]
    assert [ours.choice("ABCDEFGH") for _ in range(50)] == [theirs.choice(list("ABCDEFGH")) for _ in range(50)]


@given(st.text(max_size=30))
def test_strict_never_leaves_the_letters_of_the_row(text):
    letter, rule = strict_letter(text, "ABC", OPTIONS[:3])
    assert letter in (None, "A", "B", "C")
    assert (letter is None) == (rule in ("none", "ambiguous"))


@given(
    st.sampled_from("ABCDEFGH"), st.sampled_from(["{}", "({})", "{}.", "{}) text", "Answer: {}", "Option {}", "{}: x"])
)
def test_every_plain_form_gives_its_letter(letter, form):
    assert strict_letter(form.format(letter), "ABCDEFGH")[0] == letter
