"""A store's ECGs with split and labels, and their features from a frozen encoder: what probes are fed with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ecglm.errors import EcglmError, nearest
from ecglm.models.encoders.base import pooled
from ecglm.prompts.data import EcgSource
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits


@dataclass(frozen=True)
class Labelled:
    """One entry per record of the stores: ids, patients, splits, and labels as ``"group:name"``."""

    records: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[frozenset[str], ...]

    def __len__(self) -> int:
        return len(self.records)

    def at(self, split: str) -> np.ndarray:
        """Positions of the records of a split."""
        return np.flatnonzero(np.array(self.splits) == split)

    def groups(self) -> list[str]:
        """Every label group there is."""
        return sorted({label.partition(":")[0] for labels in self.labels for label in labels})

    def classes(self, group: str) -> list[str]:
        """Names of a group's labels; EcglmError where no record has one."""
        found = sorted({x.partition(":")[2] for labels in self.labels for x in labels if x.startswith(f"{group}:")})
        if not found:
            known = self.groups()
            raise EcglmError(f"no record has a label of the group '{group}'{nearest(group, known)}; groups: {known}")
        return found

    def targets(self, group: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """``(rows, targets, classes)``: positions of the records that have a label of the group at all, bool
        ``(num_rows, num_classes)``, and the names of the columns. EcglmError where no record has one.
        """
        classes = self.classes(group)
        matrix = np.array([[f"{group}:{name}" in labels for name in classes] for labels in self.labels])
        rows = np.flatnonzero(matrix.any(axis=1))
        return rows, matrix[rows], classes


def read_labelled(
    stores: Sequence[SegmentStore], *, split_seed: int = 0, limit: int | None = None, trained_on: Any = ()
) -> Labelled:
    """The records of the stores, split by patient as ``ecglm map`` does: official folds, else a seeded hash.

    limit: the first so many records of each split. trained_on: hashes (``prompts.people``) of whom the encoder has
    learned from. Raises EcglmError for a record in two stores, for a split without records, and where the encoder has
    learned from a test record or its patient.
    """
    splits = assign_splits(list(stores), seed=split_seed)
    rows: dict[str, tuple[str, str, frozenset[str]]] = {}
    for store in stores:
        columns = [store.index.column(name).to_pylist() for name in ("record_id", "patient_id", "labels")]
        seen = set(rows)
        for record, patient, labels in zip(*columns, strict=True):
            if record in seen:
                raise EcglmError(f"record {record} is in two of the given stores; give each record once")
            rows[record] = (patient, splits[patient], frozenset(labels or ()))
    known = {int(x) for x in trained_on}
    if known:
        told = [r for r, (p, s, _) in rows.items() if s == "test" and (digest(r) in known or digest(p) in known)]
        if told:
            raise EcglmError(
                f"{len(told)} test records are of patients this encoder was trained on (first: {told[0]}); probe it on "
                "a store it has not seen, or with the split seed it was pretrained with"
            )
    kept: list[str] = []
    for split in ("train", "val", "test"):
        found = [record for record, row in rows.items() if row[1] == split][:limit]
        if not found and split != "val":
            raise EcglmError(f"{', '.join(str(s.path) for s in stores)}: no record in the split '{split}'")
        kept += found
    return Labelled(
        tuple(kept), tuple(rows[r][0] for r in kept), tuple(rows[r][1] for r in kept), tuple(rows[r][2] for r in kept)
    )


def tensors(ecgs: EcgSource, records: Sequence[str]) -> torch.Tensor:
    """What the encoder reads of the records' first segments: ``(num_records, *input_shape)``."""
    return torch.from_numpy(np.stack([np.asarray(ecgs.encode(record).tensor) for record in records]))


def features(encoder: nn.Module, ecgs: EcgSource, records: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
    """One vector per ECG, frozen, nothing masked: float32 ``(num_records, dim)``. It is what the encoder says itself
    (``pooled``), or the mean over its tokens.

    Raises EcglmError naming the record where a feature is not a finite number.
    """
    encoder.eval()
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    found = []
    with torch.inference_mode():
        for start in range(0, len(records), batch_size):
            batch = records[start : start + batch_size]
            x = tensors(ecgs, batch).to(device)
            vectors = pooled(encoder, x).float().cpu().numpy()
            if not np.isfinite(vectors).all():
                bad = batch[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
                raise EcglmError(f"{bad}: the encoder's features are not finite numbers; its weights are damaged")
            found.append(vectors)
    return np.concatenate(found)
