"""What a search found, for people: a table, and a folder with the query and its neighbours as ECG paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError
from ecglm.files import (
    MANIFEST,
    file_sha256,
    folder_lock,
    output_state,
    plan_fingerprint,
    write_json,
    write_manifest,
)
from ecglm.prompts.retrieved import RagOptions
from ecglm.representations.render import render, save_picture
from ecglm.retrieval.copies import content_key
from ecglm.retrieval.search import Index
from ecglm.store.reader import SegmentStore
from ecglm.types import Neighbour

KIND = "index-search"
TABLE = "neighbours.json"
#: The lead whose measurements the table shows; a prompt tells those of all twelve.
_LEAD = "II"


def lines(neighbours: Sequence[Neighbour]) -> list[str]:
    """One line per neighbour, nearest first: distance, record, labels; below it its report, and of its features those
    that prompts tell, of lead II.
    """
    if not neighbours:
        return ["no neighbour: nothing in the index may be shown for this ECG"]
    wide = max(len("record"), *(len(n.record_id) for n in neighbours))
    found = [f"{'#':>3}  {'distance':>8}  {'record':{wide}}  labels"]
    told = RagOptions(content="features").chosen(list(neighbours[0].features))
    for place, n in enumerate(neighbours, 1):
        found.append(f"{place:3d}  {n.distance:8.4f}  {n.record_id:{wide}}  {', '.join(n.labels) or '-'}")
        if n.report:
            found.append(f"     {' '.join(n.report.split())}")
        values = [(name, n.features[name]) for name in told if name.startswith(f"{_LEAD}_")]
        if values:
            found.append(f"     lead {_LEAD}: " + ", ".join(f"{k[len(_LEAD) + 1 :]} {v:.4g}" for k, v in values))
    return found


def find_stores(index: Index, given: Sequence[str | Path] = ()) -> list[SegmentStore | None]:
    """The stores that the index was built of, None for one that is not to be found: those given, else where they lay
    beside the index when it was built. EcglmError for a given one that the index was not built of.
    """
    wanted = [(index.path / store["path"], store["fingerprint"]) for store in index.manifest["stores"]]
    opened = [SegmentStore(path) for path in given]
    for store in opened:
        if store.fingerprint not in [mark for _, mark in wanted]:
            raise EcglmError(f"{store.path}: the index {index.path} was not built of this store; name another --store")
    found: list[SegmentStore | None] = []
    for path, mark in wanted:
        here = [store for store in opened if store.fingerprint == mark]
        if not here and (path / MANIFEST).is_file():
            here = [store for store in [SegmentStore(path)] if store.fingerprint == mark]
        found.append(here[0] if here else None)
    return found


def save_pictures(
    index: Index,
    query: np.ndarray,
    name: str,
    neighbours: Sequence[Neighbour],
    out: str | Path,
    *,
    stores: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write ``query.png``, ``1.png`` … and ``neighbours.json`` (no patient ids) into the folder ``out``.

    query: ``(12, seg_len)`` in mV. Returns the pictures, and record ids of neighbours without one, whose store is not
    there. The same search finished before is reused. Raises StaleOutputError where ``out`` holds something else.
    """
    found = find_stores(index, stores)
    rows = {segment: row for row, segment in enumerate(index.table.column("segment_id").to_pylist())}
    places: list[tuple[SegmentStore | None, int]] = []
    for n in neighbours:
        row: dict[str, Any] = index.table.slice(rows[n.segment_id], 1).to_pylist()[0]
        places.append((found[row["store"]], row["position"]))
    folder = Path(out)
    settings = {"version": 1, "shown": [store is not None for store, _ in places], "name": name}
    hits = [{"segment": n.segment_id, "distance": round(n.distance, 6)} for n in neighbours]
    inputs = {"index": index.fingerprint, "query": f"{content_key(query):016x}", "neighbours": hits}
    pictures = ["query.png", *(f"{place}.png" for place, (store, _) in enumerate(places, 1) if store is not None)]
    missing = [n.record_id for n, (store, _) in zip(neighbours, places, strict=True) if store is None]
    with folder_lock(folder):
        plan = plan_fingerprint(KIND, settings, inputs)
        if output_state(folder, KIND, plan, overwrite) != "finished":
            save_picture(folder / "query.png", render(query, index.rate, header=f"Query: {name}"))
            for place, (n, (store, position)) in enumerate(zip(neighbours, places, strict=True), 1):
                if store is not None:
                    header = f"{place}. {n.record_id}, distance {n.distance:.3f}\n{' '.join(n.report.split())}".strip()
                    save_picture(folder / f"{place}.png", render(store[position], index.rate, header=header))
            told = [
                {"record": n.record_id, "distance": n.distance, "labels": list(n.labels), "report": n.report}
                for n in neighbours
            ]
            write_json(folder / TABLE, {"query": name, "neighbours": told})
            outputs = {file: file_sha256(folder / file) for file in (*pictures, TABLE)}
            write_manifest(folder / MANIFEST, KIND, settings, inputs, outputs)
    return [folder / file for file in pictures], missing
