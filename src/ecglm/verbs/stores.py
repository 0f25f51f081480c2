"""Verbs: raw recordings → stores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.verbs.common import say, split_options, tell


def prepare(
    source: Positional[str],
    out: Path,
    root: Path | None = None,
    pipeline: str = "default",
    rate: int = 250,
    seg_len: int = 2500,
    set: UseAppendAction[tuple[str, ...]] = (),
    workers: int = 1,
    limit: int | None = None,
    dev: bool = False,
    max_reject: float = 0.05,
    overwrite: bool = False,
) -> None:
    """Read every recording of a source, clean it, cut it, store it.

    Args:
        source: name of the source (ecglm ls records).
        out: the store to make.
        root: folder of the recordings, for sources that have one.
        pipeline: signal pipeline (ecglm ls pipelines).
        rate: samples per second of the store, Hz.
        seg_len: samples per segment at that rate.
        set: KEY=VALUE, an option of the source or the pipeline (resolution=500, preset=st, num_patients=100 …).
        workers: processes; the result does not depend on their number.
        limit: the first N records only.
        dev: the first 20 records only, unless --limit says otherwise.
        max_reject: a larger share of rejected records is an error.
        overwrite: replace a store made with other settings.
    """
    from ecglm.signals.pipeline import get_pipeline
    from ecglm.store.prepare import prepare as run

    kind = registry.get("records", source)
    of_source, of_pipeline = split_options(kind, registry.get("pipelines", pipeline), set)
    if root is not None:
        of_source["root"] = root
    elif any(f.name == "root" for f in dataclasses.fields(kind)):
        raise ConfigError(f"source '{source}' reads files: say where with --root DIR")
    made = get_pipeline(pipeline, rate=rate, seg_len=seg_len, **of_pipeline)
    limit = 20 if dev and limit is None else limit
    summary = run(
        kind(**of_source), made, out, workers=workers, limit=limit, overwrite=overwrite, max_reject=max_reject
    )
    tell(summary.lines())


def store_info(store: Positional[Path]) -> None:
    """Say what a store holds.

    Args:
        store: the store's folder.
    """
    from ecglm.store.reader import SegmentStore

    found = SegmentStore(store)
    counts, settings = found.manifest["counts"], found.manifest["settings"]
    patients = len(set(found.index.column("patient_id").to_pylist()))
    say(f"{len(found)} segments of {found.seg_len / found.rate:g} s at {found.rate} Hz, {patients} patients")
    say("counts: " + ", ".join(f"{k} {v}" for k, v in sorted(counts.items()) if isinstance(v, int)))
    say("pipeline: " + ", ".join(f"{k} {v}" for k, v in settings["pipeline"].items()))
    say(f"fingerprint: {found.fingerprint}")


def store_verify(store: Positional[Path]) -> None:
    """Check every file of a store against its sha256, and the index against the shards.

    Args:
        store: the store's folder.
    """
    from ecglm.store.verify import verify

    tell(verify(store).lines())
