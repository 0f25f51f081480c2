"""The rows of one task under every condition, and metrics of them on shared bootstrap resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.evaluation.baselines import MAJORITY, majority_prediction
from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.metrics.base import Metric, Row, has_own_choices, question_type
from ecglm.evaluation.predictions import Key
from ecglm.evaluation.resampling import Group, Measured, Question, Questions, by_seed
from ecglm.evaluation.statistics import Estimate, clean, interval

#: The metrics of some questions: name, metric, class set, and which of the questions it is meant for.
Chosen = tuple[str, Metric, tuple[str, ...], np.ndarray]


class TaskRows(Questions):
    """One task. conditions: ``real``, each control, and ``majority`` (the baseline's answers to the same questions).

    controls: the conditions beside ``real``; perturbed: those of them that show the patient's own ECG, disturbed;
    rivals: the others, which the gap is measured to. seeds: the decoding seeds of each condition.

    asked: every question of the task under any condition, sorted. Where the real run lacks a question (under any of its
    seeds) it is wrong there; where a control lacks one it is left out of that control, since a wrong answer there would
    flatter the gap.
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
        given = {c: by_seed({k: r for k, r in table.items() if r["task"] == task}) for c, table in tables.items()}
        asked: dict[Question, Row] = {}
        for per_seed in given.values():
            for table in per_seed.values():
                asked = {**table, **asked}
        super().__init__(asked, num_resamples=num_resamples, seed=seed)
        self.controls = [c for c in given if c != REAL]
        self.perturbed = [c for c in self.controls if is_perturbation(c)]
        self.rivals = [c for c in self.controls if not is_perturbation(c)]
        self.seeds = {c: list(per_seed) or [0] for c, per_seed in given.items()}
        self.missing = {
            condition: self.add(condition, list(per_seed.values()), lacking_is_wrong=condition == REAL)
            for condition, per_seed in given.items()
        }
        guesses = ({**row, "prediction": majority_prediction(row, majority), "error": None} for row in asked.values())
        self.add(MAJORITY, [dict(zip(asked, guesses, strict=True))])

    def select(self, mask: np.ndarray, shared: Sequence[str] = ()) -> dict[str, Group]:
        """The questions of a mask per condition; shared: of these conditions alone, on the questions all of them have.

        Of a condition those questions count that it answered under all of its seeds.
        """
        if not shared:
            return {c: (c, mask & self.present(c)) for c in self.answers if c == MAJORITY or c in self.seeds}
        for condition in shared:
            mask = mask & self.present(condition)
        return {c: (c, mask) for c in shared}

    def estimates(self, names: Mapping[str, Group], measured: Measured, metric: Metric) -> dict[str, Any]:
        """The metric's estimate for each named group."""
        values, spread = measured.values(metric.value)
        return {name: self.estimate(values[i], spread[:, i], mask) for i, (name, (_, mask)) in enumerate(names.items())}

    def gaps(
        self, groups: Mapping[str, Group], measured: Measured, metric: Metric
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """(gap of ``real`` to each other condition, headline gap to the best rival), positive where real is better.

        groups hold the same questions under every condition. In each resample the best rival is found anew, as
        ``real − max(controls)`` says. A control without a defined value is no rival; the headline is None without
        rivals among the groups, and without value where none is defined.
        """
        names, mask = list(groups), groups[REAL][1]
        sign = 1.0 if metric.higher_is_better else -1.0
        values, spread = measured.values(lambda sums: sign * metric.value(sums))
        real = names.index(REAL)
        pairwise = {
            name: self.estimate(values[real] - values[i], spread[:, real] - spread[:, i], mask)
            for i, name in enumerate(names)
            if i != real
        }
        rivals = [c for c in self.rivals if c in groups]
        if not rivals:
            return pairwise, None
        columns = [names.index(c) for c in rivals]
        best, gap, differences = gap_to_best(values[real], values[columns], spread[:, real], spread[:, columns])
        if differences is None:
            return pairwise, {"control": rivals[best], **Estimate(None, None, None, int(mask.sum())).as_dict()}
        low, high = interval(differences) if self.num_patients_of(mask) > 1 else (None, None)
        return pairwise, {"control": rivals[best], **Estimate(clean(gap), low, high, int(mask.sum())).as_dict()}


def gap_to_best(
    real: float, rivals: np.ndarray, real_spread: np.ndarray, rival_spread: np.ndarray
) -> tuple[int, float, np.ndarray | None]:
    """(index of the best rival, real − best, the same per resample with the best found anew in each).

    real: a score, greater is better; rivals ``(r,)``; spreads ``(num_resamples,)`` and ``(num_resamples, r)``. NaN is
    no rival; where none is defined the differences are None.
    """
    scores = np.where(np.isnan(rivals), -np.inf, rivals)
    best = int(np.argmax(scores))
    if np.isinf(scores[best]):
        return best, float("nan"), None
    top = np.where(np.isnan(rival_spread), -np.inf, rival_spread).max(axis=1)
    return best, float(real - scores[best]), real_spread - np.where(np.isinf(top), np.nan, top)


def metrics_of(rows: Questions, mask: np.ndarray | None = None) -> list[Chosen]:
    """The metrics that fit some of the questions (of a mask), each with its class set and its questions.

    Means over classes are left to the question types where a task mixes several, and to nothing where every row offers
    choices of its own: a class set of mixed questions means nothing.
    """
    mask = np.ones(len(rows.asked), dtype=bool) if mask is None else mask
    members = asked_in(rows, mask)
    one_space = len({question_type(row) for row in members}) == 1 and not any(map(has_own_choices, members))
    chosen: list[Chosen] = []
    class_sets: dict[Any, tuple[str, ...]] = {}
    for name in registry.names("metrics"):
        metric: Metric = registry.get("metrics", name)
        fits = mask & rows.fitting(metric)
        if not fits.any() or (metric.classes is not None and not one_space):
            continue
        key = (metric.classes, fits.tobytes())
        if metric.classes is not None and key not in class_sets:
            class_sets[key] = metric.labels(asked_in(rows, fits))
        chosen.append((name, metric, class_sets.get(key, ()), fits))
    return chosen


def asked_in(rows: Questions, mask: np.ndarray) -> list[Row]:
    """The rows that ask the questions of a mask."""
    return [row for row, chosen in zip(rows.asked.values(), mask, strict=True) if chosen]
