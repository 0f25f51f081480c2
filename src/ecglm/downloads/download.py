"""A whole dataset from its official home into a folder: in parallel, gone on with, recognised when it is there."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import itertools
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm.downloads.archives import check_member_name, unpack, verify_zip
from ecglm.downloads.catalogue import Dataset, dataset
from ecglm.downloads.fetch import RemoteFile, fetch, read_url
from ecglm.downloads.listings import PhysioNet
from ecglm.downloads.meter import Meter, human
from ecglm.downloads.web import Session, check_url
from ecglm.errors import EcglmError, StaleOutputError, TornOutputError, UnsafeInputError
from ecglm.files import (
    append_jsonl,
    file_sha256,
    folder_lock,
    inside,
    read_json,
    read_jsonl,
    read_manifest,
    write_errors,
    write_json,
    write_manifest,
)
from ecglm.interrupts import LOOK, counted_interrupts

KIND = "download"
#: Inside the folder of a download, hidden from those who read the dataset: listing, finished files, manifest.
STATE = ".ecglm-download"
#: Files that may fail before the rest is not even tried.
_PATIENCE = 5


@dataclass(frozen=True)
class DownloadSummary:
    """What ``download`` did. fetched, reused: files; unchecked: those whose host publishes no checksum."""

    dataset: Dataset
    folder: Path
    fetched: int = 0
    reused: int = 0
    num_bytes: int = 0
    unchecked: tuple[str, ...] = ()
    unpacked: int = 0
    steps: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """For people: what is there now, or the steps a person has to take."""
        head = [self.dataset.title, f"home: {self.dataset.home}", f"licence: {self.dataset.licence}"]
        if self.steps:
            return [*head, *self.steps]
        text = f"{self.fetched} files fetched ({human(self.num_bytes)}), {self.reused} were there already"
        text += f", {self.unpacked} unpacked from archives" * (self.unpacked > 0)
        lines = [*head, text]
        if self.unchecked:
            lines.append(f"no checksum is published for {', '.join(self.unchecked[:3])}; its sha256 is in the manifest")
        return [*lines, f"in {self.folder}; read by: {self.dataset.used_by.replace('DIR', str(self.folder))}"]


def download(
    name: str,
    to: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    workers: int = 4,
    base_url: str | None = None,
    progress: bool = True,
    timeout: float = 60.0,
    first_wait: float = 1.0,
) -> DownloadSummary:
    """Fetch the dataset ``name`` of the catalogue into the folder ``to``; what is there already is not fetched again.

    only: shell patterns of file names (``records500/*``; tables and licences come along); limit: the first N files
    only. PhysioNet projects come as their official zip unless ``only`` or ``limit`` asks for single files. base_url:
    scheme and host of a mirror with the official paths. timeout, first_wait: as ``Session`` and ``fetch`` have them.

    Every file is checked against the published size and checksum where its host publishes one, and visible under its
    name only then. Raises ConfigError for an unknown dataset, StaleOutputError when ``to`` holds another dataset,
    UnsafeInputError for a hostile answer or archive, EcglmError where files fail (the others are fetched first).
    """
    entry, folder = dataset(name), Path(to)
    if entry.place is None:
        return DownloadSummary(entry, folder, steps=entry.steps)
    if workers < 1 or (limit is not None and limit < 1):
        raise EcglmError("--workers and --limit must be 1 or more")
    base = base_url.rstrip("/") if base_url is not None else None
    if base is not None:
        check_url(base, "--base-url: ")
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        return _Download(entry, folder, tuple(only), limit, workers, base, progress, timeout, first_wait).run()


@dataclass
class _Download:
    entry: Dataset
    folder: Path
    only: tuple[str, ...]
    limit: int | None
    workers: int
    base: str | None
    progress: bool
    timeout: float
    first_wait: float

    def __post_init__(self) -> None:
        self.state = self.folder / STATE
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._sessions = threading.local()
        self._all_sessions: list[Session] = []
        self.done: dict[str, dict[str, Any]] = {}

    def run(self) -> DownloadSummary:
        settings = {"dataset": self.entry.name, "only": list(self.only), "limit": self.limit}
        self._claim()
        try:
            files = self._chosen(settings)
            waiting = [f for f in files if not self._have(f)]
            if waiting or not self._finished(settings):
                self._fetch_all(files, waiting)
                rows = {f.name: self.done[f.name] for f in files}
                write_manifest(
                    self.state / "manifest.json",
                    KIND,
                    settings,
                    {"place": repr(self.entry.place)},
                    {file: row["sha256"] for file, row in rows.items()},
                )
        finally:
            for session in self._all_sessions:
                session.close()
        rows = {f.name: self.done[f.name] for f in files}
        return DownloadSummary(
            self.entry,
            self.folder,
            fetched=len(waiting),
            reused=len(files) - len(waiting),
            num_bytes=sum(rows[f.name]["size"] for f in waiting),
            unchecked=tuple(f.name for f in files if not rows[f.name]["checked"]),
            unpacked=sum(len(rows[f.name].get("unpacked", [])) for f in waiting),
        )

    def _claim(self) -> None:
        """Make the folder this dataset's; StaleOutputError when it is another's."""
        owner = self.state / "dataset.json"
        if owner.exists():
            found = read_json(owner).get("dataset")
            if found != self.entry.name:
                raise StaleOutputError(f"{self.folder}: holds the dataset '{found}'; choose another --to")
        else:
            write_json(owner, {"dataset": self.entry.name})
        journal = self.state / "done.jsonl"
        if journal.exists():
            rows = read_jsonl(journal, allow_torn=True)
            if not journal.read_bytes().endswith(b"\n"):  # the next row must not follow half a line
                journal.unlink()
                append_jsonl(journal, rows)
            self.done = {row["name"]: row for row in rows}

    def _chosen(self, settings: dict[str, Any]) -> list[RemoteFile]:
        """The files that are wanted, tables and licences first."""
        whole = None
        if isinstance(self.entry.place, PhysioNet) and not self.only and self.limit is None:
            whole = self.entry.place.whole(self.base)
        if whole is not None:
            return [whole]
        listed = self._listing()
        patterns = self.only or self.entry.only
        chosen = [f for f in listed if _matches(f.name, patterns)]
        if not chosen:
            examples = ", ".join(f.name for f in listed[:3])
            raise EcglmError(f"--only {' '.join(patterns)}: no file of {self.entry.name} is called so; e.g. {examples}")
        first = [f for f in listed if _matches(f.name, self.entry.always)]
        ordered = {f.name: f for f in [*first, *chosen]}
        return list(ordered.values())[: self.limit]

    def _listing(self) -> list[RemoteFile]:
        """The host's listing, asked for once per folder: a run that goes on works on the same list."""
        kept = self.state / "listing.json"
        if kept.exists():
            found = read_json(kept)
            if found.get("base") == self.base and found.get("place") == repr(self.entry.place):
                return [
                    RemoteFile(n, url, size, None if digest is None else (digest[0], digest[1]))
                    for n, url, size, digest in found["files"]
                ]
        assert self.entry.place is not None

        def read(url: str, max_bytes: int) -> bytes:
            return read_url(url, self._session(), max_bytes, first_wait=self.first_wait)

        files = self.entry.place.files(self.base, read)
        folded: dict[str, str] = {}
        for file in files:
            check_member_name(self.entry.home, file.name)
            if folded.setdefault(file.name.casefold(), file.name) != file.name or file.name.split("/")[0] == STATE:
                raise EcglmError(f"{self.entry.home}: lists {file.name} in two spellings; one of them would be lost")
        if len({f.name for f in files}) != len(files):
            raise EcglmError(f"{self.entry.home}: lists one file name twice; the listing is damaged")
        rows = [(f.name, f.url, f.size, f.digest) for f in files]
        write_json(kept, {"base": self.base, "place": repr(self.entry.place), "files": rows})
        return files

    def _have(self, file: RemoteFile) -> bool:
        """Whether an earlier run finished this file and it still has its length."""
        row = self.done.get(file.name)
        if row is None or (file.digest is not None and row.get("digest") != list(file.digest)):
            return False
        unpacked = row.get("unpacked")
        if unpacked is not None:
            return all(_size(self.folder / name) == size for name, size in unpacked)
        return _size(self.folder / file.name) == row["size"]

    def _finished(self, settings: dict[str, Any]) -> bool:
        manifest = self.state / "manifest.json"
        return manifest.exists() and read_manifest(manifest, KIND)["settings"] == settings

    def _fetch_all(self, files: list[RemoteFile], waiting: list[RemoteFile]) -> None:
        sizes = [f.size for f in waiting]
        total = None if None in sizes else sum(s for s in sizes if s is not None)
        known = sum(s or 0 for s in sizes) - sum(_part(self.folder / f.name) for f in waiting)
        free = shutil.disk_usage(self.folder).free
        if known > free:
            raise EcglmError(f"{self.folder}: {human(known)} are still to come, {human(free)} are free on this disk")
        meter = Meter(self.entry.name, len(waiting), total, self.progress)
        failures: list[EcglmError] = []
        pending: set[Future[None]] = set()
        try:
            with counted_interrupts() as ctrl_c, ThreadPoolExecutor(self.workers, "download") as pool:
                following = iter(waiting)
                try:
                    while not ctrl_c.count and len(failures) < _PATIENCE:
                        batch = itertools.islice(following, 4 * self.workers - len(pending))
                        pending |= {pool.submit(self._fetch_one, file, meter) for file in batch}
                        if not pending:
                            break
                        pending = self._collect(pending, failures)
                finally:  # Ctrl-C and refusals too: workers end at their next block, parts are kept
                    self.stop.set()
                    for future in pending:
                        future.cancel()
        finally:
            meter.close()
        if ctrl_c.count:
            raise KeyboardInterrupt
        if failures:
            more = f" (and {len(failures) - 1} more files failed)" if len(failures) > 1 else ""
            raise type(failures[0])(f"{failures[0]}{more}")

    def _collect(self, pending: set[Future[None]], failures: list[EcglmError]) -> set[Future[None]]:
        done, rest = wait(pending, timeout=LOOK, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            if isinstance(error, EcglmError) and not isinstance(error, StaleOutputError):
                failures.append(error)
            elif error is not None:
                raise error
        return rest

    def _fetch_one(self, file: RemoteFile, meter: Meter) -> None:
        if self.stop.is_set():
            return
        target = inside(self.folder, self.folder / file.name, self.entry.name)
        meter.found(_part(target))
        if self._is_right(file, target):
            facts: dict[str, Any] = {"size": target.stat().st_size, "sha256": file_sha256(target)}
            meter.found(facts["size"])
        else:
            check = functools.partial(self._check_zip, file.name, meter) if _is_zip(file) else None
            facts = fetch(
                file,
                target,
                self._session(),
                tick=meter.tick,
                stop=self.stop,
                first_wait=self.first_wait,
                check=check,
            )
        row: dict[str, Any] = {"name": file.name, **facts, "checked": file.digest is not None}
        row["digest"] = list(file.digest) if file.digest else None
        if isinstance(self.entry.place, PhysioNet):
            row["checked"] = True  # the zip by the checksums inside it
        if _matches(file.name, self.entry.unpack):
            with _thrown_away_if_bad(target):
                row["unpacked"] = self._unpack(target)
        with self._lock:
            append_jsonl(self.state / "done.jsonl", [row])
            self.done[file.name] = row
        meter.file_done()

    def _check_zip(self, name: str, meter: Meter, part: Path) -> None:
        def go_on(num_bytes: int) -> None:
            if self.stop.is_set():  # no TornOutputError: what was fetched is right so far as we know
                raise EcglmError(f"{name}: interrupted; run the same command again, it goes on from here")

        meter.note(f"{self.entry.name}: checking what lies in {name}")
        verify_zip(part, go_on)

    def _is_right(self, file: RemoteFile, target: Path) -> bool:
        """Whether a file that nobody noted down is the wanted one: by its checksum, or as a whole zip."""
        if not target.is_file() or (file.size is not None and target.stat().st_size != file.size):
            return False
        if file.digest is None:
            try:
                return _is_zip(file) and verify_zip(target) > 0
            except (TornOutputError, UnsafeInputError):
                return False
        return file.digest[0] == "sha256" and file_sha256(target) == file.digest[1]

    def _unpack(self, archive: Path) -> list[tuple[str, int]]:
        """Unpack beside the archive and remove it; names and lengths of its files."""
        names = unpack(archive, self.folder, strip_top=self.entry.strip_top)
        archive.unlink()
        return [(name, _size(self.folder / name)) for name in names]

    def _session(self) -> Session:
        if not hasattr(self._sessions, "mine"):
            self._sessions.mine = Session(self.timeout)
            with self._lock:
                self._all_sessions.append(self._sessions.mine)
        return self._sessions.mine


def _is_zip(file: RemoteFile) -> bool:
    """Whether a file that comes without a checksum can be checked by what lies in it."""
    return file.digest is None and file.name.endswith(".zip")


@contextlib.contextmanager
def _thrown_away_if_bad(archive: Path) -> Iterator[None]:
    try:
        yield
    except (UnsafeInputError, TornOutputError):
        archive.unlink()
        raise


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(_pattern(p)(name) for p in patterns)


@functools.lru_cache(maxsize=256)
def _pattern(pattern: str) -> Any:
    return re.compile(fnmatch.translate(pattern)).match


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _part(target: Path) -> int:
    return max(0, _size(target.with_name(target.name + ".part")))
