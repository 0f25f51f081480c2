"""A table of measurements of every segment of a store, as a Parquet file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import ConfigError, StaleOutputError, nearest
from ecglm.signals.features import ecg_bench_288, feature_names
from ecglm.signals.measured import Measurements, measure
from ecglm.store.pool import results
from ecglm.store.progress import RecordProgress
from ecglm.store.reader import SegmentStore

#: Changes whenever the same store gives other numbers.
VERSION = 1
_MARK = b"ecglm.features"
#: Segments that one task measures.
_BATCH = 128


@dataclass(frozen=True)
class FeaturesSummary:
    """What ``write_features`` wrote. measured: segments with a heart rate (``measured`` only, else None)."""

    path: Path
    kind: str
    num_segments: int
    measured: int | None
    reused: bool = False

    def lines(self) -> list[str]:
        """The summary for people."""
        told = "" if self.measured is None else f", {self.measured} with a heart rate"
        reused = " (was complete already, reused)" if self.reused else ""
        return [f"{self.num_segments} segments, kind {self.kind}{told}", f"features: {self.path}{reused}"]


def measured_rows(segments: np.ndarray, rate: int) -> pa.Table:
    """``signals.measured`` of ``(n, 12, seg_len)``: one row each, null where something cannot be measured."""
    rows = [measure(segment, rate).row() for segment in segments]
    return pa.Table.from_pylist(rows, schema=_measured_schema())


def ecg_bench_rows(segments: np.ndarray, rate: int) -> pa.Table:
    """ECG-Bench's 288 features of ``(n, 12, seg_len)``: one row each."""
    values = ecg_bench_288(segments, rate)
    return pa.table({name: values[:, k] for k, name in enumerate(feature_names())})


KINDS: dict[str, Callable[[np.ndarray, int], pa.Table]] = {"measured": measured_rows, "ecg_bench_288": ecg_bench_rows}


def write_features(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    kind: str = "measured",
    limit: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> FeaturesSummary:
    """Measure the segments of ``store`` (the first ``limit`` where given) into the Parquet file ``out``.

    One row per segment in the store's order: segment_id, record_id, then the columns of the kind (``measured``: those
    of ``Measurements.row``). The same bytes for any number of workers; the same table finished before is reused.
    Raises ConfigError for an unknown kind, StaleOutputError where ``out`` holds something else, EcglmError for segments
    that cannot be measured (too short).
    """
    if kind not in KINDS:
        raise ConfigError(f"no kind '{kind}'{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be 1 or more, found {value}")
    opened, out = SegmentStore(store), Path(out)
    total = len(opened) if limit is None else min(limit, len(opened))
    plan = files.plan_fingerprint(
        "features", {"version": VERSION, "kind": kind, "limit": limit}, {"store": opened.fingerprint}
    )
    if out.exists() and not overwrite:
        if _plan_of(out) != plan:
            raise StaleOutputError(
                f"{out}: made with other settings or from another store; use --overwrite, or another --out"
            )
        return _summary(out, kind, reused=True)
    index = opened.index.slice(0, total).select(["segment_id", "record_id"])
    starts = range(0, total, _BATCH)
    schema = None
    with files.atomic_path(out) as temporary, RecordProgress(f"features {kind}", total, enabled=progress) as bar:
        writer: pq.ParquetWriter | None = None
        try:
            for start, table in zip(starts, _tables(opened, kind, starts, total, workers), strict=True):
                head = index.slice(start, table.num_rows)
                for place, name in enumerate(head.column_names):
                    table = table.add_column(place, name, head.column(name).combine_chunks())
                if writer is None:
                    schema = table.schema.with_metadata({_MARK: plan.encode()})
                    writer = pq.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(table.cast(schema))
                bar.update(start + table.num_rows, 0)
        finally:
            if writer is not None:
                writer.close()
    return _summary(out, kind, reused=False)


def _tables(store: SegmentStore, kind: str, starts: range, total: int, workers: int) -> Iterator[pa.Table]:
    """One table per batch, in order."""
    if workers == 1 or len(starts) < 2:
        for start in starts:
            yield _measure(store, kind, start, min(start + _BATCH, total))
        return
    calls = [(store, kind, start, min(start + _BATCH, total)) for start in starts]
    yield from results("features", _measure, calls, workers)


def _measure(store: SegmentStore, kind: str, start: int, stop: int) -> pa.Table:
    return KINDS[kind](store.take(range(start, stop)), store.rate)


def _measured_schema() -> pa.Schema:
    """Columns of ``Measurements.row``: text, yes or no, else numbers."""
    text = {"beats", "onsets_s", "regularity", "reasons"}
    kinds = {name: pa.string() if name in text or name.startswith("shape_") else pa.float64() for name in _columns()}
    return pa.schema([(name, pa.bool_() if name == "paced" else kind) for name, kind in kinds.items()])


def _columns() -> list[str]:
    return list(Measurements().row())


def _plan_of(out: Path) -> str:
    try:
        return (pq.read_schema(out).metadata or {}).get(_MARK, b"").decode()
    except (pa.ArrowInvalid, OSError):
        return ""


def _summary(out: Path, kind: str, reused: bool) -> FeaturesSummary:
    with pq.ParquetFile(out) as table:
        num = table.metadata.num_rows
        rates = table.read(columns=["heart_rate"]).column(0) if kind == "measured" else None
    return FeaturesSummary(out, kind, num, None if rates is None else num - rates.null_count, reused)
