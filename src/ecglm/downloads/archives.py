"""Archives from elsewhere (.zip, .tar, .tar.gz …), unpacked only after every member was checked by us."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ecglm.errors import EcglmError, TornOutputError, UnsafeInputError
from ecglm.files import write_errors

#: More files than this are no dataset; MIMIC-IV-ECG has 1.6 million.
MAX_FILES = 5_000_000
#: Unpacked bytes per packed byte, over the whole archive, beyond which it is a bomb.
MAX_RATIO = 1000
MAX_NAME = 1000
_BLOCK = 1 << 20
_TORN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    copy: Callable[[IO[bytes]], None]


def unpack(archive: Path, to: Path, *, strip_top: bool = False, max_files: int = MAX_FILES) -> list[str]:
    """Unpack ``archive`` into the folder ``to`` and return the relative names of its files, sorted.

    Every member is checked before the first byte is written: plain files and folders with plain relative names only
    (no ``..``, absolute path, drive, link, device, nor two names that differ in letter case alone), at most
    ``max_files`` of them and at most 1000 unpacked bytes per packed byte. strip_top: leave out the one folder that
    holds everything. Files of ``to`` with the same names are replaced; others stay.

    Raises UnsafeInputError for an archive that is refused, TornOutputError for a damaged one, EcglmError for a full
    disk: then nothing of it is left behind.
    """
    with write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tmp-unpack-", dir=to))
    try:
        with _opened(archive, max_files) as members:
            names = _checked(archive, members)
            top = _top(names) if strip_top else ""
            for member, name in zip(members, names, strict=True):
                place = folder / name[len(top) :]
                if member.is_folder:
                    continue
                with write_errors(place):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    handle = open(place, "xb")  # noqa: SIM115 - closed below; only its own errors are the disk's
                with handle, write_errors(place):
                    member.copy(handle)
                if place.stat().st_size != member.size:
                    raise TornOutputError(f"{archive}: {name} is not as long as the archive says; download it again")
        return _move(folder, to)
    except _TORN as error:
        raise TornOutputError(f"{archive}: damaged or no archive ({error}); download it again") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify_zip(archive: Path, tick: Callable[[int], None] = lambda num_bytes: None) -> int:
    """Check every member of a zip against the ``SHA256SUMS.txt`` inside it (its CRC where none lists it); their number.

    Raises UnsafeInputError for hostile members and TornOutputError for a member that is damaged or missing.
    """
    import hashlib

    from ecglm.downloads.listings import parse_sha256sums

    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [i for i in opened.infolist() if not i.is_dir()]
            members = _zip_members(opened, archive, MAX_FILES)
            names = _checked(archive, members)
            top = _top([n for n, m in zip(names, members, strict=True) if not m.is_folder])
            listed: dict[str, str] = {}
            if f"{top}SHA256SUMS.txt" in names:
                listed = parse_sha256sums(opened.read(f"{top}SHA256SUMS.txt").decode(), str(archive))
            missing = set(listed) - {name[len(top) :] for name in names}
            if missing:
                raise TornOutputError(f"{archive}: {min(missing)} is listed in it and missing; download it again")
            for info in infos:
                digest = hashlib.sha256()
                with opened.open(info) as handle:
                    while block := handle.read(_BLOCK):
                        digest.update(block)
                if listed.get(info.filename[len(top) :], digest.hexdigest()) != digest.hexdigest():
                    raise TornOutputError(
                        f"{archive}: {info.filename} has a wrong checksum; download the archive again"
                    )
                tick(info.compress_size)
            return len(infos)
    except (*_TORN, NotImplementedError) as error:
        raise TornOutputError(f"{archive}: damaged or no archive ({error}); download it again") from error


@contextmanager
def _opened(archive: Path, max_files: int) -> Iterator[list[_Member]]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened, archive, max_files)
    elif re.search(r"\.(tar|tar\.gz|tgz|tar\.xz|tar\.bz2)$", name):
        with _plain_tar(archive) as stream:
            guarded: Any = _Guarded(stream, archive)
            with tarfile.open(fileobj=guarded, mode="r:") as tar:
                yield _tar_members(tar, archive, max_files)
    else:
        raise EcglmError(f"{archive}: no archive that can be unpacked; .zip, .tar, .tar.gz and .tar.xz can")


@contextmanager
def _plain_tar(archive: Path) -> Iterator[IO[bytes]]:
    """The bytes of a tar, whatever it is packed with."""
    import bz2

    name = archive.name.lower()
    opener: Callable[..., Any] = open
    if name.endswith((".tar.gz", ".tgz")):
        opener = gzip.open
    elif name.endswith(".tar.xz"):
        opener = lzma.open
    elif name.endswith(".tar.bz2"):
        opener = bz2.open
    with opener(archive, "rb") as stream:
        yield stream


class _Guarded:
    """A stream that refuses the huge single reads that a hostile tar's extended headers ask for."""

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self._stream, self._archive = stream, archive
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 16 * _BLOCK:
            raise UnsafeInputError(f"{self._archive}: a header of {size} bytes; refused")
        return self._stream.read(size)


