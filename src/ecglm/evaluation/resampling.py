"""The questions of a task and their patients: any system's metrics on the same resamples of the patients.

A system answers each question once per decoding seed. A metric is computed for every seed and averaged over them; in
the bootstrap a patient's rows of all seeds and systems move together, so that systems may be compared pairwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, answer_kind
from ecglm.evaluation.predictions import Key
from ecglm.evaluation.statistics import estimate, resample_weights, resampled_sums

#: What makes a row one and the same question under every condition and seed: its id and turn.
Question = tuple[str, int]
#: A system (a condition of a run), and which of the questions: bool ``(num_questions,)``.
Group = tuple[str, np.ndarray]
#: What is to be computed: a metric, its class set, the groups.
Wanted = tuple[Metric, Sequence[str], Sequence[Group]]

_CELLS = 16_000_000  # patient sums held at once


@dataclass(frozen=True)
class Measured:
    """Summed statistics of several groups, per group ``(num_seeds, k)``, and ``(num_resamples, num_seeds, k)``."""

    point: Sequence[np.ndarray]
    resampled: Sequence[np.ndarray]

    def values(self, value: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``value`` per group, mean over its seeds: ``(num_groups, …)`` and ``(num_resamples, num_groups, …)``."""
        points = np.stack([value(part).mean(axis=0) for part in self.point])
        return points, np.stack([value(part).mean(axis=1) for part in self.resampled], axis=1)


