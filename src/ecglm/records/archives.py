"""Members of a ``.zip`` or a plain ``.tar`` by name, read in place: a compact index, checked member by member."""

from __future__ import annotations

import functools
import io
import os
import tarfile
import weakref
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.inflate import Inflater
from ecglm.records.tree import MAX_FILES, TooLargeError, check_name, hidden, open_tree
from ecglm.records.zip_directory import DEFLATED, STORED, data_start, entries

#: A member that says it unpacks to more than this many times its bytes is refused (small ones can do no harm).
MAX_RATIO, RATIO_FROM = 1000, 1 << 20
#: Unpacked bytes between two places from which reading a deflated member can go on.
_CHECKPOINT = 8 << 20


class Member(NamedTuple):
    """A row of the index. start: the local header (zip) or the data (tar). packed, size: bytes in it and unpacked."""

    start: int
    packed: int
    size: int
    method: int
    crc: int  # -1: none kept


class _Index:
    """Names and places of members in arrays: about 110 bytes per member, where objects would need a kilobyte."""

    def __init__(self, path: Path, entries: Iterable[tuple[bytes, tuple[int, int, int, int, int]]]) -> None:
        names: list[bytes] = []
        columns = [array(code) for code in "qqqHq"]  # as Member
        appends = [column.append for column in columns]
        folded = array("q")
        for name, member in entries:
            text = _text(path, name)
            if hidden(text):
                continue
            if len(names) >= MAX_FILES:
                raise UnsafeInputError(f"{path}: more than {MAX_FILES:,} members; refused")
            names.append(name)
            folded.append(hash(text.casefold()))
            for append, value in zip(appends, member, strict=True):
                append(value)
        if len(set(folded)) < len(folded):
            _refuse_twins(path, names)
        top = names[0].partition(b"/")[0] + b"/" if names else b""
        if names and all(name.startswith(top) for name in names):
            names = [name[len(top) :] for name in names]
        order = sorted(range(len(names)), key=names.__getitem__)
        self._columns = [array(column.typecode, (column[i] for i in order)) for column in columns]
        self._names = b"".join(names[i] for i in order)
        self._ends = array("q", [0])
        for i in order:
            self._ends.append(self._ends[-1] + len(names[i]))

    def _name(self, i: int) -> bytes:
        return self._names[self._ends[i] : self._ends[i + 1]]

    def names(self) -> list[str]:
        return [self._name(i).decode() for i in range(len(self._ends) - 1)]

    def find(self, name: str) -> Member | None:
        """The member of that name, by bisection."""
        wanted = name.encode()
        low, high = 0, len(self._ends) - 1
        while low < high:
            middle = (low + high) // 2
            if self._name(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self._ends) - 1 or self._name(low) != wanted:
            return None
        return Member(*(column[low] for column in self._columns))


def _text(path: Path, name: bytes) -> str:
    try:
        return check_name(name.decode(), str(path))
    except UnicodeDecodeError as error:
        raise EcglmError(
            f"{path}: member {name[:80]!r} has no UTF-8 name; unpack the archive and name the folder"
        ) from error


def _refuse_twins(path: Path, names: list[bytes]) -> None:
    seen: dict[str, str] = {}
    for name in (raw.decode() for raw in names):
        other = seen.get(name.casefold())
        if other is not None:
            raise UnsafeInputError(f"{path}: members {other!r} and {name!r} are one file on some systems; refused")
        seen[name.casefold()] = name


