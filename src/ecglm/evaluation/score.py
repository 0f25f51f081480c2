"""predictions.jsonl → scores.json: every metric with its patient-bootstrap interval, its controls, the gap to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import files, registry
from ecglm.errors import EcglmError
from ecglm.evaluation.baselines import MAJORITY, majority_answers
from ecglm.evaluation.breakdown import attribute_type, by_group, confusion, counts, per_class, warnings
from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.measured_rows import FILE as MEASURED_FILE
from ecglm.evaluation.measured_rows import num_unmeasured, with_measurements
from ecglm.evaluation.metrics.base import Metric, Row, answer_kind, question_type
from ecglm.evaluation.metrics.bertscore import computed_with
from ecglm.evaluation.predictions import Key, by_control, prediction_files, read_predictions
from ecglm.evaluation.resampling import by_seed
from ecglm.evaluation.seeds import decoding_seeds
from ecglm.evaluation.task_rows import TaskRows, asked_in, metrics_of

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
    stores: Sequence[str | Path] = (),
    bertscore: str | None = None,
) -> dict[str, Any]:
    """Score predictions: a ``predictions.jsonl``, a folder of such files, or rows.

    Returns the content of ``scores.json``: per control, task and metric ``value`` (0 to 1; bpm for ``rate_mae``; None
    where undefined), the 95 % interval ``low``, ``high`` over patients, and ``n`` rows; ``gaps``, real − best control
    on the same resamples, positive where the real ECG does better; ``robustness``, real − each perturbation; baselines,
    breakdowns, counts and warnings.

    majority: the most frequent training answers (default: ``baselines.json`` beside the predictions, else those of the
    references themselves, marked ``from_test``). baseline_rows: another system's rows on the same questions, compared
    with ours under ``versus``. stores: of the ECGs asked about, for metrics that check answers against them. bertscore:
    folder or hub id of the model BERTScore is computed with; without, it is left out. What cannot be computed stands
    under ``unavailable`` with its reason; what models were used, under ``computed_with``. Raises EcglmError for rows
    that cannot be scored (see ``predictions.by_control``).
    """
    if num_resamples < 1:
        raise EcglmError(f"num_resamples must be at least 1, found {num_resamples}")
    if seed < 0:
        raise EcglmError(f"seed must be 0 or more, found {seed}")
    name, inputs, rows = "predictions", {}, path_or_rows
    if isinstance(path_or_rows, str | Path):
        name, rows = str(path_or_rows), read_predictions(path_or_rows)
        found = prediction_files(path_or_rows)
        beside = found[0].parent / BASELINES_FILE
        if majority is None and beside.exists():
            majority = _read_majority(beside)
            found.append(beside)
        inputs = {file.name: files.file_sha256(file) for file in found}
    if stores:
        home = prediction_files(path_or_rows)[0].parent if isinstance(path_or_rows, str | Path) else None
        rows = with_measurements(rows, stores, home)  # type: ignore[arg-type]
        baseline_rows = baseline_rows if baseline_rows is None else with_measurements(baseline_rows, stores)
        if home is not None:
            inputs[MEASURED_FILE] = files.file_sha256(home / MEASURED_FILE)
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
        "seeds": {},
        "unavailable": {},
        "baselines": {MAJORITY: {}, "from_test": from_test},
        "computed_with": {},
        "confusion": {},
        "undefined_classes": {},
        "controls_missing": all(c == REAL or is_perturbation(c) for c in tables),
        "warnings": [],
    }
    with computed_with(bertscore):
        for task in sorted({str(row["task"]) for table in tables.values() for row in table.values()}):
            task_rows = TaskRows(task, tables, known, num_resamples=num_resamples, seed=seed)
            _score_task(result, task, task_rows)
            if other is not None:
                result.setdefault("versus", {})[task] = _versus(task_rows, other)
        used = {name for tasks in result["controls"].values() for scores in tasks.values() for name in scores}
        facts = {name: registry.get("metrics", name).facts for name in sorted(used)}
        result["computed_with"] = {name: dict(say()) for name, say in facts.items() if say}
    if stores and (lacking := num_unmeasured(rows)):  # type: ignore[arg-type]
        result["warnings"].append(
            f"{lacking} text answers are about an ECG that --store lacks: their statements are unchecked"
        )
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


def main_metric(asked: Sequence[Row]) -> str:
    """The metric that a task of these questions is judged by."""
    kinds = {answer_kind(row) for row in asked}
    name = MAIN_METRIC[next(iter(kinds))] if len(kinds) == 1 else "accuracy"
    return name if all(map(registry.get("metrics", name).fits, asked)) else "accuracy"


def _score_task(result: dict[str, Any], task: str, rows: TaskRows) -> None:
    """Fill in one task: its metrics under every condition, the gaps, and what stands beside them."""
    result["main"][task] = main_metric(list(rows.asked.values()))
    result["gaps"][task], result["gap_to"][task] = {}, {}
    chosen, lacking = [], set()
    for entry in metrics_of(rows):
        if reason := entry[1].lacks(asked_in(rows, entry[3])):
            lacking.add(entry[0])
            result["unavailable"][entry[0]] = reason
        else:
            chosen.append(entry)
    groups = []
    for _, _, _, fits in chosen:
        found = {"all": rows.select(fits), "shared": rows.select(fits, shared=[REAL, *rows.rivals, MAJORITY])}
        if rows.perturbed:
            found["disturbed"] = rows.select(fits, shared=[REAL, *rows.perturbed])
        groups.append({part: g for part, g in found.items() if part == "all" or g[REAL][1].any()})
    wanted = [
        (metric, labels, list(part.values()))
        for (_, metric, labels, _), parts in zip(chosen, groups, strict=True)
        for part in parts.values()
    ]
    measured = iter(rows.measure(wanted))
    for (name, metric, _, _), parts in zip(chosen, groups, strict=True):
        sums = {part: next(measured) for part in parts}
        for condition, estimated in rows.estimates(parts["all"], sums["all"], metric).items():
            place = result["baselines"][MAJORITY] if condition == MAJORITY else result["controls"][condition]
            place.setdefault(task, {})[name] = estimated
        per_seed = decoding_seeds(rows.seeds, list(parts["all"]), sums["all"], metric)
        for condition, summary in per_seed.items():
            result["seeds"].setdefault(condition, {}).setdefault(task, {})[name] = summary
        if "shared" in parts:
            result["gap_to"][task][name], headline = rows.gaps(parts["shared"], sums["shared"], metric)
            if headline is not None:
                result["gaps"][task][name] = headline
        if "disturbed" in parts:
            lost = rows.gaps(parts["disturbed"], sums["disturbed"], metric)[0]
            result["robustness"].setdefault(task, {})[name] = lost
    classes, undefined = per_class(rows)
    counted = counts(rows)
    parts_of = {
        "by_question_type": by_group(rows, question_type, lacking),
        "by_attribute_type": by_group(rows, attribute_type, lacking),
        "per_class": classes,
        "counts": counted,
    }
    for part, per_condition in parts_of.items():
        for condition, value in per_condition.items():
            if value:
                result[part][condition][task] = value
    if undefined:
        result["undefined_classes"][task] = undefined
    matrix = confusion(rows.rows_of(REAL))
    if matrix is not None:
        result["confusion"][task] = matrix
    result["warnings"] += warnings(task, rows, counted)


def _versus(rows: TaskRows, other: Mapping[Key, Row]) -> dict[str, Any]:
    """Paired differences to another system, ours − theirs, on the questions both answered; positive is ours."""
    rows.add("versus", list(by_seed(other).values()))
    both, chosen = rows.present("versus"), [e for e in metrics_of(rows) if not e[1].lacks(asked_in(rows, e[3]))]
    chosen = [entry for entry in chosen if (entry[3] & both).any()]
    wanted = [(m, labels, [(REAL, fits & both), ("versus", fits & both)]) for _, m, labels, fits in chosen]
    result = {}
    for (name, metric, _, fits), measured in zip(chosen, rows.measure(wanted), strict=True):
        values, spread = measured.values(_signed(metric))
        result[name] = rows.estimate(values[0] - values[1], spread[:, 0] - spread[:, 1], fits & both)
    return result


def _signed(metric: Metric) -> Callable[[np.ndarray], np.ndarray]:
    """The metric's value, greater is better."""
    sign = 1.0 if metric.higher_is_better else -1.0
    return lambda sums: sign * metric.value(sums)
