"""One file over HTTP(S): resumed, checked against its size and checksum, visible only when it is whole and right."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import math
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ecglm.downloads.web import NETWORK_ERRORS, Session
from ecglm.errors import EcglmError, TornOutputError, UnsafeInputError
from ecglm.files import read_json, write_errors, write_text

BLOCK = 1 << 18
#: Failures in a row without a new byte after which a file is given up.
ATTEMPTS = 6
#: Longest wait between two attempts, and the longest that a server's Retry-After is obeyed, seconds.
MAX_WAIT = 60.0
#: Largest file whose size nobody told us.
MAX_UNKNOWN_SIZE = 1 << 38
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: relative name (``records100/00000/00001_lr.dat``), address, bytes and checksum where known.

    digest: (``"sha256"``, ``"md5"`` or ``"git-sha1"``, hex). size: bytes, or None.
    """

    name: str
    url: str
    size: int | None = None
    digest: tuple[str, str] | None = None


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def fetch(
    file: RemoteFile,
    target: Path,
    session: Session,
    *,
    tick: Callable[[int], None] = lambda num_bytes: None,
    stop: threading.Event | None = None,
    first_wait: float = 1.0,
    max_bytes: int = MAX_UNKNOWN_SIZE,
    check: Callable[[Path], Any] | None = None,
) -> dict[str, Any]:
    """Fetch ``file`` to ``target`` and return ``{"size", "sha256"}`` of it.

    The bytes so far stand in ``target.part`` (their address and validator in ``target.part.json``) and go on by a range
    request; where the server ignores ranges or the file changed meanwhile, it starts over. 429, 5xx, timeouts and lost
    connections are tried again with growing waits (``first_wait`` seconds, doubled each time; Retry-After is obeyed).
    A file whose size nobody tells may have ``max_bytes``. ``tick`` is told of new bytes (negative when some are thrown
    away); a set ``stop`` ends the work with the part kept. ``check`` looks at the whole part before it gets its name,
    and raises what this function raises.

    Raises TornOutputError for a wrong length or checksum (the part is thrown away) and when ``stop`` was set,
    UnsafeInputError for a refused address, EcglmError for a missing file, a full disk, or a network that stays down.
    """
    stop = stop or threading.Event()
    part = target.with_name(target.name + ".part")
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    failures, started_over = 0, False
    while True:
        before = _size(part)
        try:
            resumed = _transfer(file, part, session, tick, stop, max_bytes)
        except _Passing as trouble:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise EcglmError(
                    f"{file.url}: {trouble} (tried {ATTEMPTS} times); run the same command again, it goes on from here"
                ) from trouble
            session.close()
            wait = min(MAX_WAIT, first_wait * 2 ** max(0, failures - 1))
            stop.wait(max(wait, min(MAX_WAIT, trouble.wait)) if failures else 0)
            continue
        size, found, sha256 = _digests(file, part)
        if file.digest is None or found == file.digest[1].lower():
            break
        _discard(part)
        tick(-size)
        if started_over or not resumed:
            raise TornOutputError(
                f"{file.url}: the {file.digest[0]} checksum is wrong; the file was thrown away, run the command again"
            )
        started_over = True  # the older half may have been of another version
    if check is not None:
        try:
            check(part)
        except (TornOutputError, UnsafeInputError):
            _discard(part)
            raise
    with write_errors(target):
        with open(part, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
        _facts(part).unlink(missing_ok=True)
    return {"size": size, "sha256": sha256}


class _Passing(EcglmError):
    """A trouble that may pass. ``wait``: seconds the server asked for."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def _transfer(
    file: RemoteFile,
    part: Path,
    session: Session,
    tick: Callable[[int], None],
    stop: threading.Event,
    max_bytes: int,
) -> bool:
    """Bring the part to its full length with one request; whether an older part was gone on with."""
    offset, validator = _resumable(file, part)
    if not offset:
        tick(-_size(part))  # of another version, or too long: it is written over
    if file.size is not None and offset == file.size and part.exists():
        return True
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and validator:
        headers["If-Range"] = validator
    with _network(file, stop), session.get(file.url, headers) as response:
        status = response.status
        if status == 416 and offset:
            if response.getheader("Content-Range", "").strip() == f"bytes */{offset}":
                return True  # it was whole already
            _discard(part)
            tick(-offset)
            raise _Passing("the server has less than was fetched before")
        if status in _PASSING:
            raise _Passing(f"the server answers {status}", _retry_after(response))
        if status == 206 and offset:
            total = _total_of_range(response, offset, file)
        elif status == 200:
            total = _length(response)
            if offset:
                tick(-offset)
            offset = 0
        else:
            raise EcglmError(
                f"{file.url}: the server answers {status}; {_MEANING.get(status, 'this cannot be fetched')}"
            )
        if file.size is not None and total is not None and total != file.size:
            _discard(part)
            raise TornOutputError(
                f"{file.url}: has {total} bytes, {file.size} are expected; the file was thrown away (another version?)"
            )
        limit = total if total is not None else file.size
        if limit is not None and file.size is None and limit > max_bytes:
            raise EcglmError(
                f"{file.url}: has {limit} bytes, at most {max_bytes} are taken; is this the right address?"
            )
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise EcglmError(f"{file.url}: comes compressed although that was not asked for; use another mirror")
        with write_errors(part):
            if limit is not None and limit <= BLOCK:  # comes at once; four files in five are so small
                _facts(part).unlink(missing_ok=True)
            else:
                write_text(_facts(part), json.dumps({"url": file.url, "validator": _validator(response)}))
            handle = open(part, "rb+" if offset else "wb")  # noqa: SIM115 - closed below; its errors are the disk's
        with handle:
            handle.truncate(offset)
            handle.seek(offset)
            at = offset
            while block := response.read1(BLOCK):
                at += len(block)
                if at > (max_bytes if limit is None else limit):
                    handle.close()
                    _discard(part)
                    raise TornOutputError(
                        f"{file.url}: sends more than the {limit or max_bytes} bytes expected; thrown away"
                    )
                with write_errors(part):
                    handle.write(block)
                tick(len(block))
                if stop.is_set():
                    raise TornOutputError(f"{file.url}: interrupted; run the same command again, it goes on from here")
            with write_errors(part):
                handle.flush()
        if limit is not None and at < limit:
            raise _Passing(f"the connection ended after {at} of {limit} bytes")
    return bool(headers) and offset > 0


@contextlib.contextmanager
def _network(file: RemoteFile, stop: threading.Event) -> Iterator[None]:
    """What the network raises, as a trouble that may pass; the disk's errors are EcglmErrors already."""
    try:
        yield
    except NETWORK_ERRORS as error:
        if stop.is_set():
            raise TornOutputError(f"{file.url}: interrupted; run the same command again") from error
        raise _Passing(f"{type(error).__name__} {error}".strip()) from error


_MEANING = {
    401: "it wants an account; see `ecglm download` for the steps",
    403: "it does not let us in; the dataset may have become restricted",
    404: "no such file there; the dataset may have moved",
    410: "the file was taken away",
}


def _resumable(file: RemoteFile, part: Path) -> tuple[int, str]:
    """How many bytes of the part can be gone on with, and the validator the server gave for them."""
    if not part.exists():
        return 0, ""
    try:
        facts = read_json(_facts(part))
    except EcglmError:
        facts = {}
    validator = facts.get("validator") or "" if isinstance(facts, dict) and facts.get("url") == file.url else ""
    size = _size(part)
    if not (validator or file.digest) or (file.size is not None and size > file.size):
        return 0, ""
    return size, str(validator)


def _validator(response: http.client.HTTPResponse) -> str:
    """A strong ETag, else the date of change: what If-Range may carry."""
    etag = response.getheader("ETag", "")
    return etag if etag.startswith('"') else response.getheader("Last-Modified", "")


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.getheader("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _total_of_range(response: http.client.HTTPResponse, offset: int, file: RemoteFile) -> int | None:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.getheader("Content-Range", ""))
    if not found or int(found[1]) != offset:
        raise EcglmError(f"{file.url}: the server answers a range that was not asked for; use another mirror")
    return None if found[3] == "*" else int(found[3])


def _retry_after(response: http.client.HTTPResponse) -> float:
    try:
        wait = float(response.getheader("Retry-After", "0"))
    except ValueError:  # a date
        return 0.0
    return wait if math.isfinite(wait) else 0.0


def _digests(file: RemoteFile, part: Path) -> tuple[int, str, str]:
    """Size, checksum of the wanted kind, sha256 of the part."""
    size, sha256 = _size(part), hashlib.sha256()
    kind = file.digest[0] if file.digest else "sha256"
    wanted: _Hash = sha256
    if kind == "md5":
        wanted = hashlib.md5(usedforsecurity=False)
    elif kind == "git-sha1":  # how git names the content of a file
        wanted = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with open(part, "rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
            if wanted is not sha256:
                wanted.update(block)
    return size, wanted.hexdigest(), sha256.hexdigest()


def read_url(url: str, session: Session, max_bytes: int, *, first_wait: float = 1.0) -> bytes:
    """A small file's bytes, fetched as ``fetch`` does; EcglmError when it is larger than ``max_bytes``."""
    with tempfile.TemporaryDirectory(prefix="ecglm-") as folder:
        target = Path(folder, "listing")
        found = fetch(RemoteFile("listing", url), target, session, first_wait=first_wait, max_bytes=max_bytes)
        assert found["size"] <= max_bytes
        return target.read_bytes()


def _facts(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _facts(part).unlink(missing_ok=True)
