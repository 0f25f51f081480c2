"""Raw recordings → segment store: parallel, resumable after a kill, the same bytes for any number of workers."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecglm import files
from ecglm.errors import ConfigError, EcglmError
from ecglm.store.pool import run_pool
from ecglm.store.progress import RecordProgress
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import (
    ACCOUNTING,
    FORMAT_VERSION,
    KIND,
    REJECTS,
    Source,
    merge_parts,
    part_finished,
    segment_bytes,
    shard_records,
    write_shard,
)
from ecglm.types import LEADS

if TYPE_CHECKING:
    from ecglm.signals.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What ``prepare`` did. ``num_keys = num_records + num_rejected``; ``accounting`` headings count apart."""

    path: Path
    source: str
    num_keys: int
    num_records: int
    num_segments: int
    num_rejected: int
    reasons: dict[str, int] = field(default_factory=dict)
    num_rejected_segments: int = 0
    segment_reasons: dict[str, int] = field(default_factory=dict)
    accounting: dict[str, int] = field(default_factory=dict)
    records_per_s: float | None = None
    reused: bool = False
    rate: int = 0
    seg_len: int = 0

    def lines(self) -> list[str]:
        """The summary for people."""
        size = self.num_segments * segment_bytes(self.seg_len) / 1e6
        lines = [
            f"{self.source}: {self.num_records} of {self.num_keys} records kept → {self.num_segments} segments "
            f"of {self.seg_len / self.rate:g} s at {self.rate} Hz, {size:.1f} MB"
        ]
        if self.num_rejected:
            share = self.num_rejected / self.num_keys
            lines.append(f"rejected records: {self.num_rejected} ({share:.1%}): {_counts(self.reasons)}")
        if self.num_rejected_segments:
            lines.append(f"rejected segments: {self.num_rejected_segments}: {_counts(self.segment_reasons)}")
        if self.num_rejected or self.num_rejected_segments:
            lines.append(f"reject log: {self.path / REJECTS}")
        if any(self.accounting.values()):
            lines.append(f"counted apart, no rejects: {_counts(self.accounting)} (see {self.path / ACCOUNTING})")
        if self.records_per_s:
            lines.append(f"{self.records_per_s:.0f} records/s")
        lines.append(f"store: {self.path}" + (" (was complete already, reused)" if self.reused else ""))
        return lines


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered if count)


def prepare(
    source: Source,
    pipeline: Pipeline,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    max_reject: float = 0.05,
    progress: bool = True,
) -> PrepareSummary:
    """Run ``pipeline`` over every record of ``source`` into the segment store ``out``.

    The first ``limit`` records in the source's order where given. A store of the same plan is reused when finished and
    gone on with when not. Worker processes are started by ``spawn``: a script that calls this with ``workers`` > 1
    needs the usual ``if __name__ == "__main__"``.

    Raises StaleOutputError when ``out`` was made otherwise (unless ``overwrite``), TornOutputError when a finished
    store has lost a file, EcglmError when another process works on it, the disk is full, a record id stands twice, or,
    once the store is finished, more than the fraction ``max_reject`` of the records were rejected.
    """
    out = Path(out)
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, found {workers}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be 1 or more, found {limit}")
    if not 0.0 <= max_reject <= 1.0:
        raise ConfigError(f"max_reject must lie between 0 and 1, found {max_reject}")
    keys = _keys(source, limit)
    settings, inputs = _plan(source, pipeline, keys, limit)
    with files.folder_lock(out):
        state = files.output_state(out, KIND, files.plan_fingerprint(KIND, settings, inputs), overwrite)
        rate = None
        if state != "finished":
            rate = _make(source, pipeline, out, keys, workers, progress)
            _finish(source, out, keys, settings, inputs)
        shutil.rmtree(out / "parts", ignore_errors=True)  # also those a kill just before the end left behind
        summary = _summary(source.name, out, rate, reused=state == "finished")
    if summary.num_rejected > max_reject * summary.num_keys:
        share = summary.num_rejected / summary.num_keys
        first = next(row for row in files.read_jsonl(out / REJECTS) if "segment" not in row)
        raise EcglmError(
            f"{out / REJECTS}: {summary.num_rejected} of {summary.num_keys} records rejected ({share:.1%}, more than "
            f"--max-reject {max_reject:g}): {_counts(summary.reasons)} (first: {first['detail']}); "
            "the store is complete without them, look at "
            "the log, then mend the files or raise --max-reject"
        )
    return summary


