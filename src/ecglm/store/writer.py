"""The segment store's format on disk, and the writing of one shard with its part of the index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.types import LEADS, Record, Segments

if TYPE_CHECKING:
    from ecglm.signals.pipeline import Pipeline

KIND = "segment-store"
FORMAT_VERSION = 1
INDEX, REJECTS, ACCOUNTING = "index.parquet", "rejects.jsonl", "accounting.json"
#: Largest amplitude a store can hold, in microvolts; -32768 is never written.
MAX_MICROVOLTS = 32767
#: At most this many shards (each is one open memory map of a reader), and no shard of fewer records than that.
MAX_SHARDS, MIN_SHARD_RECORDS = 128, 16
ROW_GROUP = 65536

SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("record_id", pa.string()),
        ("patient_id", pa.string()),
        ("patient_known", pa.bool_()),
        ("source", pa.string()),
        ("start_s", pa.float64()),
        ("fold", pa.int32()),
        ("split", pa.string()),
        ("report", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("quality", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


class Source(Protocol):
    """What ``prepare`` asks of a source of records."""

    name: str

    def version(self) -> str: ...
    def fingerprint(self) -> dict[str, Any]: ...
    def keys(self) -> list[str]: ...
    def read(self, key: str) -> Record: ...
    def accounting(self) -> dict[str, list[str]]: ...


def shard_name(number: int) -> str:
    """File of a shard: raw little-endian int16 ``(num_segments, 12, seg_len)``, microvolts, canonical leads."""
    return f"shards/{number:05d}.i16"


def part_names(number: int) -> tuple[str, str]:
    """A finished shard's share of the index, and the note that marks it complete (written last)."""
    return f"parts/{number:05d}.parquet", f"parts/{number:05d}.json"


def shard_records(num_records: int) -> int:
    """Records per shard: a matter of the number of records alone, so that workers cannot change the bytes."""
    return max(MIN_SHARD_RECORDS, -(-num_records // MAX_SHARDS))


def segment_bytes(seg_len: int) -> int:
    """Bytes of one stored segment."""
    return len(LEADS) * seg_len * 2


def to_microvolts(segment: np.ndarray) -> np.ndarray:
    """Millivolts to little-endian int16 microvolts, rounded to nearest: an error of at most 0.5 µV.

    Raises RejectedRecord ``nan_in_segment`` for a sample that is no number and ``amplitude_overflow`` beyond
    ±32.767 mV.
    """
    microvolts = np.rint(np.asarray(segment, dtype=np.float64) * 1000.0)
    if not np.isfinite(microvolts).all():
        raise RejectedRecord("nan_in_segment", "a sample is missing or infinite after the pipeline")
    peak = float(np.abs(microvolts).max(initial=0.0))
    if peak > MAX_MICROVOLTS:
        raise RejectedRecord("amplitude_overflow", f"{peak / 1000:.3f} mV, a store holds up to 32.767 mV")
    return microvolts.astype("<i2")


def _read(source: Source, key: str) -> Record:
    try:
        record = source.read(key)
    except UnsafeInputError as error:
        raise RejectedRecord("unsafe_file_name", str(error)) from error
    if record.record_id != key:
        raise EcglmError(f"{source.name}: read('{key}') gave the record '{record.record_id}'")
    return record


def _record_row(source: Source, record: Record, segments: Segments) -> dict[str, Any]:
    """The index columns that every segment of a record shares."""
    row = {
        "record_id": record.record_id,
        "patient_id": record.patient_id or record.record_id,
        "patient_known": bool(record.patient_known and record.patient_id),
        "source": source.name,
        "fold": record.fold,
        "split": record.split,
        "report": record.report,
        "labels": list(record.labels),
        "flags": [str(flag) for flag in segments.quality.get("flags", ())],
    }
    try:
        row["metadata"] = files.canonical_json(dict(record.metadata))
        row["quality"] = files.canonical_json(dict(segments.quality))
        files.canonical_json(row).encode()
    except (TypeError, ValueError) as error:  # NaN, an object JSON does not know, half a surrogate pair
        raise RejectedRecord("metadata_invalid", str(error)) from error
    return row


def _stored(
    segments: Segments, pipeline: Pipeline
) -> tuple[list[tuple[int, np.ndarray]], list[tuple[int, RejectedRecord]]]:
    """Segments as (number, microvolts), and those that cannot be stored as (number, RejectedRecord)."""
    expected = (len(segments.start_s), len(LEADS), pipeline.seg_len)
    if segments.signal.shape != expected or segments.rate != pipeline.rate:
        raise ValueError(
            f"pipeline '{pipeline.name}' gave {segments.signal.shape} at {segments.rate} Hz, "
            f"{expected} at {pipeline.rate} Hz was announced"
        )
    good, bad = [], []
    for number, segment in enumerate(segments.signal):
        try:
            good.append((number, to_microvolts(segment)))
        except RejectedRecord as error:
            bad.append((number, error))
    return good, bad


def write_shard(
    folder: Path, number: int, source: Source, pipeline: Pipeline, keys: Sequence[str], tick: Callable[[bool], None]
) -> None:
    """Read ``keys``, run the pipeline, and write shard ``number`` with its part of index and rejects, atomically.

    ``tick(rejected)`` is called once per record. A record is rejected whole when reading or the pipeline rejects it
    or none of its segments can be stored; single segments that cannot be stored are rejected alone. Raises EcglmError
    when the disk is full or the source cannot go on; nothing half-written stays behind.
    """
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    target = folder / shard_name(number)
    with files.atomic_path(target) as temporary, open(temporary, "wb") as handle:
        for key in keys:
            stage = "read"
            try:
                record = _read(source, key)
                stage = "pipeline"
                segments = pipeline.run(record)
                stage = "store"
                shared = _record_row(source, record, segments)
                good, bad = _stored(segments, pipeline)
                if not good:
                    first = bad[0][1] if bad else RejectedRecord("no_segments", "the pipeline kept nothing")
                    raise first
            except RejectedRecord as error:
                rejects.append({"record_id": key, "stage": stage, "reason": error.reason, "detail": error.detail})
                tick(True)
                continue
            for position, refused in bad:
                why = {"reason": refused.reason, "detail": refused.detail}
                rejects.append({"record_id": key, "segment": position, "stage": stage, **why})
            for position, microvolts in good:
                data = microvolts.tobytes()
                digest.update(data)
                handle.write(data)
                ids = {"segment_id": f"{key}#{position}", "start_s": float(segments.start_s[position])}
                rows.append({**shared, **ids, "shard": number, "row": len(rows)})
            tick(False)
    table, note = part_names(number)
    with files.atomic_path(folder / table) as temporary, open(temporary, "wb") as handle:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), handle, compression="zstd")
    facts = {
        "num_segments": len(rows),
        "sha256": digest.hexdigest(),
        "index_sha256": files.file_sha256(folder / table),
        "rejects": rejects,
    }
    files.write_json(folder / note, facts)


