"""What a report says about measurements, statement by statement, and whether the ECG's own measurements agree.

Rate, PR, QRS, QT, QTc, axis and ST, as numbers ("QRS 92 ms", "at 110 bpm") and as words ("prolonged QTc", "left axis
deviation", "ST elevation in V2-V4").
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ecglm.evaluation.metrics.base import TOLERANCES
from ecglm.evaluation.metrics.findings import ABSENT, mentions, sentences, words_of
from ecglm.types import LEADS

#: Quantity → the measurement it is checked against.
FIELDS: dict[str, str] = {
    "rate": "heart_rate", "pr": "pr_ms", "qrs": "qrs_ms", "qt": "qt_ms", "qtc": "qtc_bazett_ms",
    "qtcf": "qtc_fridericia_ms", "axis": "axis_deg",
}  # fmt: skip
#: A stated number holds within this much of the measured one: bpm, ms, degrees.
STATED: dict[str, float] = {**{q: TOLERANCES[q] for q in ("rate", "pr", "qrs", "qt", "qtc", "axis")}, "qtcf": 40.0}
#: Words → the values they stand for, limits of an adult. QT is judged by QTc (Bazett).
LIMITS: dict[str, tuple[float, float]] = {
    "rate:low": (0, 60), "rate:normal": (60, 100), "rate:high": (100, 999),
    "pr:low": (0, 120), "pr:normal": (120, 200), "pr:high": (200, 999),
    "qrs:normal": (0, 120), "qrs:high": (120, 999),
    "qt:low": (0, 360), "qt:normal": (360, 460), "qt:high": (450, 999),
    "axis:left": (-90, -30), "axis:normal": (-30, 90), "axis:right": (90, 180), "axis:extreme": (180, 270),
}  # fmt: skip
#: A measured value this far beyond a limit still agrees with the words: bpm, ms, degrees.
MARGINS: dict[str, float] = {"rate": 5.0, "pr": 10.0, "qrs": 10.0, "qt": 20.0, "axis": 10.0}
#: ST in mV, at the end of QRS or 60 ms later, from which on a stated elevation or depression of a lead holds.
ST_UP, ST_DOWN = 0.075, -0.04
#: ST beyond which "no ST elevation", "no ST depression" does not hold, if two leads show it; V2 and V3: the second.
ST_CLEAR = {"up": (0.125, 0.2), "down": (-0.075, -0.075)}

TERRITORIES: dict[str, tuple[str, ...]] = {
    "inferior": ("II", "III", "aVF"),
    "anterior": ("V1", "V2", "V3", "V4"),
    "septal": ("V1", "V2"),
    "anteroseptal": ("V1", "V2", "V3", "V4"),
    "lateral": ("I", "aVL", "V5", "V6"),
    "anterolateral": ("I", "aVL", "V3", "V4", "V5", "V6"),
    "inferolateral": ("II", "III", "aVF", "I", "aVL", "V5", "V6"),
    "precordial": ("V1", "V2", "V3", "V4", "V5", "V6"),
    "chest": ("V1", "V2", "V3", "V4", "V5", "V6"),
    "limb": ("I", "II", "III", "aVL", "aVF"),
}
_LEAD_OF = {lead.lower(): lead for lead in LEADS}
_CONNECTING = frozenset({",", "/", "and", "or", "in", "the", "lead", "leads", "also", "well", "as"})
#: Words between "ST elevation" and the leads it is in.
_REACH = 8
#: "Leads V2 and V3 show slight ST elevation": verbs, and how many words before it one may stand.
_SHOWING = frozenset(
    {"show", "shows", "showing", "have", "has", "demonstrate", "demonstrates", "exhibit", "exhibits", "there"}
)
_SHOWN_WITHIN = 4

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BETWEEN = r"(?:(?!\b(?:pr|qrsd?|qt|qtc\w?|rate|axis|p|t|st|hr)\b)[^0-9;-]){0,30}?"
_OTHER_UNIT = r"(?![\d.]|\s*(?:%|mm\b|mv\b|years?|[-–]\s*\d))"
_RANGE = re.compile(
    r"(?<![\d.])(?:between\s+-?\d+(?:\.\d+)?\s*(?:and|to|-|–)\s*[-+]?|\d+(?:\.\d+)?\s*(?:-|–|to))\s*\d+(?:\.\d+)?"
    r"(?=\s*(?:bpm|ms|beats|deg|°|s\b|/min))"
)
#: What is normal, in brackets, and bounds ("> 120 ms", "less than 60 bpm") state no number.
_NORMAL = re.compile(r"\((?:normal|reference|range)[^()0-9]{0,20}[\d.]+\s*(?:-|–|to)\s*[\d.]+[^()]{0,20}\)")
_BOUND = re.compile(
    r"(?:[<>≤≥]=?|\b(?:above|below|over|under|(?:less|greater|more|longer|shorter) than|at (?:least|most)|exceeds?))"
    r"\s*\d+(?:\.\d+)?"
)
_SPELLING = (
    (re.compile("−"), "-"),
    (re.compile(r"\bp-r\b(?!-)"), "pr"),
    (re.compile(r"\bcorrected qt\b"), "qtc"),
    (re.compile(r"\bqtc ?\(([bf])\)"), r"qtc\1"),
    (re.compile(r"(?<![\d,.])0,(?=\d)"), "0."),
)
_LEAD_RANGE = re.compile(r"\bv([1-6])\s*(?:-|–|to|through)\s*v?([1-6])\b")
_LEAD_LIST = re.compile(r"\bv[1-6](?:\s*,\s*[1-6]\b)+")
_NUMBERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "pr qrs qt",
        re.compile(rf"\bpr\s*[,/]\s*qrsd?\s*[,/]\s*qt\b{_BETWEEN}(\d{{2,3}})\s*[,/]\s*(\d{{2,3}})\s*[,/]\s*(\d{{3}})"),
    ),
    ("qt qtc", re.compile(rf"\bqt\s*/\s*qtc\w?\b{_BETWEEN}(\d{{3}})\s*(?:ms)?\s*/\s*(\d{{3}})")),
    (
        "axis",
        re.compile(rf"\bp\s*[-/]?\s*(?:r|qrs)\s*[-/]?\s*t ax[ei]s\b[^0-9;-]{{0,10}}-?\d+[\s,/]+{_NUMBER}[\s,/]+-?\d+"),
    ),
    ("atrial", re.compile(rf"\batrial rate\b{_BETWEEN}{_NUMBER}(?:\s*bpm)?")),
    ("rate", re.compile(rf"\b(?:rate|hr)\b{_BETWEEN}(\d{{2,3}}(?:\.\d+)?){_OTHER_UNIT}(?!\s*(?:ms|deg|°))")),
    (
        "rate",
        re.compile(
            r"(?<![\d.])(\d{2,3}(?:\.\d+)?)\s*(?:bpm|b(?:eats)?\s*/\s*min|beats\s*(?:per|/|a)\s*min|/\s*min|per minute)"
        ),
    ),
    ("pr", re.compile(rf"\bpr\b{_BETWEEN}{_NUMBER}{_OTHER_UNIT}\s*(ms|s)?")),
    ("qrs", re.compile(rf"\bqrsd?\b{_BETWEEN}{_NUMBER}{_OTHER_UNIT}\s*(ms|s)?")),
    ("qtcf", re.compile(rf"\bqtcf\b{_BETWEEN}{_NUMBER}{_OTHER_UNIT}\s*(ms|s)?")),
    ("qtcf", re.compile(rf"\bqtc\b[^0-9;]{{0,12}}fridericia{_BETWEEN}{_NUMBER}{_OTHER_UNIT}\s*(ms|s)?")),
    ("qtcf", re.compile(rf"\bqtc\b{_BETWEEN}{_NUMBER}\s*(ms|s)?\s*\(?fridericia")),
    ("qtc", re.compile(rf"\bqtcb?\b{_BETWEEN}{_NUMBER}{_OTHER_UNIT}\s*(ms|s)?")),
    ("qt", re.compile(rf"\bqt\b{_BETWEEN}{_NUMBER}{_OTHER_UNIT}\s*(ms|s)?")),
    ("other axis", re.compile(rf"\b[pt](?:[ -]wave)? axis\b{_BETWEEN}{_NUMBER}")),
    ("axis", re.compile(rf"\baxis\b{_BETWEEN}{_NUMBER}{_OTHER_UNIT}(?!\s*(?:ms|bpm))")),
)
#: Of these each number is of one of the words.
_SEVERAL = ("pr qrs qt", "qt qtc")
#: Numbers that no heart, interval or axis has are of something else.
_PLAUSIBLE = {
    "rate": (10, 400), "pr": (40, 800), "qrs": (30, 400), "qt": (150, 900), "qtc": (150, 900), "qtcf": (150, 900),
    "axis": (-180, 360),
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One statement: a number (``value``) or words (``said``, a name of LIMITS or of the lexicon's ST) of a quantity.

    leads: of ST: a lead by name, or those of a territory, of which two must show it; none: any two.
    denied: the report says that it is not so.
    """

    quantity: str
    said: str = ""
    value: float | None = None
    leads: tuple[str, ...] = ()
    denied: bool = False


