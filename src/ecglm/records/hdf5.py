"""HDF5 files → arrays. Every file is opened in a process apart: what crashes or hangs libhdf5 rejects one record."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import math
import os
import re
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.arrays import MAX_BYTES, RawArray

SUFFIXES = (".h5", ".hdf5")
#: Seconds without an answer after which a file is given up; for each byte that may have to be read, some more.
PATIENCE_S, SLOWEST_BYTES_PER_S = 60.0, 10_000_000.0
_DTYPE = re.compile(r"[<>|][fiu][1248]")


def read_hdf5(path: Path, dataset: str | None = None, *, max_bytes: int = MAX_BYTES) -> RawArray:
    """A 2-D dataset of numbers, up to ``max_bytes``: the one named, else the only one, else the one called ``signal``.

    Attributes ``rate``, ``leads`` and ``units`` of the dataset or the file are what the file says. Raises EcglmError
    where several datasets could be meant; RejectedRecord for a file that is damaged (``file_corrupt``,
    ``signal_truncated``), lacks the dataset (``signal_missing``), or holds something else (``not_numeric``, ``empty``,
    ``format_unsupported``); UnsafeInputError for links and data outside the file and for shapes it cannot hold.
    """
    request = {"action": "array", "path": str(path), "where": str(path), "dataset": dataset, "most": max_bytes}
    return _raw(*_reader.ask(request, os.stat(path).st_size), str(path))


def read_hdf5_bytes(data: bytes, where: str, dataset: str | None = None) -> RawArray:
    """`read_hdf5` for a file that is in memory (a member of an archive); ``where`` names it in messages."""
    if not data:
        raise RejectedRecord("empty", f"{where}: zero bytes")
    request = {"action": "array", "path": "", "where": where, "dataset": dataset}
    return _raw(*_reader.ask(request, len(data), data), where)


@dataclass(frozen=True)
class Hdf5Table:
    """Two datasets that belong together, ``ids`` (n,) and ``rows`` (n, *row_shape), in a file or a member of a zip.

    A member is read in place: its packed data are unpacked as far as they are read, onto no disk. Rows are read one by
    one; reading them in order is cheap, also from a zip.
    """

    path: Path
    member: str | None
    ids: str
    rows: str
    row_shape: tuple[int, ...]

    @property
    def where(self) -> str:
        return f"{self.path}, {self.member}" if self.member else str(self.path)

    def read_ids(self) -> np.ndarray:
        """The ids ``(n,)``. EcglmError naming the found shapes where the two datasets do not belong together."""
        head, ids = _reader.ask(self._request("table", ids=self.ids, shape=self.row_shape), self._size())
        rows = np.dtype(str(head.get("rows_dtype")))
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or rows.kind != "f":
            raise EcglmError(
                f"{self.where}: '{self.ids}' is {ids.dtype} of shape {ids.shape} and '{self.rows}' {rows}; "
                "whole numbers and floating-point numbers are needed"
            )
        return ids.astype(np.int64)

    def read_row(self, row: int) -> np.ndarray:
        """Row number ``row``; only after `read_ids`, which has the checks. RejectedRecord where it cannot be read."""
        try:
            size = self._size()
        except OSError as error:
            raise RejectedRecord("unreadable", f"{self.where}: {error.strerror}") from error
        values = _reader.ask(self._request("row", row=row, ids=self.ids, shape=self.row_shape), size)[1]
        if values.shape != self.row_shape:
            raise RejectedRecord("shape_invalid", f"{self.where}, row {row}: shape {values.shape}")
        return values

    def _size(self) -> int:
        # Of a packed member what is unpacked before the row; ten times the archive is more than any.
        return os.stat(self.path).st_size * (10 if self.member else 1)

    def _request(self, action: str, **more: Any) -> dict[str, Any]:
        return {
            "action": action,
            "path": str(self.path),
            "member": self.member,
            "where": self.where,
            "dataset": self.rows,
            **more,
        }


def _raw(head: dict[str, Any], values: np.ndarray, where: str) -> RawArray:
    """The array and what the attributes say; RejectedRecord for an attribute that is something else."""
    leads, rate, units = (head.get(name) for name in ("leads", "rate", "units"))
    if isinstance(leads, str):
        leads = leads.split(",")
    if isinstance(rate, list) and len(rate) == 1:
        rate = rate[0]
    if isinstance(units, list) and len(units) == 1:
        units = units[0]
    if leads is not None and not (isinstance(leads, list) and all(isinstance(x, str) for x in leads)):
        raise RejectedRecord("file_corrupt", f"{where}: attribute 'leads' must hold names")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float)):
        raise RejectedRecord("file_corrupt", f"{where}: attribute 'rate' must hold one number")
    if units is not None and not isinstance(units, str):
        raise RejectedRecord("file_corrupt", f"{where}: attribute 'units' must hold one name")
    return RawArray(values, tuple(leads) if leads else None, None if rate is None else float(rate), units)


class _Gone(Exception):
    """The reading process ended, or did not answer in time."""


class _Reader:
    """The process that opens the files: started when first needed, again after it was lost, one per process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.left = b""

    def ask(self, request: dict[str, Any], size: int, blob: bytes = b"") -> tuple[dict[str, Any], np.ndarray]:
        """The answer's facts and array. Raises what the file deserves; ``size`` bytes may have to be read for it."""
        message = json.dumps({**request, "blob": len(blob)}).encode() + b"\n" + blob
        with self.lock:
            process = self.process if self.process is not None and self.process.poll() is None else self._start()
            until = time.monotonic() + PATIENCE_S + size / SLOWEST_BYTES_PER_S
            answered = False
            try:
                assert process.stdin is not None
                process.stdin.write(message)
                process.stdin.flush()
                head = self._head(until)
                body = self._exactly(head["bytes"], until)
                answered = True
            except (_Gone, BrokenPipeError) as error:
                raise RejectedRecord(
                    "file_corrupt", f"{request['where']}: damaged HDF5 file (the HDF5 library failed on it)"
                ) from error
            finally:
                if not answered:  # nor may an interrupt leave this answer to the next question
                    self.stop()
        if head.get("error") == "reject":
            raise RejectedRecord(str(head["reason"]), str(head["text"]))
        if "error" in head:
            raise (UnsafeInputError if head["error"] == "unsafe" else EcglmError)(str(head["text"]))
        return head, np.frombuffer(body, head["dtype"]).reshape(head["shape"])

    def _start(self) -> subprocess.Popen[bytes]:
        self.stop()
        place = str(Path(__file__).parents[2])
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HDF5_")},
            "PYTHONPATH": os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH", "")])),
            "HDF5_PLUGIN_PRELOAD": "::",  # no code is loaded that a file asks for
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        command = [sys.executable, "-P", "-m", "ecglm.records.hdf5_child"]
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, process_group=0
            )
        except OSError as error:
            raise EcglmError(f"HDF5 files cannot be read: no process can be started ({error.strerror})") from error
        if hasattr(fcntl, "F_SETPIPE_SZ") and self.process.stdout is not None:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.process.stdout.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            self._head(time.monotonic() + PATIENCE_S)
        except _Gone as error:
            self.stop()
            raise EcglmError("HDF5 files cannot be read: 'python -c \"import h5py\"' fails; install h5py") from error
        return self.process

    def _head(self, until: float) -> dict[str, Any]:
        """The next line of the answers, believed only as far as it makes sense."""
        while b"\n" not in self.left:
            if len(self.left) > 1 << 20:
                raise _Gone
            self.left += self._some(1 << 16, until)
        line, self.left = self.left.split(b"\n", 1)
        try:
            head = json.loads(line)
            shape, size = head.get("shape", [0]), head["bytes"]
            itemsize = int(head.get("dtype", "<f1")[2:])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise _Gone from error
        fits = isinstance(size, int) and all(isinstance(n, int) and n >= 0 for n in shape)
        if not fits or size > MAX_BYTES or math.prod(shape) * itemsize != size:
            raise _Gone
        if "dtype" in head and not _DTYPE.fullmatch(head["dtype"]):
            raise _Gone
        return head

    def _exactly(self, size: int, until: float) -> bytearray:
        body = bytearray(size)
        target = memoryview(body)
        done = min(size, len(self.left))
        target[:done] = self.left[:done]
        self.left = self.left[done:]
        while done < size:
            self._wait(until)
            assert self.process is not None and self.process.stdout is not None
            got = os.readv(self.process.stdout.fileno(), [target[done:]])
            if not got:
                raise _Gone
            done += got
        return body

    def _some(self, size: int, until: float) -> bytes:
        self._wait(until)
        assert self.process is not None and self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), size)
        if not data:
            raise _Gone
        return data

    def _wait(self, until: float) -> None:
        assert self.process is not None and self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout.fileno(), select.POLLIN | select.POLLHUP)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise _Gone

    def stop(self) -> None:
        """End the process; the next question starts another."""
        process, self.process, self.left = self.process, None, b""
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # a pipe that broke has nothing left to flush
                    if stream is not None:
                        stream.close()
            process.wait()

    def forget(self) -> None:
        """In a forked child: the process belongs to the parent."""
        self.__init__()  # type: ignore[misc]


_reader = _Reader()
atexit.register(_reader.stop)
os.register_at_fork(after_in_child=_reader.forget)
