"""Check a store against its manifest: every checksum, every index row, every count."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import TornOutputError
from ecglm.store.writer import INDEX, KIND, SCHEMA, segment_bytes, shard_name


@dataclass(frozen=True)
class VerifyReport:
    """What was checked of a store that is whole."""

    path: Path
    num_files: int
    num_bytes: int
    num_segments: int
    num_records: int

    def lines(self) -> list[str]:
        """The report for people."""
        return [
            f"{self.path}: whole; {self.num_files} files ({self.num_bytes / 1e6:.1f} MB) match their sha256, "
            f"{self.num_segments} segments of {self.num_records} records are in the index"
        ]


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Check every file of the store at ``path`` bit for bit, and the index against the shards and the counts.

    Raises TornOutputError naming every file that is missing, short or altered (a flipped bit names its shard) and
    every disagreement of index, shards and manifest.
    """
    path = Path(path)
    manifest = files.read_manifest(path, KIND)
    problems = _manifest_problems(manifest)
    damaged: set[str] = set()
    num_bytes = 0
    for name, expected in sorted(manifest["outputs"].items()):
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
            damaged.add(name)
        elif files.file_sha256(file) != expected:
            problems.append(f"{name} is altered (its sha256 differs)")
            damaged.add(name)
        else:
            num_bytes += file.stat().st_size
    if INDEX not in damaged:
        problems += _index_problems(path, manifest)
    if problems:
        raise TornOutputError(f"{path}: {'; '.join(problems)}; prepare the store again with --overwrite")
    counts = manifest["counts"]
    return VerifyReport(path, len(manifest["outputs"]), num_bytes, counts["segments"], counts["records"])


def _manifest_problems(manifest: dict[str, Any]) -> list[str]:
    problems = []
    if manifest["fingerprint"] != files.plan_fingerprint(KIND, manifest["settings"], manifest["inputs"]):
        problems.append(f"{files.MANIFEST} is altered (its fingerprint is not that of its settings and inputs)")
    counts, rejected = manifest["counts"], manifest["rejected"]
    if counts["keys"] != counts["records"] + counts["rejected"] or counts["rejected"] != sum(rejected.values()):
        problems.append(f"{files.MANIFEST}: its record counts do not add up")
    if counts["segments"] != sum(manifest["shard_segments"]):
        problems.append(f"{files.MANIFEST}: its segment counts do not add up")
    listed = {name for name in manifest["outputs"] if name.startswith("shards/")}
    if listed != {shard_name(number) for number in range(len(manifest["shard_segments"]))}:
        problems.append(f"{files.MANIFEST}: its list of shards is not that of its outputs")
    return problems


def _index_problems(path: Path, manifest: dict[str, Any]) -> list[str]:
    try:
        table = pq.read_table(path / INDEX)
    except (pa.ArrowInvalid, OSError) as error:
        return [f"{INDEX} cannot be read ({error})"]
    if not table.schema.equals(SCHEMA):
        return [f"{INDEX} has other columns than a segment store's index"]
    problems = []
    counts = manifest["counts"]
    if table.num_rows != counts["segments"]:
        problems.append(f"{INDEX} has {table.num_rows} rows, the manifest says {counts['segments']}")
    if len(table.column("record_id").unique()) != counts["records"]:
        problems.append(f"{INDEX} has other records than the {counts['records']} of the manifest")
    if len(table.column("segment_id").unique()) != table.num_rows:
        problems.append(f"{INDEX} names a segment twice")
    shard, row = (table.column(name).to_numpy() for name in ("shard", "row"))
    sizes = []
    for number in range(len(manifest["shard_segments"])):
        file = path / shard_name(number)
        sizes.append(file.stat().st_size // segment_bytes(manifest["settings"]["seg_len"]) if file.is_file() else 0)
    known = (shard >= 0) & (shard < len(sizes))
    end = np.append(np.array(sizes, dtype=np.int64), 0)[np.where(known, shard, -1)]
    outside = np.flatnonzero((row < 0) | (row >= end))
    if len(outside):
        first = int(outside[0])
        where = f"row {row[first]} of {shard_name(int(shard[first]))}, which ends at {end[first]}"
        problems.append(f"{INDEX}: {len(outside)} segments lie past the end of their shard, the first at {where}")
    if len(set(zip(shard.tolist(), row.tolist(), strict=True))) != table.num_rows:
        problems.append(f"{INDEX} uses one place of a shard for two segments")
    return problems
