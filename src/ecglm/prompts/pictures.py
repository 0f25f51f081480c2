"""Picture files as ECGs: which file a conversation shows, looked for below folders, checked before training begins."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import fingerprint
from ecglm.records.picture_files import read_picture
from ecglm.types import Conversation

#: An ECG that is a picture, and no recording in a store: ``image/<path of the file below its folder>``.
PREFIX = "image/"
#: From so many files on, several are checked at once: decoding is not Python's own work.
_MANY = 256


def is_picture_id(ecg: str) -> bool:
    """Whether an ECG's id names a picture file."""
    return ecg.startswith(PREFIX)


def picture_id(conversation: Conversation) -> str | None:
    """The id of the one picture that a conversation's metadata name (``image``), or None."""
    name = conversation.metadata.get("image")
    if len(conversation.ecgs) != 1 or not isinstance(name, str) or not name.strip():
        return None
    return PREFIX + name.strip()


@dataclass
class PictureFiles:
    """The picture files below ``folders``; the first folder that holds a file wins. EcglmError for one not there."""

    folders: Sequence[str | Path]
    _checked: dict[str, tuple[int, int] | RejectedRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not Path(folder).is_dir():
                raise EcglmError(f"data.images: {folder} is no folder; name the one that the images' paths begin in")

    def find(self, ecg: str) -> Path:
        """The file of a picture's id. RejectedRecord ``image_missing``, or ``unsafe_image_path`` for a path that leads
        out of the folders.
        """
        name = ecg.removeprefix(PREFIX)
        path = PurePosixPath(name)
        odd = any(character in name for character in "\0\\:")
        if odd or not path.parts or path.is_absolute() or ".." in path.parts:
            raise RejectedRecord("unsafe_image_path", f"{name!r:.120} is no path below a folder of data.images")
        for folder in self.folders:
            with contextlib.suppress(OSError):  # a name too long for the disk
                if (file := Path(folder) / path).is_file():
                    return file
        where = " or ".join(map(str, self.folders)) or "no folder: name one with data.images"
        raise RejectedRecord("image_missing", f"{name[:200]}: not below {where}")

    def holds(self, ecg: str) -> bool:
        """Whether the file of a picture's id is there."""
        try:
            self.find(ecg)
        except RejectedRecord:
            return False
        return True

    def read(self, ecg: str) -> np.ndarray:
        """A picture uint8 ``(height, width, 3)``. RejectedRecord as ``find`` and ``read_picture`` raise it."""
        return read_picture(self.find(ecg), name=ecg.removeprefix(PREFIX))

    def size(self, ecg: str) -> tuple[int, int]:
        """(height, width) of a picture that can be read whole, looked at once; RejectedRecord else."""
        if ecg not in self._checked:
            self._checked[ecg] = self._look(ecg)
        found = self._checked[ecg]
        if isinstance(found, RejectedRecord):
            raise RejectedRecord(found.reason, found.detail)
        return found

    def check(
        self, ecgs: Iterable[str], part: int = 0, parts: int = 1, join: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> None:
        """Look at all these pictures, several at once; ``size`` then knows those that are good.

        part, parts: which share of them this process of several looks at. join: (number of pictures, 2) int64, zero but
        for its own share, to the sum over all processes.
        """
        new = sorted({ecg for ecg in ecgs if ecg not in self._checked})
        if len(new) < _MANY:
            return  # one by one, when they are asked for
        sizes = np.zeros((len(new), 2), np.int64)
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for at, found in enumerate(pool.map(self._look, new[part::parts])):
                sizes[part + at * parts] = (0, 0) if isinstance(found, RejectedRecord) else found
        for ecg, (height, width) in zip(new, join(sizes).tolist(), strict=True):
            if height:
                self._checked[ecg] = (height, width)

    def _look(self, ecg: str) -> tuple[int, int] | RejectedRecord:
        try:
            height, width = self.read(ecg).shape[:2]
        except RejectedRecord as error:
            return error.with_traceback(None)
        return height, width

    def fingerprint(self, ecgs: Iterable[str]) -> str:
        """What tells these files from others: their names and sizes; files that are not there have none."""
        sizes: dict[str, int | None] = {}
        for ecg in sorted(set(ecgs)):
            try:
                sizes[ecg] = self.find(ecg).stat().st_size
            except (RejectedRecord, OSError):
                sizes[ecg] = None
        return fingerprint(sizes)
