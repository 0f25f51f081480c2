"""Labels in an answer of the multi-label subsets: as the original scorer finds them, and as whole words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ecglm.evaluation.ecgbench.subsets import NORMALITY, Subset

CODE_15 = "code15-test"
NORM, ABNORMAL = "NORM", "ABNORMAL"
_ANSWER = "Answer:"
_BEFORE, _BEHIND = r"(?<![^\W_])(?<!-)", r"(?![^\W_])(?!-)"
_BLANK = r"(?:\s+|\s*[-\u2010-\u2013]\s*)"
_CUE = re.compile(r"\b(?:no|not|without|absence\s+of|ruled\s+out)\b", re.IGNORECASE)
_END = re.compile(r"[,;.\n]")
_NONE = re.compile(r"\bnone\b", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"\banswer\b[ \t*_]*:[\s*_]*", re.IGNORECASE)


def pulse_gold(value: str | Sequence[str], subset: Subset) -> frozenset[str]:
    """Labels of a right answer, by substring; ``code15-test`` knows two words of its own."""
    if subset.name == CODE_15 and value in (NORM, ABNORMAL):
        return frozenset({str(value)})
    return frozenset(label for label in subset.labels if label in value)


def pulse_labels(text: str, subset: Subset) -> frozenset[str]:
    """Labels of a model's answer, by case-sensitive substring anywhere (``STEMI`` gives MI and STE)."""
    if subset.name != CODE_15:
        return frozenset(label for label in subset.labels if label in text)
    text = text.rsplit(_ANSWER, 1)[-1]
    found = {label for label in subset.labels if label in text}
    if ABNORMAL in text:
        found.add(ABNORMAL)
    elif NORM in text:
        found.add(NORM)
    return frozenset(found)


def strict_labels(text: str, labels: Mapping[str, Sequence[str]]) -> frozenset[str] | None:
    """Labels of an answer by whole words; None where it states no label and not ``none`` either.

    labels: label → its full names. A label counts when it stands as a whole token, in its own case, or one of its full
    names does, in any case. Behind an ``Answer:`` only that line is read. Nothing counts between ``no``, ``not``,
    ``without``, ``absence of`` or ``ruled out`` and the next comma, semicolon, full stop or line end; and before
    ``ruled out`` nothing back to the one before.
    """
    text = answer_line(text)
    denied = _denied(text)
    found = set()
    for label, names in labels.items():
        for match in _pattern(label, tuple(names)).finditer(text):
            if not any(start <= match.start() < stop for start, stop in denied):
                found.add(label)
                break
    return frozenset(found) if found or _NONE.search(text) else None


def stands_alone(label: str, text: str) -> bool:
    """Whether an abbreviation occurs as a whole token, denied or not."""
    return _pattern(label, ()).search(text) is not None


def strict_normality(text: str) -> str | None:
    """``NORM`` or ``ABNORMAL``; None where an answer states neither, or both."""
    found = strict_labels(text, NORMALITY)
    return next(iter(found)) if found is not None and len(found) == 1 else None


def answer_line(text: str) -> str:
    """The line behind the last ``Answer:``, or the whole text where there is none."""
    found = list(_ANSWER_MARK.finditer(text))
    return text[found[-1].end() :].partition("\n")[0] if found else text


def _denied(text: str) -> list[tuple[int, int]]:
    spans = []
    for cue in _CUE.finditer(text):
        end = _END.search(text, cue.end())
        start = cue.start()
        if cue.group().lower().startswith("ruled"):
            start = max((m.end() for m in _END.finditer(text, 0, start)), default=0)
        spans.append((start, end.start() if end else len(text)))
    return spans


@lru_cache(maxsize=256)
def _pattern(label: str, names: tuple[str, ...]) -> re.Pattern[str]:
    spelled = (_BLANK.join(map(re.escape, re.split(r"[\s-]+", name))) for name in names)
    parts = [re.escape(label), *(f"(?i:{name})" for name in spelled)]
    return re.compile(f"{_BEFORE}(?:{'|'.join(parts)}){_BEHIND}")
