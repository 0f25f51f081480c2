"""Run in a process of its own: read many injured copies of good recordings; prints one JSON line of what came of them.

    python fuzz_records.py KIND NUMBER FIRST_SEED

Every copy must end as a Record of the right shape and as clean segments, or as a RejectedRecord or EcglmError.
"""

from __future__ import annotations

import collections
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from mutator import mutate

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.records.formats import read
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.types import LEADS, Record

RATE, SECONDS_EACH = 100, 20


class Hang(BaseException):
    """A reader took longer than ``SECONDS_EACH``."""


def counts() -> np.ndarray:
    source = Synthetic(num_patients=1, seed=4, rate=RATE, records_per_patient=(1, 1))
    return np.round(source.read(source.keys()[0]).signal * 1000).astype("<i2")


def header(data_file: str, offset: int, values: np.ndarray) -> bytes:
    storage = f"16+{offset}" if offset else "16"
    lines = [f"x {len(values)} {RATE} {values.shape[1]} 12:00:00 01/02/2003"]
    for lead, row in zip(LEADS, values, strict=True):
        checksum = int(row.astype(np.int64).sum() + (1 << 15)) % (1 << 16) - (1 << 15)
        lines.append(f"{data_file} {storage} 1000.0(0)/mV 16 0 {row[0]} {checksum} 0 {lead}")
    return ("\n".join([*lines, "#Age: 61", "#Sex: Female", "#Dx: 426783006,164867002"]) + "\n").encode()


def matlab_4(values: np.ndarray) -> bytes:
    head = np.array([30, *values.shape, 0, 4], dtype="<i4").tobytes()  # int16, rows, columns, real, length of the name
    return head + b"val\0" + values.T.tobytes()


def write_good(kind: str, folder: Path) -> tuple[Path, Path, bool]:
    """A good recording in ``folder``: (what is read, the file that will be injured, is it a text)."""
    values = counts()
    millivolts = values / np.float32(1000)
    if kind in ("hea", "dat"):
        (folder / "x.hea").write_bytes(header("x.dat", 0, values))
        (folder / "x.dat").write_bytes(values.T.tobytes())
        return folder / "x.hea", folder / f"x.{kind}", kind == "hea"
    if kind in ("mat4-header", "mat4"):
        (folder / "x.mat").write_bytes(matlab_4(values))
        if kind == "mat4-header":
            (folder / "x.hea").write_bytes(header("x.mat", 24, values))
            return folder / "x.hea", folder / "x.mat", False
        return folder / "x.mat", folder / "x.mat", False
    if kind in ("mat5", "mat5-packed"):
        facts = {"sex": "Male", "age": 61, "data": millivolts.astype(np.float64)}
        scipy.io.savemat(folder / "x.mat", {"ECG": facts}, do_compression=kind == "mat5-packed")
        return folder / "x.mat", folder / "x.mat", False
    if kind == "npy":
        np.save(folder / "x.npy", millivolts)
    elif kind == "npz":
        np.savez(folder / "x.npz", signal=millivolts, rate=float(RATE), leads=np.array(LEADS), units="mV")
    elif kind == "csv":
        np.savetxt(folder / "x.csv", millivolts.T[:300], delimiter=",", header=",".join(LEADS), comments="", fmt="%.3f")
    elif kind == "h5":
        import h5py

        with h5py.File(folder / "x.h5", "w") as handle:
            handle.create_dataset("ecg", data=millivolts, chunks=(12, 250), compression="gzip")
    return folder / f"x.{kind}", folder / f"x.{kind}", kind == "csv"


def read_one(file: Path, kind: str) -> Record:
    if kind in ("hea", "dat", "mat4-header", "mat5", "mat5-packed"):  # these say everything themselves
        return read(file)
    return read(file, rate=None if kind == "npz" else RATE, leads=None if kind in ("npz", "csv") else "standard",
                units=None if kind == "npz" else "mV")  # fmt: skip


def outcome(attempt: Callable[[], Record]) -> str:
    try:
        record = attempt()
    except RejectedRecord as error:
        assert error.reason.replace("_", "").isalnum() and error.reason == error.reason.lower(), error.reason
        return error.reason
    except EcglmError as error:
        assert "\n" not in str(error), str(error)
        return "error"
    assert record.signal.dtype == np.float32 and record.signal.ndim == 2
    assert len(record.signal) == len(record.leads) and 0 < record.sampling_rate < 1e9
    pipeline = get_pipeline("default", rate=RATE, seg_len=150)
    try:
        segments = pipeline.run(record)
    except RejectedRecord as error:
        return f"pipeline: {error.reason}"
    assert segments.signal.shape[1:] == (12, 150) and len(segments.signal) == len(segments.start_s)
    return "read"


def main(kind: str, number: int, first: int) -> None:
    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    found: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, victim, text = write_good(kind, folder)
        assert outcome(lambda: read_one(file, kind)) == "read", "the file is good before it is injured"
        good = victim.read_bytes()
        for seed in range(first, first + number):
            victim.write_bytes(mutate(good, np.random.default_rng(seed), text=text))
            signal.alarm(SECONDS_EACH)
            try:
                found[outcome(lambda: read_one(file, kind))] += 1
            except BaseException as error:
                raise RuntimeError(f"{kind}, seed {seed}: {type(error).__name__}") from error
            finally:
                signal.alarm(0)
    print(json.dumps(dict(found.most_common())))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