@lru_cache(maxsize=1 << 16)
def claims_in(text: str) -> tuple[Claim, ...]:
    """Every different statement of a report about measurements, in order."""
    return tuple(dict.fromkeys(claim for sentence in sentences(text) for claim in _in_sentence(sentence)))


@lru_cache(maxsize=1 << 16)
def _in_sentence(sentence: str) -> tuple[Claim, ...]:
    sentence = " ".join(sentence.split())
    for pattern, plain in _SPELLING:
        sentence = pattern.sub(plain, sentence)
    sentence = _NORMAL.sub(" ", sentence)
    found = _numbers(sentence)
    sentence = _LEAD_RANGE.sub(lambda m: " ".join(f"v{n}" for n in range(int(m[1]), int(m[2]) + 1)), sentence)
    sentence = _LEAD_LIST.sub(lambda m: " ".join(f"v{n}" for n in re.findall(r"[1-6]", m[0])), sentence)
    words = words_of(sentence)
    said = mentions(words, "measurements")
    about_st = [m for m in said if m.name.lstrip("!").startswith("st:")]
    starts, ends = sorted({m.start for m in about_st}), sorted({m.end for m in about_st})
    for mention in said:
        name = mention.name.lstrip("!")
        quantity, what = name.split(":")
        denied = (mention.status == ABSENT) != mention.name.startswith("!")
        if quantity != "st" or what in ("none", "unchecked"):
            found.append(Claim(quantity, name, denied=denied))
            continue
        ahead = next(iter(starts[bisect_right(starts, mention.start) :][:1]), len(words))
        back = next(iter(ends[: bisect_left(ends, mention.start)][-1:]), 0)
        places = _places(words, mention.end, ahead) or _places_before(words, mention.start, back)
        found += [Claim("st", name, leads=leads, denied=denied) for leads in places or [()]]
    return tuple(found)


