"""Who is here: one session per visitor, each with a folder and memory of its own, forgotten when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ecglm.errors import EcglmError

_PREFIX, _LOCK = "ecglm-demo-", "lock"


class SessionGone(EcglmError):
    """The session ended: cleared away, idle too long, or the oldest of too many."""


class Kept(Protocol):
    """What a session keeps of its visitor."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        ...

    def forget(self) -> None:
        """Let go of everything: talk, ECGs, answers that are being written."""
        ...


K = TypeVar("K", bound=Kept)


@dataclass(eq=False)
class Session(Generic[K]):
    """One visitor. token: nobody can guess it. folder: for this visitor's files alone. kept: see ``Kept``."""

    token: str
    folder: Path
    kept: K
    used: float


class Sessions(Generic[K]):
    """All sessions; threads may share it.

    At most ``max_sessions``, and ``max_bytes`` of memory: whoever was idle longest goes first. A session that was idle
    for ``idle_s`` seconds has ended. Folders lie below ``root``, a private one (mode 0700) in ``place``, else where
    temporary files lie; it is removed with ``close`` and at exit, and what a killed process left there by the next
    one. clock: seconds, ever rising.
    """

    def __init__(
        self,
        *,
        place: str | os.PathLike[str] | None = None,
        max_sessions: int = 64,
        max_bytes: int = 2 << 30,
        idle_s: float = 7200.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, lock = _make_root(Path(place or tempfile.gettempdir()))
        self.max_sessions, self.max_bytes, self.idle_s = max_sessions, max_bytes, idle_s
        self._clock = clock
        self._sessions: dict[str, Session[K]] = {}  # whoever was used last stands last
        self._lock = threading.RLock()
        self._closed = False
        self._remove = weakref.finalize(self, _remove_root, self.root, lock)

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def open(self, make: Callable[[str, Path], K]) -> Session[K]:
        """A new session; ``make`` gets its token and folder and gives what it keeps. EcglmError after ``close``."""
        with self._lock:
            if self._closed:
                raise EcglmError("the demo is closing; start it again")
            ended = self._idle()
            while len(self._sessions) >= max(1, self.max_sessions):
                ended.append(self._sessions.pop(next(iter(self._sessions))))
            token = secrets.token_urlsafe(32)
            folder = Path(tempfile.mkdtemp(prefix="session-", dir=self.root))
            session = Session(token, folder, make(token, folder), self._clock())
            self._sessions[token] = session
        _end(ended)
        return session

    def get(self, token: str) -> Session[K]:
        """The session of a token, now used. SessionGone where there is none."""
        with self._lock:
            ended = self._idle()
            session = self._sessions.pop(token, None)
            if session is not None:
                session.used = self._clock()
                self._sessions[token] = session
        _end(ended)
        if session is None:
            raise SessionGone("this session has ended; load the page again")
        return session

    def find(self, wanted: Callable[[K], bool]) -> Session[K] | None:
        """The first session whose content is wanted, now used; None where there is none."""
        with self._lock:
            token = next((t for t, s in self._sessions.items() if wanted(s.kept)), None)
        try:
            return None if token is None else self.get(token)
        except SessionGone:
            return None

    def all_kept(self) -> list[K]:
        """What all sessions keep; none of them counts as used by this."""
        with self._lock:
            return [session.kept for session in self._sessions.values()]

    def make_room(self, token: str, num_bytes: int) -> None:
        """Before ``num_bytes`` more are kept: ends other sessions, those idle longest first, until all fit. EcglmError
        where this one alone would be too large.
        """
        ended = []
        with self._lock:
            mine = self._sessions[token].kept.num_bytes if token in self._sessions else 0
            if mine + num_bytes > self.max_bytes:
                raise EcglmError("this talk holds as many ECGs as there is memory for; clear it to begin another")
            sizes = {t: s.kept.num_bytes for t, s in self._sessions.items()}
            total = num_bytes + sum(sizes.values())
            for other in [t for t in sizes if t != token and sizes[t]]:
                if total <= self.max_bytes:
                    break
                total -= sizes[other]
                ended.append(self._sessions.pop(other))
        _end(ended)

    def end(self, token: str) -> None:
        """Forget a session with its files; one that is gone already is no error."""
        with self._lock:
            session = self._sessions.pop(token, None)
        _end([session] if session is not None else [])

    def close(self) -> None:
        """End all sessions and remove their folders; none can be opened afterwards."""
        with self._lock:
            self._closed = True
            ended = list(self._sessions.values())
            self._sessions.clear()
        _end(ended)
        self._remove()

    def _idle(self) -> list[Session[K]]:
        """Take out the sessions that were idle too long."""
        limit = self._clock() - self.idle_s
        return [self._sessions.pop(t) for t in [t for t, s in self._sessions.items() if s.used < limit]]


def _make_root(place: Path) -> tuple[Path, int]:
    """A private folder, and the lock in it that is held as long as this process lives. It gets its name once it is
    locked, so that nobody takes it for one that was left behind.
    """
    _sweep(place)
    fresh = Path(tempfile.mkdtemp(prefix=".ecglm-new-", dir=place))
    lock = os.open(fresh / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return fresh.rename(place / f"{_PREFIX}{secrets.token_hex(8)}"), lock


def _remove_root(root: Path, lock: int) -> None:
    shutil.rmtree(root, ignore_errors=True)
    os.close(lock)


def _sweep(place: Path) -> None:
    """Remove the folders of killed processes of this user."""
    for root in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another's, in use, or just removed by another
            if root.is_symlink() or root.stat().st_uid != os.getuid():
                continue
            lock = os.open(root / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)


def _end(sessions: list[Session[K]]) -> None:
    """Outside the lock: what is forgotten may wait for answers to stop."""
    for session in sessions:
        session.kept.forget()
        shutil.rmtree(session.folder, ignore_errors=True)


def empty(folder: Path) -> None:
    """Remove everything in a session's folder; links are removed, not followed."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)
