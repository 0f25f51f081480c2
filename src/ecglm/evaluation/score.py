"""predictions.jsonl → scores.json: every metric with its patient-bootstrap interval, its controls, the gap to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.baselines import MAJORITY, majority_answers
from ecglm.evaluation.breakdown import attribute_type, by_group, confusion, counts, per_class, warnings
from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.metrics.base import Row, answer_kind, question_type
from ecglm.evaluation.predictions import Key, by_control, prediction_files, read_predictions
from ecglm.evaluation.task_rows import TaskRows, labels_for, metrics_of

FORMAT = "ecglm-scores"
VERSION = 1
#: Where predict leaves the most frequent training answers, beside the predictions.
BASELINES_FILE = "baselines.json"
SCORES_FILE = "scores.json"
#: The metric a task is judged by, per kind of answer; a task of several kinds is judged by accuracy.
MAIN_METRIC = {"closed": "accuracy", "multi": "macro_f1", "number": "within_5_bpm", "text": "rougeL"}


def score(
    path_or_rows: str | Path | Sequence[Row],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    majority: Mapping[str, Any] | None = None,
    baseline_rows: Sequence[Row] | None = None,
) -> dict[str, Any]:
    """Score predictions: a ``predictions.jsonl``, a folder of such files, or rows.

    Returns the content of ``scores.json``: per control, task and metric ``value`` (0 to 1; bpm for ``rate_mae``; None
    where undefined), the 95 % interval ``low``, ``high`` over patients, and ``n`` rows; ``gaps``, real − best control
    on the same resamples, positive where the real ECG does better; ``robustness``, real − each perturbation; baselines,
    breakdowns, counts and warnings.

    majority: the most frequent training answers (default: ``baselines.json`` beside the predictions, else those of the
    references themselves, marked ``from_test``). baseline_rows: another system's rows on the same questions, compared
    with ours under ``versus``. Raises EcglmError for rows that cannot be scored (see ``predictions.by_control``).
    """
    if num_resamples < 1:
        raise EcglmError(f"num_resamples must be at least 1, found {num_resamples}")
    name, inputs, rows = "predictions", {}, path_or_rows
    if isinstance(path_or_rows, str | Path):
        name, rows = str(path_or_rows), read_predictions(path_or_rows)
        found = prediction_files(path_or_rows)
        beside = found[0].parent / BASELINES_FILE
        if majority is None and beside.exists():
            majority = _read_majority(beside)
            found.append(beside)
        inputs = {file.name: files.file_sha256(file) for file in found}
    tables = by_control(rows, name)  # type: ignore[arg-type]
    other = by_control(baseline_rows, "baseline rows")[REAL] if baseline_rows is not None else None
    from_test = majority is None
    known = majority_answers(tables[REAL].values()) if majority is None else majority

    result: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "mode": "strict",
        "settings": {"num_resamples": num_resamples, "seed": seed, "interval": "95 % percentile bootstrap of patients"},
        "inputs": inputs,
        "main": {},
        **{part: {c: {} for c in tables} for part in _PER_CONTROL},
        "gaps": {},
        "gap_to": {},
        "robustness": {},
        "baselines": {MAJORITY: {}, "from_test": from_test},
        "confusion": {},
        "undefined_classes": {},
        "controls_missing": all(c == REAL or is_perturbation(c) for c in tables),
        "warnings": [],
    }
    for task in sorted({str(row["task"]) for table in tables.values() for row in table.values()}):
        task_rows = TaskRows(task, tables, known, num_resamples=num_resamples, seed=seed)
        _score_task(result, task, task_rows)
        if other is not None:
            result.setdefault("versus", {})[task] = _versus(task_rows, other)
    if result["controls_missing"]:
        result["warnings"].append(
            "no controls: a score without them does not show that the ECG was read; a report needs them "
            "(ecglm predict --controls blank noise swap no-ecg)"
        )
    if from_test:
        result["warnings"].append(
            f"no {BASELINES_FILE} beside the predictions: the majority baseline is taken from the test answers"
        )
    return result


_PER_CONTROL = ("controls", "by_question_type", "by_attribute_type", "per_class", "counts")


def score_file(path: str | Path, *, out: str | Path | None = None, **options: Any) -> Path:
    """Score a folder or a predictions file and write ``scores.json`` beside the predictions. Returns its path."""
    target = Path(out) if out is not None else prediction_files(path)[0].parent / SCORES_FILE
    files.write_json(target, score(path, **options))
    return target


def _read_majority(path: Path) -> Mapping[str, Any]:
    found = files.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get(MAJORITY), dict):
        raise EcglmError(f"{path}: the key '{MAJORITY}' (task → answer) is missing; run `ecglm predict` again")
    return found[MAJORITY]


def _score_task(result: dict[str, Any], task: str, rows: TaskRows) -> None:
    """Fill in one task: its metrics under every condition, the gaps, and what stands beside them."""
    kinds = {answer_kind(row) for row in rows.asked.values()}
    result["main"][task] = MAIN_METRIC[next(iter(kinds))] if len(kinds) == 1 else "accuracy"
    result["gaps"][task], result["gap_to"][task] = {}, {}
    for name, metric, fits in metrics_of(rows.asked.values()):
        labels = labels_for(name, filter(fits, rows.asked.values()))
        for condition, estimated in rows.estimates(metric, labels, rows.select(fits)).items():
            place = result["baselines"][MAJORITY] if condition == MAJORITY else result["controls"][condition]
            place.setdefault(task, {})[name] = estimated
        shared = rows.select(fits, shared=[REAL, *rows.rivals, MAJORITY])
        if shared[REAL]:
            result["gap_to"][task][name], headline = rows.gaps(metric, labels, shared)
            if headline is not None:
                result["gaps"][task][name] = headline
        disturbed = rows.select(fits, shared=[REAL, *rows.perturbed])
        if rows.perturbed and disturbed[REAL]:
            result["robustness"].setdefault(task, {})[name] = rows.gaps(metric, labels, disturbed)[0]
    classes, undefined = per_class(rows)
    counted = counts(rows)
    parts = {
        "by_question_type": by_group(rows, question_type),
        "by_attribute_type": by_group(rows, attribute_type),
        "per_class": classes,
        "counts": counted,
    }
    for part, per_condition in parts.items():
        for condition, value in per_condition.items():
            if value:
                result[part][condition][task] = value
    if undefined:
        result["undefined_classes"][task] = undefined
    matrix = confusion(list(rows.rows[REAL].items()))
    if matrix is not None:
        result["confusion"][task] = matrix
    result["warnings"] += warnings(task, rows, counted)


def _versus(rows: TaskRows, other: Mapping[Key, Row]) -> dict[str, Any]:
    """Paired differences to another system, ours − theirs, on the questions both answered; positive is ours."""
    result = {}
    for name, metric, fits in metrics_of(rows.asked.values()):
        ours = [(k, r) for k, r in rows.rows[REAL].items() if k in other and fits(r)]
        if not ours:
            continue
        labels = labels_for(name, filter(fits, rows.asked.values()))
        point, resampled = rows.measure([ours, [(k, other[k]) for k, _ in ours]], metric, labels)
        sign = 1.0 if metric.higher_is_better else -1.0
        values, spread = sign * metric.value(point), sign * metric.value(resampled)
        result[name] = rows.estimate(values[0] - values[1], spread[:, 0] - spread[:, 1], ours)
    return result
