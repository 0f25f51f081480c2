"""Exports of one file per segment: ``.npy`` and WFDB, with the tables that say what each file is."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import SCHEMA
from ecglm.types import SPLITS

METADATA, SEGMENTS, RECORDS = "metadata.csv", "segments.parquet", "RECORDS"
#: Files of one folder: file managers and file systems are slow with a million in one.
_PER_FOLDER = 1000
_MAX_STEM = 120
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

_Batches = Iterator[tuple[pa.Table, np.ndarray]]
#: Stem of a file, its index row and int16 signal → suffix → bytes.
_Make = Callable[[str, dict[str, Any], np.ndarray], dict[str, bytes]]


def file_stem(segment_id: str) -> str:
    """A file name for a segment id, safe on every system: letters, digits, ``_`` and ``-``, not too long.

    ``ptb-xl/00001#0`` → ``ptb-xl_00001_0``. WFDB allows no other characters in a record's name.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", segment_id)
    stem = f"_{stem}" if stem.startswith("-") else stem  # no program shall take it for an option
    if len(stem) > _MAX_STEM:
        stem = f"{stem[: _MAX_STEM - 17]}_{hashlib.sha256(segment_id.encode()).hexdigest()[:16]}"
    return stem


def write_npy(store: SegmentStore, out: Path, head: pa.Table, batches: _Batches) -> dict[str, Any]:
    """One float32 ``(12, seg_len)`` array in millivolts per segment."""

    def make(stem: str, row: dict[str, Any], signal: np.ndarray) -> dict[str, bytes]:
        buffer = io.BytesIO()
        np.save(buffer, np.divide(signal, 1000, dtype=np.float32), allow_pickle=False)
        return {".npy": buffer.getvalue()}

    stated = {"rate": str(store.rate), "leads": ",".join(store.leads), "units": "mV"}
    return _write_files(out, head, batches, ".npy", make, stated)


def write_wfdb(store: SegmentStore, out: Path, head: pa.Table, batches: _Batches) -> dict[str, Any]:
    """One WFDB record per segment: format 16, 1000 counts per mV, all leads in one file; and the list ``RECORDS``."""

    def make(stem: str, row: dict[str, Any], signal: np.ndarray) -> dict[str, bytes]:
        data = np.ascontiguousarray(signal.T, dtype="<i2").tobytes()
        sums = (signal.sum(axis=1, dtype=np.int64) + 0x8000) % 0x10000 - 0x8000  # wraps as 16 signed bits do
        lines = [f"{stem} {len(signal)} {store.rate} {signal.shape[1]}"]
        lines += [
            f"{stem}.dat 16 1000(0)/mV 16 0 {first} {total} 0 {lead}"
            for lead, first, total in zip(store.leads, signal[:, 0].tolist(), sums.tolist(), strict=True)
        ]
        lines += [f"# {name}: {text}" for name, text in _comments(row) if text]
        return {".dat": data, ".hea": ("\n".join(lines) + "\n").encode()}

    written = _write_files(out, head, batches, ".hea", make, {})
    names = pq.read_table(out / SEGMENTS, columns=["file"]).column("file").to_pylist()
    files.write_text(out / RECORDS, "".join(name.removesuffix(".hea") + "\n" for name in names))
    written["outputs"][RECORDS] = files.file_sha256(out / RECORDS)
    return written


def _comments(row: dict[str, Any]) -> list[tuple[str, str]]:
    metadata = json.loads(row["metadata"])
    age, sex = _age_and_sex(metadata)
    pairs = [
        ("Age", age),
        ("Sex", sex),
        ("record", row["record_id"]),
        ("patient", row["patient_id"] if row["patient_known"] else ""),
        ("start_s", f"{row['start_s']:g}"),
        ("labels", "; ".join(row["labels"])),
        ("report", row["report"]),
        ("report_en", row["report_en"]),
    ]
    return [(name, _CONTROL.sub(" ", text).strip()) for name, text in pairs]


def _age_and_sex(metadata: dict[str, Any]) -> tuple[str, str]:
    age, sex = metadata.get("age"), metadata.get("sex")
    known = isinstance(age, int | float) and not isinstance(age, bool) and math.isfinite(age)
    return f"{age}" if known else "", sex if isinstance(sex, str) else ""


def _write_files(
    out: Path, head: pa.Table, batches: _Batches, suffix: str, make: _Make, stated: dict[str, str]
) -> dict[str, Any]:
    """Every segment's files in folders of a thousand, ``metadata.csv`` and ``segments.parquet``."""
    _check_names(head)
    digest = hashlib.sha256()
    columns = ("file", "patient_id", "report", "labels", "split", "fold", "age", "sex", *stated)
    schema = pa.schema([("file", pa.string()), *(f for f in SCHEMA if f.name not in ("shard", "row"))])
    number = 0
    with ExitStack() as stack:
        table = stack.enter_context(files.atomic_path(out / METADATA))
        lines = stack.enter_context(open(table, "w", encoding="utf-8", newline=""))
        rows_out = csv.writer(lines, lineterminator="\n")
        rows_out.writerow(columns)
        index = stack.enter_context(files.atomic_path(out / SEGMENTS))
        parquet = stack.enter_context(pq.ParquetWriter(index, schema, compression="zstd"))
        for rows, signals in batches:
            names = []
            for row, signal in zip(rows.to_pylist(), signals, strict=True):
                stem = file_stem(row["segment_id"])
                folder = f"data/{number // _PER_FOLDER:05d}"
                if number % _PER_FOLDER == 0:
                    (out / folder).mkdir(parents=True, exist_ok=True)
                for ending, data in make(stem, row, signal).items():
                    file = out / folder / f"{stem}{ending}"
                    with files.write_errors(file), open(file, "wb") as handle:
                        handle.write(data)
                    digest.update(f"{folder}/{stem}{ending}\n".encode())
                    digest.update(data)
                names.append(f"{folder}/{stem}{suffix}")
                rows_out.writerow([*_metadata_cells(names[-1], row), *stated.values()])
                number += 1
            parquet.write_table(rows.select(schema.names[1:]).add_column(0, schema.field(0), pa.array(names)))
    outputs = {name: files.file_sha256(out / name) for name in (METADATA, SEGMENTS)}
    return {"outputs": outputs, "data_sha256": digest.hexdigest()}


def _metadata_cells(file: str, row: dict[str, Any]) -> list[str]:
    """A row of ``metadata.csv``. The patient is always named: else each segment would count as a patient of its own."""
    labels = ";".join(label.replace(";", ",") for label in row["labels"])
    split = row["split"] if row["split"] in SPLITS else ""
    fold = "" if row["fold"] is None else str(row["fold"])
    age, sex = _age_and_sex(json.loads(row["metadata"]))
    cells = [file, row["patient_id"], row["report"], labels, split, fold, age, sex]
    return [cell.replace("\0", " ") for cell in cells]


def _check_names(head: pa.Table) -> None:
    """EcglmError when two segments would get one file name (upper and lower case are one to some systems)."""
    stems = pa.chunked_array(
        [pa.array([file_stem(i).casefold() for i in c.to_pylist()], pa.string()) for c in head["segment_id"].chunks],
        pa.string(),
    )
    counts = pc.value_counts(stems)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        ids = head.column("segment_id").filter(pc.equal(stems, twice[0])).to_pylist()
        raise EcglmError(
            f"segments '{ids[0]}' and '{ids[1]}' would both be written to '{twice[0]}'; export to hf, which has no "
            "file per segment, or prepare the store with record ids that differ in letters or digits"
        )
