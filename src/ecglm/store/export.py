"""A store → what other programs read: Hugging Face Parquet files, ``.npy`` arrays, WFDB records."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, TornOutputError, nearest
from ecglm.store.export_files import write_npy, write_wfdb
from ecglm.store.export_hf import write_hf
from ecglm.store.progress import RecordProgress
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import INDEX, SCHEMA

KIND = "store-export"
#: Changes whenever the same store gives other files.
_VERSION = 1
#: Segments in memory at a time.
_BATCH = 256


class Writer(Protocol):
    """Writes the batches (index rows, int16 microvolts) below ``out`` and returns what the manifest shall say:
    ``outputs`` (relative name → sha256) and facts. ``head`` holds the columns segment_id, fold and split of all."""

    def __call__(
        self, store: SegmentStore, out: Path, head: pa.Table, batches: Iterator[tuple[pa.Table, np.ndarray]]
    ) -> dict[str, Any]: ...


FORMATS: dict[str, Writer] = {"hf": write_hf, "npy": write_npy, "wfdb": write_wfdb}


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What ``export`` wrote. ``splits``: segments per split (``hf`` only)."""

    path: Path
    to: str
    num_segments: int
    num_records: int
    num_files: int
    num_bytes: int
    splits: dict[str, int] = field(default_factory=dict)
    reused: bool = False

    def lines(self) -> list[str]:
        """The summary for people."""
        lines = [
            f"{self.num_segments} segments of {self.num_records} records as {self.to}: {self.num_files} files, "
            f"{self.num_bytes / 1e6:.1f} MB"
        ]
        if self.splits:
            lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in self.splits.items()))
        return [*lines, f"export: {self.path}" + (" (was complete already, reused)" if self.reused else "")]


def export(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str,
    limit: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportSummary:
    """Write the segments of ``store`` (the first ``limit`` where given) into the folder ``out`` for other programs.

    to: ``hf``: ``data/<split>-*.parquet`` with a dataset card, which ``datasets.load_dataset`` reads; the signal is
    int16 microvolts ``(12, seg_len)``. ``npy``: one float32 ``(12, seg_len)`` file in mV per segment; ``wfdb``: one
    16-bit WFDB record with 1000 counts per mV per segment; both with a ``metadata.csv`` so that the source ``folder``
    reads them, and ``segments.parquet``, the whole index with the name of each segment's file. Nothing is rounded.

    The same export finished in ``out`` is reused, an unfinished one made anew. Raises ConfigError for an unknown
    format, EcglmError when two segments would get one file name, and as ``prepare`` does for store and folder.
    """
    if to not in FORMATS:
        raise ConfigError(f"cannot export to '{to}'{nearest(to, FORMATS)}; formats: {', '.join(FORMATS)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be 1 or more, found {limit}")
    opened, out = SegmentStore(store), Path(out)
    here, there = opened.path.resolve(), out.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise EcglmError(f"{out}: holds or lies in the store to export; choose another --out")
    settings = {"version": _VERSION, "to": to, "limit": limit}
    inputs = {"store": opened.fingerprint}
    with files.folder_lock(out):
        state = files.output_state(out, KIND, files.plan_fingerprint(KIND, settings, inputs), overwrite)
        if state == "unfinished":
            _clear(out)
        if state != "finished":
            head = _read_head(opened, limit)
            total = _count_records(head)
            with RecordProgress(f"export {to}", total, 0, progress) as bar:
                written = FORMATS[to](opened, out, head, _batches(opened, head.num_rows, bar))
                bar.update(total, 0)
            outputs = written.pop("outputs")
            counts = {"segments": head.num_rows, "records": total, **_count_files(out)}
            files.write_manifest(out / files.MANIFEST, KIND, settings, inputs, outputs, counts=counts, **written)
        return _summary(out, to, reused=state == "finished")


def _clear(out: Path) -> None:
    """Remove what a killed run of the same plan wrote."""
    for entry in out.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "plan.json":
            entry.unlink()


def _read_head(store: SegmentStore, limit: int | None) -> pa.Table:
    """The columns that decide names and splits, of the segments to export."""
    table = pq.read_table(store.path / INDEX, columns=["segment_id", "record_id", "fold", "split"])
    if table.num_rows != len(store):
        raise TornOutputError(f"{store.path / INDEX}: {table.num_rows} rows, the manifest says {len(store)}")
    return table.slice(0, limit)


def _count_records(head: pa.Table) -> int:
    return len(head.column("record_id").unique())


def _batches(store: SegmentStore, num_segments: int, bar: RecordProgress) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Index rows and int16 microvolts ``(n, 12, seg_len)``, in the store's order."""
    start, last = 0, None
    with pq.ParquetFile(store.path / INDEX) as index:
        for batch in index.iter_batches(batch_size=_BATCH, use_threads=False):
            rows = pa.Table.from_batches([batch]).cast(SCHEMA).slice(0, num_segments - start)
            if not rows.num_rows:
                return
            yield rows, store.microvolts(range(start, start + rows.num_rows))
            start += rows.num_rows
            records = rows.column("record_id").unique().to_pylist()
            bar.update(bar.done + len(records) - (records[0] == last), 0)
            last = records[-1]


def _count_files(out: Path) -> dict[str, int]:
    """Files of the export and their bytes; what a user adds beside ``data`` is not looked at."""
    sizes = [os.stat(os.path.join(place, name)).st_size for place, _, names in os.walk(out / "data") for name in names]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _summary(out: Path, to: str, reused: bool) -> ExportSummary:
    manifest = files.read_manifest(out, KIND)
    counts: dict[str, int] = manifest["counts"]
    lost = [name for name in manifest["outputs"] if not (out / name).is_file()]
    found = _count_files(out)
    if lost or any(found[name] != counts[name] for name in found):
        what = lost[0] if lost else f"data ({found['files']} files, {counts['files']} were written)"
        raise TornOutputError(f"{out}: {what} is missing or altered; export again with --overwrite")
    return ExportSummary(
        path=out,
        to=to,
        num_segments=counts["segments"],
        num_records=counts["records"],
        num_files=counts["files"],
        num_bytes=counts["bytes"],
        splits=manifest.get("splits", {}),
        reused=reused,
    )
