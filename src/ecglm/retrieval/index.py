"""Build an index of training ECGs, vectors, members and manifest; killed at any time, it goes on where it was."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from ecglm import files
from ecglm.conversations.table import conversations_fingerprint
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.retrieval.approximate import MANY, Approximate, load_faiss
from ecglm.retrieval.checks import FAISS, FORMAT, KIND, MEMBERS, REJECTS, VECTORS
from ecglm.retrieval.members import Members, Quality, training_members
from ecglm.retrieval.raw import PARTS, raw_arrays
from ecglm.retrieval.search import ENCODER
from ecglm.retrieval.search import Exclude as Exclude
from ecglm.retrieval.search import Index as Index
from ecglm.retrieval.space import Space
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore

if TYPE_CHECKING:  # an index by features needs no torch
    from ecglm.retrieval.embedding import Embedder

#: Changes whenever the same inputs give other vectors.
_VERSION = 1
#: Called with a stage, how many segments are done, and of how many.
Progress = Callable[[str, int, int], None]
BY = ("features", "embedding", "both")
QUALITIES = ("any", "usable", "good")
#: ECG-Bench's rule: an ECG of which more than half of the features, or all together, are nearly nothing.
_TINY, _SUM = 1e-3, 0.5


def build_index(
    stores: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    by: Literal["features", "embedding", "both"] = "features",
    encoder: str | os.PathLike[str] | None = None,
    segments: Literal["first", "all"] = "first",
    min_quality: Quality = "usable",
    approximate: bool | None = None,
    limit: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    progress: Progress = lambda stage, done, total: None,
) -> Index:
    """Index the training ECGs of segment stores into the folder ``out``, and load it.

    data: conversations files whose training rows say which records those are; without any, the stores' own split or
    official fold. by: ECG-Bench's 288 features, the vector of an encoder, or both. encoder: an encoder folder, or a
    checkpoint, whose encoder is copied into the index. segments: the first of each record, which is what models are
    shown, or all; a search gives a record once. min_quality: ``any``, ``usable`` or ``good`` (``members``).
    approximate: search by faiss; None decides by the number of vectors. limit: the first so many training segments.
    progress: called with a stage, segments done and all.

    The same call again reuses a finished index and goes on with an unfinished one; the bytes do not depend on
    ``workers``. Raises EcglmError for stores prepared otherwise than each other, for a store without a training record,
    for a patient in train and elsewhere, and where nothing is left to index; ConfigError for options that cannot be and
    for an ``out`` that holds what the index is made of; StaleOutputError where ``out`` holds something else.
    """
    for name, value, known in (
        ("by", by, BY),
        ("min_quality", min_quality, QUALITIES),
        ("segments", segments, ("first", "all")),
    ):
        if value not in known:
            raise ConfigError(f"no {name} '{value}'{nearest(value, known)}; known: {', '.join(known)}")
    for name, number in (("workers", workers), ("limit", limit)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be 1 or more, found {number}")
    if (encoder is None) != (by == "features"):
        mend = "name one with --encoder DIR" if encoder is None else "leave it out, or index --by embedding"
        raise ConfigError(f"an index by {by} takes {'an' if encoder is None else 'no'} encoder; {mend}")
    opened = [SegmentStore(path) for path in stores]
    pipeline = _one_pipeline(opened)
    said = [data] if isinstance(data, str | Path) else list(data or ())
    embedder = None
    if encoder is not None:
        from ecglm.retrieval.embedding import read_embedder

        embedder = read_embedder(os.fspath(encoder), pipeline)
    if approximate:
        load_faiss()
    settings = {
        "format": FORMAT,
        "version": _VERSION,
        "by": by,
        "segments": segments,
        "min_quality": min_quality,
        "approximate": approximate,
        "limit": limit,
        "rate": opened[0].rate,
        "seg_len": opened[0].seg_len,
        "pipeline": pipeline,
    }
    inputs = {f"store{n or ''}": store.fingerprint for n, store in enumerate(opened)}
    inputs |= {f"data{n or ''}": conversations_fingerprint(path) for n, path in enumerate(said)}
    if embedder is not None:
        inputs["encoder"] = embedder.made_from
    folder = Path(out)
    for source in (*stores, *said, *([] if encoder is None else [encoder])):
        if Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder}: holds {source}, which the index is made of; choose another --out")
    with files.folder_lock(folder):
        plan = files.plan_fingerprint(KIND, settings, inputs)
        if files.output_state(folder, KIND, plan, overwrite) != "finished":
            members = training_members(opened, said, segments=segments, min_quality=min_quality)
            _write(folder, opened, members, settings, inputs, embedder, workers, progress)
        else:
            say(f"{folder}: was complete already, reused")
    return Index.load(folder)


def _write(
    folder: Path,
    stores: Sequence[SegmentStore],
    members: Members,
    settings: dict[str, Any],
    inputs: dict[str, str],
    embedder: Embedder | None,
    workers: int,
    progress: Progress,
) -> None:
    table = members.table.slice(0, settings["limit"])
    total, left_out = table.num_rows, dict(members.left_out)
    if table.num_rows < members.table.num_rows:
        left_out["beyond_limit"] = members.table.num_rows - table.num_rows
    rejects = list(members.rejects)
    if not total:
        raise EcglmError(f"{folder}: {_nothing(rejects)}")
    raw = raw_arrays(
        stores,
        table,
        folder,
        features=settings["by"] != "embedding",
        embedder=embedder,
        workers=workers,
        done=lambda stage, number: progress(stage, number, total),
    )
    reasons = _bad_numbers(raw)
    names = table.column("segment_id").to_pylist()
    rejects += [{"segment_id": name, "reason": why} for name, why in zip(names, reasons, strict=True) if why]
    kept = np.flatnonzero([not why for why in reasons])
    if not len(kept):
        raise EcglmError(f"{folder}: {_nothing(rejects)}")
    table = table.take(pa.array(kept))
    parts = [raw[name][kept] for name in ("features", "embedding") if name in raw]
    space = Space.fit(parts)
    vectors = space.vectors(np.concatenate(parts, axis=1))
    arrays = {
        "vectors": vectors,
        "mean": space.mean,
        "factor": space.factor,
        "sketch": raw["sketch"][kept],
        "content": raw["content"][kept],
        **{
            name: np.array([digest(x) for x in table.column(f"{name}_id").to_pylist()], np.uint64)
            for name in ("record", "patient")
        },
    }
    fingerprint = files.plan_fingerprint(KIND, settings, inputs)
    table = table.replace_schema_metadata({b"ecglm.index": fingerprint.encode()})
    with files.atomic_path(folder / VECTORS) as temporary:
        save_file(arrays, temporary)
    with files.atomic_path(folder / MEMBERS) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    files.write_text(folder / REJECTS, "".join(files.canonical_json(row) + "\n" for row in rejects))
    outputs = [VECTORS, MEMBERS, REJECTS]
    tuned = None
    wanted = settings["approximate"]
    if wanted or (wanted is None and len(vectors) >= MANY):
        made, tuned = Approximate.build(vectors)
        with files.atomic_path(folder / FAISS) as temporary:
            made.write(temporary)
        outputs.append(FAISS)
    if embedder is not None:
        embedder.save(folder / ENCODER)
        outputs += sorted(f"{ENCODER}/{file.name}" for file in (folder / ENCODER).iterdir())
    reasons_counted = dict(sorted(Counter(row["reason"] for row in rejects).items()))
    files.write_manifest(
        folder / files.MANIFEST,
        KIND,
        settings,
        inputs,
        {name: files.file_sha256(folder / name) for name in outputs},
        sizes={name: (folder / name).stat().st_size for name in outputs},
        dim=int(vectors.shape[1]),
        approximate=tuned,
        counts={
            "in": sum(len(store) for store in stores),
            "indexed": len(vectors),
            "rejected": sum(reasons_counted.values()),
            "left_out": sum(left_out.values()),
        },
        rejected=reasons_counted,
        left_out=dict(sorted(left_out.items())),
        stores=[
            {"path": os.path.relpath(store.path.resolve(), folder.resolve()), "fingerprint": store.fingerprint}
            for store in stores
        ],
    )
    shutil.rmtree(folder / PARTS)


def _bad_numbers(raw: dict[str, np.ndarray]) -> list[str]:
    """Why each ECG's numbers cannot stand in an index; empty where they can."""
    found = [""] * len(raw["content"])
    if "features" in raw:
        size = np.abs(raw["features"])
        nothing = ((size < _TINY).sum(axis=1) * 2 > size.shape[1]) | (size.sum(axis=1) < _SUM)
        for row in np.flatnonzero(nothing):
            found[row] = "features_near_zero"
    for name in ("features", "embedding"):
        if name in raw:
            for row in np.flatnonzero(~np.isfinite(raw[name]).all(axis=1)):
                found[row] = f"{name}_not_finite"
    return found


def _nothing(rejects: Sequence[dict[str, str]]) -> str:
    counts = Counter(row["reason"] for row in rejects)
    told = ", ".join(f"{why} {count}" for why, count in sorted(counts.items()))
    return (
        f"every training ECG was rejected ({told}); a lower --min-quality keeps more" if counts else "nothing to index"
    )


def _one_pipeline(stores: Sequence[SegmentStore]) -> dict[str, Any]:
    """The configuration that all stores were prepared with."""
    if not stores:
        raise EcglmError("no store; name one or more segment stores")
    first = stores[0].manifest["settings"]["pipeline"]
    for store in stores[1:]:
        other = store.manifest["settings"]["pipeline"]
        if other != first:
            told = ", ".join(
                f"{k} {other.get(k)} (there {first.get(k)})"
                for k in sorted({*first, *other})
                if first.get(k) != other.get(k)
            )
            raise EcglmError(f"{store.path}: prepared otherwise than {stores[0].path}: {told}; prepare them alike")
    return dict(first)
