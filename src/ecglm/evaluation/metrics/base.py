"""What a metric is, and the text handling that all metrics share.

A metric turns each row into numbers that may be **added** over rows, and sums of them into a value. So a bootstrap
resample is a weighted sum of per-patient sums, for BLEU and F1 as much as for a mean; no text is read twice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Row = Mapping[str, Any]

#: The kinds of answer, and the question types that the corpora give them.
KINDS: dict[str, frozenset[str]] = {
    "closed": frozenset({"yes-no", "choice"}),
    "multi": frozenset({"multi-label"}),
    "number": frozenset({"number"}),
    "text": frozenset({"text"}),
}
ALL_KINDS: tuple[str, ...] = tuple(KINDS)

#: A stated heart rate within this many beats per minute of the reference is right.
RATE_TOLERANCE_BPM = 5.0

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\d])")


@dataclass(frozen=True)
class Metric:
    """``statistics(rows, labels)`` → float64 ``(num_rows, k)``; ``value``: sums ``(…, k)`` → ``(…)``, NaN = undefined.

    labels: the class set (normalised), used by metrics over classes only. kinds: the kinds of answer it is meant for.
    Calling a metric with rows gives its value as a float.
    """

    statistics: Callable[[Sequence[Row], Sequence[str]], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]
    kinds: tuple[str, ...] = ALL_KINDS
    higher_is_better: bool = True

    def __call__(self, rows: Sequence[Row], labels: Sequence[str] | None = None) -> float:
        known = class_set(rows) if labels is None else labels
        return float(self.value(self.statistics(rows, known).sum(axis=0)))


def row_mean(
    kinds: tuple[str, ...] = ALL_KINDS, higher_is_better: bool = True
) -> Callable[[Callable[[Row], float]], Metric]:
    """Decorator: a function of one row as the metric "mean over rows"; rows for which it gives NaN are left out."""

    def wrap(score_row: Callable[[Row], float]) -> Metric:
        def statistics(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
            scores = np.array([score_row(row) for row in rows], dtype=np.float64)
            known = ~np.isnan(scores)
            return np.stack([np.where(known, scores, 0.0), known.astype(np.float64)], axis=1)

        return Metric(statistics, ratio, kinds, higher_is_better)

    return wrap


def ratio(sums: np.ndarray) -> np.ndarray:
    """First column over second, NaN where the second is zero. Shapes ``(…, 2)`` → ``(…)``."""
    return divide(sums[..., 0], sums[..., 1])


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """``top / bottom``, NaN where ``bottom`` is zero, without warnings."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)


def answer_text(row: Row) -> str:
    """The model's answer, stripped; empty for a failed row, which then scores 0 and stays in the denominator."""
    return "" if row.get("error") else str(row.get("prediction") or "").strip()


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """NFC, lower case, single spaces, no punctuation at the end: the comparison form of an answer."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split()).rstrip(".,;:!? ")


def choices_of(row: Row) -> tuple[str, ...]:
    """The normalised choices a row's answer is to come from; empty when it is open."""
    return tuple(normalise(str(c)) for c in (row.get("metadata") or {}).get("choices") or ())


def question_type(row: Row) -> str:
    """The row's question type as its corpus names it, or an empty string."""
    return str((row.get("metadata") or {}).get("question_type") or "")


def answer_kind(row: Row) -> str:
    """``closed``, ``multi``, ``number`` or ``text``.

    ECG-QA's types end in ``-verify`` (closed), ``-choose`` and ``-query`` (sets of answers). A row of unknown type is
    ``closed`` when it brings choices, else ``text``.
    """
    kind = _kind_of_type(question_type(row))
    return kind or ("closed" if choices_of(row) else "text")


@lru_cache(maxsize=1 << 10)
def _kind_of_type(name: str) -> str:
    if name.endswith("-verify"):
        return "closed"
    if name.endswith(("-choose", "-query")):
        return "multi"
    return next((kind for kind, types in KINDS.items() if name in types), "")


def class_names(rows: Iterable[Row]) -> dict[str, str]:
    """Normalised class → the class as its corpus writes it, for people to read."""
    found: dict[str, str] = {}
    for row in rows:
        for choice in (row.get("metadata") or {}).get("choices") or ():
            found.setdefault(normalise(str(choice)), str(choice))
    return found


def class_set(rows: Sequence[Row]) -> tuple[str, ...]:
    """The label space of some rows: every choice offered, in order of appearance; the references' where none is."""
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(choices_of(row)))
    if not found:
        for row in sorted(rows, key=lambda r: str(r["reference"])):
            found.update(dict.fromkeys(sorted(reference_labels(row))))
    return tuple(found)


def reference_labels(row: Row) -> frozenset[str]:
    """The gold labels of a row: its metadata's list of ``answers`` where there is one, else the reference's parts."""
    answers = (row.get("metadata") or {}).get("answers")
    if answers and answer_kind(row) == "multi":
        return frozenset(normalise(str(a)) for a in answers)
    return labels_in(str(row["reference"]), row)


def predicted_labels(row: Row) -> frozenset[str]:
    """The labels a row's answer states."""
    return labels_in(answer_text(row), row)


def labels_in(text: str, row: Row) -> frozenset[str]:
    """The labels in a text, normalised: one for a closed question; for others split at commas, semicolons, newlines.

    A part that is no choice is split at " and " too; parts that together are a choice with a comma in it stay together.
    """
    if not normalise(text):
        return frozenset()
    if answer_kind(row) != "multi":
        return frozenset({normalise(text)})
    choices = frozenset(choices_of(row))
    parts = [p for p in (normalise(part) for part in re.split(r"[,;\n]", text)) if p]
    found: set[str] = set()
    start = 0
    while start < len(parts):
        joined = (end for end in range(len(parts), start + 1, -1) if ", ".join(parts[start:end]) in choices)
        end = next(joined, start + 1)
        part = ", ".join(parts[start:end])
        if part in choices or " and " not in part:
            found.add(part)
        else:
            found.update(p for p in (normalise(piece) for piece in part.split(" and ")) if p)
        start = end
    return frozenset(found)


def number_in(text: str) -> float | None:
    """The one number a text states, or None when it states none or several different ones."""
    found = {float(match) for match in _NUMBER.findall(text)}
    return found.pop() if len(found) == 1 else None


def is_unparsed(row: Row) -> bool:
    """Whether an answer that was given cannot be read: not among the choices, or no single number."""
    kind = answer_kind(row)
    if kind == "number":
        return number_in(answer_text(row)) is None
    choices = frozenset(choices_of(row))
    if kind == "text" or not choices:
        return False
    stated = predicted_labels(row)
    return not stated or not stated <= choices


def is_correct(row: Row) -> bool:
    """Whether an answer is right: same label, same set of labels, within 5 bpm, or same text after ``normalise``."""
    kind = answer_kind(row)
    if kind == "number":
        stated, truth = number_in(answer_text(row)), number_in(str(row["reference"]))
        return stated is not None and truth is not None and abs(stated - truth) <= RATE_TOLERANCE_BPM
    if kind == "text":
        return normalise(answer_text(row)) == normalise(str(row["reference"])) != ""
    stated_labels = predicted_labels(row)
    return bool(stated_labels) and stated_labels == reference_labels(row)
