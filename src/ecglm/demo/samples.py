"""ECGs to try the demo with: of stores, under neutral names, or synthetic ones made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ecglm.demo.shown import DISPLAY, Origin, Shown
from ecglm.demo.texts import plain
from ecglm.errors import EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.records.synthetic_rhythm import RHYTHMS
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split

#: Splits in the order that samples are drawn from them.
_ORDER = ("test", "val", "train", "")


@dataclass(frozen=True)
class Sample:
    """An ECG that can be picked. title: what people see and pick; says nothing of the patient or the diagnosis. split:
    train, val, test, or empty where it is not known.
    """

    title: str
    split: str = ""


@dataclass(frozen=True)
class Truth:
    """What is known of a sample, for those who want to see it after asking. report, labels: plain text."""

    report: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    store: int
    position: int  # of the record's first segment
    record: str


class Samples:
    """At most ``count`` samples, the same for the same stores and seed.

    stores: opened stores, whose pipeline must be the model's (``pipeline``) for the model to be asked; without stores
    the samples are synthetic ECGs, one rhythm after another. splits: record id → split (from conversations), where the
    stores do not say; samples are drawn from all splits by turns, test first: those are the ones a model has not seen.
    """

    def __init__(
        self,
        stores: Sequence[SegmentStore] = (),
        *,
        pipeline: Mapping[str, Any] | None = None,
        splits: Mapping[str, str] | None = None,
        count: int = 24,
        seed: int = 0,
    ) -> None:
        self._stores, self._pipeline = tuple(stores), dict(pipeline or DISPLAY)
        self._places: list[_Place] = []
        self._splits: list[str] = []
        self._source: Synthetic | None = None
        if stores:
            for place, split in _spread(self._stores, splits or {}, count, seed):
                self._places.append(place)
                self._splits.append(split)
        else:
            seconds = self._pipeline["seg_len"] / self._pipeline["rate"]
            duration = float(np.clip(np.ceil(seconds), 10, 60))
            self._source = Synthetic(num_patients=count, seed=seed, duration_s=duration, records_per_patient=(1, 1))

    def __len__(self) -> int:
        return len(self._source.keys()) if self._source is not None else len(self._places)

    def all(self) -> list[Sample]:
        """All samples in order."""
        if self._source is not None:
            return [Sample(f"Synthetic {number}") for number in range(1, len(self) + 1)]
        return [Sample(f"Sample {number}", split) for number, split in enumerate(self._splits, 1)]

    def get(self, title: str) -> Shown:
        """The ECG of a sample by its title, all its segments. EcglmError for a title that does not exist."""
        number = self._number(title)
        if self._source is not None:
            record = self._record(number)
            people = (record.patient_id, record.record_id)
            origin = Origin("synthetic", record.record_id, people=people)
            return Shown(f"Synthetic {number}", record=record, pipeline=self._pipeline, origin=origin)
        place, split = self._places[number - 1], self._splits[number - 1]
        store = self._stores[place.store]
        positions = store.segments_of(place.record)
        row = store.row(place.position)
        origin = Origin("store", place.record, store.fingerprint, (row["patient_id"], place.record), split)
        pipeline = dict(store.manifest["settings"]["pipeline"])
        return Shown(f"Sample {number}", prepared=store.take(positions), pipeline=pipeline, origin=origin)

    def reveal(self, title: str) -> Truth:
        """Report and labels of a sample; no id, no date."""
        number = self._number(title)
        if self._source is not None:
            record = self._record(number)
            return Truth(plain(record.report_en), tuple(plain(label) for label in record.labels))
        place = self._places[number - 1]
        row = self._stores[place.store].row(place.position)
        report = row.get("report_en") or row.get("report") or ""
        return Truth(plain(report), tuple(plain(label) for label in row.get("labels") or ()))

    def of_segment(self, segment_id: str, name: str = "Neighbour") -> Shown:
        """A segment of the stores by its id, to be drawn under a neutral name. EcglmError where no store has it."""
        found = self._find(segment_id)
        if found is None:
            raise EcglmError("no open store holds this ECG; give its store with --store")
        store, position = found
        pipeline = dict(store.manifest["settings"]["pipeline"])
        return Shown(name, prepared=store.take([position]), pipeline=pipeline, origin=Origin("store"))

    def holds(self, segment_id: str) -> bool:
        """Whether a store has the segment."""
        return self._find(segment_id) is not None

    def _find(self, segment_id: str) -> tuple[SegmentStore, int] | None:
        for store in self._stores:
            position = pc.index(store.index.column("segment_id"), segment_id).as_py()
            if position >= 0:
                return store, position
        return None

    def _record(self, number: int) -> Any:
        assert self._source is not None
        rhythms = tuple(RHYTHMS)
        key = self._source.keys()[number - 1]
        one = Synthetic(
            num_patients=self._source.num_patients,
            seed=self._source.seed,
            duration_s=self._source.duration_s,
            records_per_patient=(1, 1),
            rhythms=(rhythms[(number - 1) % len(rhythms)],),
        )
        return one.read(key)

    def _number(self, title: str) -> int:
        titles = [sample.title for sample in self.all()]
        if title not in titles:
            raise EcglmError(f"no sample '{plain(title)[:40]}'; there are {len(titles)}")
        return titles.index(title) + 1


def _spread(
    stores: Sequence[SegmentStore], splits: Mapping[str, str], count: int, seed: int
) -> list[tuple[_Place, str]]:
    """Records drawn from each split by turns, in an order that the seed decides."""
    groups: dict[str, list[_Place]] = {}
    for number, store in enumerate(stores):
        stated, folds = (store.index.column(name).to_pylist() for name in ("split", "fold"))
        for record in store.records():
            position = store.segments_of(record)[0]
            fold = folds[position]
            split = splits.get(record) or stated[position] or (fold_split(int(fold)) if fold in range(1, 11) else "")
            groups.setdefault(split, []).append(_Place(number, position, record))
    rng = np.random.default_rng(seed)
    drawn: list[list[tuple[_Place, str]]] = []
    for split in sorted(groups, key=lambda s: (_ORDER.index(s) if s in _ORDER else len(_ORDER), s)):
        places = groups[split]
        drawn.append([(places[i], split) for i in rng.permutation(len(places))[:count]])
    turns: list[tuple[_Place, str]] = []
    for turn in range(count):
        turns += [group[turn] for group in drawn if turn < len(group)]
    return turns[:count]