def _zip_members(opened: zipfile.ZipFile, archive: Path, max_files: int) -> list[_Member]:
    infos = opened.infolist()
    _check_number(archive, len(infos), max_files)
    members = []
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeInputError(f"{archive}: {info.filename[:200]!r} is a link or device; refused")
        if info.flag_bits & 1:
            raise EcglmError(f"{archive}: {info.filename[:200]!r} is encrypted; unpack it by hand")
        # zipfile cuts a name at a NUL and turns backslashes; what is checked is the name as stored
        if info.orig_filename != info.filename:
            raise UnsafeInputError(f"{archive}: member name {info.orig_filename[:200]!r}; refused")

        def copy(out: IO[bytes], info: zipfile.ZipInfo = info) -> None:
            with opened.open(info) as source:
                _copy(source, out, info.file_size, archive)

        members.append(_Member(info.filename, info.file_size, info.is_dir(), copy))
    _check_ratio(archive, sum(m.size for m in members))
    return members


def _tar_members(tar: tarfile.TarFile, archive: Path, max_files: int) -> list[_Member]:
    members: list[_Member] = []
    total = 0
    for info in tar:
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise UnsafeInputError(f"{archive}: {info.name[:200]!r} is a link, device or sparse file; refused")
        total += max(0, info.size)
        _check_number(archive, len(members) + 1, max_files)
        _check_ratio(archive, total)  # before the member's bytes are skipped over

        def copy(out: IO[bytes], info: tarfile.TarInfo = info) -> None:
            source = tar.extractfile(info)
            assert source is not None
            _copy(source, out, info.size, archive)

        name = info.name.removeprefix("./")  # `tar -C folder .` writes names so
        if name != "." or not info.isdir():
            members.append(_Member(name, info.size, info.isdir(), copy))
    if not members:
        raise TornOutputError(f"{archive}: empty or no archive; download it again")
    return members


def _check_number(archive: Path, number: int, max_files: int) -> None:
    if number > max_files:
        raise UnsafeInputError(f"{archive}: more than {max_files:,} members; refused")


def _check_ratio(archive: Path, unpacked: int) -> None:
    if unpacked > MAX_RATIO * max(1, archive.stat().st_size):
        raise UnsafeInputError(f"{archive}: would unpack to more than {MAX_RATIO} times its size; refused")


def _copy(source: IO[bytes], out: IO[bytes], size: int, archive: Path) -> None:
    """At most ``size`` bytes: what the archive declared is what was checked."""
    while size > 0 and (block := source.read(min(_BLOCK, size))):
        out.write(block)
        size -= len(block)
    if source.read(1):
        raise UnsafeInputError(f"{archive}: a member holds more than it declares; refused")


def _checked(archive: Path, members: list[_Member]) -> list[str]:
    """Names of the members, folders without their ending slash; UnsafeInputError for any that could do harm."""
    names = [check_member_name(str(archive), m.name.removesuffix("/") if m.is_folder else m.name) for m in members]
    files: dict[str, str] = {}
    for member, name in zip(members, names, strict=True):
        if member.is_folder:
            continue
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in files:
            raise UnsafeInputError(f"{archive}: {files[plain][:200]!r} and {name[:200]!r} would be one file; refused")
        files[plain] = name
    spellings: dict[str, str] = {}
    for name in dict.fromkeys(n.rpartition("/")[0] for n in names):
        parts = name.split("/") if name else []
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            plain = unicodedata.normalize("NFC", folder).casefold()
            if spellings.setdefault(plain, folder) != folder or plain in files:
                raise UnsafeInputError(f"{archive}: {folder[:200]!r} stands there in two ways; refused")
    return names


def check_member_name(context: str, name: str) -> str:
    """``name`` if it is a plain relative path on any system, else UnsafeInputError."""
    parts = name.split("/")
    bad = (
        not name
        or len(name) > MAX_NAME
        or any(p in ("", ".", "..") or p.startswith("~") or len(p.encode("utf-8", "replace")) > 255 for p in parts)
        or any(c in "\\:" or unicodedata.category(c) in ("Cc", "Cs") for c in name)
    )
    if bad:
        raise UnsafeInputError(f"{context}: refuses the name {name[:200]!r}; a plain path inside the folder is needed")
    return name


def _top(names: list[str]) -> str:
    """``"folder/"`` when all names lie in one top folder, else ``""``."""
    tops = {name.split("/", 1)[0] for name in names}
    top = next(iter(tops)) if len(tops) == 1 else ""
    return f"{top}/" if top and any("/" in name for name in names) else ""


def _move(folder: Path, to: Path) -> list[str]:
    """Move what was unpacked into place, file by file."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in names:
        with write_errors(to / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            if (to / name).parent.resolve() != to.resolve() / Path(name).parent:
                raise UnsafeInputError(f"{to / name}: leads outside its folder; refused")
            os.replace(folder / name, to / name)
    return names
