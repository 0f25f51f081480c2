"""The neighbours of all ECGs that conversations show, found once, kept in a folder with a manifest, read at no cost."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import MANIFEST, atomic_dir, check_outputs, file_sha256, fingerprint, plan_fingerprint, write_manifest
from ecglm.retrieval.index import Exclude, Index
from ecglm.types import Conversation, Neighbour, Record

KIND = "neighbours"
HITS, LINKS = "hits.parquet", "links.parquet"
#: ECGs that are searched for at a time.
_BATCH = 256


@dataclass(frozen=True)
class Query:
    """One ECG to search for. ecg: the record that is shown. change: what a control has made of it (its name, seed and
    row: the same change, the same ECG), empty for the ECG as it is. records, patients: whom no hit may be of.
    """

    ecg: str
    records: frozenset[str]
    patients: frozenset[str]
    change: str = ""

    @property
    def key(self) -> str:
        """Names the query in a file: equal queries have one key."""
        return fingerprint([self.ecg, self.change, sorted(self.records), sorted(self.patients)])[:32]


def queries_of(
    conversation: Conversation,
    *,
    shown: Mapping[str, tuple[str, str]] | None = None,
    change: Callable[[int], str] | None = None,
) -> list[Query]:
    """The queries of a conversation, one per ECG in its order. No hit may be of any of its records or patients, whoever
    of them the ECG is of: a question that compares two patients learns of neither by the other's neighbours.

    shown: ECG → the record and the patient shown in its place, of whom no hit may be either. change: number of the ECG
    in the conversation → what was done to it.
    """
    pairs = list(zip(conversation.ecgs, conversation.patients, strict=True))
    others = [] if shown is None else [shown[ecg] for ecg, _ in pairs]
    records = frozenset(record for record, _ in (*pairs, *others) if record)
    patients = frozenset(patient for _, patient in (*pairs, *others) if patient)
    return [
        Query(ecg, records, patients, "" if change is None else change(number))
        for number, (ecg, _) in enumerate(others or pairs)
    ]


class Neighbours:
    """What was found for each query."""

    def __init__(self, hits: Sequence[Neighbour], links: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        self._hits, self._links = hits, links

    def of(self, queries: Sequence[Query]) -> tuple[Neighbour, ...]:
        """The neighbours of a conversation, ``by_turns``; empty where nothing was found."""
        rows = [self._links.get(query.key, ()) for query in queries]
        return by_turns([[replace(self._hits[hit], distance=far) for hit, far in row] for row in rows])

    def of_conversation(self, conversation: Conversation) -> tuple[Neighbour, ...]:
        """As ``of``, for a conversation that shows its ECGs as they are."""
        return self.of(queries_of(conversation))

    def hits(self) -> Sequence[Neighbour]:
        """Every ECG that was found for any query, by segment id; distances are 0 here."""
        return self._hits


def find_neighbours(
    index: Index,
    queries: Iterable[Query],
    segment_of: Callable[[Query], tuple[np.ndarray, int]],
    folder: str | Path,
    *,
    k: int,
    features: Sequence[str] = (),
    inputs: Mapping[str, str],
    say: Callable[[str], None] = print,
) -> Neighbours:
    """Search for every query, or read what was found before for the same ones, index, ``inputs`` and numbers.

    segment_of: query → float32 ``(12, L)`` in mV and its rate in Hz; a RejectedRecord leaves the query without hits,
    and is counted. features: names of those that are kept of the hits. inputs: what tells the ECGs from others
    (fingerprints of the stores). folder: is made, or replaced where it holds something else. Raises EcglmError where a
    hit is of somebody who is excluded: such an index must not be used.
    """
    asked = {query.key: query for query in queries}
    settings: dict[str, Any] = {"k": k, "features": list(features)}
    facts = {"index": index.fingerprint, "queries": fingerprint(sorted(asked)), **inputs}
    plan = plan_fingerprint(KIND, settings, facts)
    if (kept := _kept(Path(folder), plan)) is not None:
        return kept
    found: dict[str, tuple[Neighbour, ...]] = {}
    without = 0
    ready = said = 0
    for (rate, _), batch in _batches(asked, segment_of):
        rows = [(asked[key], segment) for key, segment in batch if segment is not None]
        without += len(batch) - len(rows)
        ready += len(batch)
        if not rows:
            continue
        excluded = [Exclude(records=query.records, patients=query.patients) for query, _ in rows]
        hits = index.search(np.stack([segment for _, segment in rows]), rate, k=k, exclude=excluded)
        for (query, _), of_query in zip(rows, hits, strict=True):
            _refuse_excluded(query, of_query)
            found[query.key] = tuple(of_query)[:k]
        if ready - said >= 16 * _BATCH:
            said = ready
            say(f"neighbours of {ready}/{len(asked)} ECGs")
    counts = {
        "queries": len(asked),
        "unreadable": without,
        "fewer": sum(0 < len(hits) < k for hits in found.values()),
        "none": len(asked) - without - sum(bool(hits) for hits in found.values()),
    }
    for left in Path(folder).parent.glob(f".tmp-{Path(folder).name}-*"):  # by a run that was killed here
        shutil.rmtree(left)
    with atomic_dir(folder) as temporary:
        _write(temporary, found, features)
        outputs = {name: file_sha256(temporary / name) for name in (HITS, LINKS)}
        write_manifest(temporary / MANIFEST, KIND, settings, facts, outputs, counts=counts)
    told = "".join(f", {counts[name]} {name}" for name in ("fewer", "none", "unreadable") if counts[name])
    say(f"neighbours of {len(asked)} ECGs found once, k={k}{told}")
    return read_neighbours(folder)


def _batches(
    asked: Mapping[str, Query], segment_of: Callable[[Query], tuple[np.ndarray, int]]
) -> Iterable[tuple[tuple[int, int], list[tuple[str, np.ndarray | None]]]]:
    """Queries in the order of their ECGs, as they lie in the stores, in batches of one rate and length."""
    batch: list[tuple[str, np.ndarray | None]] = []
    kind: tuple[int, int] = (0, 0)
    for key in sorted(asked, key=lambda key: (asked[key].ecg, key)):
        try:
            segment, rate = segment_of(asked[key])
        except RejectedRecord:  # told where the conversation is built
            batch.append((key, None))
            continue
        if batch and ((rate, segment.shape[-1]) != kind or len(batch) >= _BATCH):
            yield kind, batch
            batch = []
        kind = (rate, segment.shape[-1])
        batch.append((key, segment))
    if batch:
        yield kind, batch


def _refuse_excluded(query: Query, hits: Sequence[Neighbour]) -> None:
    for hit in hits:
        if hit.record_id in query.records or hit.patient_id in query.patients:
            raise EcglmError(
                f"retrieval: a neighbour of {query.ecg} is of the same patient or record; build the index anew "
                "(ecglm index build)"
            )


def check_index(index: Index, conversations: Iterable[Conversation], what: str) -> None:
    """EcglmError where an index holds a patient or record of these conversations. what: who they are, for people."""
    for kind, held, of in (("patient", index.patients, _patients), ("record", index.records, _records)):
        if shared := sorted(set(held) & {name for c in conversations for name in of(c)}):
            raise EcglmError(
                f"retrieval: the index holds {len(shared)} {kind}s of {what} (first: {shared[0]}), whose answers it "
                "would give away; build it over the training split alone (ecglm index build)"
            )


def _patients(conversation: Conversation) -> Iterable[str]:
    return (p for p in conversation.patients if p)


def _records(conversation: Conversation) -> Iterable[str]:
    return conversation.ecgs


def _write(folder: Path, found: Mapping[str, Sequence[Neighbour]], features: Sequence[str]) -> None:
    unique = {hit.segment_id: hit for hits in found.values() for hit in hits}
    names = sorted(unique)
    number = {name: i for i, name in enumerate(names)}
    hits = [unique[name] for name in names]
    keys = sorted(found)
    pq.write_table(
        pa.table(
            {
                "segment_id": pa.array(names, pa.string()),
                "record_id": pa.array([h.record_id for h in hits], pa.string()),
                "patient_id": pa.array([h.patient_id for h in hits], pa.string()),
                "report": pa.array([h.report for h in hits], pa.string()),
                "labels": pa.array([list(h.labels) for h in hits], pa.list_(pa.string())),
                **{f"feature:{n}": pa.array([h.features.get(n) for h in hits], pa.float64()) for n in features},
            }
        ),
        folder / HITS,
    )
    pq.write_table(
        pa.table(
            {
                "query": pa.array(keys, pa.string()),
                "hits": pa.array([[number[h.segment_id] for h in found[k]] for k in keys], pa.list_(pa.int32())),
                "distances": pa.array([[h.distance for h in found[k]] for k in keys], pa.list_(pa.float64())),
            }
        ),
        folder / LINKS,
    )


def read_neighbours(folder: str | Path) -> Neighbours:
    """What ``find_neighbours`` wrote; TornOutputError where a file is missing or damaged."""
    manifest = check_outputs(Path(folder), KIND)
    table = pq.read_table(Path(folder) / HITS).to_pydict()
    features = manifest["settings"]["features"]
    hits = [
        Neighbour(
            segment_id=table["segment_id"][i],
            record_id=table["record_id"][i],
            patient_id=table["patient_id"][i],
            distance=0.0,
            report=table["report"][i],
            labels=tuple(table["labels"][i]),
            features={n: v for n in features if (v := table[f"feature:{n}"][i]) is not None},
        )
        for i in range(len(table["segment_id"]))
    ]
    links = pq.read_table(Path(folder) / LINKS).to_pydict()
    rows = zip(links["query"], links["hits"], links["distances"], strict=True)
    return Neighbours(hits, {key: tuple(zip(found, far, strict=True)) for key, found, far in rows})


def _kept(folder: Path, plan: str) -> Neighbours | None:
    """What a folder holds if it is of this plan and whole."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = check_outputs(folder, KIND)
    except EcglmError:  # torn, or something else: it is found anew
        return None
    return read_neighbours(folder) if manifest["fingerprint"] == plan else None


def by_turns(rows: Sequence[Sequence[Neighbour]]) -> tuple[Neighbour, ...]:
    """The nearest of each ECG, then the second of each, and so on; one that is near two of them stands once."""
    found: dict[str, Neighbour] = {}
    for place in itertools.zip_longest(*rows):
        for hit in place:
            if hit is not None:
                found.setdefault(hit.segment_id, hit)
    return tuple(found.values())


def nearest_to(index: Index, records: Sequence[Record], *, k: int) -> tuple[Neighbour, ...]:
    """The neighbours of recordings that are asked about together, of their first segments, ``by_turns``; none of their
    own records or patients, nor any of these signals under another name: uploads bring no ids, and one of two that are
    asked about must not be told as a neighbour of the other. RejectedRecord where one cannot be used.
    """
    if not records:
        return ()
    segments = np.concatenate([index.segments(record)[:1] for record in records])
    named = {r.patient_id for r in records if r.patient_known and r.patient_id}
    own = Exclude(
        records=frozenset(r.record_id for r in records),
        patients=frozenset(named | index.patients_shown(segments, index.rate)),
    )
    return by_turns([index.search(one[None], index.rate, k=k, exclude=[own])[0] for one in segments])