def _numbers(sentence: str) -> list[Claim]:
    """The numbers of a sentence with what they are of; a number is read once, ranges ("60-100 bpm") not at all."""
    if not any(c.isdigit() for c in sentence):
        return []
    text = _RANGE.sub(lambda m: " " * len(m[0]), sentence)
    text = _BOUND.sub(lambda m: ";" * len(m[0]), text)
    found: list[tuple[int, Claim]] = []
    for quantity, pattern in _NUMBERS:
        for match in list(pattern.finditer(text)):
            for group in range(1, (match.lastindex or 0) + 1):
                if match[group] is None or match[group] in ("ms", "s"):
                    continue
                name = quantity.split()[group - 1] if quantity in _SEVERAL else quantity
                value = float(match[group])
                if match[match.lastindex or 0] == "s" or (name != "axis" and "." in match[group] and value < 2):
                    value *= 1000  # seconds
                if name in _PLAUSIBLE and not _PLAUSIBLE[name][0] <= value <= _PLAUSIBLE[name][1]:
                    continue
                found.append((match.start(group), Claim(name, value=value)))
            text = text[: match.start()] + " " * (match.end() - match.start()) + text[match.end() :]
    return [claim for _, claim in sorted(found, key=lambda entry: entry[0])]


def _places(words: Sequence[str], start: int, stop: int) -> list[tuple[str, ...]]:
    """Leads named behind "ST elevation", each alone, and territories, each as its leads."""
    found: list[tuple[str, ...]] = []
    for at in range(start, stop):
        place = _place(words[at])
        if place:
            found.append(place)
        elif words[at] not in _CONNECTING if found else at - start >= _REACH:
            break
    return found


