"""The segment store's format on disk, and the writing of one shard with its part of the index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
FORMAT_VERSION = 2
INDEX, REJECTS, ACCOUNTING = "index.parquet", "rejects.jsonl", "accounting.json"
#: Largest amplitude a store can hold, in microvolts; -32768 is never written.
MAX_MICROVOLTS = 32767
#: At most this many shards (each is one open memory map of a reader); within it, the least and the most records of one:
#: small stores are cut in eight for the workers' sake, large ones into shards that a killed run makes again in a blink.
MAX_SHARDS, MIN_SHARD_RECORDS, EASY_SHARD_RECORDS = 128, 16, 256
ROW_GROUP = 8192

#: Columns with one number per canonical lead, of the raw samples behind a segment (``signals/quality.py``).
LEAD_COLUMNS = ("nan_share", "flat_share", "clip_share", "baseline_mv", "mains_share", "snr_db")

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
        ("report_en", pa.string()),
        ("report_origin", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("quality", pa.string()),
        ("flags", pa.list_(pa.string())),
        *((name, pa.list_(pa.float32())) for name in LEAD_COLUMNS),
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
    return f"parts/{number:05d}.arrow", f"parts/{number:05d}.json"


def shard_records(num_records: int) -> int:
    """Records per shard: a matter of the number of records alone, so that workers cannot change the bytes."""
    # Small runs are cut fine enough to share and to resume; then a shard's own cost, some 2 ms, has to be spread.
    easy = -(-num_records // 8) if num_records < 160 else min(EASY_SHARD_RECORDS, max(64, -(-num_records // 8)))
    return max(MIN_SHARD_RECORDS, easy, -(-num_records // MAX_SHARDS))


def segment_bytes(seg_len: int) -> int:
    """Bytes of one stored segment."""
    return len(LEADS) * seg_len * 2


def to_microvolts(segment: np.ndarray) -> np.ndarray:
    """Millivolts to little-endian int16 microvolts, rounded to nearest: an error of at most 0.5 µV.

    Raises RejectedRecord ``nan_in_segment`` for a sample that is no number and ``amplitude_overflow`` beyond
    ±32.767 mV.
    """
    from ecglm.store.microvolts import round_microvolts  # the compiler is loaded only where it is used

    values = segment if segment.dtype == np.float32 else np.asarray(segment, dtype=np.float64)
    values = np.require(values, requirements=["C", "W"])
    microvolts = np.empty(values.shape, dtype=np.int16)
    if not round_microvolts(values.reshape(-1), microvolts.reshape(-1)):
        if not np.isfinite(values).all():
            raise RejectedRecord("nan_in_segment", "a sample is missing or infinite after the pipeline")
        peak = float(np.abs(np.rint(values.astype(np.float64) * 1000.0)).max())
        raise RejectedRecord("amplitude_overflow", f"{peak / 1000:.3f} mV, a store holds up to 32.767 mV")
    return microvolts.astype("<i2", copy=False)


_NOT_MEASURED = np.full(len(LEADS), np.nan, dtype=np.float32)


def _read(source: Source, key: str) -> Record:
    try:
        record = source.read(key)
    except UnsafeInputError as error:
        raise RejectedRecord("unsafe_file_name", str(error)) from error
    if record.record_id != key:
        raise EcglmError(f"{source.name}: read('{key}') gave the record '{record.record_id}'")
    return record


class _Rows:
    """The index rows of one shard, column by column."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names if name not in LEAD_COLUMNS}
        self.measures: dict[str, list[np.ndarray]] = {name: [] for name in LEAD_COLUMNS}

    def __len__(self) -> int:
        return len(self.columns["segment_id"])

    def shared(self, source: Source, record: Record, segments: Segments) -> dict[str, Any]:
        """The columns that every segment of a record shares. RejectedRecord ``metadata_invalid``."""
        row: dict[str, Any] = {
            "record_id": record.record_id,
            "patient_id": record.patient_id or record.record_id,
            "patient_known": bool(record.patient_known and record.patient_id),
            "source": source.name,
            "fold": record.fold,
            "split": record.split,
            "report": record.report,
            "report_en": record.report_en,
            "report_origin": record.report_origin,
            "labels": list(record.labels),
            "flags": [str(flag) for flag in segments.quality.get("flags", ())],
        }
        try:
            row["metadata"] = files.canonical_json(dict(record.metadata))
            row["quality"] = files.canonical_json(dict(segments.quality))
            texts = (value for value in row.values() if isinstance(value, str))
            "".join((*texts, *row["labels"], *row["flags"])).encode()
        except (TypeError, ValueError) as error:  # NaN, an object JSON does not know, half a surrogate pair
            raise RejectedRecord("metadata_invalid", str(error)) from error
        return row

    def add(self, number: int, position: int, shared: dict[str, Any], segments: Segments) -> None:
        """Append the row of segment ``position`` of a record, which stands in shard ``number``."""
        columns = self.columns
        columns["shard"].append(number)
        columns["row"].append(len(self))
        columns["segment_id"].append(f"{shared['record_id']}#{position}")
        columns["start_s"].append(float(segments.start_s[position]))
        for name, value in shared.items():
            columns[name].append(value)
        for name, measures in self.measures.items():
            found = segments.lead_quality.get(name)
            measures.append(_NOT_MEASURED if found is None else found[position])

    def table(self) -> pa.Table:
        """The rows as an Arrow table of ``SCHEMA``."""
        offsets = np.arange(len(self) + 1, dtype=np.int32) * len(LEADS)
        arrays = []
        for field in SCHEMA:
            if field.name in LEAD_COLUMNS:
                rows = self.measures[field.name]
                values = np.concatenate(rows).astype(np.float32, copy=False) if rows else np.empty(0, np.float32)
                arrays.append(pa.ListArray.from_arrays(offsets, pa.array(values)))
            else:
                arrays.append(pa.array(self.columns[field.name], field.type))
        return pa.table(arrays, schema=SCHEMA)


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


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A temporary path, renamed to ``target`` when the block ends without error and removed otherwise.

    The bytes are not forced to the disk here: a part is trusted after a crash only when its sha256 is right
    (``part_finished``), and ``merge_parts`` forces every shard before the manifest can be written.
    """
    with files.write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=f"-{target.name}", dir=target.parent)
        os.fchmod(handle, 0o644)
        os.close(handle)
        try:
            yield Path(name)
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)  # gone already where it was renamed


def write_shard(
    folder: Path, number: int, source: Source, pipeline: Pipeline, keys: Sequence[str], tick: Callable[[bool], None]
) -> None:
    """Read ``keys``, run the pipeline, and write shard ``number`` with its part of index and rejects, atomically.

    ``tick(rejected)`` is called once per record. A record is rejected whole when reading or the pipeline rejects it
    or none of its segments can be stored; single segments that cannot be stored are rejected alone. Raises EcglmError
    when the disk is full or the source cannot go on; nothing half-written stays behind.
    """
    rows = _Rows()
    rejects: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    with _whole(folder / shard_name(number)) as temporary, open(temporary, "wb", buffering=1 << 18) as handle:
        for key in keys:
            stage = "read"
            try:
                record = _read(source, key)
                stage = "pipeline"
                segments = pipeline.run(record)
                stage = "store"
                shared = rows.shared(source, record, segments)
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
                digest.update(microvolts.data)
                handle.write(microvolts.data)
                rows.add(number, position, shared, segments)
            tick(False)
    part = part_bytes(rows.table())
    table, note = part_names(number)
    with _whole(folder / table) as temporary, open(temporary, "wb") as handle:
        handle.write(part)
    facts = {
        "num_segments": len(rows),
        "sha256": digest.hexdigest(),
        "index_sha256": hashlib.sha256(part).hexdigest(),
        "rejects": rejects,
    }
    with _whole(folder / note) as temporary:
        temporary.write_text(files.canonical_json(facts) + "\n", encoding="utf-8")


def part_bytes(rows: pa.Table) -> pa.Buffer:
    """A shard's rows of the index as an Arrow file: made and read in a fraction of Parquet's time, and soon gone."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as file:
        file.write_table(rows.cast(SCHEMA))
    return sink.getvalue()


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

    When it returns, index, reject log and every shard are on the disk, not only in its cache. One part is in memory at
    a time (and at most one row group of the index), whatever the number of records.
    """
    facts: dict[str, Any] = {"shard_segments": [], "rejected": {}, "rejected_segments": {}}
    outputs: dict[str, str] = {}
    with files.atomic_path(folder / REJECTS) as temporary, open(temporary, "w", encoding="utf-8") as lines:
        for number in range(num_shards):
            note = files.read_json(folder / part_names(number)[1])
            _force(folder / shard_name(number))
            outputs[shard_name(number)] = note["sha256"]
            facts["shard_segments"].append(note["num_segments"])
            for reject in note["rejects"]:
                lines.write(json.dumps(reject, sort_keys=True, ensure_ascii=False) + "\n")
                counts = facts["rejected_segments" if "segment" in reject else "rejected"]
                counts[reject["reason"]] = counts.get(reject["reason"], 0) + 1
    _force(folder / "shards")
    with files.atomic_path(folder / INDEX) as temporary, open(temporary, "wb") as handle:
        _merge_tables([folder / part_names(number)[0] for number in range(num_shards)], handle)
    for name in (INDEX, REJECTS):
        outputs[name] = files.file_sha256(folder / name)
    return {"facts": facts, "outputs": outputs}


def _force(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with files.write_errors(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _merge_tables(parts: list[Path], handle: Any) -> None:
    """Parts into one Parquet file, in row groups of a fixed size."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(handle, SCHEMA, compression="zstd") as writer:
        for part in parts:
            waiting.append(pa.ipc.open_file(part.read_bytes()).read_all())
            if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
