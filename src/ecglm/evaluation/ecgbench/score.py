"""Scores of ECGBench: both modes, intervals over patients, the gap to the controls, and all that was not answered."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ecglm import __version__, files
from ecglm.conversations.resolve import record_rows
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench import pulse
from ecglm.evaluation.ecgbench.answers import FAILED, MISSING, Answers, read_answers
from ecglm.evaluation.ecgbench.gold import GoldItem, gold_file, read_gold
from ecglm.evaluation.ecgbench.measure import measure
from ecglm.evaluation.ecgbench.runs import DIFFERENCES, BenchRun, model_folder
from ecglm.evaluation.ecgbench.strict import READ, UNPARSED, Reading, Task, tasks_of
from ecglm.evaluation.ecgbench.subsets import SUBSETS, TASK_ORDER, TASK_VERSION
from ecglm.evaluation.statistics import FEW_PATIENTS
from ecglm.store.reader import SegmentStore

Mode = Literal["strict", "pulse", "both"]
MODES: tuple[str, ...] = ("strict", "pulse", "both")
SCORES = "scores.json"
FORMAT = 1


class Gold:
    """The prepared subsets of a folder, read when they are first asked for; patients: record → patient, of stores."""

    def __init__(self, data: str | Path, patients: Mapping[str, str] | None = None) -> None:
        self.data = Path(data)
        if not self.data.is_dir():
            raise EcglmError(f"{self.data}: no such folder; make it with ecglm ecgbench prepare")
        self._patients = patients or {}
        self._items: dict[str, list[GoldItem]] = {}
        self._tasks: dict[str, list[Task]] = {}

    def __call__(self, subset: str) -> list[GoldItem]:
        if subset not in self._items:
            self._items[subset] = read_gold(self.data, subset, self._patients)
        return self._items[subset]

    def tasks(self, subset: str) -> list[Task]:
        if subset not in self._tasks:
            self._tasks[subset] = tasks_of(SUBSETS[subset], self(subset))
        return self._tasks[subset]

    def home_of(self, item_id: str) -> str | None:
        """The prepared subset that has an item of this id; one that cannot be read has none."""
        for name in SUBSETS:
            with contextlib.suppress(EcglmError):
                if any(item.id == item_id for item in self(name)):
                    return name
        return None

    def fingerprint(self, subset: str) -> str:
        return files.file_sha256(gold_file(self.data, subset))


@dataclass(frozen=True)
class BenchScores:
    """What ``scores.json`` holds of a run, and the readings behind it: condition → task → one per item."""

    run: BenchRun
    scores: dict[str, Any]
    readings: Mapping[str, Mapping[str, Sequence[Reading]]] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)
    pulse_items: Mapping[str, Mapping[str, pulse.PulseScore]] = field(default_factory=dict)


def score_run(
    run: BenchRun, gold: Gold, *, mode: Mode = "strict", num_resamples: int = 2000, seed: int = 0
) -> BenchScores:
    """Score a run in one mode or both. Raises what reading its files raises: see ``read_answers``, ``score_pulse``.

    In mode ``both`` a file that stops the original scorer is a warning, and its ``pulse`` figures stay empty.
    """
    if mode not in MODES:
        raise ConfigError(f"--mode {mode}: no such mode; {', '.join(MODES)}")
    if num_resamples < 1:
        raise ConfigError("--num-resamples: 1 or more")
    by_rule = {c: {t: table[t] for t in TASK_ORDER if t in table} for c, table in run.files.items()}
    if not any(by_rule.values()):
        raise EcglmError(f"{run.name}: no file of a rule-scored subset ({', '.join(TASK_ORDER)})")
    if not by_rule.get(REAL):
        raise EcglmError(f"{run.name}: only answers under {', '.join(sorted(by_rule))}; predict the real condition too")
    scores: dict[str, Any] = {
        "format": FORMAT,
        "mode": mode,
        "model": run.name,
        "ecglm": __version__,
        "task_version": TASK_VERSION,
        "settings": {"num_resamples": num_resamples, "seed": seed},
        "fingerprints": {
            "data": {t: gold.fingerprint(t) for t in sorted({t for table in by_rule.values() for t in table})},
            "predictions": {c: {t: files.file_sha256(f) for t, f in table.items()} for c, table in by_rule.items()},
        },
        "warnings": [],
    }
    judged = [name for name in run.files.get(REAL, {}) if name not in TASK_ORDER]
    if judged:
        scores["warnings"].append(f"{', '.join(judged)}: not scored by rule; see ecglm ecgbench judge")
    done = BenchScores(run, scores, {}, {}, {})
    if mode in ("strict", "both"):
        done = _strict(done, by_rule, gold, num_resamples, seed)
    if mode in ("pulse", "both"):
        done = _pulse(done, by_rule, gold, may_stop=mode == "pulse")
    return done


def write_scores(done: BenchScores) -> Path:
    """``scores.json`` in the run's folder (``scores-<step>.json`` where the folder holds several)."""
    label = done.run.label
    path = done.run.folder / (f"scores-{label}.json" if label else SCORES)
    files.write_json(path, done.scores)
    return path