def _places_before(words: Sequence[str], start: int, stop: int) -> list[tuple[str, ...]]:
    """What is named right before it ("inferior and lateral ST elevation"), or shows it ("leads V2, V3 show …").

    Of "in V2, V3 there is …" too, where the sentence begins with the leads.
    """
    found: list[tuple[str, ...]] = []
    at = start - 1
    near = [word for word in words[max(stop, start - _SHOWN_WITHIN) : start] if word in _SHOWING]
    if near:
        while words[at] != near[-1]:
            at -= 1
        at -= 1
    between = {"and", ",", "or", "lead", "leads"} if near else {"and"}
    while at >= stop:
        place = _place(words[at])
        if place:
            found.append(place)
        elif words[at] not in between:
            break
        at -= 1
    if near and near[-1] == "there" and not {"in", "leads", "lead", "the"}.issuperset(words[: at + 1]):
        return []
    return found[::-1]


def _place(word: str) -> tuple[str, ...]:
    return (_LEAD_OF[word],) if word in _LEAD_OF else TERRITORIES.get(word, ())


def holds(claim: Claim, measured: Mapping[str, Any]) -> bool | None:
    """Whether the measurements agree with a statement; None where it cannot be checked.

    measured: fields of ``signals.measured.Measurements``. What was not measured, and words without an agreed limit
    ("leftward axis", "non-specific ST changes"), cannot be checked.
    """
    if claim.said.endswith(":unchecked"):
        return None
    if claim.quantity == "st":
        agrees = _st_holds(claim, measured)
    else:
        field = "qtc" if claim.said and claim.quantity == "qt" else claim.quantity
        value = measured.get(FIELDS.get(field, ""))
        agrees = None if value is None else _agrees(claim, float(value))
    return agrees if agrees is None else agrees != claim.denied


def _agrees(claim: Claim, measured: float) -> bool:
    if claim.value is not None:
        error = abs(measured - claim.value)
        return (min(error % 360, 360 - error % 360) if claim.quantity == "axis" else error) <= STATED[claim.quantity]
    low, high = LIMITS[claim.said]
    margin = -MARGINS[claim.quantity] if claim.denied else MARGINS[claim.quantity]
    turns = (0, 360) if claim.quantity == "axis" else (0,)
    return any(low - margin <= measured + turn <= high + margin for turn in turns)


def _st_holds(claim: Claim, measured: Mapping[str, Any]) -> bool | None:
    later, at_end = measured.get("st_mv") or {}, measured.get("st_j_mv") or {}
    values = {
        lead: known for lead in LEADS if (known := [v for v in (later.get(lead), at_end.get(lead)) if v is not None])
    }
    if claim.said == "st:none":
        return None if not values else not (_shown(values, "up") or _shown(values, "down"))
    direction = claim.said.split(":")[1]
    known = [lead for lead in claim.leads or LEADS if lead in values and (claim.leads or lead != "aVR")]
    needed = min(2, len(claim.leads or LEADS))
    if len(known) < needed:
        return None
    if claim.denied:
        return _shown({lead: values[lead] for lead in known}, direction, needed)
    limit = ST_UP if direction == "up" else ST_DOWN
    with_it = sum(any(v >= limit if direction == "up" else v <= limit for v in values[lead]) for lead in known)
    return with_it >= needed


def _shown(values: Mapping[str, Sequence[float]], direction: str, needed: int = 2) -> bool:
    """Whether so many leads (not aVR) clearly show a deviation, at both points measured."""
    count = 0
    for lead, found in values.items():
        limit = ST_CLEAR[direction][lead in ("V2", "V3")]
        count += (lead != "aVR" or needed == 1) and all(v > limit if direction == "up" else v < limit for v in found)
    return count >= needed
