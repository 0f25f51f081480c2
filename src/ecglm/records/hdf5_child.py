"""The process in which HDF5 files are opened: ``python -m ecglm.records.hdf5_child``, started by ``hdf5.py`` alone.

libhdf5 is C code that damaged or hostile files can crash or hang; here it takes nothing down with it. Requests are
lines of JSON (and bytes) on standard input, answers lines of JSON and the bytes of an array on standard output.
"""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError

#: Bytes of one array, and of the memory this process may take for everything.
MAX_BYTES = 1 << 31
_MAX_MEMORY = 4 * MAX_BYTES
#: A whole table (CODE-15 has 4 GB in each) may be larger; it is read in blocks of at most so many bytes.
_MAX_TABLE, _BLOCK = 1 << 36, 1 << 27
_MAX_CHUNK = 1 << 28
#: Deflate cannot pack tighter than this; a file that declares more is made to fill the memory.
_MAX_RATIO = 1100
_MAX_DEPTH, _MAX_OBJECTS, _MAX_ATTRIBUTE = 8, 10_000, 1 << 16
_OPEN_FILES = 3
#: deflate, shuffle, checksum, n-bit, scale-offset, LZF: what h5py itself brings. Others would be loaded as plug-ins.
_FILTERS = {1, 2, 3, 5, 6, 32000}
_FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError, IndexError)


