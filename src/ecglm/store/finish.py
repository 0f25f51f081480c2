"""The end of making a store, by ``prepare`` or ``merge``: its parts become index, logs and manifest; the summary."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ecglm import files
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import ACCOUNTING, INDEX, KIND, REJECTS, merge_parts, segment_bytes

#: How many rows of the index are looked at in one go.
_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What ``prepare`` or ``merge`` did. ``num_keys = num_records + num_rejected``; ``accounting`` counts apart."""

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
    reports: dict[str, int] = field(default_factory=dict)
    shard: str = ""
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
        if self.shard:
            lines.append(f"shard {self.shard} of the whole; when all are made: ecglm store merge")
        if self.num_rejected:
            share = self.num_rejected / self.num_keys
            lines.append(f"rejected records: {self.num_rejected} ({share:.1%}): {counts_text(self.reasons)}")
        if self.num_rejected_segments:
            lines.append(f"rejected segments: {self.num_rejected_segments}: {counts_text(self.segment_reasons)}")
        if self.num_rejected or self.num_rejected_segments:
            lines.append(f"reject log: {self.path / REJECTS}")
        if any(self.accounting.values()):
            lines.append(f"counted apart, no rejects: {counts_text(self.accounting)} (see {self.path / ACCOUNTING})")
        if self.reports.get("with_text"):
            lines.append(self._reports_line())
        if self.records_per_s:
            lines.append(f"{self.records_per_s:.0f} records/s")
        lines.append(f"store: {self.path}" + (" (was complete already, reused)" if self.reused else ""))
        return lines

    def _reports_line(self) -> str:
        found = self.reports
        kinds = {"English": "english", "by phrases": "phrases", "by a model": "model"}
        translated = [f"{found[key]} {word}" for word, key in kinds.items() if found[key]]
        parts = [*translated, f"{found['untranslated']} remain untranslated", f"{found['empty']} empty"]
        return f"reports: {found['with_text']} with text, " + ", ".join(parts)


def counts_text(counts: Mapping[str, int]) -> str:
    """``flat 3, too_short 1``: the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered if count)


def remove_leftovers(out: Path) -> None:
    """Temporary files of a killed run; only under the lock of ``out``."""
    for leftover in [*out.glob(".tmp-*"), *out.glob("*/.tmp-*")]:
        leftover.unlink(missing_ok=True)


def finish(
    out: Path,
    num_shards: int,
    num_keys: int,
    accounting: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    **provenance: Any,
) -> None:
    """Merge the finished parts of ``num_shards`` shards into index and reject log, and write the manifest, last."""
    merged = merge_parts(out, num_shards)
    facts, outputs = merged["facts"], merged["outputs"]
    files.write_json(out / ACCOUNTING, dict(accounting))
    outputs[ACCOUNTING] = files.file_sha256(out / ACCOUNTING)
    num_rejected = sum(facts["rejected"].values())
    counts = {
        "keys": num_keys,
        "records": num_keys - num_rejected,
        "segments": sum(facts["shard_segments"]),
        "rejected": num_rejected,
        "rejected_segments": sum(facts["rejected_segments"].values()),
    }
    facts["accounting"] = {name: len(ids) for name, ids in accounting.items()}
    facts["reports"] = report_counts(out / INDEX)
    files.write_manifest(out / files.MANIFEST, KIND, settings, inputs, outputs, counts=counts, **facts, **provenance)


def remove_parts(out: Path) -> None:
    """What a finished store needs no more, also what a kill just before the end left behind."""
    shutil.rmtree(out / "parts", ignore_errors=True)


def report_counts(index: Path) -> dict[str, int]:
    """Records by the state of their report, from an index file, a batch of rows in memory at a time.

    ``with_text + empty`` are all records; ``english`` (as the source has it), ``phrases`` (built-in dictionary),
    ``model`` (a translator) and ``untranslated`` add up to ``with_text``.
    """
    counts = dict.fromkeys(("with_text", "empty", "english", "phrases", "model", "untranslated"), 0)
    columns = ["record_id", "report", "report_en", "report_origin"]
    last = None
    with pq.ParquetFile(index) as table:
        for batch in table.iter_batches(batch_size=_BATCH, columns=columns, use_threads=False):
            rows = zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
            for record_id, report, english, origin in rows:
                if record_id == last:  # the segments of a record stand together
                    continue
                last = record_id
                if not report.strip():
                    counts["empty"] += 1
                    continue
                counts["with_text"] += 1
                if not english:
                    counts["untranslated"] += 1
                elif origin == "phrases":
                    counts["phrases"] += 1
                else:
                    counts["model" if origin.startswith("model:") else "english"] += 1
    return counts


def summary_of(name: str, out: Path, records_per_s: float | None, reused: bool) -> PrepareSummary:
    """The summary of a finished store, from its manifest. Opening it checks that every shard is there, whole."""
    manifest = SegmentStore(out).manifest
    counts, settings = manifest["counts"], manifest["settings"]
    shard = settings.get("shard")
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
        reports=manifest["reports"],
        shard=f"{shard['number']}/{shard['of']}" if shard else "",
        records_per_s=records_per_s,
        reused=reused,
        rate=settings["rate"],
        seg_len=settings["seg_len"],
    )