class _Archive(ABC):
    """What both kinds share; a kind says how it lists its members and where the data of one begin."""

    def __init__(self, path: Path) -> None:
        self.root = path
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)  # held as long as the tree
        self._index = _Index(path, self._entries())

    def __reduce__(self) -> tuple[Any, ...]:
        return open_tree, (self.root,)

    @abstractmethod
    def _entries(self) -> Iterable[tuple[bytes, tuple[int, int, int, int, int]]]: ...

    def _data_start(self, name: str, member: Member) -> int:
        return member.start

    @functools.cached_property
    def _names(self) -> list[str]:
        return self._index.names()

    def names(self) -> list[str]:
        return self._names

    def has(self, name: str) -> bool:
        check_name(name, str(self.root))
        return self._index.find(name) is not None

    def size(self, name: str) -> int:
        return self._member(name).size

    def read(self, name: str, max_bytes: int) -> bytes:
        member = self._member(name)
        if member.size > max_bytes:
            raise TooLargeError(f"{self.root}: {name}", member.size, max_bytes)
        data = self._pread(name, self._data_start(name, member), member.packed)
        if member.method == DEFLATED:
            try:
                inflater = zlib.decompressobj(-15)
                data = inflater.decompress(data, member.size + 1)
            except zlib.error as error:
                raise self._damaged(name, str(error)) from error
        if len(data) != member.size:
            raise self._damaged(name, f"{len(data)} bytes, {member.size} were announced")
        if member.crc >= 0 and zlib.crc32(data) != member.crc:
            raise self._damaged(name, "its checksum differs")
        return data

    def open(self, name: str) -> BinaryIO:
        member = self._member(name)
        raw: io.RawIOBase
        if member.method == STORED:
            raw = _Window(self, name, self._data_start(name, member), member.size)
        else:
            raw = _Inflated(self, name, self._data_start(name, member), member)
        return io.BufferedReader(raw, 1 << 16)

    def _member(self, name: str) -> Member:
        member = self._index.find(check_name(name, str(self.root)))
        if member is None:
            raise FileNotFoundError(f"{self.root}: has no {name}")
        if member.size > max(RATIO_FROM, MAX_RATIO * member.packed):
            raise UnsafeInputError(
                f"{self.root}: {name} would grow from {member.packed} to {member.size} bytes; refused"
            )
        return member

    def _pread(self, name: str, start: int, size: int) -> bytes:
        data = os.pread(self._handle, size, start)
        while len(data) < size:  # a call gives 2 GB at most
            more = os.pread(self._handle, size - len(data), start + len(data))
            if not more:
                raise self._damaged(name, "the archive ends before the member does")
            data += more
        return data

    def _damaged(self, name: str, detail: str) -> RejectedRecord:
        return RejectedRecord("unreadable", f"{self.root}: {name}: {detail}; fetch the archive again")


class TarTree(_Archive):
    """A plain ``.tar``: members are listed once and then read by their offset."""

    def _entries(self) -> Iterable[tuple[bytes, tuple[int, int, int, int, int]]]:
        total = os.fstat(self._handle).st_size
        try:
            with tarfile.open(self.root, "r:", encoding="utf-8", errors="surrogateescape") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else every member's object is kept
                    if info.isdir():
                        continue
                    if not info.isreg() or info.issparse():
                        raise UnsafeInputError(f"{self.root}: member {info.name[:200]!r} is no plain file; refused")
                    if info.offset_data + info.size > total:
                        raise EcglmError(f"{self.root}: ends within {info.name[:200]!r}; fetch the archive again")
                    name = os.fsencode(info.name).removeprefix(b"./")
                    yield name, (info.offset_data, info.size, info.size, STORED, -1)
                behind = os.pread(self._handle, 512, tar.offset)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise EcglmError(f"{self.root}: not a readable .tar ({error}); fetch the archive again") from error
        if behind.strip(b"\0"):  # the library takes a damaged header for the end
            raise EcglmError(f"{self.root}: damaged at byte {tar.offset}; fetch the archive again")


class ZipTree(_Archive):
    """A ``.zip`` of stored or deflated members."""

    def _entries(self) -> Iterable[tuple[bytes, tuple[int, int, int, int, int]]]:
        return entries(self.root, self._handle)

    def _member(self, name: str) -> Member:
        member = super()._member(name)
        if member.method not in (STORED, DEFLATED):
            raise EcglmError(
                f"{self.root}: {name} is packed by method {member.method}, which is not read in place; unpack it"
            )
        return member

    def _data_start(self, name: str, member: Member) -> int:
        return data_start(self.root, self._handle, name, member.start)


class _Window(io.RawIOBase):
    """A stored member as a file of its own."""

    def __init__(self, archive: _Archive, name: str, start: int, size: int) -> None:
        self._archive, self._name, self._start, self._size = archive, name, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        data = self._take(min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _take(self, size: int) -> bytes:
        return self._archive._pread(self._name, self._start + self._at, size) if size else b""


class _Inflated(_Window):
    """A deflated member as a seekable file."""

    def __init__(self, archive: _Archive, name: str, start: int, member: Member) -> None:
        super().__init__(archive, name, start, member.size)
        self._inflater = Inflater(
            lambda offset, size: archive._pread(name, start + offset, size), member.packed, _CHECKPOINT
        )

    def _take(self, size: int) -> bytes:
        try:
            return self._inflater.take(self._at, size)
        except (zlib.error, EOFError) as error:
            raise self._archive._damaged(self._name, str(error)) from error