class Questions:
    """Questions in order, their patients, and the answers of systems to them.

    asked: question → a row that asks it. ``answers`` of a system: per decoding seed one list over the questions, None
    where it has no answer.
    """

    def __init__(self, asked: Mapping[Question, Row], *, num_resamples: int, seed: int) -> None:
        self.asked = dict(sorted(asked.items()))
        self.place = {question: i for i, question in enumerate(self.asked)}
        patients = [str(row.get("patient_id") or f"row:{question}") for question, row in self.asked.items()]
        self.patient_keys, self.patient = np.unique(np.array(patients, dtype=object), return_inverse=True)
        self._kinds = np.array([answer_kind(row) for row in self.asked.values()], dtype=str)
        self.answers: dict[str, list[list[Row | None]]] = {}
        self._order = np.argsort(self.patient, kind="stable")
        self._settings = (num_resamples, seed)
        self._weights: np.ndarray | None = None
        self._known: dict[Any, list[np.ndarray]] = {}
        self._fitting: dict[Metric, np.ndarray] = {}
        self._present: dict[str, np.ndarray] = {}
        self._blocks: dict[Any, list[tuple[np.ndarray, np.ndarray]]] = {}

    @property
    def num_patients(self) -> int:
        return len(self.patient_keys)

    @property
    def weights(self) -> np.ndarray:
        """How often each patient stands in each resample: ``(num_resamples, num_patients)``."""
        if self._weights is None:
            num_resamples, seed = self._settings
            self._weights = resample_weights(self.num_patients, num_resamples=num_resamples, seed=seed)
        return self._weights

    def add(self, system: str, seeds: Sequence[Mapping[Question, Row]], *, lacking_is_wrong: bool = False) -> int:
        """A system by its answers, one table per decoding seed; returns how many answers it lacks.

        lacking_is_wrong: they count as wrong answers; otherwise such questions are left out of its sums.
        """
        self.answers[system] = [[table.get(question) for question in self.asked] for table in seeds or [{}]]
        lacking = 0
        for rows in self.answers[system]:
            for i, row in enumerate(self.asked.values()):
                if rows[i] is None:
                    lacking += 1
                    rows[i] = {**row, "prediction": "", "error": "missing"} if lacking_is_wrong else None
        return lacking

    def present(self, system: str) -> np.ndarray:
        """Which questions a system answered under every one of its seeds: bool ``(num_questions,)``."""
        if system not in self._present:
            known = [[row is not None for row in rows] for rows in self.answers[system]]
            self._present[system] = np.all(np.array(known, dtype=bool), axis=0)
        return self._present[system]

    def fitting(self, metric: Metric) -> np.ndarray:
        """Which questions a metric is meant for."""
        if metric not in self._fitting:
            mask = np.isin(self._kinds, list(metric.kinds))
            if metric.only is not None:
                rows = list(self.asked.values())
                mask[[i for i in np.flatnonzero(mask) if not metric.only(rows[i])]] = False
            self._fitting[metric] = mask
        return self._fitting[metric]

    def rows_of(self, system: str, mask: np.ndarray | None = None) -> list[Row]:
        """All rows of a system, seed by seed, of the questions of a mask."""
        chosen = np.ones(len(self.asked), dtype=bool) if mask is None else mask
        return [row for rows in self.answers[system] for i in np.flatnonzero(chosen) if (row := rows[i]) is not None]

    def num_patients_of(self, mask: np.ndarray) -> int:
        return len(np.unique(self.patient[mask]))

    def estimate(self, point: float, resampled: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """A value with its interval, as it stands in scores.json; ``n`` counts questions."""
        return estimate(float(point), resampled, int(mask.sum()), self.num_patients_of(mask)).as_dict()

    def patient_sums(self, metric: Metric, labels: Sequence[str], group: Group) -> list[np.ndarray]:
        """Per seed the metric's statistics of a group summed per patient: float64 ``(num_patients, k)``."""
        system, mask = group
        starts = np.searchsorted(self.patient[self._order], np.arange(self.num_patients))
        chosen = mask[:, None]
        return [
            np.add.reduceat(np.where(chosen, table, 0.0)[self._order], starts, axis=0)
            for table in self._statistics(metric, tuple(labels), system, mask)
        ]

    def measure(self, wanted: Sequence[Wanted]) -> list[Measured]:
        """Every wanted metric on its groups, all on the same resamples: as few matrix products as memory allows."""
        blocks = self._blocks
        waiting: list[tuple[Any, np.ndarray]] = []
        columns = 0
        for metric, labels, groups in wanted:
            for system, mask in groups:
                key = (metric, tuple(labels), system, mask.tobytes())
                if key in blocks:
                    continue
                blocks[key] = []
                for sums in self.patient_sums(metric, labels, (system, mask)):
                    waiting.append((key, sums))
                    columns += sums.shape[1]
                if columns * self.num_patients > _CELLS:
                    self._resample(waiting)
                    waiting, columns = [], 0
        self._resample(waiting)
        found = []
        for metric, labels, groups in wanted:
            parts = [blocks[metric, tuple(labels), system, mask.tobytes()] for system, mask in groups]
            found.append(
                Measured(
                    [np.stack([point for point, _ in part]) for part in parts],
                    [np.stack([spread for _, spread in part], axis=1) for part in parts],
                )
            )
        return found

    def _resample(self, waiting: Sequence[tuple[Any, np.ndarray]]) -> None:
        """One matrix product for the patient sums that wait; patients without any of the rows are left out of it."""
        if not waiting:
            return
        table = np.concatenate([sums for _, sums in waiting], axis=1)
        used = np.flatnonzero(np.any(table != 0, axis=1))
        if 2 * len(used) < len(table):
            spread = resampled_sums(table[used], self.weights[:, used])
        else:
            spread = resampled_sums(table, self.weights)
        point, start = table.sum(axis=0), 0
        for key, sums in waiting:
            part = slice(start, start + sums.shape[1])
            self._blocks[key].append((point[part], spread[:, part]))
            start += sums.shape[1]

    def _statistics(self, metric: Metric, labels: tuple[str, ...], system: str, mask: np.ndarray) -> list[np.ndarray]:
        """Per seed the row statistics ``(num_questions, k)``, zero where there is no row; read from texts once.

        A metric over classes is computed on the group's rows alone, since its columns depend on their class set.
        """
        within = mask if labels else self.fitting(metric)
        key = (metric, labels, system, within.tobytes() if labels else b"")
        if key not in self._known:
            tables = []
            for rows in self.answers[system]:
                places = [i for i in np.flatnonzero(within) if rows[i] is not None]
                found = np.asarray(metric.statistics([rows[i] for i in places], labels), dtype=np.float64)  # type: ignore[misc]
                table = np.zeros((len(self.asked), found.shape[1]))
                table[places] = found
                tables.append(table)
            self._known[key] = tables
        return self._known[key]


def by_seed(table: Mapping[Key, Row]) -> dict[int, dict[Question, Row]]:
    """One condition's rows per decoding seed, in the order of the seeds."""
    found: dict[int, dict[Question, Row]] = {}
    for (row_id, turn, seed), row in table.items():
        found.setdefault(seed, {})[row_id, turn] = row
    return dict(sorted(found.items()))
