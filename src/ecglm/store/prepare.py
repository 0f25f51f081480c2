"""Raw recordings → segment store: parallel, resumable after a kill, the same bytes for any number of workers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecglm import files
from ecglm.errors import ConfigError, EcglmError
from ecglm.store.engines import run_engine
from ecglm.store.finish import (
    PrepareSummary,
    counts_text,
    finish,
    remove_leftovers,
    remove_parts,
    summary_of,
)
from ecglm.store.progress import RecordProgress
from ecglm.store.writer import FORMAT_VERSION, KIND, REJECTS, Source, part_finished, shard_records
from ecglm.types import LEADS

if TYPE_CHECKING:
    from ecglm.signals.pipeline import Pipeline

__all__ = ["PrepareSummary", "parse_shard", "prepare"]


def prepare(
    source: Source,
    pipeline: Pipeline,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    limit: int | None = None,
    shard: str | None = None,
    engine: str = "local",
    overwrite: bool = False,
    max_reject: float = 0.05,
    progress: bool = True,
) -> PrepareSummary:
    """Run ``pipeline`` over every record of ``source`` into the segment store ``out``.

    The first ``limit`` records in the source's order where given. A store of the same plan is reused when finished and
    gone on with when not. Worker processes are started by ``spawn``: a script that calls this with ``workers`` > 1
    needs the usual ``if __name__ == "__main__"``.

    shard: ``"i/n"`` (1/4, 2/4, 3/4, 4/4) makes the i-th of n stores, each of whole shard files of the plan and
    complete by itself; ``merge`` of all n gives the very files of a single run. engine: ``"local"`` processes, or
    ``"ray"``: the same shards as Ray tasks (the cluster of RAY_ADDRESS, else one of ``workers`` CPUs started here).

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
    run = run_engine(engine)
    plan = _plan(source, pipeline, limit, parse_shard(shard) if shard is not None else None)
    with files.folder_lock(out):
        state = files.output_state(out, KIND, files.plan_fingerprint(KIND, plan.settings, plan.inputs), overwrite)
        rate = None
        if state != "finished":
            remove_leftovers(out)
            chunks = plan.chunks()
            done = [number for number in chunks if part_finished(out, number)]
            before = sum(len(chunks.pop(number)) for number in done)
            with RecordProgress(f"prepare {source.name}", len(plan.keys), before, progress) as bar:
                run(source, pipeline, out, chunks, workers, bar)
                rate = bar.rate
            num_shards = len(done) + len(chunks)
            finish(out, num_shards, len(plan.keys), source.accounting(), plan.settings, plan.inputs)
        remove_parts(out)
        summary = summary_of(source.name, out, rate, reused=state == "finished")
    if summary.num_rejected > max_reject * summary.num_keys:
        share = summary.num_rejected / summary.num_keys
        first = next(row for row in files.read_jsonl(out / REJECTS) if "segment" not in row)
        shorter = ", give a shorter --seg-len" if "too_short" in summary.reasons else ""
        raise EcglmError(
            f"{out / REJECTS}: {summary.num_rejected} of {summary.num_keys} records rejected ({share:.1%}, more than "
            f"--max-reject {max_reject:g}): {counts_text(summary.reasons)} (first: {first['detail']}); "
            f"the store is complete without them, look at the log, then mend the files{shorter} or raise --max-reject"
        )
    return summary


@dataclass(frozen=True)
class _Plan:
    """What will be made: the record ids of this store, and what its manifest will say it was made by and from."""

    keys: list[str]
    settings: dict[str, Any]
    inputs: dict[str, Any]

    def chunks(self) -> dict[int, list[str]]:
        """Number of a shard file → its record ids."""
        size = self.settings["shard_records"]
        return {number: self.keys[at : at + size] for number, at in enumerate(range(0, len(self.keys), size))}


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/4"`` → (2, 4): the second of four. ConfigError for anything else, ``0/4`` and ``5/4`` among it."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
    number, of = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise ConfigError(f"shard must be i/n with i from 1 to n, such as 1/4, found '{text}'")
    return number, of


def _plan(source: Source, pipeline: Pipeline, limit: int | None, shard: tuple[int, int] | None) -> _Plan:
    keys = _keys(source, limit)
    size = shard_records(len(keys))
    settings: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "pipeline": {**pipeline.config(), "name": pipeline.name, "version": pipeline.version},
        "rate": pipeline.rate,
        "seg_len": pipeline.seg_len,
        "leads": list(LEADS),
        "units": "uV",
        "shard_records": size,
        "limit": limit,
    }
    facts = {**source.fingerprint(), "name": source.name, "version": source.version()}
    inputs = {"source": facts, "keys": files.fingerprint(keys)}
    if shard is None:
        return _Plan(keys, settings, inputs)
    number, of = shard
    num_files = -(-len(keys) // size)
    if of > num_files:
        raise ConfigError(
            f"shard {number}/{of}: the {len(keys)} records fill {num_files} shard files; "
            f"use i/n with n up to {num_files}"
        )
    first, end = (number - 1) * num_files // of, number * num_files // of
    settings["shard"] = {"number": number, "of": of}
    return _Plan(keys[first * size : end * size], settings, inputs)


def _keys(source: Source, limit: int | None) -> list[str]:
    keys = list(source.keys())
    if not keys:
        raise EcglmError(f"{source.name}: no records found; is --root the right folder?")
    if len(set(keys)) != len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise EcglmError(f"{source.name}: the record id '{twice}' stands twice; ids must be unique")
    return keys[:limit]
