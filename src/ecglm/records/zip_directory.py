"""The central directory of a ``.zip``, parsed as a stream: ``zipfile`` would keep a kilobyte per member."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from ecglm.errors import EcglmError, UnsafeInputError

STORED, DEFLATED = 0, 8
#: 5 million members of 200 bytes; a larger directory is refused before it is read.
MAX_DIRECTORY_BYTES = 1 << 30
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENTRY = struct.Struct("<4s2B5H3L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF


def entries(path: Path, handle: int) -> Iterator[tuple[bytes, tuple[int, int, int, int, int]]]:
    """Files of the archive open as ``handle``: UTF-8 name, (local header, packed bytes, size, method, checksum).

    Raises EcglmError for an archive that is damaged, encrypted or in parts, UnsafeInputError for one with a link.
    """
    start, size, count = _end_record(path, handle)
    data = os.pread(handle, size, start)
    position = 0
    for _ in range(count):
        if len(data) - position < _ENTRY.size:
            raise _damaged(path, "its directory is shorter than announced")
        found = _ENTRY.unpack_from(data, position)
        magic, _, _, _, flags, method, _, _, crc, packed, full, *lengths, disk, _, mode, local = found
        name_len, extra_len, note_len = lengths
        name_at = position + _ENTRY.size
        position = name_at + name_len + extra_len + note_len
        if magic != b"PK\1\2" or position > len(data):
            raise _damaged(path, "its directory cannot be read")
        raw = data[name_at : name_at + name_len]
        kind = stat.S_IFMT(mode >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeInputError(f"{path}: member {raw[:200]!r} is no plain file; refused")
        if raw.endswith(b"/") or kind == stat.S_IFDIR:
            continue
        if flags & 1:
            raise EcglmError(f"{path}: is encrypted; unpack it with its password and name the folder")
        if _FULL32 in (full, packed, local) or disk == _FULL16:
            extra = data[name_at + name_len : name_at + name_len + extra_len]
            full, packed, local, disk = _wide(path, extra, full, packed, local, disk)
        if disk:
            raise EcglmError(f"{path}: is one part of several; join them first")
        yield utf8_name(raw, flags), (local, packed, full, method, crc)


def data_start(path: Path, handle: int, name: str, local: int) -> int:
    """Where a member's bytes begin, behind its local header, which must name the same file."""
    head = os.pread(handle, _LOCAL.size, local)
    if len(head) == _LOCAL.size and head.startswith(b"PK\3\4"):
        fields = _LOCAL.unpack(head)
        flags, name_len, extra_len = fields[3], fields[-2], fields[-1]
        if utf8_name(os.pread(handle, name_len, local + _LOCAL.size), flags).endswith(name.encode()):
            return local + _LOCAL.size + name_len + extra_len
    raise _damaged(path, f"its directory and the header of {name} disagree")


def utf8_name(raw: bytes, flags: int) -> bytes:
    """A member's name as UTF-8: the archive says whether it is that or the first PC's code page."""
    return raw if flags & 0x800 or raw.isascii() else raw.decode("cp437").encode()


def _end_record(path: Path, handle: int) -> tuple[int, int, int]:
    """(offset, bytes, members) of the directory, from the record at the archive's end."""
    total = os.fstat(handle).st_size
    tail_at = max(0, total - (1 << 16) - 22)
    tail = os.pread(handle, total - tail_at, tail_at)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise _damaged(path, "it has no directory at its end")
    disk, first_disk, _, count, size, start = struct.unpack_from("<4H2L", tail, at + 4)
    end = tail_at + at
    if _FULL16 in (disk, first_disk, count) or _FULL32 in (size, start):
        locator = os.pread(handle, 20, max(0, end - 20))
        if len(locator) == 20 and locator.startswith(_LOCATOR64):
            end = struct.unpack("<Q", locator[8:16])[0]
            record = os.pread(handle, 56, end) if end < total else b""
            if len(record) < 56 or not record.startswith(_END64):
                raise _damaged(path, "its 64-bit directory cannot be found")
            disk, first_disk, _, count, size, start = struct.unpack("<2L4Q", record[16:56])
    if disk or first_disk:
        raise EcglmError(f"{path}: is one part of several; join them first")
    if start + size != end:
        raise _damaged(path, "its directory is not where it should be")
    if size > MAX_DIRECTORY_BYTES:
        raise UnsafeInputError(f"{path}: a directory of {size} bytes; refused")
    return start, size, count


def _wide(path: Path, extra: bytes, full: int, packed: int, local: int, disk: int) -> tuple[int, int, int, int]:
    """The 64-bit values of those fields that are full, in the order the format gives them."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if tag == 1:
            try:
                values = [v[0] for v in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
                full = values.pop(0) if full == _FULL32 else full
                packed = values.pop(0) if packed == _FULL32 else packed
                local = values.pop(0) if local == _FULL32 else local
                disk = struct.unpack("<L", body[-4:])[0] if disk == _FULL16 else disk
            except (IndexError, struct.error) as error:
                raise _damaged(path, "a 64-bit entry of its directory is torn") from error
            return full, packed, local, disk
        at += 4 + length
    return full, packed, local, disk


def _damaged(path: Path, detail: str) -> EcglmError:
    return EcglmError(f"{path}: not a readable .zip ({detail}); fetch the archive again")
