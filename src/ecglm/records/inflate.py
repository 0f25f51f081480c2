"""Deflated data as a seekable stream, and a zip member as one: marks left in the data make it cheap to go back."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ecglm.errors import RejectedRecord, UnsafeInputError

_BLOCK = 1 << 20
#: A mark (about 0.1 MB of state) every so many blocks: going back costs at most this much unpacking.
_MARK_EVERY = 16
_CACHED_BLOCKS = 24
_INPUT = 1 << 16
_MAX_RATIO = 500
_SMALL = 1 << 24


def open_member(path: Path, member: str) -> io.RawIOBase:
    """The member of a zip archive, stored or deflated, unpacked as far as it is read and never onto the disk.

    RejectedRecord for an archive that is damaged or packed otherwise, UnsafeInputError for a bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
    except KeyError as error:
        raise RejectedRecord("signal_missing", f"{path}: holds no {member}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise RejectedRecord("file_corrupt", f"{path}: not a readable zip archive ({error})") from error
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise RejectedRecord("format_unsupported", f"{path}: {member} is encrypted or packed in an unknown way")
    if info.file_size > _SMALL and info.file_size > _MAX_RATIO * info.compress_size:
        raise UnsafeInputError(f"{path}: {member} grows from {info.compress_size} to {info.file_size} bytes; refused")
    handle = open(path, "rb")  # noqa: SIM115 - the stream's, closed with it
    handle.seek(info.header_offset)
    head = handle.read(30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        handle.close()
        raise RejectedRecord("file_corrupt", f"{path}: {member} does not begin where the archive says")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
    packed = info.compress_type == zipfile.ZIP_DEFLATED
    return MemberStream(handle, start, info.compress_size, info.file_size, packed)


class Inflater:
    """A deflated stream, read from anywhere: unpacking goes on from the nearest mark before the place asked for.

    read: (offset, size) → packed bytes. packed: how many there are. every: unpacked bytes between two marks, each of
    about 0.1 MB. ``take`` raises zlib.error where the data are damaged, EOFError where they end early.
    """

    def __init__(self, read: Callable[[int, int], bytes], packed: int, every: int) -> None:
        self._read, self._packed, self._every = read, packed, every
        # Unpacked and packed bytes behind us, and the unpacker as it stood (with the input it has not taken yet).
        self._marks = [(0, 0, zlib.decompressobj(-zlib.MAX_WBITS))]
        self._restore(self._marks[0])

    def nearest(self, at: int) -> int:
        """Where unpacking will go on to reach the place ``at``."""
        mark = max(m[0] for m in self._marks if m[0] <= at)
        return self._at if mark <= self._at <= at else mark

    def take(self, at: int, size: int) -> bytes:
        """``size`` unpacked bytes from the place ``at``."""
        if (start := self.nearest(at)) != self._at:
            self._restore(next(m for m in self._marks if m[0] == start))
        parts = []
        while size and self._at < at + size:
            data = self._next(at + size - self._at)
            skip = max(0, at - (self._at - len(data)))
            if skip < len(data):
                parts.append(data[skip:])
        return b"".join(parts)

    def _restore(self, mark: tuple[int, int, Any]) -> None:
        self._at, self._input, unpacker = mark
        self._unpacker = unpacker.copy()

    def _next(self, at_most: int) -> bytes:
        """The next unpacked bytes, at most a block."""
        data = self._unpacker.unconsumed_tail
        if not data:
            data = self._read(self._input, min(_INPUT, self._packed - self._input))
            self._input += len(data)
        part = self._unpacker.decompress(data, min(at_most, _BLOCK))
        if not part and (not data or self._unpacker.eof):
            raise EOFError(f"ends after {self._at} bytes")
        self._at += len(part)
        if self._at >= self._marks[-1][0] + self._every:
            self._marks.append((self._at, self._input, self._unpacker.copy()))
        return part


class MemberStream(io.RawIOBase):
    """``size`` bytes that lie in ``handle`` from ``start``, as they are or deflated. OSError where they end early."""

    def __init__(self, handle: BinaryIO, start: int, packed_size: int, size: int, packed: bool) -> None:
        self._handle, self._start, self._size = handle, start, size
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._inflater = Inflater(self._packed_bytes, packed_size, _MARK_EVERY * _BLOCK) if packed else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the whole buffer, less only at the end."""
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), max(0, self._size - self._at))
        done = 0
        while done < wanted:
            number, offset = divmod(self._at, _BLOCK)
            piece = memoryview(self._block(number))[offset : offset + wanted - done]
            if not piece:
                raise OSError("the packed data end early")
            target[done : done + len(piece)] = piece
            done += len(piece)
            self._at += len(piece)
        return done

    def close(self) -> None:
        self._handle.close()
        super().close()

    def _packed_bytes(self, offset: int, size: int) -> bytes:
        self._handle.seek(self._start + offset)
        return self._handle.read(size)

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        if self._inflater is None:
            return self._keep(number, self._packed_bytes(number * _BLOCK, self._length(number)))
        try:
            for passed in range(self._inflater.nearest(number * _BLOCK) // _BLOCK, number):
                self._keep(passed, self._inflater.take(passed * _BLOCK, _BLOCK))
            return self._keep(number, self._inflater.take(number * _BLOCK, self._length(number)))
        except zlib.error as error:
            raise OSError(f"the packed data are damaged ({error})") from error
        except EOFError as error:
            raise OSError("the packed data end early") from error

    def _length(self, number: int) -> int:
        return min(_BLOCK, self._size - number * _BLOCK)

    def _keep(self, number: int, data: bytes) -> bytes:
        self._blocks[number] = data
        if len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return data
