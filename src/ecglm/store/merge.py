"""Several finished stores → one: the shards of one plan, or stores of different sources, whose provenance is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import EcglmError, TornOutputError
from ecglm.store.finish import PrepareSummary, finish, remove_parts, summary_of
from ecglm.store.merge_shards import copy_shards
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import ACCOUNTING, INDEX, KIND, MAX_SHARDS, REJECTS

#: What stores must share to become one: a reader has one rate, one length, one way the signals were cleaned.
_COMMON = ("format_version", "rate", "seg_len", "leads", "units", "pipeline")
_BATCH = 8192


def merge(
    stores: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> PrepareSummary:
    """Make one store of finished ones, in the order given; a killed merge goes on where it was.

    Stores made with ``shard="i/n"`` are joined to the very files of a single run; all n must be there. Any other
    stores must share rate, length, leads, units and pipeline; every record keeps its place, and the manifest lists
    under ``merged`` where each stretch of segments comes from (source, settings, counts, rejects, accounting). The
    same plan finished in ``out`` is reused. One shard's index rows are in memory at a time.

    Raises EcglmError, before anything is written, for a shard that is missing or of another plan, stores that do not
    fit, a store named twice, or a record id in two stores; TornOutputError for a store that is incomplete or damaged;
    StaleOutputError when ``out`` holds something else (unless ``overwrite``).
    """
    out = Path(out)
    opened = _open(stores, out)
    plan = _siblings(opened) if any("shard" in s.manifest["settings"] for s in opened) else _different(opened)
    with files.folder_lock(out):
        state = files.output_state(out, KIND, files.plan_fingerprint(KIND, plan.settings, plan.inputs), overwrite)
        rate = None
        if state != "finished":
            rate = copy_shards(plan.stores, plan.shards, plan.rejects, out, progress)
            finish(out, len(plan.shards), plan.num_keys, plan.accounting, plan.settings, plan.inputs, **plan.provenance)
        remove_parts(out)
        return summary_of(plan.name, out, rate, reused=state == "finished")


@dataclass(frozen=True)
class _Plan:
    """shards: per new shard file, the (store, shard) pieces it is made of. rejects: rows of each store's log."""

    name: str
    stores: list[SegmentStore]
    shards: list[list[tuple[int, int]]]
    settings: dict[str, Any]
    inputs: dict[str, Any]
    accounting: dict[str, list[str]]
    rejects: list[list[dict[str, Any]]]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def num_keys(self) -> int:
        return sum(store.manifest["counts"]["keys"] for store in self.stores)


def _open(paths: Sequence[str | os.PathLike[str]], out: Path) -> list[SegmentStore]:
    if not paths:
        raise EcglmError("nothing to merge; name the stores")
    target = out.resolve()
    opened: list[SegmentStore] = []
    for path in paths:
        place = Path(path).resolve()
        if place.is_relative_to(target) or target.is_relative_to(place):
            raise EcglmError(f"{out}: holds or lies in the store {path}, which is to be merged; choose another --out")
        store = SegmentStore(path)
        twin = next((other for other in opened if other.fingerprint == store.fingerprint), None)
        if twin is not None:
            raise EcglmError(f"{path}: is the same store as {twin.path}; name each store once")
        for name in (INDEX, REJECTS, ACCOUNTING):  # the shards are checked while they are copied
            file = store.path / name
            if not file.is_file() or files.file_sha256(file) != store.manifest["outputs"][name]:
                raise TornOutputError(f"{file}: missing or altered; prepare the store again with --overwrite")
        opened.append(store)
    return opened


def _siblings(stores: list[SegmentStore]) -> _Plan:
    """The plan of the single run that the shards i/n were taken of."""
    first = stores[0]
    plans = []
    for store in stores:
        settings = dict(store.manifest["settings"])
        shard = settings.pop("shard", None)
        if shard is None:
            part = next(s for s in stores if "shard" in s.manifest["settings"])
            raise EcglmError(
                f"{part.path}: is shard {_label(part)} of a whole, {store.path} is none; "
                "merge the shards of one plan with each other first"
            )
        plans.append({**settings, **store.manifest["inputs"], "number of shards": shard["of"]})
        differing = [name for name in sorted(plans[0]) if plans[0][name] != plans[-1].get(name)]
        if differing:
            raise EcglmError(
                f"{store.path}: is a shard of another plan than {first.path} (other {', '.join(differing)}); "
                "prepare all shards from the same recordings with the same options"
            )
    by_number = {store.manifest["settings"]["shard"]["number"]: store for store in stores}
    of = first.manifest["settings"]["shard"]["of"]
    missing = [f"{number}/{of}" for number in range(1, of + 1) if number not in by_number]
    if missing:
        raise EcglmError(
            f"shard {', '.join(missing)} of {first.manifest['inputs']['source']['name']} is missing among the "
            f"{len(stores)} stores to merge; prepare it with --shard {missing[0]} and name all {of} stores"
        )
    ordered = [by_number[number] for number in sorted(by_number)]
    settings = {name: value for name, value in first.manifest["settings"].items() if name != "shard"}
    return _Plan(
        name=first.manifest["inputs"]["source"]["name"],
        stores=ordered,
        shards=[[piece] for piece in _pieces(ordered)],
        settings=settings,
        inputs=first.manifest["inputs"],
        accounting=files.read_json(first.path / ACCOUNTING),  # of the source, so the same in every shard
        rejects=[files.read_jsonl(store.path / REJECTS) for store in ordered],
    )


