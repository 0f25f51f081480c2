"""What an encoder is pretrained on: every segment of a store's training and validation patients, with its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ecglm.conversations.table import read_conversations
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.randomness import generator_for
from ecglm.representations.augment import Augmentation, augment_signal
from ecglm.representations.image_augment import augment_image
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.objectives.base import Pretraining, Shown
from ecglm.types import EcgInput


@dataclass(frozen=True)
class Row:
    """One segment: its place in the stores, whose it is, and the text that belongs to it."""

    store: int
    position: int
    segment_id: str
    record_id: str
    patient_id: str
    text: str = ""


def read_rows(
    stores: Sequence[SegmentStore],
    files: Sequence[str],
    *,
    split_seed: int,
    texts: bool,
    left_out: Counter[str] | None = None,
) -> dict[str, list[Row]]:
    """Split → rows, of the splits train and val alone: nobody of the test split is ever read.

    Without files every segment counts; patients are split as ``ecglm map`` does, and the text is the record's English
    report (``report_en``). With files (conversations), those ECGs count that a conversation about one ECG has, in that
    conversation's split; the text is its last answer. texts: whether any are read at all. left_out: is told what of
    the files was not read: ``not_one_ecg``, conversations; ``ecg_not_in_store``, records of train and val. Raises
    EcglmError for a record in two stores or with two texts, a split without rows, and a patient in two splits.
    """
    left_out = Counter() if left_out is None else left_out
    told = _told(files, texts, left_out) if files else None
    splits: Mapping[str, str] = {} if told is not None else assign_splits(list(stores), seed=split_seed)
    found: dict[str, list[Row]] = {"train": [], "val": []}
    seen: dict[str, int] = {}
    patients: dict[str, set[str]] = {"train": set(), "val": set()}
    for number, store in enumerate(stores):
        names = ("segment_id", "record_id", "patient_id", "report_en")
        for position, (segment, record, patient, report) in enumerate(
            zip(*(store.index.column(name).to_pylist() for name in names), strict=True)
        ):
            if seen.setdefault(record, number) != number:
                raise EcglmError(f"record {record} is in two of the given stores; give each record once")
            if told is None:
                split, text = splits[patient], report or ""
            elif record in told:
                split, text = told[record]
            else:
                continue
            if split in found:
                patients[split].add(patient)
                text = text.strip() if texts else ""
                found[split].append(Row(number, position, segment, record, patient, text))
    if absent := sum(split in found for record, (split, _) in (told or {}).items() if record not in seen):
        left_out["ecg_not_in_store"] = absent
    for split, rows in found.items():
        if not rows:
            raise EcglmError(f"{', '.join(files) or ', '.join(str(s.path) for s in stores)}: no ECG in split '{split}'")
    shared = sorted(patients["train"] & patients["val"])
    if shared:
        raise EcglmError(f"{len(shared)} patients are in train and val (first: {shared[0]}); run ecglm audit")
    return found


def _told(files: Sequence[str], texts: bool, left_out: Counter[str]) -> dict[str, tuple[str, str]]:
    """Record → (split, text) of the conversations about one ECG; EcglmError where a record has two texts or a patient
    two splits.
    """
    found: dict[str, tuple[str, str]] = {}
    people: dict[str, str] = {}
    for file in files:
        for conversation in read_conversations(file):
            for patient in conversation.patients:
                if people.setdefault(patient, conversation.split) != conversation.split:
                    raise EcglmError(
                        f"{file}: patient {patient} is in {people[patient]} and {conversation.split}; run ecglm audit"
                    )
            if len(conversation.ecgs) != 1:
                left_out["not_one_ecg"] += 1
                continue
            answers = [turn.text for turn in conversation.turns if turn.role == "assistant" and texts]
            told = (conversation.split, answers[-1] if answers else "")
            if found.setdefault(conversation.ecgs[0], told) != told:
                raise EcglmError(
                    f"{file}: record {conversation.ecgs[0]} has several texts; give a file with one report for each "
                    "ECG (ecglm map labels --tasks report), or leave data.files out for the store's own reports"
                )
    return found


def people_of(rows: Sequence[Row]) -> np.ndarray:
    """Sorted hashes of the patients and records of the rows, as those of ``prompts.people``: uint64."""
    return np.array(sorted({digest(x) for row in rows for x in (row.patient_id, row.record_id) if x}), np.uint64)


class PretrainDataset(Dataset):
    """Items of an objective. ``data[i]`` shows the ECG as it is, ``data[i, epoch]`` as training shows it in that epoch:
    a function of (seed, epoch, segment) alone, whichever worker or rank asks and in whatever order.

    rejected: ``{"id", "reason", "detail"}`` of every segment that cannot be used, found before training starts
    (``no_report`` where the objective reads text). lengths: tokens of each item, 1 where an item has none.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        stores: Sequence[SegmentStore],
        representation: Any,
        objective: Pretraining,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.stores, self.representation, self.objective, self.seed = stores, representation, objective, seed
        self.augmentation = augmentation or Augmentation()
        for store in stores:
            self.augmentation.check(store.rate, store.seg_len)
        self.text_ids: dict[str, int] = {}
        self.rejected: list[dict[str, str]] = []
        self.rows: list[Row] = []
        self.lengths: list[int] = []
        for row in rows:
            try:
                if objective.reads_text and not row.text:
                    raise RejectedRecord("no_report", f"{row.record_id} has no English report")
                self.text_ids.setdefault(row.text, len(self.text_ids))
                item = self._item(row, None) if objective.has_length else None
            except RejectedRecord as error:
                self.rejected.append({"id": row.segment_id, "reason": error.reason, "detail": error.detail})
                continue
            self.rows.append(row)
            self.lengths.append(len(getattr(item, "input_ids", (0,))))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        index, epoch = index if isinstance(index, tuple) else (index, None)
        return self._item(self.rows[index], epoch)

    def _item(self, row: Row, epoch: int | None) -> Any:
        rng = generator_for(self.seed, "pretrain", row.segment_id, str(epoch))
        shown = Shown(row.segment_id, self._show(row, epoch), row.text, self.text_ids[row.text], rng)
        return self.objective.item(shown)

    def _show(self, row: Row, epoch: int | None) -> EcgInput:
        store = self.stores[row.store]
        segment, rate = store[row.position], store.rate
        shown: EcgInput
        if epoch is None:
            shown = self.representation(segment, rate)
            return shown
        if self.augmentation.effects:
            segment = augment_signal(
                segment, rate, self.augmentation, seed=self.seed, row_id=row.segment_id, epoch=epoch
            )
        shown = self.representation.in_training(segment, rate, seed=self.seed, row_id=f"{row.segment_id}/{epoch}")
        if self.augmentation.image is None or shown.tensor is None:
            return shown
        picture = np.ascontiguousarray(shown.tensor.transpose(1, 2, 0))
        picture = augment_image(picture, self.augmentation.image, seed=self.seed, row_id=row.segment_id, epoch=epoch)
        return EcgInput(shown.token_ids, np.ascontiguousarray(picture.transpose(2, 0, 1)))

    def counts(self) -> dict[str, int]:
        """``used``, ``rejected:reason`` …, ``texts``, how many different ones; adds up to the rows given."""
        reasons = Counter(f"rejected:{r['reason']}" for r in self.rejected)
        told = {"texts": len({r.text for r in self.rows})} if self.objective.reads_text else {}
        return {"used": len(self.rows), **told, **dict(sorted(reasons.items()))}
