"""Labels in an answer of the multi-label subsets: as the original scorer finds them, and as whole words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile

from ecglm.evaluation.ecgbench.subsets import NORMALITY, Subset

CODE_15 = "code15-test"
NORM, ABNORMAL = "NORM", "ABNORMAL"
_ANSWER = "Answer:"
_BEFORE, _BEHIND = r"(?<![^\W_])(?<!-)", r"(?![^\W_])(?!-)"
_BLANK = r"(?:\s+|\s*[-\u2010-\u2013]\s*)"
_CUE = re.compile(r"\b(?:no|not|without|absence\s+of|ruled\s+out)\b", re.IGNORECASE)
_END = re.compile(r"[,;.\n]")
_NONE = re.compile(r"\bnone\b", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"\banswer\b[ \t*_]*:[ \t*_]*", re.IGNORECASE)
_BULLET = re.compile(r"\s*(?:[-+*\u2022]|\d+[.)])\s+")
#: Behind a label, as in a table or an object: it is not there.
_VERDICT = re.compile(
    r"[\"'*_`]*\s*[:=|(\u2013-]\s*[\"'*_`]*(?:no|not (?:present|seen)|absent|negative|false|0(?!\.\d))[\"'*_`]*"
    r"\s*(?=[,;.)\]}|\n]|$)",
    re.IGNORECASE,
)
#: Words that make another thing of an abbreviation: an ST segment is no sinus tachycardia.
_OTHER_THING = {"ST": r"(?!\s+(?:segment|elevation|depression|change|deviation|abnormalit|(?:and|or)\s+T\b))"}
#: Full-width signs of East Asian texts, and hyphens of other code points, as ASCII has them.
_PLAIN = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3001: ",", 0x3002: ".", 0x2010: "-", 0x2011: "-"}


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
    ``without``, ``absence of`` or ``ruled out`` and the next comma, semicolon, full stop or line end; before
    ``ruled out`` nothing back to the one before; and no label with a verdict behind it (``MI: no``, ``"MI": 0``).
    """
    text = answer_line(text)
    denied = _denied(text)
    found = set()
    for label, names in labels.items():
        for match in _pattern(label, tuple(names)).finditer(text):
            ruled_out = any(start <= match.start() < stop for start, stop in denied)
            if not ruled_out and not _VERDICT.match(text, match.end()):
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


def plain(text: str) -> str:
    """Full-width letters and signs, and unusual hyphens, as plain ones; as long as it was."""
    return text.translate(_PLAIN)


def answer_line(text: str) -> str:
    """The line behind the last ``Answer:``, or the list that stands there; the whole text where there is none."""
    text = plain(text)
    found = list(_ANSWER_MARK.finditer(text))
    if not found:
        return text
    lines = text[found[-1].end() :].strip().split("\n")
    listed = list(takewhile(_BULLET.match, lines))
    return "\n".join(listed or lines[:1])


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
    parts[0] += _OTHER_THING.get(label, "")
    return re.compile(f"{_BEFORE}(?:{'|'.join(parts)}){_BEHIND}")
