"""A judge's reply: one JSON object checked against the rubric. What does not fit is an error, never a guess."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecglm.evaluation.judge.rubric import Criterion, Rubric, norm

_SCORE_KEYS = ("score", "rating")
#: More entries than this for one criterion are no grading any more.
MAX_ENTRIES = 100


class BadReply(Exception):
    """A reply that is no grading. ``reason`` is stable, ``detail`` says what is missing; neither quotes the reply."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Entry:
    """One score with the judge's words for it."""

    score: float
    explanation: str


#: Criterion's name → its entries: exactly one, or a list.
Grading = dict[str, tuple[Entry, ...]]


def parse_reply(text: str, rubric: Rubric, *, arithmetic: bool = False) -> Grading:
    """The grading that a reply states.

    Keys are compared without case, blanks and ``_``, aliases included; numbers written as texts count as numbers. A
    code fence around the object is taken off, any other text beside it is refused. arithmetic: a score written as a sum
    (``1+1``), as GEM's scorers accept, counts as its value.

    Raises BadReply: ``empty_reply``, ``not_json``, ``duplicate_key``, ``missing_criterion``, ``bad_entry``,
    ``bad_score``, ``score_out_of_range``.
    """
    found = json_object(_with_sums(text) if arithmetic else text)
    given = {}
    for key, value in found.items():
        criterion = next((c for c in rubric.criteria if norm(key) in c.keys), None)
        if criterion is None:
            continue
        if criterion.name in given:
            raise BadReply("duplicate_key", f"{criterion.name} is given twice")
        given[criterion.name] = _entries(criterion, value)
    missing = [c.name for c in rubric.criteria if c.name not in given]
    if missing:
        raise BadReply("missing_criterion", f"{', '.join(missing)} missing")
    return {c.name: given[c.name] for c in rubric.criteria}


def parse_winner(text: str) -> str:
    """``A``, ``B`` or ``tie`` from a reply about two answers. Raises BadReply."""
    values = [v for k, v in json_object(text).items() if norm(k) in ("winner", "better", "verdict")]
    if len(values) != 1:
        raise BadReply("missing_criterion" if not values else "duplicate_key", "one Winner is needed")
    said = values[0].strip().casefold() if isinstance(values[0], str) else None
    if said not in ("a", "b", "tie"):
        raise BadReply("bad_score", "Winner must be A, B or tie")
    return "tie" if said == "tie" else said.upper()


def json_object(text: str) -> dict[str, Any]:
    """The one JSON object that a text is; BadReply for anything else."""
    text = text.strip().removeprefix("\ufeff").strip()
    if not text:
        raise BadReply("empty_reply", "the reply is empty")
    try:
        found = json.loads(_unfenced(text), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits too
        raise BadReply("not_json", "the reply is not one JSON object") from error
    if not isinstance(found, dict):
        raise BadReply("not_json", "the reply is not one JSON object")
    return found


def _unfenced(text: str) -> str:
    """A text without the code fence that it stands in. No regular expression: replies of blank lines alone are long."""
    if len(text) < 6 or not text.startswith("```") or not text.endswith("```"):
        return text
    language, _, inner = text[3:-3].partition("\n")
    own_line = inner.rstrip(" \t").endswith("\n")
    return inner if language.strip().casefold() in ("", "json") and own_line else text


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({norm(key) for key, _ in pairs}) != len(pairs):
        raise BadReply("duplicate_key", "a key is given twice")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise BadReply("not_json", f"{name} is no JSON")


def _entries(criterion: Criterion, value: Any) -> tuple[Entry, ...]:
    listed = value if isinstance(value, list) else [value]
    if criterion.entries == "one" and len(listed) != 1:
        raise BadReply("bad_entry", f"{criterion.name} needs exactly one entry")
    if criterion.entries == "many" and criterion.value == "share" and criterion.total is None and not listed:
        raise BadReply("bad_entry", f"{criterion.name} needs at least one entry")
    if len(listed) > MAX_ENTRIES:
        raise BadReply("bad_entry", f"{criterion.name} has more than {MAX_ENTRIES} entries")
    return tuple(_entry(criterion, each) for each in listed)


def _entry(criterion: Criterion, value: Any) -> Entry:
    if not isinstance(value, Mapping):
        raise BadReply("bad_entry", f"{criterion.name} must be an object with Score and Explanation")
    scores = [v for k, v in value.items() if norm(k) in _SCORE_KEYS]
    if len(scores) != 1:
        raise BadReply("bad_entry", f"{criterion.name} needs one Score")
    explanation = next((v for k, v in value.items() if norm(k) == "explanation"), "")
    explanation = explanation if isinstance(explanation, str) else ""
    explanation = explanation.encode(errors="replace").decode()  # half a character, escaped, could not be written
    return Entry(_number(criterion, scores[0]), explanation)


def _number(criterion: Criterion, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number) or (isinstance(value, str) and not re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value, re.ASCII)):
        raise BadReply("bad_score", f"Score of {criterion.name} is not a number")
    low, high = criterion.scale
    if not low <= number <= high:
        raise BadReply("score_out_of_range", f"Score of {criterion.name} is not within {low:g} to {high:g}")
    return number + 0.0


# --- sums in place of scores, which GEM's scorers work out

_SUM = re.compile(r'("(?:Score|Rating)"\s{0,20}:\s{0,20})([-+*/().\d][-+*/().\d\s]{0,79})(?=[,}])', re.IGNORECASE)


def _with_sums(text: str) -> str:
    return _SUM.sub(lambda m: m[1] + _worked_out(m[2]), text)


def _worked_out(expression: str) -> str:
    """A sum of numbers as its value; anything else as it stands."""
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return expression
    return repr(value)


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return _value(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("no sum of numbers")


def loose_scores(text: str, rubric: Rubric) -> dict[str, list[float]]:
    """Whatever scores a reply holds, criterion by criterion, as GEM's scorers take them: not in range, not complete.

    Raises BadReply where the reply is no JSON object, sums worked out.
    """
    found: dict[str, list[float]] = {}
    for key, value in json_object(_with_sums(text)).items():
        criterion = next((c for c in rubric.criteria if norm(key) in c.keys), None)
        if criterion is not None:
            found[criterion.name] = scores_in(value)
    return found


def scores_in(value: Any) -> list[float]:
    """The numbers under ``Score`` of an object, or of each object of a list."""
    numbers = []
    for entry in value if isinstance(value, list) else [value]:
        said = next((v for k, v in entry.items() if norm(k) in _SCORE_KEYS), None) if isinstance(entry, dict) else None
        try:
            number = math.nan if isinstance(said, bool) or said is None else float(said)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number):
            numbers.append(number)
    return numbers
