"""What an uploaded file holds, told by its first bytes and its directory, before any reader opens it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.records.hdf5 import SUFFIXES as HDF5_SUFFIXES
from ecglm.records.hdf5 import read_hdf5
from ecglm.records.picture_files import SUFFIXES as PICTURE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is read at most of one upload. max_bytes: of a file; max_text_bytes: of a table or header; max_unpacked:
    bytes that a compressed file may grow to; max_values: samples of all leads; max_pixels: of a picture.
    """

    max_files: int = 4
    max_bytes: int = 64 << 20
    max_text_bytes: int = 16 << 20
    max_unpacked: int = 256 << 20
    max_values: int = 32_000_000
    max_pixels: int = 64_000_000


#: First bytes → what they begin.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"GIF87a", "picture"),
    (b"GIF89a", "picture"),
    (b"II*\0", "picture"),
    (b"MM\0*", "picture"),
    (b"BM", "picture"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"MATLAB 5.0", "mat"),
    (b"MATLAB 7.3", "mat"),
    (b"%PDF", "PDF document"),
    (b"\x80\x04", "Python pickle"),
    (b"\x7fELF", "program"),
    (b"MZ", "program"),
    (b"\x1f\x8b", "gzip archive"),
    (b"7z\xbc\xaf", "archive"),
    (b"Rar!", "archive"),
)
_WANTED = {".npy": "npy", ".npz": "zip", ".h5": "hdf5", ".hdf5": "hdf5", ".mat": "mat", ".csv": "text", ".hea": "text"}
_NAMES = {"npy": "a NumPy array", "zip": "a zip archive", "hdf5": "an HDF5 file", "mat": "a MATLAB file"}
_MARKUP = (b"<!doctype", b"<html", b"<svg", b"<?xml", b"<script", b"<!--", b"<head", b"<body")


def kind_of(start: bytes) -> str:
    """What a file is by its first bytes: ``picture npy zip hdf5 mat text markup binary``, or another kind's name."""
    for mark, kind in _STARTS:
        if start.startswith(mark) and (mark != b"BM" or b"\0" in start[:32]):
            return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "picture"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_MARKUP):
        return "markup"
    return "binary" if b"\0" in start else "text"


def check_content(file: Path, name: str) -> str:
    """The kind of a file, if it is what its suffix says; UnsafeInputError else. ``.dat`` files look like nothing."""
    with open(file, "rb") as handle:
        start = handle.read(1024)
        handle.seek(512)
        hdf5_behind = handle.read(8) == b"\x89HDF\r\n\x1a\n"  # MATLAB 7.3 writes its own words first
    kind, suffix = kind_of(start), file.suffix.casefold()
    if suffix == ".dat" or (suffix == ".mat" and (kind == "binary" or hdf5_behind)):
        return kind  # MATLAB 4 has no mark; its reader judges
    wanted = "picture" if suffix in PICTURE_SUFFIXES else _WANTED[suffix]
    if kind != wanted:
        found = {"markup": "a web page or SVG", "text": "text", "binary": "binary data"}.get(kind)
        found = found or _NAMES.get(kind) or f"a {kind}"
        raise UnsafeInputError(f"{name}: holds {found}, not what {suffix} says; give the file its true name")
    return kind


def check_unpacked(file: Path, name: str, limits: Limits) -> None:
    """Refuse a compressed file that declares more than ``limits.max_unpacked`` bytes; nothing is unpacked for it."""
    suffix = file.suffix.casefold()
    if suffix == ".npz":
        declared = _zip_bytes(file, name, limits)
    elif suffix == ".mat":
        declared = _mat_bytes(file)
    elif suffix in HDF5_SUFFIXES:
        read_hdf5(file, max_bytes=limits.max_unpacked)
        return
    else:
        return
    if declared > limits.max_unpacked:
        raise UnsafeInputError(f"{name}: unpacks to {declared:,} bytes, at most {limits.max_unpacked:,} are read")


def _zip_bytes(file: Path, name: str, limits: Limits) -> int:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise RejectedRecord("file_corrupt", f"{name}: not a readable .npz file ({error})") from error
    if len(members) > 64:
        raise UnsafeInputError(f"{name}: {len(members)} members, an ECG has a few; refused")
    return sum(m.file_size for m in members)


def _mat_bytes(file: Path) -> int:
    """Bytes that the compressed variables of a MATLAB 5 file say they have; 0 where its reader will judge."""
    data = file.read_bytes()
    if data[126:128] not in (b"IM", b"MI"):
        return 0
    order, at, total = "<" if data[126:128] == b"IM" else ">", 128, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:
            break
        if kind == 15:
            try:
                tag = zlib.decompressobj().decompress(data[at + 8 : at + 8 + min(size, 512)], 8)
            except zlib.error:
                break
            total += struct.unpack(order + "II", tag)[1] if len(tag) == 8 else 0
        at += 8 + size
    return total
