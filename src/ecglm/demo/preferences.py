"""What people think of answers, one JSON row each, in the file that ``ecglm align`` trains on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.demo.shown import Shown
from ecglm.demo.talk import Answer, Placed, Talk
from ecglm.demo.texts import question_text
from ecglm.errors import EcglmError
from ecglm.files import read_jsonl
from ecglm.store.audit_table import digest

VERSION = 1
#: Folder beside the file, with the ECGs that people agreed to keep.
KEPT = "ecgs"


class PreferenceLog:
    """The preference file ``path`` (JSON lines). Rows are only ever appended: whole, under a lock, on the disk when
    ``add`` returns; several processes may write. A row that a killed process left unfinished is cut off, when the file
    is opened and before every row.

    A later row with the id of an earlier one takes its place (somebody changed their mind). Raises EcglmError where the
    file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise EcglmError(f"{self.path}: is a folder; name a file such as preferences.jsonl")
        with self._locked():
            pass

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, its end whole, ours alone for the block."""
        with _told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                _mend(handle)
                yield handle
            finally:
                os.close(handle)

    def add(self, row: dict[str, Any]) -> None:
        """Append one row. EcglmError when the disk is full; the file is then as it was."""
        line = (json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode()
        with self._locked() as handle:
            before = os.fstat(handle).st_size
            try:
                done = 0
                while done < len(line):
                    done += os.write(handle, line[done:])
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, before)
                raise

    def rows(self) -> list[dict[str, Any]]:
        """All rows as they stand, whole ones alone."""
        return read_jsonl(self.path, allow_torn=True)

    def keep(self, shown: Shown, segment: int) -> str:
        """Write an ECG beside the file, as int16 microvolts ``(12, seg_len)``; the name below the file's folder."""
        name = f"{KEPT}/{shown.sha256(segment)}.npy"
        target = self.path.parent / name
        if target.exists():
            return name
        data = io.BytesIO()
        np.lib.format.write_array(data, np.ascontiguousarray(shown.microvolts(segment)), allow_pickle=False)
        with _told(target):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = target.with_name(f".tmp-{secrets.token_hex(8)}")
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(handle, "wb") as file:
                    file.write(data.getvalue())
                    file.flush()
                    os.fsync(handle)
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
        return name

    # --- what people say

    def thumb(self, talk: Talk, answer_id: str, thumb: int | None, *, keep: bool = False) -> dict[str, Any]:
        """An answer is good (1) or not (-1), or no longer either (None). keep: the ECGs may be kept. The row."""
        if thumb not in (1, -1, None):
            raise EcglmError(f"a thumb is 1, -1 or nothing, found {thumb!r}")
        answer = _usable(talk, answer_id)
        row = self._row(talk, answer, "thumbs", f"{answer.id}-thumb", keep)
        return self._added(row | {"answer": answer.text, "thumb": thumb})

    def correct(self, talk: Talk, answer_id: str, text: str, *, keep: bool = False) -> dict[str, Any]:
        """What the model should have said instead: preferred to its answer."""
        answer, better = _usable(talk, answer_id), question_text(text, "correction")
        if better == answer.text.strip():
            raise EcglmError("the correction is the answer itself; change something, or give it a thumb")
        row = self._row(talk, answer, "correction", f"{answer.id}-correction", keep)
        return self._added(row | {"chosen": better, "rejected": answer.text})

    def compare(self, talk: Talk, better_id: str, worse_id: str, *, keep: bool = False) -> dict[str, Any]:
        """One of two answers to the same question is better: of two models, or of one model asked again.

        The row's turns are those that the better answer was given to.
        """
        better, worse = _usable(talk, better_id), _usable(talk, worse_id)
        if better.question != worse.question or better.id == worse.id:
            raise EcglmError("two different answers to the same question are compared")
        if better.text.strip() == worse.text.strip():
            raise EcglmError("both answers are the same; there is nothing to prefer")
        row = self._row(talk, better, "compare", f"{'-'.join(sorted((better.id, worse.id)))}-compare", keep)
        other = talk.models[worse.model]
        row["other"] = {"name": other.name, "fingerprint": other.fingerprint}
        return self._added(row | {"chosen": better.text, "rejected": worse.text})

    def _added(self, row: dict[str, Any]) -> dict[str, Any]:
        self.add(row)
        return row

    def _row(self, talk: Talk, answer: Answer, source: str, row_id: str, keep: bool) -> dict[str, Any]:
        turns, ecgs = talk.shown_to(answer.id)
        model = talk.models[answer.model]
        people = sorted({digest(name) for placed in ecgs for name in placed.shown.origin.people if name})
        return {
            "version": VERSION,
            "id": row_id,
            "source": source,
            "turns": [{"role": turn.role, "text": turn.text} for turn in turns],
            "ecgs": [self._ecg(placed, keep) for placed in ecgs],
            "split": _strictest([placed.shown.origin.split for placed in ecgs]),
            "people": [str(person) for person in people],
            "chosen": None,
            "rejected": None,
            "answer": None,
            "thumb": None,
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "other": None,
        }

    def _ecg(self, placed: Placed, keep: bool) -> dict[str, Any]:
        shown, origin = placed.shown, placed.shown.origin
        synthetic = origin.kind == "synthetic"  # nobody's, and in no store
        kept = (keep or synthetic) and not shown.is_picture and origin.kind != "store"
        return {
            "record": origin.record,
            "store": origin.store,
            "file": self.keep(shown, placed.segment) if kept else None,
            "sha256": shown.sha256(placed.segment),
            "rate": None if shown.is_picture else shown.rate,
            "segment": placed.segment,
        }


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the disk says, in one line that a visitor may read: without the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EcglmError(f"{path.name}: no space left on the disk; free some, then rate again") from error
        why = os.strerror(error.errno or 0)
        raise EcglmError(f"{path.name}: cannot be written ({why}); name another file with --preferences") from error


def _usable(talk: Talk, answer_id: str) -> Answer:
    answer = talk.answer(answer_id)
    if not answer.usable:
        raise EcglmError("there is no complete answer to judge; wait for it or ask again")
    return answer


def _strictest(splits: Sequence[str]) -> str:
    """The split of a row about several ECGs: test before val before train; empty where one is not known."""
    for split in ("test", "val"):
        if split in splits:
            return split
    return "train" if splits and all(s == "train" for s in splits) else ""


def _mend(handle: int) -> None:
    """Cut off an unfinished last line; a whole one that only lacks its line break gets it."""
    size = os.fstat(handle).st_size
    if not size or os.pread(handle, 1, size - 1) == b"\n":
        return
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 1 << 16)
        start -= step
        tail = os.pread(handle, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    try:
        whole = isinstance(json.loads(last), dict)
    except (ValueError, RecursionError):
        whole = False
    if whole:
        os.write(handle, b"\n")
    else:
        os.ftruncate(handle, size - len(last))
    os.fsync(handle)