class _File:
    """An open file and the facts that are checked against: where it lies (for messages) and how many bytes it has."""

    def __init__(self, request: dict[str, Any], blob: bytes) -> None:
        import h5py

        from ecglm.records.inflate import open_member

        self.where = request["where"]
        self.block: tuple[int, Any] | None = None
        self.tables: dict[str, Any] = {}
        source: Any = request["path"]
        if blob:
            import io

            source, self.size = io.BytesIO(blob), len(blob)
        elif request.get("member"):
            source = open_member(Path(source), request["member"])
            self.size = source.seek(0, 2)
        else:
            found = os.stat(source)
            if not stat.S_ISREG(found.st_mode) or not os.access(source, os.R_OK):
                raise RejectedRecord("unreadable", f"{self.where}: is no file that may be read")
            self.size = found.st_size
        if self.size == 0:
            raise RejectedRecord("empty", f"{self.where}: zero bytes")
        try:
            self.file = h5py.File(source, "r", locking=False)
        except _FAILURES as error:
            text = str(error)
            if "truncated file" in text:
                raise RejectedRecord(
                    "signal_truncated", f"{self.where}: {self.size} bytes, fewer than the file says it has"
                ) from error
            what = "not an HDF5 file" if "signature" in text else f"damaged HDF5 file ({_first_line(text)})"
            raise RejectedRecord("file_corrupt", f"{self.where}: {what}") from error

    def dataset(self, name: str, most: int = MAX_BYTES) -> Any:
        """The dataset ``name`` after all checks; nothing of its data has been read."""
        import h5py

        place: Any = self.file
        for part in name.strip("/").split("/"):
            if not isinstance(place, h5py.Group):
                raise self.missing(name)
            self.check_link(place, part, name)
            place = place[part]
        if not isinstance(place, h5py.Dataset):
            raise self.missing(name)
        self.check(place, most)
        return place

    def missing(self, name: str) -> RejectedRecord:
        found = ", ".join(str(key)[:40] for key in self.keys(self.file)[:9])
        return RejectedRecord("signal_missing", f"{self.where}: has no dataset '{name}'; it has: {found or 'nothing'}")

    def keys(self, group: Any) -> list[str]:
        if group.id.get_num_objs() > _MAX_OBJECTS:
            raise UnsafeInputError(f"{self.where}: a group of more than {_MAX_OBJECTS} objects; refused")
        return list(group)

    def check_link(self, group: Any, part: str, name: str) -> None:
        """Only what lies in this very file is followed."""
        import h5py

        try:
            link = group.get(part, getlink=True)
        except TypeError as error:
            raise UnsafeInputError(f"{self.where}: '{name}' is a link of an unknown kind; refused") from error
        if link is None:
            raise self.missing(name)
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeInputError(f"{self.where}: '{name}' leads to another file; refused")
        if not isinstance(link, h5py.HardLink):
            raise UnsafeInputError(f"{self.where}: '{name}' is a link; name what it leads to")

    def check(self, data: Any, most: int) -> None:
        """Refuse a dataset whose data lie elsewhere or cannot be what the file declares."""
        import h5py

        name, plan = data.name, data.id.get_create_plist()
        layout = plan.get_layout()
        if layout == h5py.h5d.VIRTUAL or plan.get_external_count():
            raise UnsafeInputError(f"{self.where}: '{name}' keeps its data in other files; refused")
        if data.dtype.kind not in "fiu" or data.dtype.itemsize > 8:
            raise RejectedRecord("not_numeric", f"{self.where}: '{name}' is {data.dtype}, real numbers are needed")
        if data.shape is None or math.prod(data.shape) == 0:
            raise RejectedRecord("empty", f"{self.where}: '{name}' has no samples (shape {data.shape})")
        filters = {plan.get_filter(n)[0] for n in range(plan.get_nfilters())}
        if filters - _FILTERS or not all(h5py.h5z.filter_avail(n) for n in filters):
            raise RejectedRecord(
                "format_unsupported",
                f"{self.where}: '{name}' is packed with filter {sorted(filters)}; save it again with gzip or without",
            )
        needed, kept = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
        ratio = _MAX_RATIO if filters & {1, 5, 6, 32000} else 1
        declared = f"{self.where}: '{name}' declares shape {data.shape} ({needed} bytes)"
        if needed > most or needed > _MAX_RATIO * self.size:
            raise UnsafeInputError(f"{declared}, the file has {self.size} bytes; refused")
        if layout == h5py.h5d.CHUNKED and math.prod(data.chunks) * data.dtype.itemsize > _MAX_CHUNK:
            raise UnsafeInputError(f"{self.where}: '{name}' has chunks of shape {data.chunks}; refused")
        if most <= MAX_BYTES and layout == h5py.h5d.CHUNKED and data.id.get_num_chunks() < _num_chunks(data):
            raise RejectedRecord("signal_truncated", f"{declared}, some of its chunks were never written")
        if needed > ratio * kept or kept > self.size:
            raise RejectedRecord(
                "signal_truncated", f"{declared}, only {min(kept, self.size)} bytes of it were written"
            )

    def only_matrix(self) -> str:
        """The name of the one 2-D dataset of numbers, or of the one called ``signal``."""
        found = self.matrices(self.file, "", 0, set())
        named = [name for name in found if name.rpartition("/")[2] == "signal"]
        for names in (list(found), named):
            if len(names) == 1:
                return names[0]
        if not found:
            shapes = ", ".join(f"{key} {getattr(self.file[key], 'shape', '')}" for key in self.plain_keys()[:9])
            raise RejectedRecord(
                "signal_missing",
                f"{self.where}: no 2-D dataset (leads, samples) of numbers; it has: {shapes or 'nothing'}",
            )
        shapes = ", ".join(f"{name} {shape}" for name, shape in sorted(found.items())[:9])
        raise EcglmError(f"{self.where}: has several 2-D datasets, name one with --dataset: {shapes}")

    def plain_keys(self) -> list[str]:
        import h5py

        links = {key: self.file.get(key, getlink=True) for key in self.keys(self.file)[:20]}
        return [key for key, link in links.items() if isinstance(link, h5py.HardLink)]

    def matrices(self, group: Any, prefix: str, depth: int, seen: set[int]) -> dict[str, tuple[int, ...]]:
        import h5py

        found: dict[str, tuple[int, ...]] = {}
        for key in self.keys(group):
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.SoftLink):
                continue  # what it leads to is found at its own place, or is not in this file
            self.check_link(group, key, prefix + key)
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or len(seen) > _MAX_OBJECTS:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
                found.update(self.matrices(item, f"{prefix}{key}/", depth + 1, seen))
            elif isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in "fiu":
                found[prefix + key] = item.shape
        return found

    def attribute(self, data: Any, name: str) -> Any:
        """An attribute of the dataset or of the file, as plain numbers and text; None where there is none."""
        for place in (data, self.file):
            if name in place.attrs:
                if place.attrs.get_id(name).get_storage_size() > _MAX_ATTRIBUTE:
                    raise UnsafeInputError(f"{self.where}: attribute '{name}' is larger than a fact can be; refused")
                value = place.attrs[name]
                value = value.tolist() if hasattr(value, "tolist") else value
                return [_text(v) for v in value] if isinstance(value, list) else _text(value)
        return None

    def table(self, request: dict[str, Any]) -> tuple[Any, Any]:
        """The two datasets of a table, after all checks; kept, for every row is asked for by itself."""
        known = json.dumps([request["ids"], request["dataset"], request["shape"]])
        if known not in self.tables:
            ids, rows = self.dataset(request["ids"]), self.dataset(request["dataset"], _MAX_TABLE)
            if ids.ndim != 1 or rows.shape[1:] != tuple(request["shape"]) or rows.shape[0] != ids.shape[0]:
                raise EcglmError(
                    f"{self.where}: '{request['ids']}' has shape {ids.shape} and '{request['dataset']}' {rows.shape}; "
                    f"(n,) and (n, {', '.join(map(str, request['shape']))}) are needed"
                )
            self.tables[known] = ids, rows
        return self.tables[known]

    def row(self, data: Any, row: int) -> Any:
        """One row of a table. Packed chunks hold many rows: as many as fit are unpacked at once and kept."""
        height = 1 if data.chunks is None else data.chunks[0]
        height = max(1, min(height, _BLOCK // (math.prod(data.shape[1:]) * data.dtype.itemsize)))
        start = row // height * height
        if self.block is None or self.block[0] != start:
            self.block = None
            self.block = start, data[start : start + height]
        return self.block[1][row - start]


def _num_chunks(data: Any) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))


