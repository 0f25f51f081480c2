"""The rows of one task under every condition, and metrics of them on shared bootstrap resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.evaluation.baselines import MAJORITY, majority_prediction
from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.metrics.base import Metric, Row, answer_kind, class_set, question_type
from ecglm.evaluation.predictions import Key
from ecglm.evaluation.statistics import Estimate, clean, estimate, interval, patient_sums, resample_weights
from ecglm.evaluation.statistics import resampled_sums as resample

Keyed = Sequence[tuple[Key, Row]]
Rule = Callable[[Row], bool]


class TaskRows:
    """One task. conditions: ``real``, each control, and ``majority`` (the baseline's answers to the same questions).

    controls: the conditions beside ``real``; perturbed: those of them that show the patient's own ECG, disturbed;
    rivals: the others, which the gap is measured to.

    asked: every question of the task under any control, sorted. Where the real run lacks a question it is wrong there;
    where a control lacks one it is left out of that control, since a wrong answer there would flatter the gap.
    """

    def __init__(
        self,
        task: str,
        tables: Mapping[str, Mapping[Key, Row]],
        majority: Mapping[str, Any],
        *,
        num_resamples: int,
        seed: int,
    ) -> None:
        given = {c: {k: r for k, r in table.items() if r["task"] == task} for c, table in tables.items()}
        asked: dict[Key, Row] = {}
        for table in given.values():
            asked = {**table, **asked}
        self.asked = dict(sorted(asked.items()))
        self.controls = [c for c in given if c != REAL]
        self.perturbed = [c for c in self.controls if is_perturbation(c)]
        self.rivals = [c for c in self.controls if not is_perturbation(c)]
        self.missing = {c: [key for key in self.asked if key not in table] for c, table in given.items()}
        self.rows: dict[str, dict[Key, Row]] = {c: dict(sorted(table.items())) for c, table in given.items()}
        self.rows[REAL] = {
            key: given[REAL].get(key, {**row, "prediction": "", "error": "missing"}) for key, row in self.asked.items()
        }
        self.rows[MAJORITY] = {
            key: {**row, "prediction": majority_prediction(row, majority), "error": None}
            for key, row in self.asked.items()
        }
        self.patients = {key: str(row.get("patient_id") or f"row:{key}") for key, row in self.asked.items()}
        self.patient_keys = sorted(set(self.patients.values()))
        self._weights = resample_weights(len(self.patient_keys), num_resamples=num_resamples, seed=seed)

    def select(self, rule: Rule, shared: Sequence[str] = ()) -> dict[str, Keyed]:
        """The rows per condition that fit a rule; shared: of these alone, on the questions that all of them have."""
        keys = [key for key in self.asked if all(key in self.rows[c] for c in shared)]
        tables = {c: self.rows[c] for c in shared or self.rows}
        return {c: [(k, t[k]) for k in keys if k in t and rule(t[k])] for c, t in tables.items()}

    def measure(self, groups: Sequence[Keyed], metric: Metric, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """A metric's summed statistics of several groups of rows: ``(g, k)``, and resampled ``(num_resamples, g, k)``.

        All groups are weighted by the same resamples of the task's patients, so they may be compared pairwise.
        """
        sums = [
            patient_sums(
                [self.patients[key] for key, _ in group],
                metric.statistics([row for _, row in group], labels),
                self.patient_keys,
            )
            for group in groups
        ]
        table = np.concatenate(sums, axis=1)
        resampled = resample(table, self._weights)
        return table.sum(axis=0).reshape(len(groups), -1), resampled.reshape(len(resampled), len(groups), -1)

    def num_patients(self, group: Keyed) -> int:
        return len({self.patients[key] for key, _ in group})

    def estimate(self, point: float, resampled: np.ndarray, group: Keyed) -> dict[str, Any]:
        """A value with its interval, as it stands in scores.json."""
        return estimate(float(point), resampled, len(group), self.num_patients(group)).as_dict()

    def estimates(self, metric: Metric, labels: Sequence[str], groups: Mapping[str, Keyed]) -> dict[str, Any]:
        """The metric's estimate for each named group of rows."""
        point, resampled = self.measure(list(groups.values()), metric, labels)
        values, spread = metric.value(point), metric.value(resampled)
        return {name: self.estimate(values[i], spread[:, i], group) for i, (name, group) in enumerate(groups.items())}

    def gaps(self, metric: Metric, labels: Sequence[str], groups: Mapping[str, Keyed]) -> tuple[dict, dict | None]:
        """(gap of ``real`` to each other condition, headline gap to the best rival), positive where real is better.

        groups hold the same questions under every condition. In each resample the best rival is found anew, as
        ``real − max(controls)`` says. A control without a defined value is no rival; the headline is None without
        rivals among the groups, and without value where none is defined.
        """
        names = list(groups)
        point, resampled = self.measure(list(groups.values()), metric, labels)
        sign = 1.0 if metric.higher_is_better else -1.0
        values, spread = sign * metric.value(point), sign * metric.value(resampled)
        real, group = names.index(REAL), groups[REAL]
        pairwise = {
            name: self.estimate(values[real] - values[i], spread[:, real] - spread[:, i], group)
            for i, name in enumerate(names)
            if i != real
        }
        rivals = [c for c in self.rivals if c in groups]
        columns = [names.index(c) for c in rivals]
        if not columns:
            return pairwise, None
        scores = np.where(np.isnan(values[columns]), -np.inf, values[columns])
        best = int(np.argmax(scores))
        if np.isinf(scores[best]):
            return pairwise, {"control": rivals[best], **Estimate(None, None, None, len(group)).as_dict()}
        top = np.where(np.isnan(spread[:, columns]), -np.inf, spread[:, columns]).max(axis=1)
        low, high = interval(spread[:, real] - np.where(np.isinf(top), np.nan, top))
        if self.num_patients(group) < 2:
            low, high = None, None
        gap = Estimate(clean(values[real] - scores[best]), low, high, len(group))
        return pairwise, {"control": rivals[best], **gap.as_dict()}


def metrics_of(rows: Iterable[Row]) -> list[tuple[str, Metric, Rule]]:
    """The metrics that fit some rows, each with the rule for the rows it is computed on.

    Macro F1 is left to the question types where a task mixes several: a class set of mixed questions means nothing.
    """
    rows = list(rows)
    kinds = {answer_kind(row) for row in rows}
    one_type = len({question_type(row) for row in rows}) == 1
    chosen: list[tuple[str, Metric, Rule]] = []
    for name in registry.names("metrics"):
        metric: Metric = registry.get("metrics", name)
        if kinds & set(metric.kinds) and (name != "macro_f1" or one_type):
            chosen.append((name, metric, _of_kinds(metric.kinds)))
    return chosen


def _of_kinds(kinds: tuple[str, ...]) -> Rule:
    return lambda row: answer_kind(row) in kinds


def labels_for(name: str, rows: Iterable[Row]) -> tuple[str, ...]:
    """The class set a metric needs: that of the rows for macro F1, none for others."""
    return class_set(list(rows)) if name == "macro_f1" else ()