def _label(store: SegmentStore) -> str:
    shard = store.manifest["settings"]["shard"]
    return f"{shard['number']}/{shard['of']}"


def _pieces(stores: list[SegmentStore]) -> list[tuple[int, int]]:
    return [(k, shard) for k, store in enumerate(stores) for shard in range(len(store.manifest["shard_segments"]))]


def _different(stores: list[SegmentStore]) -> _Plan:
    """The plan for stores of different sources (or limits, or versions of a source)."""
    if len(stores) < 2:
        raise EcglmError(f"{stores[0].path}: one store alone is not to be merged; name two or more")
    first = stores[0].manifest["settings"]
    for store in stores[1:]:
        settings = store.manifest["settings"]
        for name in _COMMON:
            if settings[name] != first[name]:
                found, wanted = _difference(settings[name], first[name]), _difference(first[name], settings[name])
                raise EcglmError(
                    f"{store.path}: {name} {found}, but {stores[0].path} has {wanted}; prepare one of them again like "
                    "the other, or name both stores wherever a store is asked for"
                )
    _check_record_ids(stores)
    entries: list[dict[str, Any]] = []
    accounting: dict[str, list[str]] = {}
    rejects: list[list[dict[str, Any]]] = []
    taken: set[str] = set()
    before = 0
    for store in stores:
        renamed = _add_entries(store, before, entries, taken)
        for heading, ids in files.read_json(store.path / ACCOUNTING).items():
            origin, _, rest = heading.partition("/") if "merged" in store.manifest else ("", "", heading)
            accounting[f"{renamed[origin]}/{rest}"] = ids
        rows = files.read_jsonl(store.path / REJECTS)
        rejects.append([{**row, "origin": renamed[row.get("origin", "")]} for row in rows])
        before += len(store)
    pieces = _pieces(stores)
    group = -(-len(pieces) // MAX_SHARDS)  # each shard file is one open map of a reader
    origins = [entry["origin"] for entry in entries]
    return _Plan(
        name=" + ".join(origins),
        stores=stores,
        shards=[pieces[at : at + group] for at in range(0, len(pieces), group)],
        settings={name: first[name] for name in _COMMON},
        inputs={"stores": [store.fingerprint for store in stores]},
        accounting=accounting,
        rejects=rejects,
        provenance={"merged": entries},
    )


def _difference(value: Any, other: Any) -> str:
    """What to show of a setting: of two tables only the entries that differ."""
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k, ...) != v) or "without these"
    return str(value)


def _add_entries(store: SegmentStore, before: int, entries: list[dict[str, Any]], taken: set[str]) -> dict[str, str]:
    """List a store (or those it was merged from) under ``merged``; its origins' old name ("" if none) → the new."""
    manifest = store.manifest
    own = {
        "origin": "",
        "first_segment": 0,
        "fingerprint": store.fingerprint,
        **{name: manifest[name] for name in ("settings", "inputs", "counts", "rejected", "rejected_segments")},
        **{name: manifest[name] for name in ("accounting", "reports")},
    }
    renamed: dict[str, str] = {}
    for entry in manifest.get("merged", [own]):
        name = wanted = entry["origin"] or manifest["inputs"]["source"]["name"]
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        renamed[entry["origin"]] = name
        entries.append({**entry, "origin": name, "first_segment": before + entry["first_segment"]})
    return renamed


def _check_record_ids(stores: list[SegmentStore]) -> None:
    """EcglmError for a record id that two stores have."""
    found = []
    for store in stores:
        ids: pa.Array = pa.array([], pa.string())
        with pq.ParquetFile(store.path / INDEX) as table:
            for batch in table.iter_batches(batch_size=_BATCH, columns=["record_id"], use_threads=False):
                ids = pa.concat_arrays([ids, batch.column(0).unique()]) if len(batch) else ids
        found.append(ids.unique())
    counts = pc.value_counts(pa.concat_arrays(found))
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        holders = [str(s.path) for s, ids in zip(stores, found, strict=True) if pc.is_in(twice[0], ids).as_py()]
        more = f" ({len(twice)} such ids)" if len(twice) > 1 else ""
        raise EcglmError(
            f"record id '{twice[0]}' is in {' and in '.join(holders)}{more}; a record belongs into one store: "
            "leave one of them out, or prepare it again without these records"
        )
