"""A member of a zip archive as a seekable stream: marks left in the packed data make it cheap to go back."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from ecglm.errors import RejectedRecord, UnsafeInputError

_BLOCK = 1 << 20
#: A mark (about 0.1 MB of state) every so many blocks: going back costs at most this much unpacking.
_MARK_EVERY = 16
_CACHED_BLOCKS = 24
_INPUT = 1 << 15
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


class MemberStream(io.RawIOBase):
    """``size`` bytes that lie in ``handle`` from ``start``, as they are or deflated. OSError where they end early."""

    def __init__(self, handle: BinaryIO, start: int, packed_size: int, size: int, packed: bool) -> None:
        self._handle, self._start, self._packed_size, self._size, self._packed = (
            handle,
            start,
            packed_size,
            size,
            packed,
        )
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        # Block → where the input stands there, and the unpacker as it stood (with the input it has not taken yet).
        self._marks = {0: (0, zlib.decompressobj(-zlib.MAX_WBITS))}
        self._restore(0)

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

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        if self._packed:
            mark = max(n for n in self._marks if n <= number)
            if not mark <= self._next <= number:
                self._restore(mark)
            while self._next < number:
                self._keep(self._next, self._unpack())
            data = self._unpack()
        else:
            self._handle.seek(self._start + number * _BLOCK)
            data = self._handle.read(min(_BLOCK, self._size - number * _BLOCK))
        self._keep(number, data)
        return data

    def _keep(self, number: int, data: bytes) -> None:
        self._blocks[number] = data
        if len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)

    def _restore(self, mark: int) -> None:
        self._input, unpacker = self._marks[mark]
        self._unpacker, self._next = unpacker.copy(), mark

    def _unpack(self) -> bytes:
        """The next block of the unpacked data."""
        if self._next % _MARK_EVERY == 0 and self._next not in self._marks:
            self._marks[self._next] = self._input, self._unpacker.copy()
        parts, missing = [], min(_BLOCK, self._size - self._next * _BLOCK)
        try:
            while missing and not self._unpacker.eof:
                data = self._unpacker.unconsumed_tail
                if not data:
                    self._handle.seek(self._start + self._input)
                    data = self._handle.read(min(_INPUT, self._packed_size - self._input))
                    self._input += len(data)
                part = self._unpacker.decompress(data, missing)
                if not data and not part:
                    break
                parts.append(part)
                missing -= len(part)
        except zlib.error as error:
            raise OSError(f"the packed data are damaged ({error})") from error
        if missing:
            raise OSError("the packed data end early")
        self._next += 1
        return b"".join(parts)