def _strict(
    done: BenchScores, by_rule: Mapping[str, Mapping[str, Path]], gold: Gold, num_resamples: int, seed: int
) -> BenchScores:
    scores = done.scores
    parts: dict[str, Any] = {
        name: {} for name in ("strict", "counts", "main", "classes", "gap", "gap_to", "undefined_classes")
    }
    scores.update(parts)
    answers = {
        control: {t: read_answers(f, t, gold(t), gold.home_of) for t, f in table.items()}
        for control, table in by_rule.items()
    }
    for control, table in answers.items():
        for found in table.values():
            if found.control != control:
                raise EcglmError(
                    f"{found.path}: its rows are of condition '{found.control}', its place says '{control}'; move it"
                )
    readings: dict[str, dict[str, list[Reading]]] = {control: {} for control in by_rule}
    conditions = [REAL, *(c for c in sorted(by_rule) if c != REAL)]
    for subset in by_rule[REAL]:
        for task in gold.tasks(subset):
            shown = [c for c in conditions if subset in answers[c]]
            read = {c: task.readings(answers[c][subset]) for c in shown}
            for control in shown:
                readings[control][task.name] = read[control]
                counted = _counts(read[control])
                scores["counts"].setdefault(control, {})[task.name] = counted
                _warn(scores["warnings"], task, control, counted)
            measure(scores, task, read, num_resamples, seed)
            if undefined := task.undefined():
                scores["undefined_classes"][task.name] = undefined
                scores["warnings"].append(f"{task.name}: no item has {', '.join(undefined)}; left out of the means")
            scores["main"][task.name] = task.main
            _warn_patients(scores["warnings"], task)
    return BenchScores(done.run, scores, readings, answers, done.pulse_items)


def _counts(readings: Sequence[Reading]) -> dict[str, int]:
    states = [reading.state for reading in readings]
    named = {"n_unparsed": UNPARSED, "n_failed": FAILED, "n_missing": MISSING, "n_read": READ}
    return {"n": len(states), **{name: states.count(state) for name, state in named.items()}}


def _warn(warnings: list[str], task: Task, control: str, counted: Mapping[str, int]) -> None:
    for name, what in {"n_missing": "have no row", "n_failed": "failed"}.items():
        if counted[name]:
            warnings.append(f"{task.name}, {control}: {counted[name]} of {counted['n']} {what}, counted as wrong")


def _warn_patients(warnings: list[str], task: Task) -> None:
    unknown = sum(not item.patient_known and item.record is not None for item in task.items)
    if unknown:
        warnings.append(
            f"{task.name}: patients of {unknown} of {len(task.items)} items not known, each recording counts as one "
            "of its own; give --store"
        )
    if len(task.items) != task.subset.rows and task.name == task.subset.name:
        warnings.append(f"{task.name}: {len(task.items)} items, {task.subset.rows} are published")
    num = len({item.patient_id for item in task.items})
    if num < FEW_PATIENTS:
        few = "one patient only, no interval" if num == 1 else f"only {num} patients, intervals too narrow to trust"
        warnings.append(f"{task.name}: {few}")


def _pulse(done: BenchScores, by_rule: Mapping[str, Mapping[str, Path]], gold: Gold, *, may_stop: bool) -> BenchScores:
    """The original's figures for the files of this run, each condition as if its folder were scored by itself."""
    scores, items = done.scores, {}
    scores["pulse"] = {}
    for control, table in by_rule.items():
        found = _seen_by_pulse(done.run, table, scores["warnings"])
        told: dict[str, Any] = {}
        chosen: dict[str, pulse.PulseScore] = {}
        try:
            for task, by_key in pulse.score_tasks(found, gold):
                for score in by_key.values():
                    if task in table and score.path == table[task]:
                        chosen[task] = score
                        told[task] = _figures(score)
        except EcglmError as error:
            if may_stop:
                raise
            scores["warnings"].append(f"pulse: {error}; no figures of this mode from here on")
        for task in table:
            if task not in told and table[task] in found.get(task, ()):
                wanted = f"the original wants {SUBSETS[task].rows} rows, and no other file of its key"
                scores["warnings"].append(f"pulse: {task}/{table[task].name}: not counted; {wanted}")
        scores["pulse"][control] = told
        items[control] = chosen
    return BenchScores(done.run, scores, done.readings, done.answers, items)


def _figures(score: pulse.PulseScore) -> dict[str, Any]:
    told: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in score.figures.items()}
    told |= {"n": score.num_rows, "n_drawn": score.num_drawn, "key": str(score.key)}
    return told | ({"classes": list(score.classes)} if score.classes else {})


def _seen_by_pulse(run: BenchRun, table: Mapping[str, Path], warnings: list[str]) -> dict[str, list[Path]]:
    """The files the original would read: those of the folder that holds these, or these where they were named."""
    if run.explicit:
        return {task: [path] for task, path in table.items()}
    task, file = next(iter(table.items()))
    folder = model_folder(file, task)
    others = {file for shown in run.files.values() for file in shown.values()} - set(table.values())
    walked = pulse.find_files(folder)
    found = {t: [p for p in f if not p.name.startswith(DIFFERENCES) and p not in others] for t, f in walked.items()}
    for task, path in table.items():
        if path not in found[task]:
            warnings.append(
                f"pulse: {task}/{path.name}: the original scorer would not find it, by the words in its whole path"
            )
    return found


def patients_of(stores: Sequence[SegmentStore]) -> dict[str, str]:
    """Record id → patient id of the records of some stores whose source knows patients."""
    rows = record_rows(list(stores), ["patient_id", "patient_known"])
    return {row["record_id"]: row["patient_id"] for row in rows if row.get("patient_known") and row["patient_id"]}
