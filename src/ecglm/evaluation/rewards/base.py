"""What a reward is, and how an answer is read before it is judged: tags, hedges, repeated questions."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ecglm.evaluation.metrics.base import Row, answer_kind, normalise
from ecglm.registry import register
from ecglm.types import ECG_MARK

#: ``(prompts, completions, rows)`` → one number each; NaN for a row on which the reward cannot be computed.
Reward = Callable[[Sequence[str], Sequence[str], Sequence[Row]], list[float]]
#: One question, one answer, its row → a number, NaN where it cannot be computed.
OneReward = Callable[[str, str, Row], float]
#: "It cannot be computed here": a fact of the row, never of the answer.
UNKNOWN = math.nan

TAG = re.compile(r"<\s*/?\s*(?:think|answer)\b[^>]*>", re.IGNORECASE)
#: A repeated question of so many words or more is no answer.
_COPIED_WORDS = 4
_WORDS = re.compile(r"\w+")
#: Words by which a number is denied, left open, or made a bound: "not 63 bpm", "63 bpm or not", "at least 63 bpm".
_NO_STATEMENT = re.compile(
    r"\b(?:not|never|nor|neither|either|cannot|\w+n['’]t|no (?:idea|way)|unlikely|unknown|unclear|unsure|uncertain"
    r"|wrong|false|incorrect|untrue|denied|absent|maybe|perhaps|possibly|might|could|except|unless"
    r"|or(?! so\b)|(?:any|every|no)thing but|all but|other than|rather than|instead of)\b"
    r"|(?:[<>≤≥]=?|\b(?:no|over|under|above|below|up to|at least|at most|(?:less|more|fewer|greater) than)\b)"
    r"\s*(?:about\s+)?[-+]?\d|\?"
)


def reward(
    name: str, *, span: tuple[float, float] = (0.0, 1.0), measured: bool = False
) -> Callable[[OneReward], Reward]:
    """Decorator: a function of one question, answer and row as the reward called ``name``.

    span: least and greatest value. measured: it reads ``row["measured"]``, the measurements of the row's ECG. A plain
    function ``(prompts, completions, rows) → list[float]`` may be registered under "rewards" without this as well.
    """

    def wrap(one: OneReward) -> Reward:
        def score(prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
            return [one(p, c, as_answer(row)) for p, c, row in zip(prompts, completions, rows, strict=True)]

        functools.update_wrapper(score, one)
        score.span, score.measured = span, measured  # type: ignore[attr-defined]
        return register("rewards", name)(score)

    return wrap


def answer_in(completion: str) -> str:
    """The answer that is to be judged: what stands in ``<answer>``, or all of a text without tags.

    Empty for a text that gives several answers, or whose tags cannot be read.
    """
    tags = [re.sub(r"\s", "", m[0]).lower() for m in TAG.finditer(completion)]
    if not tags:
        return completion.strip()
    if tags.count("<answer>") != 1 or tags.count("</answer>") != 1 or tags[-2:] != ["<answer>", "</answer>"]:
        return ""
    *_, last = TAG.split(completion)[:-1]
    return last.strip()


def as_answer(row: Row) -> Row:
    """The row with the answer of a reference that is reasoned as its reference; any other row as it is."""
    reference = str(row.get("reference") or "")
    return {**row, "reference": answer_in(reference) or reference} if TAG.search(reference) else row


def without_tags(completion: str) -> str:
    """All that a completion says, reasoning and answer, each a text of its own."""
    return TAG.sub("\n", completion).strip()


def repeats(prompt: str, answer: str) -> bool:
    """Whether an answer holds the whole question, of four words or more: whatever that states, it is no answer."""
    asked = _WORDS.findall(normalise(prompt.replace(ECG_MARK, " ")))
    said = _WORDS.findall(normalise(answer))
    return len(asked) >= _COPIED_WORDS and f" {' '.join(asked)} " in f" {' '.join(said)} "


def states_number(text: str) -> bool:
    """Whether a text that holds a number says it plainly: without denying it, leaving it open, or giving a bound. The
    metrics take the number out of any words; what is rewarded is learned, and "63 bpm or not" would be.
    """
    return _NO_STATEMENT.search(" ".join(text.lower().split())) is None


def answered(prompt: str, completion: str, row: Row) -> Mapping[str, Any] | None:
    """The row with this answer as its prediction, as metrics read it; None where there is no answer to judge."""
    answer = answer_in(completion)
    if not normalise(answer) or repeats(prompt, answer):
        return None
    if answer_kind(row) == "number" and not states_number(answer):
        return None
    return {**row, "prediction": answer, "error": None}
