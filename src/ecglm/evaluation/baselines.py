"""Text-only baselines: what one gets by always giving the most frequent answer, without any model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from statistics import median_low
from typing import Any

from ecglm.evaluation.metrics.base import Row, answer_kind, normalise, number_in

#: The entry of a task that is used where a question's own template has none.
ANY = ""

#: The name of the baseline in scores.json, and of its entry in baselines.json.
MAJORITY = "majority"

Majority = dict[str, dict[str, str]]


def question_group(metadata: Mapping[str, Any]) -> str:
    """What stands for "the same question": its template where the corpus names one, else its question type."""
    template = metadata.get("template_id")
    return f"template:{template}" if template is not None else str(metadata.get("question_type") or ANY)


def majority_answers(rows: Iterable[Row]) -> Majority:
    """The most frequent answer per task and question group, and per task under ``""``.

    rows need ``task``, ``reference`` (the gold answer) and ``metadata``. Ties go to the answer first in the alphabet.
    Of numbers the median is taken: no single number is frequent, and the median is the best constant in absolute error.
    """
    answers: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for group in {ANY, question_group(row.get("metadata") or {})}:
            answers[str(row["task"]), group].append(row)
    result: Majority = {}
    for (task, group), members in sorted(answers.items(), key=lambda item: item[0]):
        result.setdefault(task, {})[group] = most_frequent(members)
    return result


def most_frequent(rows: list[Row]) -> str:
    """The most frequent reference of some rows (see ``majority_answers`` for ties and numbers)."""
    numbers = [number_in(str(row["reference"])) for row in rows if answer_kind(row) == "number"]
    known = [number for number in numbers if number is not None]
    if known and 2 * len(known) > len(rows):
        return f"{median_low(known):g}"
    count = Counter(normalise(str(row["reference"])) for row in rows)
    winner = min(count, key=lambda answer: (-count[answer], answer))
    return min(str(row["reference"]) for row in rows if normalise(str(row["reference"])) == winner)


def majority_prediction(row: Row, majority: Mapping[str, Any]) -> str:
    """The baseline's answer to a row; empty (wrong) for a task the baseline does not know.

    majority: task → group → answer, or simply task → answer.
    """
    entry = majority.get(str(row["task"]), "")
    if isinstance(entry, str):
        return entry
    group = question_group(row.get("metadata") or {})
    return str(entry.get(group, entry.get(ANY, "")))
