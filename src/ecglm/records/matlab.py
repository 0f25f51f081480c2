"""MATLAB ``.mat`` files, versions 4 and 5 to 7, parsed here: numbers, text and plain structs, nothing that can run."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.records.arrays import MAX_BYTES, RawArray
from ecglm.types import LEADS

#: Names under which files keep their samples; without one of them a file must hold a single matrix.
SIGNAL_NAMES = ("val", "signal", "data")
CPSC_VARIABLE, CPSC_RATE = "ECG", 500.0

#: A compressed variable that grows more than this is a bomb, not a signal.
_MAX_RATIO = 500
_SMALL = 1 << 24
_MAX_VARIABLES, _MAX_DEPTH, _MAX_DIMS, _MAX_FIELDS = 1000, 3, 8, 1000

_V4_TYPES = {0: "f8", 1: "f4", 2: "i4", 3: "i2", 4: "u2", 5: "u1"}
_ELEMENTS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4
_CODE = {3: "an object", 16: "a function handle", 17: "an object"}
_COMPLEX = 0x0800

#: What stands for a variable that is no signal (a cell array, a sparse or complex matrix, a struct array).
OTHER = None


def read_mat(path: Path) -> RawArray:
    """A ``.mat`` file without a header beside it: the matrix ``val``, ``signal`` or ``data``, or its only matrix.

    Version 4 (the challenges' ``val``), versions 5 to 7 (also compressed), and the struct ``ECG`` of CPSC2018, which
    says its leads, rate and units. RejectedRecord for a file that cannot be used (``format_unsupported`` for 7.3),
    UnsafeInputError for objects, function handles, and variables that claim more than the file can hold.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise RejectedRecord("too_large", f"{path}: more than {MAX_BYTES} bytes")
    variables = parse_mat(path.read_bytes(), str(path))
    found = variables.get(CPSC_VARIABLE)
    if isinstance(found, dict):
        return RawArray(cpsc_data(found, str(path)), LEADS, CPSC_RATE, "mV", lead_axis=0)
    matrices = {name: v for name, v in variables.items() if isinstance(v, np.ndarray) and (v.size != 1)}
    named = [name for name in SIGNAL_NAMES if name in matrices] or list(matrices)
    if len(named) == 1 or (named and named[0] in SIGNAL_NAMES):
        values = matrices[named[0]]
        return RawArray(values.reshape([n for n in values.shape if n != 1]) if values.ndim > 2 else values)
    raise RejectedRecord(
        "signal_missing", f"{path}: one matrix or one called 'val' is needed, found {sorted(variables)[:9]}"
    )


def cpsc_data(fields: dict[str, Any], where: str) -> np.ndarray:
    """The samples ``(12, N)`` in mV of a CPSC2018 struct ``ECG``; RejectedRecord naming what is wrong."""
    data = fields.get("data")
    if not isinstance(data, np.ndarray):
        raise RejectedRecord("signal_missing", f"{where}: struct {CPSC_VARIABLE} has no matrix 'data'")
    if data.size == 0:
        raise RejectedRecord("empty", f"{where}: no samples (shape {data.shape})")
    if data.ndim != 2 or data.shape[0] != len(LEADS):
        raise RejectedRecord("shape_invalid", f"{where}: data of shape {data.shape}; (12, samples) is needed")
    return data


def parse_mat(data: bytes, where: str) -> dict[str, Any]:
    """Variables by name: real matrices as arrays, text as str, 1 × 1 structs as dicts, all else as ``OTHER``."""
    if not data:
        raise RejectedRecord("empty", f"{where}: zero bytes")
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[512:520] == b"\x89HDF\r\n\x1a\n" or data.startswith(b"MATLAB 7.3"):
        raise RejectedRecord("format_unsupported", f"{where}: MATLAB 7.3 (HDF5); save it again with save(..., '-v7')")
    try:
        if 0 in data[:4] or len(data) < 128:
            return _parse_v4(data, where)
        mark = data[126:128]
        if mark not in (b"IM", b"MI"):
            raise RejectedRecord("file_corrupt", f"{where}: not a MATLAB file")
        order = "<" if mark == b"IM" else ">"
        if struct.unpack(order + "H", data[124:126])[0] >> 8 != 1:
            raise RejectedRecord("format_unsupported", f"{where}: MATLAB file of an unknown version")
        return _parse_v5(_Reader(data, 128, len(data), order, where))
    except (struct.error, UnicodeDecodeError) as error:
        raise RejectedRecord("file_corrupt", f"{where}: {error}") from error


def _parse_v4(data: bytes, where: str) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    at = 0
    while at < len(data):
        if len(data) - at < 20 or len(variables) >= _MAX_VARIABLES:
            raise RejectedRecord("file_corrupt", f"{where}: {len(data) - at} bytes after the last matrix")
        order = "<" if 0 <= struct.unpack_from("<i", data, at)[0] < 1000 else ">"
        kind, rows, columns, imaginary, length = struct.unpack_from(order + "5i", data, at)
        machine, digits = divmod(kind, 1000)
        number, storage = digits // 10, digits % 10
        if machine != (order == ">") or number not in _V4_TYPES or storage > 2 or imaginary not in (0, 1):
            raise RejectedRecord("file_corrupt", f"{where}: not a MATLAB file (version 4 header {kind})")
        if rows < 0 or columns < 0 or not 1 <= length <= 256:
            raise RejectedRecord("file_corrupt", f"{where}: matrix of {rows} × {columns}, name of {length} bytes")
        at += 20
        name = data[at : at + length].split(b"\0")[0].decode("latin-1")
        at += length
        dtype = np.dtype(order + _V4_TYPES[number])
        needed = rows * columns * dtype.itemsize * (1 + imaginary)
        if needed > len(data) - at:
            raise RejectedRecord(
                "signal_truncated", f"{where}: '{name}' is {rows} × {columns}, only {len(data) - at} bytes are there"
            )
        values = np.frombuffer(data, dtype, rows * columns, at).reshape((rows, columns), order="F")
        variables[name] = values if storage == 0 and not imaginary else OTHER
        at += needed
    return variables


@dataclass
class _Reader:
    """A stretch of version 5 elements: ``data[at:end]``. No element reaches past the one it lies in."""

    data: bytes
    at: int
    end: int
    order: str
    where: str

    def bad(self, what: str) -> RejectedRecord:
        return RejectedRecord("file_corrupt", f"{self.where}: {what}")

    def element(self) -> tuple[int, int, int]:
        """The next element as (type, first byte, past its last byte); the reader stands behind it."""
        if self.end - self.at < 8:
            raise self.bad(f"ends inside an element (byte {self.at})")
        kind, size = struct.unpack_from(self.order + "II", self.data, self.at)
        if kind >> 16:  # a small element: type, size and up to four bytes in one
            kind, size, start, step = kind & 0xFFFF, kind >> 16, self.at + 4, 8
            if size > 4:
                raise self.bad(f"a small element of {size} bytes (byte {self.at})")
        else:
            start = self.at + 8
            step = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > self.end:
            raise self.bad(f"an element of {size} bytes, {self.end - start} are there (byte {self.at})")
        self.at = min(self.at + step, self.end)
        return kind, start, start + size

    def numbers(self, what: str, kinds: tuple[int, ...] = tuple(_ELEMENTS)) -> np.ndarray:
        """The next element as numbers of the type it is stored in."""
        kind, start, stop = self.element()
        if kind not in kinds or kind not in _ELEMENTS:
            raise self.bad(f"{what} stored as type {kind}")
        dtype = np.dtype(self.order + _ELEMENTS[kind])
        if (stop - start) % dtype.itemsize:
            raise self.bad(f"{what} of {stop - start} bytes")
        return np.frombuffer(self.data, dtype, (stop - start) // dtype.itemsize, start)


def _parse_v5(reader: _Reader) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    grown = 0
    while reader.at < reader.end:
        if len(variables) >= _MAX_VARIABLES:
            raise reader.bad(f"more than {_MAX_VARIABLES} variables")
        kind, start, stop = reader.element()
        inner = _Reader(reader.data, start, stop, reader.order, reader.where)
        if kind == _COMPRESSED:
            inner = _inflate(inner, MAX_BYTES - grown)
            grown += len(inner.data)
            kind, inner.at, inner.end = inner.element()
        if kind != _MATRIX:
            raise reader.bad(f"an element of type {kind} where a variable is due (byte {start})")
        name, value = _matrix(inner, 0)
        variables[name] = value
    return variables


def _inflate(packed: _Reader, room: int) -> _Reader:
    """The variable inside a compressed element; what it claims to be is checked before it is unpacked."""
    data = memoryview(packed.data)[packed.at : packed.end]
    unpacker = zlib.decompressobj()
    try:
        tag = unpacker.decompress(data, 8)
        if len(tag) < 8:
            raise packed.bad("an empty compressed variable")
        size = struct.unpack(packed.order + "II", tag)[1]
        if size > room or (size > _SMALL and size > _MAX_RATIO * len(data)):
            raise UnsafeInputError(f"{packed.where}: a variable grows from {len(data)} to {size} bytes; refused")
        body = unpacker.decompress(unpacker.unconsumed_tail, size + 8)
        while not unpacker.eof and len(body) <= size and unpacker.unconsumed_tail:
            body += unpacker.decompress(unpacker.unconsumed_tail, size + 8 - len(body))
    except zlib.error as error:
        raise packed.bad(str(error)) from error
    if not unpacker.eof or not size <= len(body) < size + 8:
        raise packed.bad(f"a compressed variable of {size} bytes gives {len(body)}")
    return _Reader(tag + body, 0, 8 + len(body), packed.order, packed.where)


def _matrix(reader: _Reader, depth: int) -> tuple[str, Any]:
    """Name and value of the variable whose parts ``reader`` holds."""
    if reader.at == reader.end:
        return "", OTHER  # MATLAB writes an empty field so
    flags = reader.numbers("flags", (6,))
    if flags.size != 2:
        raise reader.bad(f"flags of {flags.size} numbers")
    kind, is_complex = int(flags[0]) & 0xFF, bool(int(flags[0]) & _COMPLEX)
    if kind in _CODE:
        raise UnsafeInputError(f"{reader.where}: holds {_CODE[kind]}, which is more than data; save the numbers alone")
    shape = reader.numbers("dimensions", (5,)).astype(np.int64)
    if not 2 <= shape.size <= _MAX_DIMS or (shape < 0).any() or math.prod(map(int, shape)) * 8 > MAX_BYTES:
        raise reader.bad(f"dimensions {shape[:_MAX_DIMS].tolist()}")
    name = reader.numbers("a name", (1,)).tobytes().decode("latin-1")
    if kind == _STRUCT and math.prod(map(int, shape)) == 1 and depth < _MAX_DEPTH:
        return name, _fields(reader, depth)
    if kind == _CHAR:
        encoding, start, stop = reader.element()
        if encoding not in _TEXTS:
            raise reader.bad(f"text stored as type {encoding}")
        wide = "" if encoding in (2, 16) else "-le" if reader.order == "<" else "-be"
        return name, reader.data[start:stop].decode(_TEXTS[encoding] + wide)
    if kind not in _CLASSES or is_complex:
        return name, OTHER
    values = reader.numbers(f"'{name}'")
    if values.size != math.prod(map(int, shape)):
        raise reader.bad(f"'{name}' is {' × '.join(map(str, shape))}, {values.size} numbers are there")
    with np.errstate(over="ignore", invalid="ignore"):
        return name, values.astype(reader.order + _CLASSES[kind]).reshape(tuple(map(int, shape)), order="F")


def _fields(reader: _Reader, depth: int) -> dict[str, Any]:
    lengths = reader.numbers("the length of field names", (5,))
    names = reader.numbers("field names", (1,)).tobytes()
    length = int(lengths[0]) if lengths.size == 1 else 0
    if not 1 <= length <= 256 or len(names) % length or len(names) // length > _MAX_FIELDS:
        raise reader.bad(f"field names of {length} bytes")
    fields: dict[str, Any] = {}
    for at in range(0, len(names), length):
        field = names[at : at + length].split(b"\0")[0].decode("latin-1")
        kind, start, stop = reader.element()
        if kind != _MATRIX:
            raise reader.bad(f"field '{field}' of type {kind}")
        fields[field] = _matrix(_Reader(reader.data, start, stop, reader.order, reader.where), depth + 1)[1]
    return fields
