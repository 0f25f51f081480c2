"""An index of training ECGs: search for those most like an ECG, never for itself, its patient, or an ECG of a test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ecglm.errors import ConfigError, EcglmError, RejectedRecord, TornOutputError
from ecglm.files import check_outputs
from ecglm.retrieval.approximate import Approximate
from ecglm.retrieval.checks import FAISS, KIND, MEMBERS, VECTORS, check_manifest, check_together
from ecglm.retrieval.copies import COPY, content_key, copies_of, sketches
from ecglm.retrieval.nearest import Hits, exact_search, squared_norms
from ecglm.retrieval.space import Space
from ecglm.signals.features import ecg_bench_288, feature_names
from ecglm.signals.pipeline import pipeline_from_config
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import to_microvolts
from ecglm.types import LEADS, Neighbour, Record

if TYPE_CHECKING:  # an index by features needs no torch
    from ecglm.retrieval.embedding import Embedder

#: The folder inside an index that holds its encoder.
ENCODER = "encoder"


@dataclass(frozen=True)
class Exclude:
    """What a query must not find beside itself: records and patients, by id."""

    records: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()


class Index:
    """A finished index (``build_index``, ``ecglm index build``). Nothing is computed again when it is loaded.

    facts: JSON-able, for manifests: fingerprint, what a vector is made of, how many members. fingerprint: of what it
    was made from and how. by: ``features``, ``embedding`` or ``both``. rate, seg_len: of the segments it compares.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray], table: pa.Table) -> None:
        self.path, self.manifest, self.table = folder, manifest, table
        settings = manifest["settings"]
        self.fingerprint: str = manifest["fingerprint"]
        self.by: str = settings["by"]
        self.rate: int = settings["rate"]
        self.seg_len: int = settings["seg_len"]
        self.vectors = arrays["vectors"]
        self.space = Space(arrays["mean"], arrays["factor"])
        self._sketch, self._content = arrays["sketch"], _Lookup(arrays["content"])
        self._record, self._patient = _Lookup(arrays["record"]), _Lookup(arrays["patient"])
        self._norms = squared_norms(self.vectors)
        self._groups = arrays["record"] if settings["segments"] == "all" else None
        self._approximate: Approximate | None = None
        if manifest.get("approximate") is not None:
            self._approximate = Approximate.read(folder / FAISS, self.vectors, manifest["approximate"])

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> Index:
        """Read an index folder. Nothing in it is executed; ``verify`` compares size and sha256 of every file first.

        Raises TornOutputError for a file that is missing, cut short or changed, and for vectors and members that do not
        belong together; ConfigError for another format; EcglmError where there is no index, or faiss is not installed.
        """
        folder = Path(folder)
        manifest = check_outputs(folder, KIND, verify=verify)
        check_manifest(folder, manifest)
        try:
            arrays = load_file(folder / VECTORS)
            table = pq.read_table(folder / MEMBERS)
        except (SafetensorError, pa.ArrowInvalid, OSError) as error:
            raise TornOutputError(f"{folder}: cannot be read ({error}); build the index again") from error
        check_together(folder, manifest, arrays, table)
        return cls(folder, manifest, arrays, table)

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"Index('{self.path}': {len(self)} training ECGs by {self.by})"

    def told(self) -> str:
        """What it is, for people."""
        how = "approximately" if self._approximate is not None else "exactly"
        return f"{len(self)} training ECGs of {len(self.patients)} patients by {self.by}, searched {how}"

    def lines(self) -> list[str]:
        """What it is and what was left out, for people."""
        found = [f"index: {self.told()}"]
        for name in ("rejected", "left_out"):
            counts: dict[str, int] = self.manifest[name]
            if counts:
                told = ", ".join(f"{reason} {count}" for reason, count in counts.items())
                found.append(f"{name.replace('_', ' ')}: {told}")
        if (tuned := self.manifest.get("approximate")) is not None:
            found.append(
                f"recall@10 {tuned['recall_at_10']:.3f} on its own members, {tuned['num_probes']} of "
                f"{tuned['num_lists']} lists opened"
            )
        return [*found, f"index: {self.path}"]

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of an index it was made with."""
        return {
            "fingerprint": self.fingerprint,
            "by": self.by,
            "members": len(self),
            "records": len(self.records),
            "patients": len(self.patients),
            "approximate": self._approximate is not None,
        }

    @cached_property
    def records(self) -> frozenset[str]:
        """Ids of the records in it."""
        return frozenset(self.table.column("record_id").to_pylist())

    @cached_property
    def patients(self) -> frozenset[str]:
        """Ids of the patients in it: nobody asked about in an evaluation may be among them."""
        return frozenset(self.table.column("patient_id").to_pylist())

    @cached_property
    def has_reports(self) -> bool:
        """Whether any member has a report to show."""
        return any(self.table.column("report").to_pylist())

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of what was measured of the members; empty for an index by embedding."""
        return () if self.by == "embedding" else feature_names()

    @cached_property
    def _embedder(self) -> Embedder | None:
        if self.by == "features":
            return None
        from ecglm.retrieval.embedding import read_embedder

        return read_embedder(self.path / ENCODER)

    def segments(self, record: Record) -> np.ndarray:
        """A recording as the index's own pipeline cuts it: float32 ``(num_segments, 12, seg_len)``, in whole microvolts
        like those of a store, in mV. RejectedRecord where it cannot be used.
        """
        try:
            found = pipeline_from_config(self.manifest["settings"]["pipeline"]).run(record).signal
            return np.stack([np.divide(to_microvolts(segment), 1000, dtype=np.float32) for segment in found])
        except RejectedRecord as error:
            raise RejectedRecord(error.reason, f"{record.record_id}: {error.detail}") from error

    def embed(self, segments: np.ndarray, rate: int) -> np.ndarray:
        """Vectors float32 ``(n, dim)`` of segments ``(n, 12, seg_len)`` in mV, as the members have them.

        Raises EcglmError for another shape or rate than the index's, and for a vector that is no number.
        """
        self._check(segments, rate)
        parts: list[np.ndarray] = []
        if self.by != "embedding":
            parts.append(ecg_bench_288(segments, rate).astype(np.float32))
        if self._embedder is not None:
            parts.append(self._embedder(segments, rate))
        raw = np.concatenate(parts, axis=1)
        if len(bad := np.flatnonzero(~np.isfinite(raw).all(axis=1))):
            raise EcglmError(f"query {int(bad[0])}: what is measured of it holds NaN; it cannot be searched for")
        return self.space.vectors(raw)

    def check_stores(self, stores: Sequence[SegmentStore]) -> None:
        """ConfigError where stores hold segments made otherwise than those that the index compares."""
        wanted = self.manifest["settings"]["pipeline"]
        for store in stores:
            found = store.manifest["settings"]["pipeline"]
            differs = [key for key in sorted({*wanted, *found}) if wanted.get(key) != found.get(key)]
            if differs:
                told = ", ".join(f"{key} {found.get(key)} (index: {wanted.get(key)})" for key in differs)
                raise ConfigError(
                    f"{store.path}: prepared otherwise than the ECGs of the index {self.path}: {told}; build the index "
                    "over stores prepared alike"
                )

    def _check(self, segments: np.ndarray, rate: int) -> None:
        if segments.ndim != 3 or segments.shape[1:] != (len(LEADS), self.seg_len) or rate != self.rate:
            shape = " x ".join(map(str, segments.shape))
            raise EcglmError(
                f"{self.path}: compares segments of {len(LEADS)} leads x {self.seg_len} samples at {self.rate} Hz, the "
                f"query is {shape} at {rate:g} Hz; prepare it as the index's store was"
            )

    def search(
        self, segments: np.ndarray, rate: int, *, k: int, exclude: Sequence[Exclude] | None = None
    ) -> list[tuple[Neighbour, ...]]:
        """The k members nearest to each of the segments, nearest first; fewer where fewer are left.

        segments: float32 ``(n, 12, seg_len)`` in mV at ``rate`` Hz. exclude: one per segment, whose ECG it is. Never
        found: those records and all of their patients, the same signal under another name (sha256 of its microvolts, or
        a copy with noise, another gain or baseline) and all of that one's patient; where the search is approximate, of
        copies that are among the hits. One hit per record. Equal distances: in the order of
        the index. Raises EcglmError as ``embed`` does, and for k below 1.
        """
        return [self._neighbours(hits) for hits in self.rows(segments, rate, k=k, exclude=exclude)]

    def rows(self, segments: np.ndarray, rate: int, *, k: int, exclude: Sequence[Exclude] | None = None) -> list[Hits]:
        """As ``search``, but distances float64 and rows of ``table`` int64."""
        if k < 1:
            raise EcglmError(f"k must be 1 or more, found {k}")
        exclude = [Exclude()] * len(segments) if exclude is None else exclude
        if len(exclude) != len(segments):
            raise EcglmError(f"{len(segments)} queries, but exclusions for {len(exclude)}; one each is needed")
        if not len(segments):
            return []
        self._check(segments, rate)
        same = [self._content.rows([key]) for key in map(_key, range(len(segments)), segments)]
        queries, own = self._queries(segments, rate, same)
        alike = [np.union1d(*both) for both in zip(same, self._copies(own), strict=True)]
        banned = [self._banned(rows, one) for rows, one in zip(alike, exclude, strict=True)]
        found: list[Hits] = [(np.empty(0), np.empty(0, np.int64))] * len(queries)
        waiting = np.arange(len(queries))
        while len(waiting):
            hits = self._nearest(queries[waiting], k, [banned[i] for i in waiting])
            again = []
            for i, hit in zip(waiting.tolist(), hits, strict=True):
                copies = hit[1][copies_of(own[i], self._sketch[hit[1]])]
                if len(copies):
                    banned[i] = np.union1d(banned[i], self._patients_of(copies))
                    again.append(i)
                else:
                    found[i] = hit
            waiting = np.array(again, np.int64)
        return found

    def patients_shown(self, segments: np.ndarray, rate: int) -> frozenset[str]:
        """Ids of the patients of members that are the same signal as any of the segments, whatever those are called."""
        self._check(segments, rate)
        rows = [self._content.rows([_key(number, segment)]) for number, segment in enumerate(segments)]
        rows += [np.flatnonzero(copies_of(sketch, self._sketch)) for sketch in sketches(segments)]
        return frozenset(self._told["patient_id"][row] for found in rows for row in found.tolist())

    def _nearest(self, queries: np.ndarray, k: int, banned: Sequence[np.ndarray]) -> list[Hits]:
        if self._approximate is not None:
            return self._approximate.search(queries, k, banned, self._groups, self._norms)
        return exact_search(self.vectors, queries, k, banned, self._groups, self._norms)

    def _queries(self, segments: np.ndarray, rate: int, same: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and sketches of the queries: a member's own are known, all others are measured."""
        queries = np.empty((len(segments), self.vectors.shape[1]), np.float32)
        own = np.empty((len(segments), self._sketch.shape[1]), np.float16)
        known = np.array([len(rows) > 0 for rows in same])
        members = [int(rows[0]) for rows in same if len(rows)]
        queries[known], own[known] = self.vectors[members], self._sketch[members]
        if not known.all():
            queries[~known], own[~known] = self.embed(segments[~known], rate), sketches(segments[~known])
        return queries, own

    def _copies(self, own: np.ndarray) -> list[np.ndarray]:
        """Rows of the same signal as each of some sketches, however far by features. None where the search is
        approximate: that would read every sketch; copies among the hits are found there all the same.
        """
        if self._approximate is not None:
            return [np.empty(0, np.int64)] * len(own)
        found: list[np.ndarray] = []
        for start in range(0, len(own), 256):
            block = own[start : start + 256]
            near = block.astype(np.float32) @ self._sketch_rows.T > COPY - 1e-3  # decided in double precision
            rows = [np.flatnonzero(line) for line in near]
            found += [r[copies_of(one, self._sketch[r])] for r, one in zip(rows, block, strict=True)]
        return found

    @cached_property
    def _sketch_rows(self) -> np.ndarray:
        return self._sketch.astype(np.float32)

    def _banned(self, same: np.ndarray, exclude: Exclude) -> np.ndarray:
        """Rows that a query must not find, sorted. same: those of its very signal."""
        own = self._record.rows([digest(name) for name in exclude.records])
        patients = self._patient.rows([digest(name) for name in exclude.patients])
        return np.unique(np.concatenate([patients, self._patients_of(np.concatenate([same, own]))]))

    def _patients_of(self, rows: np.ndarray) -> np.ndarray:
        """All rows of the patients of some rows."""
        return self._patient.rows(np.unique(self._patient.keys[rows]).tolist())

    @cached_property
    def _told(self) -> dict[str, list[Any]]:
        """What is told of the members, column by column."""
        names = ("segment_id", "record_id", "patient_id", "report", "labels")
        return {name: self.table.column(name).to_pylist() for name in names}

    def _neighbours(self, hits: Hits) -> tuple[Neighbour, ...]:
        names, told = self.feature_names, self._told
        measured = self.space.raw(self.vectors[hits[1]], len(names)).tolist()
        found = []
        for distance, row, values in zip(hits[0].tolist(), hits[1].tolist(), measured, strict=True):
            found.append(
                Neighbour(
                    segment_id=told["segment_id"][row],
                    record_id=told["record_id"][row],
                    patient_id=told["patient_id"][row],
                    distance=distance,
                    report=told["report"][row],
                    labels=tuple(told["labels"][row]),
                    features=dict(zip(names, values, strict=True)),
                )
            )
        return tuple(found)


def _key(number: int, segment: np.ndarray) -> int:
    """``content_key`` of a query; EcglmError naming it where it holds NaN or what no ECG has."""
    try:
        return content_key(segment)
    except RejectedRecord as error:
        raise EcglmError(f"query {number}: {error.detail}; it cannot be searched for") from error


class _Lookup:
    """64-bit keys of rows, to be asked for the rows of a key."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def rows(self, keys: Sequence[int]) -> np.ndarray:
        """All rows with one of the keys, int64."""
        wanted = np.array(list(keys), np.uint64)
        starts, ends = (np.searchsorted(self._sorted, wanted, side=side) for side in ("left", "right"))
        parts = [self._order[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