def _first_line(text: str) -> str:
    return text.split("\n")[0][:200]


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


_files: OrderedDict[tuple[int, int], tuple[tuple[Any, ...], _File]] = OrderedDict()


def _opened(request: dict[str, Any], blob: bytes) -> _File:
    """Tables stay open from one row to the next, a few at a time."""
    if blob:
        return _File(request, blob)
    found = os.stat(request["path"])
    file, state = (found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns, request.get("member"))
    if file in _files and (_files[file][0] != state or request["action"] == "array"):
        # libhdf5 opens no file twice: it would go on with what it knows of the old content.
        _files.pop(file)[1].file.close()
    if request["action"] == "array":
        return _File(request, blob)
    if file not in _files:
        while len(_files) >= _OPEN_FILES:
            _files.popitem(last=False)[1][1].file.close()
        _files[file] = state, _File(request, blob)
    _files.move_to_end(file)
    for other, (_, opened) in _files.items():
        if other != file:
            opened.block = None  # one block in memory at a time
    return _files[file][1]


def _answer(request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], Any]:
    """What a request asks for: facts, and an array."""
    opened = _opened(request, blob)
    if request["action"] == "row":
        return {}, opened.row(opened.table(request)[1], request["row"])
    if request["action"] == "table":
        ids, rows = opened.table(request)
        return {"rows_dtype": rows.dtype.str}, ids[()]
    try:
        most = min(MAX_BYTES, int(request.get("most", MAX_BYTES)))
        data = opened.dataset(request["dataset"] or opened.only_matrix(), most)
        facts = {name: opened.attribute(data, name) for name in ("rate", "leads", "units")}
        return facts, data[()]
    finally:
        opened.file.close()


def _handle(request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], memoryview]:
    import numpy as np

    try:
        facts, array = _answer(request, blob)
        array = np.ascontiguousarray(array)
        return {**facts, "dtype": array.dtype.str, "shape": array.shape, "bytes": array.nbytes}, array.data
    except RejectedRecord as error:
        return {"error": "reject", "reason": error.reason, "text": error.detail, "bytes": 0}, memoryview(b"")
    except UnsafeInputError as error:
        return {"error": "unsafe", "text": str(error), "bytes": 0}, memoryview(b"")
    except EcglmError as error:
        return {"error": "user", "text": str(error), "bytes": 0}, memoryview(b"")
    except _FAILURES as error:
        text = f"{request['where']}: damaged HDF5 file ({_first_line(str(error)) or type(error).__name__})"
        return {"error": "reject", "reason": "file_corrupt", "text": text, "bytes": 0}, memoryview(b"")


def main() -> None:
    """Answer requests until standard input ends, which it does with the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers
    import resource

    import h5py

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux" and (hard == resource.RLIM_INFINITY or hard > _MAX_MEMORY):
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, hard))
    answers.write(json.dumps({"hdf5": h5py.version.hdf5_version, "bytes": 0}).encode() + b"\n")
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        blob = sys.stdin.buffer.read(request["blob"]) if request.get("blob") else b""
        head, body = _handle(request, blob)
        answers.write(json.dumps(head).encode() + b"\n")
        left = body.cast("B") if body.nbytes else body
        while left:
            left = left[answers.write(left) :]


if __name__ == "__main__":
    main()