def _keys(source: Source, limit: int | None) -> list[str]:
    keys = list(source.keys())
    if not keys:
        raise EcglmError(f"{source.name}: no records found; is --root the right folder?")
    if len(set(keys)) != len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise EcglmError(f"{source.name}: the record id '{twice}' stands twice; ids must be unique")
    return keys[:limit]


def _plan(
    source: Source, pipeline: Pipeline, keys: list[str], limit: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = {
        "format_version": FORMAT_VERSION,
        "pipeline": {**pipeline.config(), "name": pipeline.name, "version": pipeline.version},
        "rate": pipeline.rate,
        "seg_len": pipeline.seg_len,
        "leads": list(LEADS),
        "units": "uV",
        "shard_records": shard_records(len(keys)),
        "limit": limit,
    }
    facts = {**source.fingerprint(), "name": source.name, "version": source.version()}
    return settings, {"source": facts, "keys": files.fingerprint(keys)}


def _make(source: Source, pipeline: Pipeline, out: Path, keys: list[str], workers: int, progress: bool) -> float:
    """Write every shard that is not complete yet; records per second of this run."""
    for leftover in [*out.glob(".tmp-*"), *out.glob("*/.tmp-*")]:  # of a killed run
        leftover.unlink()
    size = shard_records(len(keys))
    chunks = {number: keys[start : start + size] for number, start in enumerate(range(0, len(keys), size))}
    done = [number for number in chunks if part_finished(out, number)]
    before = sum(len(chunks.pop(number)) for number in done)
    with RecordProgress(f"prepare {source.name}", len(keys), before, progress) as bar:
        if workers == 1 or len(chunks) <= 1:
            _run_here(source, pipeline, out, chunks, bar)
        else:
            run_pool(source, pipeline, out, chunks, min(workers, len(chunks)), bar)
        return bar.rate


def _run_here(source: Source, pipeline: Pipeline, out: Path, chunks: dict[int, list[str]], bar: RecordProgress) -> None:
    def tick(rejected: bool) -> None:
        bar.update(bar.done + 1, bar.rejected + rejected)

    for number, keys in chunks.items():
        write_shard(out, number, source, pipeline, keys, tick)


def _finish(source: Source, out: Path, keys: list[str], settings: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Merge the parts and write the manifest, last."""
    num_shards = -(-len(keys) // shard_records(len(keys)))
    merged = merge_parts(out, num_shards)
    facts, outputs = merged["facts"], merged["outputs"]
    accounting = source.accounting()
    files.write_json(out / ACCOUNTING, accounting)
    outputs[ACCOUNTING] = files.file_sha256(out / ACCOUNTING)
    num_rejected = sum(facts["rejected"].values())
    counts = {
        "keys": len(keys),
        "records": len(keys) - num_rejected,
        "segments": sum(facts["shard_segments"]),
        "rejected": num_rejected,
        "rejected_segments": sum(facts["rejected_segments"].values()),
    }
    accounted = {name: len(ids) for name, ids in accounting.items()}
    files.write_manifest(
        out / files.MANIFEST, KIND, settings, inputs, outputs, counts=counts, accounting=accounted, **facts
    )


def _summary(name: str, out: Path, records_per_s: float | None, reused: bool) -> PrepareSummary:
    manifest = SegmentStore(out).manifest  # opening it checks that every shard is there, whole
    counts = manifest["counts"]
    return PrepareSummary(
        path=out,
        source=name,
        num_keys=counts["keys"],
        num_records=counts["records"],
        num_segments=counts["segments"],
        num_rejected=counts["rejected"],
        reasons=manifest["rejected"],
        num_rejected_segments=counts["rejected_segments"],
        segment_reasons=manifest["rejected_segments"],
        accounting=manifest["accounting"],
        records_per_s=records_per_s,
        reused=reused,
        rate=manifest["settings"]["rate"],
        seg_len=manifest["settings"]["seg_len"],
    )
