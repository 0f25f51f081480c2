"""Accuracy of multiple choice, by letter or by text: the share of rows whose answer picks the right choice, 0 to 1."""

from __future__ import annotations

import re
from functools import lru_cache

from ecglm.evaluation.metrics.base import Row, answer_text, choices_of, normalise, row_mean
from ecglm.registry import register

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: "B", "(b)", "B.", "B) text", "B: text", "Option B", "Answer: B", "The answer is B", "B" on a line of its own; an
#: article ("A normal ECG") is no letter.
_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:answer|option)(?:\s+is)?\s*(?::\s*)?)?"
    r"(?:\(([a-z])\)|([a-z])(?=[.):]|[ \t]*(?:\n|$)))",
    re.IGNORECASE,
)


@register("metrics", "mcq_accuracy")
@row_mean(kinds=("closed",))
def mcq_accuracy(row: Row) -> float:
    """Share of rows whose answer picks the right choice, by its letter or its text.

    The first rule that applies: the whole answer is a choice; it starts with the letter of a choice (choices are
    lettered in the order offered); the text of exactly one choice stands in it, a choice within a longer one found not
    counted. What picks no choice, or several, is wrong. Without choices the texts are compared.
    """
    return float(picked(row) == normalise(str(row["reference"])) != "")


def picked(row: Row) -> str:
    """The choice an answer picks, normalised; empty for none."""
    return _pick(answer_text(row), choices_of(row))


@lru_cache(maxsize=1 << 16)
def _pick(answer: str, choices: tuple[str, ...]) -> str:
    text = normalise(answer)
    if not choices or text in choices:
        return text
    letter = _LETTER.match(answer)
    if letter:
        place = LETTERS.index((letter[1] or letter[2]).upper())
        if place < len(choices):
            return choices[place]
    found: list[str] = []
    for choice in sorted(choices, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(choice)}(?!\w)"
        if choice and re.search(pattern, text):
            found.append(choice)
            text = re.sub(pattern, " ", text)
    return found[0] if len(found) == 1 else ""
