"""Verbs: raw recordings → stores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.verbs.common import FewStores, is_made, say, split_options, tell


def prepare(
    source: Positional[str],
    out: Path,
    root: Path | None = None,
    pipeline: str = "default",
    rate: int = 250,
    seg_len: int = 2500,
    set: UseAppendAction[tuple[str, ...]] = (),
    on_bad: Literal["keep", "reject"] = "keep",
    workers: int = 1,
    engine: Literal["local", "ray"] = "local",
    shard: str | None = None,
    limit: int | None = None,
    dev: bool = False,
    max_reject: float = 0.05,
    overwrite: bool = False,
) -> None:
    """Read every recording of a source, clean it, cut it, store it.

    Args:
        source: name of the source (ecglm ls records).
        out: the store to make.
        root: folder of the recordings (or their official zip), for sources that have one.
        pipeline: signal pipeline (ecglm ls pipelines).
        rate: samples per second of the store, Hz.
        seg_len: samples per segment at that rate.
        set: KEY=VALUE, an option of the source or the pipeline (resolution=500, preset=st, num_patients=100 …).
        on_bad: what becomes of flat, saturated or implausibly large records; kept ones carry a flag.
        workers: processes; the result does not depend on their number.
        engine: processes of this machine, or Ray tasks (pip install "ecglm[ray]").
        shard: I/N, the I-th of N parts, for cluster arrays; ecglm store merge joins them.
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
    if on_bad == "reject":
        of_pipeline["on_bad"] = on_bad
    summary = run(
        kind(**of_source),
        get_pipeline(pipeline, rate=rate, seg_len=seg_len, **of_pipeline),
        out,
        workers=workers,
        engine=engine,
        shard=shard,
        limit=20 if dev and limit is None else limit,
        overwrite=overwrite,
        max_reject=max_reject,
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


def store_merge(stores: FewStores, out: Path, overwrite: bool = False) -> None:
    """Join stores: the parts of one plan (--shard I/N) to what a single run gives, others one after the other.

    Args:
        stores: the stores, in the order their records shall have.
        out: the store to make.
        overwrite: replace a store made from others.
    """
    from ecglm.store.merge import merge

    tell(merge(stores, out, overwrite=overwrite).lines())


def store_export(
    store: Positional[Path],
    out: Path,
    to: Literal["hf", "npy", "wfdb"],
    limit: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a store's segments for other programs.

    Args:
        store: the store's folder.
        out: the folder to make.
        to: Parquet files for datasets.load_dataset, one .npy array per segment, or one WFDB record per segment.
        limit: the first N segments only.
        overwrite: replace an export made otherwise.
    """
    from ecglm.store.export import export

    tell(export(store, out, to=to, limit=limit, overwrite=overwrite).lines())


def store_sample(
    stores: FewStores,
    out: Path,
    n: int = 20_000,
    method: Literal["random", "stratified"] = "random",
    split: Literal["train", "val", "test"] = "train",
    per: Literal["segment", "record", "patient"] = "segment",
    without_flags: tuple[str, ...] = (),
    pool: int | None = None,
    seed: int = 0,
    split_seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Draw segments for a tokenizer to learn from; ecglm tokenizer train --sample reads the list.

    Args:
        stores: segment stores.
        out: the JSON file to make.
        n: how many segments.
        method: at random, or evenly over clusters of similar ECGs.
        split: official folds and splits, by patient hash elsewhere.
        per: at most one segment of each record or patient, or any segment.
        without_flags: quality flags that keep a segment out (flat_lead, saturated …).
        pool: segments a stratified draw looks at; ten times --n, at least 20000.
        seed: of the draw.
        split_seed: of the splits by hash: the --seed of ecglm map.
        overwrite: replace another sample.
    """
    from ecglm.store.reader import SegmentStore
    from ecglm.store.sampling import read_sample, sample

    drawn = sample(
        [SegmentStore(s) for s in stores],
        n,
        method=method,
        split=split,
        per=per,
        without_flags=without_flags,
        pool=pool,
        seed=seed,
        split_seed=split_seed,
    )
    if not is_made(out, drawn.fingerprint, lambda path: read_sample(path).fingerprint, overwrite):
        drawn.save(out)
    tell(drawn.lines())
    say(f"sample: {out}")


def store_percentiles(
    stores: FewStores,
    out: Path,
    num_values: int = 1_000_000,
    split: Literal["train", "val", "test"] = "train",
    without_flags: tuple[str, ...] = (),
    allow_nominal: bool = False,
    seed: int = 0,
    split_seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Find p1 and p99 of the amplitudes, for percentile normalisation.

    Args:
        stores: segment stores.
        out: the JSON file to make.
        num_values: how many values are drawn.
        split: official folds and splits, by patient hash elsewhere.
        without_flags: quality flags that keep a segment out.
        allow_nominal: mix records whose unit is only nominal (CODE-15 %) with others.
        seed: of the draw.
        split_seed: of the splits by hash: the --seed of ecglm map.
        overwrite: replace other percentiles.
    """
    from ecglm.store.percentiles import lines, percentiles, read_percentiles, write_percentiles
    from ecglm.store.reader import SegmentStore

    found = percentiles(
        [SegmentStore(s) for s in stores],
        seed=seed,
        num_values=num_values,
        split=split,
        split_seed=split_seed,
        without_flags=without_flags,
        allow_nominal=allow_nominal,
    )
    if not is_made(out, found["fingerprint"], lambda path: read_percentiles(path)["fingerprint"], overwrite):
        write_percentiles(out, found)
    tell(lines(found))
    say(f"percentiles: {out}")
