"""What a metric is, and the text handling that all metrics share.

A metric turns each row into numbers that may be **added** over rows, and sums of them into a value. So a bootstrap
resample is a weighted sum of per-patient sums, for BLEU and F1 as much as for a mean; no text is read twice.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ecglm.errors import EcglmError

Row = Mapping[str, Any]

#: The kinds of answer, and the question types that the corpora give them.
KINDS: dict[str, frozenset[str]] = {
    "closed": frozenset(
        {"yes-no", "choice"}
        | {"initial_diagnostic_question", "criterion_selection", "finding_identification", "diagnostic_decision"}
        | {"wave_grounding", "measurement_grounding"}  # the single-answer steps of ECG-Reasoning-Benchmark
    ),
    "multi": frozenset({"multi-label", "lead_grounding"}),
    "number": frozenset({"number"}),
    "text": frozenset({"text"}),
}
ALL_KINDS: tuple[str, ...] = tuple(KINDS)

#: A stated heart rate within this many beats per minute of the reference is right.
RATE_TOLERANCE_BPM = 5.0
#: A stated number within this much of the reference is right, per quantity: bpm, ms, degrees. An interval of a resting
#: ECG is read to half a small square (20 ms), the end of T to one (40 ms).
TOLERANCES: dict[str, float] = {
    "rate": RATE_TOLERANCE_BPM, "pr": 20.0, "qrs": 20.0, "qt": 40.0, "qtc": 40.0, "interval": 20.0, "axis": 15.0
}  # fmt: skip

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\d])")


@dataclass(frozen=True)
class Metric:
    """``statistics(rows, labels)`` → float64 ``(num_rows, k)``; ``value``: sums ``(…, k)`` → ``(…)``, NaN = undefined.

    kinds: the kinds of answer it is meant for; only: of these, the rows for which this holds. classes: rows → the class
    set it is a mean over (``labels``; none where absent). needs: rows → why it cannot be computed here, in one line,
    or "". facts: what a reader must know of what it was computed with (a model's name and hash, say).
    about: one line for ``ecglm ls metrics``; span: least and greatest value; unit: of the value, where it has one.
    Calling a metric with rows gives its value as a float; EcglmError where it cannot be computed.
    """

    statistics: Callable[[Sequence[Row], Sequence[str]], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]
    kinds: tuple[str, ...] = ALL_KINDS
    higher_is_better: bool = True
    about: str = ""
    span: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    only: Callable[[Row], bool] | None = None
    classes: Callable[[Sequence[Row]], tuple[str, ...]] | None = None
    needs: Callable[[Sequence[Row]], str] | None = None
    facts: Callable[[], Mapping[str, Any]] | None = None

    def __call__(self, rows: Sequence[Row], labels: Sequence[str] | None = None) -> float:
        if rows and (reason := self.lacks(rows)):
            raise EcglmError(f"this metric cannot be computed here: {reason}")
        known = self.labels(rows) if labels is None else labels
        return float(self.value(self.statistics(rows, known).sum(axis=0)))

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The class set of some rows; none where the metric is no mean over classes."""
        return self.classes(rows) if self.classes else ()

    def fits(self, row: Row) -> bool:
        """Whether the metric is meant for a row."""
        return answer_kind(row) in self.kinds and (self.only is None or self.only(row))

    def lacks(self, rows: Sequence[Row]) -> str:
        """Why it cannot be computed on some rows, or an empty string."""
        return self.needs(rows) if self.needs else ""


def row_mean(
    kinds: tuple[str, ...] = ALL_KINDS, higher_is_better: bool = True, **facts: Any
) -> Callable[[Callable[[Row], float]], Metric]:
    """Decorator: a function of one row as the metric "mean over rows"; rows for which it gives NaN are left out.

    The first line of the function's docstring becomes the metric's ``about``; facts: other fields of ``Metric``.
    """

    def wrap(score_row: Callable[[Row], float]) -> Metric:
        def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
            return means(np.fromiter((score_row(row) for row in rows), np.float64, len(rows)))

        about = (score_row.__doc__ or "").strip().split("\n", 1)[0]
        return Metric(statistics, ratio, kinds, higher_is_better, **{"about": about, **facts})

    return wrap


def means(scores: np.ndarray) -> np.ndarray:
    """Scores ``(num_rows,)``, NaN = left out, as the statistics ``(num_rows, 2)`` whose ``ratio`` is their mean."""
    known = ~np.isnan(scores)
    return np.stack([np.where(known, scores, 0.0), known.astype(np.float64)], axis=1)


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


def about_turn(row: Row) -> Mapping[str, Any]:
    """What a row's metadata say of its question: those of its turn where every turn has its own (``turns``)."""
    metadata: Mapping[str, Any] = row.get("metadata") or {}
    turns = metadata.get("turns")
    if not turns:
        return metadata
    turn = turns[min(int(row.get("turn") or 0), len(turns) - 1)]
    options = turn.get("options") or ()
    answers = [options[place] for place in turn.get("answer_idx") or ()]
    return {"question_type": turn.get("question_type"), "choices": options, "answers": answers}


def choices_of(row: Row) -> tuple[str, ...]:
    """The normalised choices a row's answer is to come from; empty when it is open."""
    return tuple(normalise(str(c)) for c in about_turn(row).get("choices") or ())


def question_type(row: Row) -> str:
    """The row's question type as its corpus names it (that of its turn where turns differ), or an empty string."""
    return str(about_turn(row).get("question_type") or "")


def has_own_choices(row: Row) -> bool:
    """Whether the row offers choices made for it alone: there is then no class set that rows share."""
    return bool((row.get("metadata") or {}).get("turns"))


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
        for choice in about_turn(row).get("choices") or ():
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
    answers = about_turn(row).get("answers")
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
    found = {float(match) for match in _NUMBER.findall(text.replace("−", "-"))}
    return found.pop() if len(found) == 1 and math.isfinite(min(found)) else None


def quantity(row: Row) -> str:
    """What a number answer is about: a name of ``TOLERANCES``, from the reference's unit and words, else the task."""
    return _quantity(f"{row['reference']}", str(row.get("task") or ""))


@lru_cache(maxsize=1 << 14)
def _quantity(reference: str, task: str) -> str:
    text = reference.lower()
    if "bpm" in text or "beats" in text or "/min" in text:
        return "rate"
    if "°" in text or "deg" in text:
        return "axis"
    words = re.findall(r"[a-z]+", f"{text} {task.lower()}")
    for name in ("qtc", "qrs", "qt", "pr", "axis"):
        if name in words or (name == "qtc" and {"qtcb", "qtcf"} & set(words)):
            return name
    return "interval" if re.search(r"\bms(ec)?\b", text) else "rate"


def number_error(row: Row) -> float | None:
    """|stated − reference| of a number answer (axes: around the circle); None where either states no single number."""
    stated, truth = number_in(answer_text(row)), number_in(str(row["reference"]))
    if stated is None or truth is None:
        return None
    error = abs(stated - truth)
    return min(error % 360, 360 - error % 360) if quantity(row) == "axis" else error


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
    """Whether an answer is right: same label, same set of labels, same text after ``normalise``, or a near number.

    Near is within ``TOLERANCES`` of its quantity (5 bpm where the reference names none).
    """
    kind = answer_kind(row)
    if kind == "number":
        error = number_error(row)
        return error is not None and error <= TOLERANCES[quantity(row)]
    if kind == "text":
        return normalise(answer_text(row)) == normalise(str(row["reference"])) != ""
    stated_labels = predicted_labels(row)
    return bool(stated_labels) and stated_labels == reference_labels(row)
