"""The pictures of a prepared subset: original bytes after a look at them, or drawn from the recordings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.files import inside
from ecglm.records.picture_files import read_picture
from ecglm.representations.render import jpeg_bytes, png_bytes, render
from ecglm.representations.synthesis import synthesise
from ecglm.store.reader import SegmentStore

Pictures = Literal["original", "clean", "pulse"]
#: The pictures that PULSE was shown are of one segment of 10 s.
SECONDS = 10.0
SIZE = (1100, 850)
#: A picture file larger than this is not opened.
MAX_BYTES = 256 << 20


def safe_name(name: str) -> str:
    """A relative path below ``images/``; RejectedRecord ``image_path_unsafe`` for one that could lead elsewhere."""
    parts = name.split("/")
    odd = any(part in ("", ".", "..") or part.startswith("~") or len(part) > 120 for part in parts)
    if odd or len(name) > 1000 or re.search(r"^[A-Za-z]:|[\\\0-\x1f\ud800-\udfff]", name):
        raise RejectedRecord("image_path_unsafe", f"{name[:120]!r}: a path without '..' below images/ is needed")
    return name


class Originals:
    """Bytes as the source has them: from the Parquet row, else a file below the source's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root if root.is_dir() else root.parent

    def __call__(self, item: GoldItem, cell: Any, name: str, done: Path | None) -> bytes:
        """The picture's bytes; ``done``: a file that was checked before, and is not decoded again if it is the same.

        Raises RejectedRecord ``image_missing``, ``image_corrupt`` or ``image_too_large``.
        """
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if data is None:
            data = self._file(name)
        if len(data) > MAX_BYTES:
            raise RejectedRecord("image_too_large", f"{name}: {len(data):,} bytes, at most {MAX_BYTES:,} are read")
        if done is None or done.stat().st_size != len(data) or done.read_bytes() != data:
            read_picture(bytes(data), name=name)
        return bytes(data)

    def _file(self, name: str) -> bytes:
        for folder in (self.root / "images", self.root):
            path = folder / name
            try:
                if path.is_file():
                    inside(self.root, path, name)
                    if path.stat().st_size > MAX_BYTES:
                        raise RejectedRecord("image_too_large", f"{name}: {path.stat().st_size:,} bytes")
                    return path.read_bytes()
            except UnsafeInputError as error:
                raise RejectedRecord("image_path_unsafe", str(error)) from error
            except OSError as error:
                raise RejectedRecord("image_missing", f"{name}: cannot be read ({error.strerror})") from error
        raise RejectedRecord(
            "image_missing", f"{name}: not in the data, nor below {self.root.name or self.root}/images"
        )


class Drawn:
    """ECG paper of the recording's first 10 s, clean or as PULSE's pictures were made; the same seed, the same bytes.

    Raises EcglmError for a store whose segments are not of 10 s.
    """

    def __init__(self, stores: Sequence[SegmentStore], pictures: Pictures, seed: int) -> None:
        self.stores, self.pictures, self.seed = list(stores), pictures, seed
        for store in self.stores:
            if abs(store.seg_len / store.rate - SECONDS) > 0.5 / store.rate:
                raise EcglmError(
                    f"{store.path}: segments of {store.seg_len / store.rate:g} s, ECGBench shows {SECONDS:g} s; "
                    f"prepare a store with --seg-len {int(SECONDS * store.rate)}"
                )

    def __call__(self, item: GoldItem, cell: Any, name: str, done: Path | None) -> bytes:
        """PNG or JPEG bytes, as the name says. RejectedRecord ``no_recording`` or ``ecg_not_in_store``."""
        if item.record is None:
            raise RejectedRecord("no_recording", f"{name} names no recording that could be drawn")
        for store in self.stores:
            if places := store.segments_of(item.record):
                if done is not None:
                    return done.read_bytes()
                return self._draw(store, places[0], name)
        raise RejectedRecord("ecg_not_in_store", f"in no store: {item.record}")

    def _draw(self, store: SegmentStore, place: int, name: str) -> bytes:
        if self.pictures == "clean":
            image = render(store[place], store.rate, size=SIZE)
        else:
            image = synthesise(store[place], store.rate, recipe="pulse", seed=self.seed, row_id=name, size=SIZE)
        return jpeg_bytes(image) if PurePosixPath(name).suffix.lower() in (".jpg", ".jpeg") else png_bytes(image)


def drawn_name(name: str) -> str:
    """The name under which a drawing is kept: its own where that says PNG or JPEG, else with ``.png``."""
    return name if PurePosixPath(name).suffix.lower() in (".png", ".jpg", ".jpeg") else f"{name}.png"
