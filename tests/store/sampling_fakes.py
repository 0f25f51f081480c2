"""Stores of known signals for the tests of sampling and percentiles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from store_fakes import FakePipeline

from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, Record, Segments


@dataclass(frozen=True, kw_only=True)
class ArraySource:
    """Records of given signals ``(12, L)`` in mV."""

    signals: dict[str, np.ndarray]
    name: str = "arrays"
    version_text: str = "1"
    folds: dict[str, int] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    def version(self) -> str:
        return self.version_text

    def fingerprint(self) -> dict[str, Any]:
        sums = {key: float(np.abs(signal).sum()) for key, signal in self.signals.items()}
        return {"name": self.name, "keys": list(self.signals), "sums": sums, "version": self.version_text}

    def keys(self) -> list[str]:
        return list(self.signals)

    def read(self, key: str) -> Record:
        return Record(
            record_id=key,
            signal=self.signals[key].astype(np.float32),
            sampling_rate=250,
            leads=LEADS,
            patient_id=self.patients.get(key, f"{key}-patient"),
            fold=self.folds.get(key, 1),
            metadata=self.metadata.get(key, {}),
        )

    def accounting(self) -> dict[str, list[str]]:
        return {}


@dataclass(frozen=True, kw_only=True)
class FlaggingPipeline(FakePipeline):
    """Cuts, and flags the records it is told to."""

    flags: dict[str, list[str]] = field(default_factory=dict)

    def run(self, record: Record) -> Segments:
        return replace(super().run(record), quality={"flags": self.flags.get(record.record_id, [])})


def make_store(
    path: Path,
    signals: dict[str, np.ndarray],
    seg_len: int = 250,
    rate: int = 250,
    flags: dict[str, list[str]] | None = None,
    **facts: Any,
) -> SegmentStore:
    """A finished store of the signals, every record in the official training folds unless ``folds`` says else."""
    pipeline = FlaggingPipeline(rate=rate, seg_len=seg_len, flags=flags or {})
    prepare(ArraySource(signals=signals, **facts), pipeline, path, progress=False)
    return SegmentStore(path)


def beat_train(kind: int, rng: np.random.Generator, length: int = 500, rate: int = 250) -> np.ndarray:
    """A strip (12, length) of one of four morphologies: narrow, wide (lbbb-like), inverted, fibrillatory."""
    t = np.arange(length) / rate
    mean = 0.8 + 0.1 * rng.standard_normal()
    spread = 0.25 if kind == 3 else 0.02
    beats = np.cumsum(np.maximum(mean + spread * rng.standard_normal(12), 0.35)) - 0.5 * rng.random()
    near = t[:, None] - beats
    width, height, t_height = ((0.012, 1.0, 0.2), (0.045, 1.6, -0.4), (0.012, -1.0, 0.3), (0.012, 0.7, 0.0))[kind]
    wave = height * np.exp(-0.5 * (near / width) ** 2) + t_height * np.exp(-0.5 * ((near - 0.28) / 0.05) ** 2)
    strip = wave.sum(axis=1)
    if kind == 3:
        strip = strip + 0.12 * np.sin(2 * np.pi * 6 * t + 6 * rng.random())
    gains = np.linspace(0.5, 1.2, 12) * (1 + 0.08 * rng.standard_normal(12))
    return (gains[:, None] * strip + 0.02 * rng.standard_normal((12, length))).astype(np.float32)
