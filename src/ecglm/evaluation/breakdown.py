"""What stands beside a task's scores: question types, classes, confusion matrix, counts and warnings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ecglm.evaluation.controls import REAL
from ecglm.evaluation.metrics.base import (
    Row,
    answer_kind,
    answer_text,
    class_names,
    class_set,
    has_own_choices,
    is_unparsed,
    normalise,
    predicted_labels,
    question_type,
    reference_labels,
)
from ecglm.evaluation.metrics.macro_f1 import MACRO_F1, f1_per_class, recall_per_class
from ecglm.evaluation.statistics import FEW_PATIENTS
from ecglm.evaluation.task_rows import TaskRows, metrics_of

#: Confusion matrices are made up to this many classes.
MAX_CONFUSION = 40
#: The last column of a confusion matrix: an answer that is none of the classes, or no answer.
OTHER = "(other)"


def attribute_type(row: Row) -> str:
    """ECG-QA's attribute type of a row, or an empty string."""
    return str((row.get("metadata") or {}).get("attribute_type") or "")


def by_group(rows: TaskRows, group_of: Callable[[Row], str], lacking: Collection[str] = ()) -> dict[str, dict]:
    """condition → group → metric → estimate, within each question type (or attribute type) that rows name.

    lacking: metrics that cannot be computed here.
    """
    result: dict[str, dict[str, Any]] = {c: {} for c in (REAL, *rows.controls)}
    groups = [group_of(row) for row in rows.asked.values()]
    for group in sorted(set(groups) - {""}):
        mask = np.array([found == group for found in groups])
        chosen = [entry for entry in metrics_of(rows, mask) if entry[0] not in lacking]
        selected = [{c: part for c, part in rows.select(fits).items() if c in result} for _, _, _, fits in chosen]
        wanted = [
            (metric, labels, list(part.values())) for (_, metric, labels, _), part in zip(chosen, selected, strict=True)
        ]
        for (name, metric, _, _), part, measured in zip(chosen, selected, rows.measure(wanted), strict=True):
            for condition, estimated in rows.estimates(part, measured, metric).items():
                result[condition].setdefault(group, {})[name] = estimated
    return result


def per_class(rows: TaskRows) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(condition → class → ``f1`` and ``accuracy`` among its gold rows, classes without a gold row).

    ``n`` is the number of gold questions. For tasks of one closed or multi-label question type that shares its
    choices; empty for others.
    """
    asked = list(rows.asked.values())
    one_type = len({question_type(row) for row in asked}) == 1
    if not one_type or answer_kind(asked[0]) not in MACRO_F1.kinds or any(map(has_own_choices, asked)):
        return {}, []
    labels, names_of = class_set(asked), class_names(asked)
    truths = [reference_labels(row) for row in asked]
    groups = {c: g for c, g in rows.select(np.ones(len(asked), dtype=bool)).items() if c in (REAL, *rows.controls)}
    measured = rows.measure([(MACRO_F1, labels, list(groups.values()))])[0]
    parts = {"f1": measured.values(f1_per_class), "accuracy": measured.values(recall_per_class)}
    result: dict[str, dict[str, Any]] = {}
    for i, (condition, (_, mask)) in enumerate(groups.items()):
        gold = [truth for truth, chosen in zip(truths, mask, strict=True) if chosen]
        result[condition] = {
            names_of.get(label, label): {
                part: {
                    **rows.estimate(values[i, c], spread[:, i, c], mask),
                    "n": sum(label in truth for truth in gold),
                }
                for part, (values, spread) in parts.items()
            }
            for c, label in enumerate(labels)
        }
    undefined = [names_of.get(label, label) for label in labels if not any(label in truth for truth in truths)]
    return result, undefined


def confusion(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Reference × answer counts of the closed question type with most classes; None without a closed question."""
    closed = [row for row in rows if answer_kind(row) == "closed" and not has_own_choices(row)]
    types = {question_type(row) for row in closed}
    if not types:
        return None
    chosen = max(types, key=lambda t: (len(class_set([r for r in closed if question_type(r) == t])), t))
    members = [row for row in closed if question_type(row) == chosen]
    known = class_set(members)
    labels = [*known, *sorted({normalise(str(row["reference"])) for row in members} - set(known))]
    if len(labels) > MAX_CONFUSION:
        return None
    matrix = [[0] * (len(labels) + 1) for _ in labels]
    for row in members:
        stated = next(iter(predicted_labels(row)), "")
        column = labels.index(stated) if stated in labels else len(labels)
        matrix[labels.index(normalise(str(row["reference"])))][column] += 1
    names = [class_names(members).get(label, label) for label in labels]
    return {"question_type": chosen, "labels": names, "columns": [*names, OTHER], "matrix": matrix}


def counts(rows: TaskRows) -> dict[str, dict[str, int]]:
    """Per condition: rows (of all decoding seeds), failed, missing, unparsed and empty answers, patients."""
    result = {}
    for condition in (REAL, *rows.controls):
        table = rows.rows_of(condition)
        given = [row for row in table if row.get("error") != "missing"]
        answered = [row for row in given if not row.get("error")]
        result[condition] = {
            "n": len(table),
            "n_failed": len(given) - len(answered),
            "n_missing": rows.missing[condition],
            "n_unparsed": sum(is_unparsed(row) for row in answered),
            "n_empty": sum(not answer_text(row) for row in answered),
            "num_patients": rows.num_patients_of(rows.present(condition)),
        }
    return result


def warnings(task: str, rows: TaskRows, counted: dict[str, dict[str, int]]) -> list[str]:
    """What a reader of the task's scores must be told."""
    found = []
    for condition, numbers in counted.items():
        if numbers["n_missing"]:
            treated = "counted as wrong" if condition == REAL else "left out of its score and of what is compared to it"
            found.append(
                f"{task}: {numbers['n_missing']} of {len(rows.asked) * len(rows.seeds[condition])} rows missing under "
                f"'{condition}', {treated}"
            )
        if numbers["n_failed"]:
            found.append(f"{task}: {numbers['n_failed']} rows failed under '{condition}' and count as wrong")
    if any(patient.startswith("row:") for patient in rows.patient_keys):
        found.append(f"{task}: rows without patient_id are resampled as patients of their own")
    if len(rows.patient_keys) < 2:
        found.append(f"{task}: one patient only, no interval can be given")
    elif len(rows.patient_keys) < FEW_PATIENTS:
        found.append(f"{task}: only {len(rows.patient_keys)} patients, the interval is too narrow to trust")
    return found
