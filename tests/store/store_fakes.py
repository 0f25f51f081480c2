"""A tiny source and pipeline whose every byte is known, importable by worker processes and subprocesses."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.files import fingerprint
from ecglm.types import LEADS, Record, Segments

SEG_LEN, RATE = 50, 100


def signal_of(number: int, num_samples: int = 2 * SEG_LEN) -> np.ndarray:
    """float32 (12, num_samples) within ±5 mV; another one for every number."""
    draws = np.random.default_rng(number).uniform(-5, 5, (12, num_samples))
    return draws.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class FakeSource:
    """``num`` records, two per patient. What only makes it slow or watches it is no part of the fingerprint."""

    num: int = 40
    num_samples: int = 2 * SEG_LEN
    bad: tuple[tuple[int, str], ...] = ()  # record number → reason it is rejected with
    special: tuple[tuple[int, float], ...] = ()  # record number → value of its sample [3, 7]
    folds: bool = False
    duplicate: bool = False
    misnamed: bool = False
    metadata: Any = None
    sleep_s: float = 0.0
    read_log: str = ""

    name: ClassVar[str] = "fake"

    def version(self) -> str:
        return "1"

    def fingerprint(self) -> dict[str, Any]:
        return {"num": self.num, "bad": [list(b) for b in self.bad], "special": str(self.special)}

    def keys(self) -> list[str]:
        keys = [f"fake/{i:03d}" for i in range(self.num)]
        return [*keys, keys[0]] if self.duplicate else keys

    def read(self, key: str) -> Record:
        number = int(key.split("/")[1])
        if self.sleep_s:
            time.sleep(self.sleep_s)
        if self.read_log:
            with open(self.read_log, "a") as handle:
                handle.write(f"{key}\n")
        reason = dict(self.bad).get(number)
        if reason == "unsafe":
            raise UnsafeInputError(f"{key}.hea: refuses file name '../x.dat'")
        if reason:
            raise RejectedRecord(reason, f"record {number}")
        signal = signal_of(number, self.num_samples)
        if number in dict(self.special):
            signal[3, 7] = dict(self.special)[number]
        return Record(
            record_id="fake/other" if self.misnamed else key,
            signal=signal,
            sampling_rate=RATE,
            leads=LEADS,
            patient_id=f"fake/p{number // 2}",
            fold=number // 2 % 10 + 1 if self.folds else None,
            report=f"Befund Nr. {number} – größer",
            labels=("rhythm:SR", f"superclass:{number % 3}"),
            metadata=self.metadata or {"age": number, "measurements": {"heart_rate": 60.5}},
        )

    def accounting(self) -> dict[str, list[str]]:
        return {"no_metadata": ["fake/x1", "fake/x2"]}


@dataclass(frozen=True, kw_only=True)
class FakePipeline:
    """Cuts; nothing else."""

    rate: int = RATE
    seg_len: int = SEG_LEN
    version: int = 1
    gain: float = 1.0

    name: ClassVar[str] = "fake-cut"

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "rate": self.rate, "seg_len": self.seg_len, "gain": self.gain}

    def fingerprint(self) -> str:
        return fingerprint(self.config())

    def run(self, record: Record) -> Segments:
        num = record.signal.shape[1] // self.seg_len
        cut = record.signal[:, : num * self.seg_len].reshape(12, num, self.seg_len).swapaxes(0, 1)
        starts = tuple(i * self.seg_len / self.rate for i in range(num))
        return Segments(np.float32(self.gain) * cut, starts, self.rate, {"flags": ["wander"], "snr": 12.5})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


#: What the tests of interrupted runs prepare: six shards, one reject.
SOURCE = FakeSource(num=96, bad=((50, "flat"),))


if __name__ == "__main__":  # a run that a test kills: store_fakes.py OUT WORKERS SLEEP_S
    import store_fakes

    from ecglm.store.prepare import prepare

    source = replace(store_fakes.SOURCE, sleep_s=float(sys.argv[3]))
    prepare(source, store_fakes.FakePipeline(), sys.argv[1], workers=int(sys.argv[2]))
