"""What an index measures of its segments, in parts that a killed run finds again; workers change no byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ecglm.files import atomic_path
from ecglm.retrieval.copies import content_key, sketches
from ecglm.signals.features import ecg_bench_288
from ecglm.store.pool import results
from ecglm.store.reader import SegmentStore

if TYPE_CHECKING:  # workers need no torch
    from ecglm.retrieval.embedding import Embedder

#: Segments of one part, and read at once.
PART, _BATCH = 1024, 128
PARTS = "parts"

Arrays = dict[str, np.ndarray]


def raw_arrays(
    stores: Sequence[SegmentStore],
    table: pa.Table,
    folder: Path,
    *,
    features: bool,
    embedder: Embedder | None,
    workers: int = 1,
    done: Callable[[str, int], None] = lambda stage, number: None,
) -> Arrays:
    """``sketch`` float16 ``(n, 64)`` and ``content`` uint64 ``(n,)`` of the members (rows of ``members.COLUMNS``), and
    where asked for ``features`` float32 ``(n, 288)`` and ``embedding`` float32 ``(n, dim)``, in their order.

    folder: of the index; parts that are there already are read, not made. done: called with a stage and how many
    segments it has done. Rows may hold NaN. Raises EcglmError where a worker dies or the segments cannot be measured.
    """
    (folder / PARTS).mkdir(exist_ok=True)
    places = np.stack([table.column("store").to_numpy(), table.column("position").to_numpy()], axis=1)
    starts = range(0, len(places), PART)
    tasks = [(_file(folder, "signal", n), places[start : start + PART]) for n, start in enumerate(starts)]
    missing = [task for task in tasks if not _whole(task[0], len(task[1]))]
    ready = len(places) - sum(len(rows) for _, rows in missing)
    done("signals", ready)
    for count in _measured(stores, missing, features, workers):
        ready += count
        done("signals", ready)
    parts = [load_file(file) for file, _ in tasks]
    if embedder is not None:
        for number, (_, rows) in enumerate(tasks):
            file = _file(folder, "embedding", number)
            if not _whole(file, len(rows)):
                _write(file, {"embedding": _embedded(stores, rows, embedder)})
            parts[number] |= load_file(file)
            done("encoder", min(len(places), (number + 1) * PART))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measured(
    stores: Sequence[SegmentStore], tasks: Sequence[tuple[Path, np.ndarray]], features: bool, workers: int
) -> Iterator[int]:
    """Write the parts that are missing; the segments of each."""
    if workers == 1 or len(tasks) < 2:
        for file, rows in tasks:
            yield _measure(stores, file, rows, features)
        return
    calls = [(stores, file, rows, features) for file, rows in tasks]
    yield from results("index", _measure, calls, workers)


def _measure(stores: Sequence[SegmentStore], file: Path, rows: np.ndarray, features: bool) -> int:
    found: list[Arrays] = []
    for start in range(0, len(rows), _BATCH):
        microvolts = _take(stores, rows[start : start + _BATCH])
        segments = np.divide(microvolts, 1000, dtype=np.float32)
        part = {
            "sketch": sketches(segments),
            "content": np.array([content_key(segment) for segment in microvolts], np.uint64),
        }
        if features:
            part["features"] = ecg_bench_288(segments, stores[0].rate).astype(np.float32)
        found.append(part)
    _write(file, {name: np.concatenate([part[name] for part in found]) for name in found[0]})
    return len(rows)


def _embedded(stores: Sequence[SegmentStore], rows: np.ndarray, embedder: Embedder) -> np.ndarray:
    found = []
    for start in range(0, len(rows), _BATCH):
        segments = np.divide(_take(stores, rows[start : start + _BATCH]), 1000, dtype=np.float32)
        found.append(embedder(segments, stores[0].rate))
    return np.concatenate(found)


def _take(stores: Sequence[SegmentStore], rows: np.ndarray) -> np.ndarray:
    """int16 microvolts of (store, position) rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows[:, 0])) + 1)
    return np.concatenate([stores[int(run[0, 0])].microvolts(run[:, 1]) for run in runs])


def _file(folder: Path, what: str, number: int) -> Path:
    return folder / PARTS / f"{number:05d}-{what}.safetensors"


def _write(file: Path, arrays: Arrays) -> None:
    with atomic_path(file) as temporary:
        save_file(arrays, temporary)


def _whole(file: Path, count: int) -> bool:
    """Whether a part is there with so many rows; a damaged one is made again."""
    try:
        return file.is_file() and all(len(array) == count for array in load_file(file).values())
    except (SafetensorError, OSError):
        return False
