"""A store whose splits, copies and bad leads are known one by one, importable by worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ecglm.files import fingerprint
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.types import Record

RATE, SEG_LEN = 50, 250


@dataclass(frozen=True)
class Listed:
    """These records, as a source."""

    listed: Sequence[Record]
    name: ClassVar[str] = "listed"

    def version(self) -> str:
        return "1"

    def fingerprint(self) -> dict[str, Any]:
        return {"of": fingerprint([[r.record_id, r.split, r.patient_id, float(r.signal.sum())] for r in self.listed])}

    def keys(self) -> list[str]:
        return [record.record_id for record in self.listed]

    def read(self, key: str) -> Record:
        return next(record for record in self.listed if record.record_id == key)

    def accounting(self) -> dict[str, list[str]]:
        return {}


def split_of(patient: str) -> str:
    number = int(patient.rpartition("p")[2])
    return "test" if number % 4 == 3 else "val" if number % 8 == 6 else "train"


def people(num_patients: int = 24, *, seed: int = 5, duration_s: float = 5.0) -> list[Record]:
    """Clean synthetic ECGs of patients with one or two records each, split by patient."""
    source = Synthetic(
        num_patients=num_patients,
        seed=seed,
        rate=100,
        records_per_patient=(1, 2),
        artefacts=False,
        duration_s=duration_s,
    )
    return [replace(r, split=split_of(r.patient_id)) for r in map(source.read, source.keys())]


def renamed(record: Record, name: str, *, patient: str = "", noise_uv: float = 0.0, **changes: Any) -> Record:
    """The same signal as another record, of another patient unless it is named."""
    noise = np.random.default_rng(0).normal(0, noise_uv / 1000, record.signal.shape).astype(np.float32)
    return replace(
        record, record_id=name, patient_id=patient or f"{name}-patient", signal=record.signal + noise, **changes
    )


def with_flat_lead(record: Record, name: str) -> Record:
    signal = record.signal.copy()
    signal[7] = 0.0
    return replace(record, record_id=name, patient_id=f"{name}-patient", signal=signal)


def store_of(folder: Path, records: Sequence[Record], **options: Any) -> SegmentStore:
    pipeline = get_pipeline("default", **{"rate": RATE, "seg_len": SEG_LEN, **options})
    prepare(Listed(records), pipeline, folder, progress=False)
    return SegmentStore(folder)


def quiet(text: str) -> None:
    """No progress lines."""