def part_finished(folder: Path, number: int) -> bool:
    """Whether a shard and its part are complete on disk, their bytes checked against the noted sha256."""
    table, note = (folder / name for name in part_names(number))
    shard = folder / shard_name(number)
    if not (note.exists() and table.exists() and shard.exists()):
        return False
    facts = files.read_json(note)
    return files.file_sha256(shard) == facts["sha256"] and files.file_sha256(table) == facts["index_sha256"]


def merge_parts(folder: Path, num_shards: int) -> dict[str, Any]:
    """Merge every part into the index and the reject log; the facts and output checksums for the manifest.

    One part is in memory at a time (and at most one row group of the index), whatever the number of records.
    """
    facts: dict[str, Any] = {"shard_segments": [], "rejected": {}, "rejected_segments": {}}
    outputs: dict[str, str] = {}
    with files.atomic_path(folder / REJECTS) as temporary, open(temporary, "w", encoding="utf-8") as lines:
        for number in range(num_shards):
            note = files.read_json(folder / part_names(number)[1])
            outputs[shard_name(number)] = note["sha256"]
            facts["shard_segments"].append(note["num_segments"])
            for reject in note["rejects"]:
                lines.write(json.dumps(reject, sort_keys=True, ensure_ascii=False) + "\n")
                counts = facts["rejected_segments" if "segment" in reject else "rejected"]
                counts[reject["reason"]] = counts.get(reject["reason"], 0) + 1
    with files.atomic_path(folder / INDEX) as temporary, open(temporary, "wb") as handle:
        _merge_tables([folder / part_names(number)[0] for number in range(num_shards)], handle)
    for name in (INDEX, REJECTS):
        outputs[name] = files.file_sha256(folder / name)
    return {"facts": facts, "outputs": outputs}


def _merge_tables(parts: list[Path], handle: Any) -> None:
    """Parts into one Parquet file, in row groups of a fixed size."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(handle, SCHEMA, compression="zstd") as writer:
        for part in parts:
            waiting.append(pq.read_table(part, schema=SCHEMA))
            if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
