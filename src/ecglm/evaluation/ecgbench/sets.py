"""Answers of ``ecgqa-test``, which are sets of candidates: as the original scorer reads them, and in strict form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ecglm.evaluation.ecgbench.gold import ONLY_ANSWER
from ecglm.evaluation.ecgbench.labels import answer_line
from ecglm.evaluation.metrics.base import normalise

_PIECES = re.compile(r"[,;\n]")
_BULLET = re.compile(r"^(?:[-+*\u2022]|\d+[.)])\s+")
_DRESS = " \t*_`'\"\u2018\u2019\u201c\u201d()[]{}"
_AND = re.compile(r" and ", re.IGNORECASE)


def pulse_candidates(prompt: str | Mapping[str, Any]) -> list[str]:
    """Candidates as the row's prompt lists them: behind the last ``Options:``, case kept, empty ones kept."""
    text = prompt["prompt"] if isinstance(prompt, Mapping) else prompt
    return [part.strip() for part in text.rsplit("Options:", 1)[-1].replace(ONLY_ANSWER, "").split(",")]


def pulse_set(text: str, candidates: Sequence[str]) -> frozenset[str]:
    """The candidates found in the lower-cased answer as substrings: ``no`` is in ``none``, a capital never matches."""
    said = text.lower()
    return frozenset(candidate for candidate in candidates if candidate in said)


def strict_set(text: str, options: Sequence[str]) -> tuple[frozenset[str], bool]:
    """(what an answer lists, normalised, whether any of it is an option). options: of the item itself."""
    known = {normalise(option) for option in options}
    found: set[str] = set()
    for piece in _PIECES.split(answer_line(text)):
        whole = _bare(piece, known)
        found |= {whole} if whole in known else {_bare(part, known) for part in _AND.split(" ".join(piece.split()))}
    found.discard("")
    return frozenset(found), bool(found & known) if known else bool(found)


def _bare(piece: str, known: set[str]) -> str:
    """A piece normalised; without quotes, bullets, brackets and marks of emphasis unless it is an option with them."""
    whole = normalise(piece)
    return (
        whole if whole in known else normalise(_BULLET.sub("", piece.strip()).strip(_DRESS).rstrip(".").strip(_DRESS))
    )


def gold_set(answers: Sequence[str]) -> frozenset[str]:
    """The right answers, normalised."""
    return frozenset(normalise(answer) for answer in answers)


def set_f1(stated: frozenset[str], right: frozenset[str]) -> float:
    """F1 of two sets: 0 where they share nothing, 1 where they are equal."""
    shared = len(stated & right)
    return 2 * shared / (len(stated) + len(right)) if shared else 0.0
