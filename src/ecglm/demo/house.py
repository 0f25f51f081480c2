"""What one running page has: models, samples, index, preference file; and its visits, one per open browser tab."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm.demo.engine import Engine
from ecglm.demo.neighbours import NeighbourShown, neighbours_shown
from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.samples import Samples
from ecglm.demo.sessions import SessionGone, Sessions, empty
from ecglm.demo.shown import Shown
from ecglm.demo.streams import Stream
from ecglm.demo.talk import ModelName, Placed, Talk
from ecglm.demo.uploads import Limits
from ecglm.errors import EcglmError
from ecglm.retrieval.search import Exclude, Index
from ecglm.types import Neighbour

#: Files of one tab that were sent and not read yet.
MAX_WAITING_FILES = 16
#: Bytes that files of all tabs together may take on the disk until they are read.
MAX_WAITING_BYTES = 2 << 30
#: Neighbours that people see at least; a model is told of as many as it learned with.
SHOWN_NEIGHBOURS = 3
LIMITS = Limits(max_bytes=32 << 20)


@dataclass(eq=False)
class Visit:
    """One tab: its talk and folder, what is shown, what was dropped and not read yet, what is being answered.

    token: what pictures, uploads and saved files are asked for with; nobody can guess it. cookie, tab: of the browser
    and page that opened it. current: number of the ECG that is shown. writing: answer id → its stream. uploads: word →
    file; sizes: bytes that each may come to. pending: files that wait for facts. hits, neighbours: by number of ECG, as
    the index and as people know them. people: ids of those whose ECGs the talk has shown, whom no neighbour may be.
    thumbs, corrections, better: what the user said of answers.
    """

    cookie: str
    tab: str
    talk: Talk
    token: str
    folder: Path
    current: int = 0
    layout: str = "3x4+1"
    marks: bool = False
    uploads: dict[str, Path] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    pending: tuple[Path, ...] = ()
    writing: dict[str, Stream] = field(default_factory=dict)
    hits: dict[int, tuple[Neighbour, ...]] = field(default_factory=dict)
    neighbours: dict[int, list[NeighbourShown]] = field(default_factory=dict)
    people: frozenset[str] = frozenset()
    thumbs: dict[str, int] = field(default_factory=dict)
    corrections: dict[str, str] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)
    correcting: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def num_bytes(self) -> int:
        """Memory that its ECGs take."""
        return sum(placed.shown.num_bytes for placed in self.talk.ecgs)

    @property
    def placed(self) -> Placed | None:
        """The ECG that is shown."""
        ecgs = self.talk.ecgs
        return ecgs[self.current - 1] if 0 < self.current <= len(ecgs) else None

    @property
    def waiting_bytes(self) -> int:
        """What its files on the disk may come to, being sent or not read yet."""
        # without the lock, which is held while a file is read: others do not wait for that
        waiting = [*list(self.uploads), *(file.parent.name.removeprefix("sent-") for file in self.pending)]
        return sum(self.sizes.get(word, 0) for word in waiting)

    def place_for(self, name: str, size: int = 0) -> tuple[str, Path]:
        """A word and a fresh place for an upload of ``size`` bytes at most. EcglmError when too many wait."""
        with self.lock:
            if len(self.uploads) >= MAX_WAITING_FILES:
                raise EcglmError("too many files at once; drop fewer")
            word = secrets.token_urlsafe(16)
            place = self.folder / f"sent-{word}"
            place.mkdir(mode=0o700)
            self.uploads[word], self.sizes[word] = place / name, size
            return word, place / name

    def sent(self, words: Sequence[str]) -> list[Path]:
        """Those uploads that are there, by their words, which are then known no more."""
        with self.lock:
            found = [self.uploads.pop(word, None) for word in words]
        return [file for file in found if file is not None]

    def take(self, words: Sequence[str]) -> list[Path]:
        """As ``sent``. EcglmError where one of them is not there."""
        there = self.sent(words)
        if not there or len(there) < len(words):
            raise EcglmError("these files are not here any more; drop them again")
        return there

    def stop(self) -> bool:
        """Stop what is being answered; whether anything was."""
        going = [stream for stream in list(self.writing.values()) if not stream.done]
        for stream in going:
            stream.cancel()
        return bool(going)

    def forget_neighbours(self) -> None:
        """The ECGs changed."""
        self.hits.clear()
        self.neighbours.clear()
        self.people = frozenset()

    def forget(self) -> None:
        """Let go of the talk and everything said of it; answers stop."""
        with self.lock:
            self.stop()
            self.talk.clear()
            self.forget_neighbours()
            self.current, self.pending, self.correcting = 0, (), ""
            for kept in (self.uploads, self.sizes, self.thumbs, self.corrections, self.better):
                kept.clear()


class House:
    """engines: one model, or two to compare, named as in ``names``. samples: to pick. index: where
    neighbours are looked for. log: where ratings go. history: whether a model is shown the talk so far (``Talk``).
    """

    def __init__(
        self,
        names: Sequence[ModelName],
        engines: Sequence[Engine],
        *,
        samples: Samples,
        index: Index | None = None,
        log: PreferenceLog | None = None,
        limits: Limits = LIMITS,
        max_new_tokens: int = 128,
        root: Path | None = None,
        history: bool = True,
    ) -> None:
        self.names, self.engines, self.samples = tuple(names), tuple(engines), samples
        self.index, self.log, self.limits, self.max_new_tokens = index, log, limits, max_new_tokens
        self.history = history
        self._arriving = threading.Lock()
        self.sessions: Sessions[Visit] = Sessions(place=root)

    @property
    def pictures(self) -> bool:
        """Whether every model reads pictures."""
        return all(engine.assistant.reads_pictures for engine in self.engines)

    @property
    def pipeline(self) -> dict[str, Any]:
        """How ECGs are cut: as the first model reads them."""
        return dict(self.engines[0].assistant.bundle.pipeline)

    def open(self, cookie: str, tab: str) -> Visit:
        """A fresh visit for a tab; the one that it had before ends."""
        if not cookie:
            raise EcglmError("this page needs its own cookie; allow it and load the page again")
        self.close(cookie, tab)

        def start(token: str, folder: Path) -> Visit:
            return Visit(cookie, tab, Talk(self.names, history=self.history), token, folder)

        return self.sessions.open(start).kept

    def visit(self, cookie: str, tab: str) -> Visit:
        """The visit of a tab, if this browser is the one that opened it. SessionGone else."""
        found = self.sessions.find(lambda visit: visit.tab == tab and _same(visit.cookie, cookie))
        if found is None:
            raise SessionGone("this page is no longer connected; load it again")
        return found.kept

    def by_token(self, token: str, cookie: str) -> Visit | None:
        """The visit that a picture, an upload or a file to save is asked for with."""
        try:
            found = self.sessions.get(token).kept
        except SessionGone:
            return None
        return found if _same(found.cookie, cookie) else None

    def place_for(self, visit: Visit, name: str, size: int) -> tuple[str, Path]:
        """As ``Visit.place_for``; EcglmError also where the files of all tabs together would be too large."""
        with visit.lock, self._arriving:  # a tab that is busy with a file keeps no other waiting
            waiting = sum(other.waiting_bytes for other in self.sessions.all_kept())
            if waiting + size > MAX_WAITING_BYTES:
                raise EcglmError("files of other visitors fill the room there is; try again in a moment")
            return visit.place_for(name, size)

    def add(self, visit: Visit, shown: Shown) -> Placed:
        """Put an ECG into a visit's talk and show it. EcglmError where there is no room."""
        self.sessions.make_room(visit.token, shown.num_bytes)
        placed = visit.talk.add_ecg(shown)
        visit.current = placed.number
        return placed

    def find_neighbours(self, visit: Visit, placed: Placed) -> None:
        """Search the index for an ECG once; nobody whose ECG the talk has shown is found, uploads included."""
        if self.index is None or placed.shown.is_picture or placed.number in visit.hits:
            return
        shown, index = placed.shown, self.index
        most = max(SHOWN_NEIGHBOURS, *(self.told_neighbours(number) for number in range(len(self.engines))))
        who = frozenset(name for name in shown.origin.people if name)
        segment = shown.segments[placed.segment : placed.segment + 1]
        if (shown.rate, segment.shape[2]) != (index.rate, index.seg_len):
            if shown.record is None:
                raise EcglmError(f"{shown.name}: prepared otherwise than the index; it cannot be compared with it")
            segments = index.segments(shown.record)
            segment = segments[min(placed.segment, len(segments) - 1) :][:1]
        visit.people |= who | index.patients_shown(segment, index.rate)
        exclude = Exclude(visit.people, visit.people)
        visit.hits[placed.number] = index.search(segment, index.rate, k=most, exclude=[exclude])[0]
        for number, hits in visit.hits.items():
            kept = tuple(hit for hit in hits if hit.patient_id not in visit.people)
            if number == placed.number or len(kept) < len(hits):  # an ECG that came later may be of one of them
                visit.hits[number], visit.neighbours[number] = kept, neighbours_shown(kept, self.samples)

    def told_neighbours(self, model: int) -> int:
        """How many neighbours of an ECG a model is told of: as many as it learned with, or none."""
        rag = self.engines[model].assistant.bundle.rag
        return 0 if rag is None else rag.k

    def clear(self, visit: Visit) -> None:
        """Forget a visit's talk and every upload; the tab stays."""
        visit.forget()
        empty(visit.folder)

    def close(self, cookie: str, tab: str) -> None:
        """Forget a tab: its answers stop, its uploads and its talk are gone."""
        found = self.sessions.find(lambda visit: visit.tab == tab and _same(visit.cookie, cookie))
        if found is not None:
            self.sessions.end(found.token)

    def close_all(self) -> None:
        """Forget every tab and end the models' threads."""
        self.sessions.close()
        for engine in self.engines:
            engine.close()


def _same(left: str, right: str) -> bool:
    return bool(left) and secrets.compare_digest(left.encode(), right.encode())
