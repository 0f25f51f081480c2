"""Plain arrays on disk (``.npy``, ``.npz``, ``.csv``) → array and what the file says about it. Never a pickle."""

from __future__ import annotations

import csv
import io
import math
import os
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.records.tables import decode
from ecglm.records.units import implausible

#: Bytes an array (or a text file) may take; an ECG of 24 h with 12 leads at 500 Hz in float32 fits.
MAX_BYTES = 1 << 31
#: A zip member that grows more than this is a bomb, not a signal.
_MAX_RATIO = 500

_TIME_COLUMNS = {"time", "t", "s", "ms"}


@dataclass(frozen=True)
class RawArray:
    """An array as the file holds it, and the facts the file states (None where it is silent).

    values: 1-D or 2-D numbers. lead_axis: the axis of leads where the file says so (a CSV has leads in columns).
    """

    values: np.ndarray
    leads: tuple[str, ...] | None = None
    rate: float | None = None
    units: str | None = None
    lead_axis: int | None = None


def to_signal(values: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, list[str]]:
    """Numbers ``(leads, samples)`` as a new float32 array in mV (``scale`` mV each), and codes of what is odd about it.

    Infinite samples (also those beyond the range of a float16 or float32) become NaN and are noted as
    ``infinite_samples``; a size that is no ECG's as ``amplitude_implausible``.
    """
    notes = []
    with np.errstate(over="ignore", invalid="ignore"):
        wide = values.astype(np.promote_types(values.dtype, np.float32), copy=False)
        signal = np.array(wide * scale if scale != 1.0 else wide, dtype=np.float32, order="C")
        low, high = signal.min(axis=1, initial=np.inf), signal.max(axis=1, initial=-np.inf)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            infinite = np.isinf(signal)
            if infinite.any():
                signal[infinite] = np.nan
                notes.append("infinite_samples")
            known = np.isfinite(signal)
            low = np.where(known, signal, np.inf).min(axis=1, initial=np.inf)
            high = np.where(known, signal, -np.inf).max(axis=1, initial=-np.inf)
        if implausible(high - low):
            notes.append("amplitude_implausible")
    return signal, notes


def read_npy(path: Path) -> RawArray:
    """A ``.npy`` file. UnsafeInputError for objects, pickles and shapes larger than the file; RejectedRecord else."""
    with open(path, "rb") as handle:
        return RawArray(_read_array(handle, os.fstat(handle.fileno()).st_size, str(path)))


def read_npz(path: Path) -> RawArray:
    """A ``.npz`` file with one array or one called ``signal``, and optionally ``leads``, ``rate``, ``units``."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            arrays = [name for name in members if name not in ("leads", "rate", "units")]
            chosen = "signal" if "signal" in members else arrays[0] if len(arrays) == 1 else None
            if chosen is None:
                raise RejectedRecord(
                    "signal_missing", f"{path}: one array or one called 'signal' is needed, found {sorted(members)[:9]}"
                )
            found = {
                n: _read_member(archive, members[n], path) for n in (chosen, "leads", "rate", "units") if n in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise RejectedRecord("file_corrupt", f"{path}: not a readable .npz file ({error})") from error
    leads = tuple(str(x) for x in found["leads"].ravel()) if "leads" in found else None
    rate = float(_one(found["rate"], path, "rate", "iuf")) if "rate" in found else None
    units = str(_one(found["units"], path, "units", "U")) if "units" in found else None
    return RawArray(found[chosen], leads, rate, units)


def read_csv(path: Path) -> RawArray:
    """A text table, one row per sample, separated by commas, semicolons or tabs; empty cells are missing samples.

    The first row may name the columns; one called time, t, s or ms is dropped. RejectedRecord with the line for
    anything that is no number.
    """
    if path.stat().st_size > MAX_BYTES:
        raise RejectedRecord("too_large", f"{path}: more than {MAX_BYTES} bytes")
    text = decode(path.read_bytes())
    if "\0" in text:
        raise RejectedRecord("file_corrupt", f"{path}: holds binary data, a text table is needed")
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    values: list[list[float]] = []
    names: list[str] | None = None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if not any(cell.strip() for cell in row) and len(row) <= 1:
                continue
            if names is None and not values and not all(_is_number(cell) for cell in row):
                names = [cell.strip() for cell in row]
                continue
            width = len(names) if names is not None else len(values[0]) if values else len(row)
            if len(row) != width:
                raise RejectedRecord(
                    "file_corrupt", f"{path}, line {reader.line_num}: {len(row)} cells, the lines above have {width}"
                )
            values.append([float(cell) if cell.strip() else math.nan for cell in row])
    except csv.Error as error:
        raise RejectedRecord("file_corrupt", f"{path}, line {reader.line_num}: {error}") from error
    except ValueError as error:
        raise RejectedRecord("not_numeric", f"{path}, line {reader.line_num}: {error}") from error
    table = np.array(values, dtype=np.float64).reshape(len(values), len(values[0]) if values else len(names or ()))
    if names is None:
        return RawArray(table)
    kept = [i for i, name in enumerate(names) if name.casefold() not in _TIME_COLUMNS]
    return RawArray(table[:, kept], tuple(names[i] for i in kept), lead_axis=1)


def _is_number(cell: str) -> bool:
    """Whether a cell of a first row is a sample (an empty one is missing) and not a column's name."""
    try:
        float(cell)
    except ValueError:
        return not cell.strip()
    return True


def _one(array: np.ndarray, path: Path, name: str, kinds: str) -> Any:
    if array.size != 1 or array.dtype.kind not in kinds:
        raise RejectedRecord("file_corrupt", f"{path}: '{name}' must hold one value, found {array.dtype} {array.shape}")
    return array.ravel()[0]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    if member.file_size > (1 << 24) and member.file_size > _MAX_RATIO * max(member.compress_size, 1):
        raise UnsafeInputError(
            f"{path}: '{member.filename}' grows from {member.compress_size} to {member.file_size} bytes; refused"
        )
    with archive.open(member) as handle:
        return _read_array(handle, member.file_size, f"{path}, '{member.filename}'")


def _read_array(handle: IO[bytes], size: int, where: str) -> np.ndarray:
    """One array in the .npy format, after its header has been checked against ``size``, the bytes there are."""
    if size == 0:
        raise RejectedRecord("empty", f"{where}: zero bytes")
    try:
        version = np.lib.format.read_magic(handle)
        if version not in ((1, 0), (2, 0)):
            raise RejectedRecord("format_unsupported", f"{where}: .npy version {version}")
        parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = parse(handle)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise UnsafeInputError(f"{where}: not a plain NumPy array file ({error}); refused") from error
    if dtype.hasobject:
        raise UnsafeInputError(
            f"{where}: holds Python objects (dtype {dtype}), which can run code; save numbers instead"
        )
    needed = math.prod(shape) * dtype.itemsize
    present = size - handle.tell()
    if not 0 <= needed <= min(present, MAX_BYTES) or any(n < 0 for n in shape):
        raise UnsafeInputError(f"{where}: declares shape {shape} ({needed} bytes), {present} bytes are there; refused")
    if dtype.kind not in "fiuU":
        raise RejectedRecord("not_numeric", f"{where}: dtype {dtype}, real numbers are needed")
    data = handle.read(needed)
    if len(data) != needed:
        raise RejectedRecord("file_corrupt", f"{where}: ends after {len(data)} of {needed} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
