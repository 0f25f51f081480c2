"""Where a dataset's files lie: a folder, or its official archive (.zip, .tar) read in place, behind one face.

Archives are untrusted: every member's name and kind is checked before anything is read, and nothing is ever unpacked.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ecglm.errors import EcglmError, UnsafeInputError
from ecglm.files import inside

#: Files that a dataset's folder may hold at most; MIMIC-IV-ECG has 1.6 million.
MAX_FILES = 5_000_000
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".gz", ".bz2", ".xz", ".7z", ".rar")


class TooLargeError(UnsafeInputError):
    """A file has ``size`` bytes, more than its reader allows."""

    def __init__(self, place: str, size: int, max_bytes: int) -> None:
        super().__init__(f"{place}: {size} bytes, at most {max_bytes} are read")
        self.size = size


class Tree(Protocol):
    """The files of a dataset by relative names with ``/`` (``files/p1000/x.hea``), whatever they are kept in.

    A tree can be pickled; a worker opens its files anew. ``read`` and ``open`` raise FileNotFoundError for a name that
    is not there, UnsafeInputError for one that leads outside or is larger than allowed (TooLargeError), and
    RejectedRecord ``unreadable`` for a damaged member of an archive.
    """

    root: Path

    def names(self) -> list[str]:
        """All files, sorted; hidden ones (a part of the name begins with a dot) are left out. Found once."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def read(self, name: str, max_bytes: int) -> bytes:
        """A whole file of at most ``max_bytes``."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file for reading, seekable. An archive's checksum of it is compared by ``read`` alone."""
        ...


def open_tree(root: str | os.PathLike[str]) -> Tree:
    """The files at ``root``: a folder, a ``.zip``, a plain ``.tar``, or a folder in which one such archive lies alone.

    A single top folder of an archive is stripped, so names are those of the unpacked layout. Raises EcglmError for
    what cannot be read in place (``.tar.gz`` …) and UnsafeInputError for an archive with a hostile member.
    """
    path = Path(root)
    if path.is_dir():
        visible = [entry for entry in os.listdir(path) if not entry.startswith(".")]
        alone = path / visible[0] if len(visible) == 1 else path
        if not (alone.is_file() and alone.suffix.casefold() in (".zip", ".tar")):
            return FolderTree(path)
        path = inside(path, alone, str(path))
    if not path.exists():
        raise EcglmError(f"{path}: no such folder or archive; --root names the dataset's folder, .zip or .tar")
    suffix = path.suffix.casefold()
    if suffix in (".zip", ".tar"):
        found = path.stat()
        return _archive(path, found.st_size, found.st_mtime_ns)
    if path.name.casefold().endswith(_PACKED):
        raise EcglmError(
            f"{path}: a compressed archive cannot be read in place; unpack it (or gunzip it to a .tar) and name that"
        )
    raise EcglmError(f"{path}: is neither a folder nor a .zip or .tar; --root names one of these")


@functools.lru_cache(maxsize=8)
def _archive(path: Path, size: int, changed: int) -> Tree:
    """An archive's index is made once per process, however many tasks a worker is sent."""
    from ecglm.records.archives import TarTree, ZipTree

    return ZipTree(path) if path.suffix.casefold() == ".zip" else TarTree(path)


def read_file(path: str, max_bytes: int) -> bytes:
    """A whole plain file with one open, one stat and one read; TooLargeError before anything is read."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe must not hang
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is no plain file", path)
        size = found.st_size
        if size > max_bytes:
            raise TooLargeError(path, size, max_bytes)
        data = os.read(handle, size)
        while len(data) < size and (more := os.read(handle, size - len(data))):
            data += more
        return data
    finally:
        os.close(handle)


def check_name(name: str, context: str) -> str:
    """``name`` if it is a plain relative path; UnsafeInputError for an absolute one, ``..``, a drive, NUL."""
    # Millions of names are checked, so the few plain tests come first and a search for dots only where there are any.
    bad = not name or name[0] in "/~" or name[-1] == "/" or "\\" in name or ":" in name or "\0" in name or "//" in name
    if bad or (hidden(name) and not {".", ".."}.isdisjoint(name.split("/"))):
        raise UnsafeInputError(f"{context}: refuses {name[:200]!r}; a plain path inside the folder is needed")
    return name


def tree_sha256(tree: Tree, name: str) -> str:
    """sha256 (hex) of a file's bytes: the same in a folder and in an archive of it."""
    digest = hashlib.sha256()
    with tree.open(name) as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hidden(name: str) -> bool:
    """Whether a part of a name begins with a dot."""
    return name.startswith(".") or "/." in name


class FolderTree:
    """A folder on disk. Links may lead to files inside it, never out of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = str(root)
        self._plain: dict[str, bool] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderTree, (self.root,)

    @functools.cached_property
    def _names(self) -> list[str]:
        names = sorted(_walk(self.root, ""))
        if len(names) > MAX_FILES:
            raise UnsafeInputError(f"{self.root}: more than {MAX_FILES:,} files; name the dataset's own folder")
        return names

    def names(self) -> list[str]:
        return self._names

    def has(self, name: str) -> bool:
        check_name(name, self._top)
        return os.path.isfile(f"{self._top}/{name}")

    def size(self, name: str) -> int:
        return os.stat(self.path(name)).st_size

    def read(self, name: str, max_bytes: int) -> bytes:
        return read_file(self.path(name), max_bytes)

    def open(self, name: str) -> BinaryIO:
        return open(self.path(name), "rb")

    def path(self, name: str) -> str:
        """The file's own path, for libraries that want one; UnsafeInputError where a link leads out of the folder."""
        check_name(name, self._top)
        path = f"{self._top}/{name}"
        if os.path.islink(path):
            inside(self.root, Path(path), self._top)
        self._check_folder(name.rpartition("/")[0])
        return path

    def _check_folder(self, folder: str) -> None:
        """Refuse a folder that is reached through a link out of the root; what was looked at is remembered."""
        if folder in self._plain or not folder:
            return
        self._check_folder(folder.rpartition("/")[0])
        if os.path.islink(f"{self._top}/{folder}"):
            inside(self.root, Path(self._top, folder), self._top)
        if len(self._plain) > 10_000:  # MIMIC-IV-ECG has a folder per record
            self._plain.clear()
        self._plain[folder] = True


def _walk(root: Path, folder: str) -> Iterator[str]:
    """Relative names of all visible files below ``root``, folder by folder, in no order."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        prefix = f"{folder}/" if folder else ""
        with os.scandir(root / folder if folder else root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = prefix + entry.name
                if entry.is_symlink():
                    inside(root, Path(entry.path), str(root))
                    if entry.is_dir():
                        continue  # what it leads to is found at its own place
                if entry.is_dir():
                    waiting.append(name)
                else:
                    try:
                        name.encode()
                    except UnicodeEncodeError as error:
                        place = os.fsencode(entry.path)
                        raise EcglmError(f"{place!r}: the file name is not UTF-8; rename the file") from error
                    yield name
