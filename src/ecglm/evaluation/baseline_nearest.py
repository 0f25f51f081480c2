"""The baseline ``nearest``: the training answer about the ECG whose 288 measurements are nearest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.baseline_models import NO_ANSWER, Alone, Asked, Prior, by_level, levels_of
from ecglm.evaluation.controls import REAL, Control, apply_control, swap_partners
from ecglm.evaluation.metrics.base import Row
from ecglm.prompts.data import EcgSource
from ecglm.signals.features import ecg_bench_288
from ecglm.store.reader import SegmentStore

_SEGMENTS = 64  # measured at once
_TESTS = 256  # test questions compared with the training ECGs at once


class Nearest(Alone):
    """Measurements are standardised by the training ECGs. Training ECGs of the test patient are never taken.

    Candidates are the training ECGs asked the same question; where there is none (of another patient), those of its
    template, its type, its task (``answered_from``). Of equally near ones the first by conversation id is taken. Under
    ``no-ecg`` there is nothing to measure: the prior answers (``prior``).
    """

    batch = 512

    def __init__(
        self, learned: Sequence[Asked], asked: Sequence[Asked], stores: Sequence[SegmentStore], seed: int
    ) -> None:
        if not stores:
            raise EcglmError("baseline 'nearest' measures ECGs; name the stores that hold them with --store")
        self.ecgs, self.seed = EcgSource(stores, None), seed
        self.prior = Prior(learned, drawn=False)
        swapped = any(a.control != REAL and registry.get("controls", a.control).swaps for a in asked)
        shown = {pair for a in asked for pair in zip(a.conversation.ecgs, a.conversation.patients, strict=True)}
        self.partners = swap_partners(sorted(shown), seed) if swapped else {}
        names = sorted({ecg for a in learned for ecg in a.conversation.ecgs if ecg in self.ecgs})
        if not names:
            raise EcglmError("baseline 'nearest': the stores hold no ECG of the training split; name their store too")
        raw = self._measure([(name, self.ecgs.segment(name), self.ecgs.rate(name)) for name in names])
        self.centre, spread = raw.mean(axis=0), raw.std(axis=0)
        self.scale = np.where(spread > 0, spread, np.inf)  # what never varies tells nothing
        known = dict(zip(names, (raw - self.centre) / self.scale, strict=True))
        self.learned = [a for a in learned if a.conversation.ecgs and all(e in known for e in a.conversation.ecgs)]
        self.vectors = [np.concatenate([known[e] for e in a.conversation.ecgs]) for a in self.learned]
        self.patients = [set(a.conversation.patients) for a in self.learned]
        self.places = by_level(self.learned)

    @staticmethod
    def _measure(segments: Sequence[tuple[str, np.ndarray, int]]) -> np.ndarray:
        """Measurements of segments of any rates: float64 ``(num_segments, 288)``."""
        found = np.empty((len(segments), 288))
        by_rate: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (_, segment, rate) in enumerate(segments):
            by_rate[rate, segment.shape[-1]].append(i)
        for (rate, _), places in by_rate.items():
            for start in range(0, len(places), _SEGMENTS):
                part = places[start : start + _SEGMENTS]
                found[part] = ecg_bench_288(np.stack([segments[i][1] for i in part]), rate)
        return found

    def __call__(self, asked: Sequence[Asked], rows: Sequence[Row]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{"error": NO_ANSWER} for _ in asked]
        vectors = self._vectors(asked, rows, answers)
        waiting = {i: list(levels_of(rows[i])) for i in vectors}
        while waiting:
            groups: dict[Any, list[int]] = defaultdict(list)
            for i, levels in waiting.items():
                if levels:
                    groups[levels.pop(0), len(asked[i].conversation.ecgs)].append(i)
            waiting = {i: levels for i, levels in waiting.items() if levels}
            for (level, num_ecgs), members in groups.items():
                places = [p for p in self.places.get(level, ()) if len(self.learned[p].conversation.ecgs) == num_ecgs]
                for i, place in self._nearest(asked, members, vectors, places).items():
                    near = self.learned[place]
                    text = near.row()["reference"]
                    answers[i] = {"prediction": text, "answered_from": level[0], "neighbour": near.conversation.id}
                    waiting.pop(i, None)
        return answers

    def _nearest(
        self, asked: Sequence[Asked], members: Sequence[int], vectors: dict[int, np.ndarray], places: Sequence[int]
    ) -> dict[int, int]:
        """Question → place of the nearest training answer, where there is one of another patient."""
        found: dict[int, int] = {}
        if not places:
            return found
        table = np.stack([self.vectors[p] for p in places])
        norms = (table**2).sum(axis=1)
        owners: dict[str, list[int]] = defaultdict(list)
        for column, p in enumerate(places):
            for patient in self.patients[p]:
                owners[patient].append(column)
        for start in range(0, len(members), _TESTS):
            part = members[start : start + _TESTS]
            tests = np.stack([vectors[i] for i in part])
            distance = np.round(norms[None, :] - 2.0 * tests @ table.T, 9)
            for line, i in enumerate(part):
                for patient in set(asked[i].conversation.patients):
                    distance[line, owners.get(patient, [])] = np.inf
                best = int(np.argmin(distance[line]))
                if np.isfinite(distance[line, best]):
                    found[i] = places[best]
        return found

    def _vectors(
        self, asked: Sequence[Asked], rows: Sequence[Row], answers: list[dict[str, Any]]
    ) -> dict[int, np.ndarray]:
        """Standardised measurements of what each question shows; answers are filled in where none can be made."""
        segments: dict[tuple[str, str, str], tuple[str, np.ndarray, int]] = {}
        keys: dict[int, list[tuple[str, str, str]]] = {}
        for i, one in enumerate(asked):
            control: Control | None = None if one.control == REAL else registry.get("controls", one.control)
            if not one.conversation.ecgs or (control is not None and control.removes_ecg):
                answers[i] = {**self.prior.answer(rows[i]), "answered_from": "prior"}
                continue
            try:
                keys[i] = [
                    self._segment(one, number, control, segments) for number in range(len(one.conversation.ecgs))
                ]
            except RejectedRecord as error:
                answers[i] = {"error": str(error)}
        names = list(segments)
        if not names:
            return {}
        measured = (self._measure([segments[name] for name in names]) - self.centre) / self.scale
        place = {name: i for i, name in enumerate(names)}
        return {i: np.concatenate([measured[place[key]] for key in found]) for i, found in keys.items()}

    def _segment(
        self,
        one: Asked,
        number: int,
        control: Control | None,
        segments: dict[tuple[str, str, str], tuple[str, np.ndarray, int]],
    ) -> tuple[str, str, str]:
        """The key of what is shown as the ECG of a question, which is put among the segments."""
        record = one.conversation.ecgs[number]
        source = self.partners[record] if control is not None and control.swaps else record
        row_id = f"{one.conversation.id}/{number}"  # as predict seeds it
        drawn = control is not None and not control.swaps and not control.hides
        key = (one.control, source, row_id if drawn else "")
        if key not in segments:
            segment, rate = self.ecgs.segment(source), self.ecgs.rate(source)
            if control is not None:
                segment = apply_control(one.control, segment, rate, seed=self.seed, row_id=row_id)
            segments[key] = (source, segment, rate)
        return key
