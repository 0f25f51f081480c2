"""The segments of one split of some stores, in an order that does not depend on how they are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.types import SPLITS


@dataclass(frozen=True)
class Population:
    """Segments that may be drawn, sorted by segment id.

    segment_ids, record_ids, patient_ids: str. store_of, positions: int64, where each segment lies. nominal: bool, its
    record's units are only said, not known (``unit_confidence`` is ``nominal``). flagged: how many segments of the
    split were left out for a quality flag. settings: what chose them, JSON-able.
    """

    stores: tuple[SegmentStore, ...]
    segment_ids: np.ndarray
    record_ids: np.ndarray
    patient_ids: np.ndarray
    store_of: np.ndarray
    positions: np.ndarray
    nominal: np.ndarray
    flagged: int
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.segment_ids)

    @property
    def rate(self) -> int:
        """Hz, the same in every store."""
        return self.stores[0].rate

    @property
    def dataset(self) -> str:
        """Names of the sources, joined by ``+``."""
        return "+".join(sorted({record_id.partition("/")[0] for record_id in self.record_ids.tolist()}))

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of the stores, for a manifest: the same in whatever order they are given."""
        return store_inputs(self.stores)

    def read(self, rows: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``(rows, segments)`` with float32 ``(n, 12, seg_len)`` in mV, store by store in the order on disk."""
        for number, store in enumerate(self.stores):
            here = rows[self.store_of[rows] == number]
            here = here[np.argsort(self.positions[here], kind="stable")]
            for start in range(0, len(here), batch):
                part = here[start : start + batch]
                yield part, store.take(self.positions[part])


def store_inputs(stores: Sequence[SegmentStore]) -> dict[str, str]:
    """The stores' fingerprints under names that do not depend on their order."""
    return {f"store{i or ''}": value for i, value in enumerate(sorted(store.fingerprint for store in stores))}


def population(
    stores: SegmentStore | Sequence[SegmentStore],
    *,
    split: str = "train",
    splits: Mapping[str, str] | None = None,
    split_seed: int = 0,
    without_flags: Sequence[str] = (),
) -> Population:
    """Every segment of ``split`` that carries none of the quality flags ``without_flags``.

    splits: patient id → split; by default official splits and folds where there are some, the hash of the patient id
    with ``split_seed`` elsewhere, as ``ecglm map`` assigns them with that seed.

    Raises ConfigError for an unknown split and EcglmError for stores of different rates, a segment that stands in two
    of them, a patient without a split, or when nothing is left.
    """
    stores = (stores,) if isinstance(stores, SegmentStore) else tuple(stores)
    if not stores:
        raise ConfigError("at least one store is needed")
    if split not in SPLITS:
        raise ConfigError(f"split: no '{split}'{nearest(split, SPLITS)}; one of {', '.join(SPLITS)}")
    for store in stores:
        if store.rate != stores[0].rate:
            raise EcglmError(
                f"{store.path}: {store.rate} Hz, {stores[0].path} has {stores[0].rate} Hz; prepare them at one rate"
            )
    assigned = assign_splits(stores, seed=split_seed) if splits is None else splits
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("segment", "record", "patient", "at", "nominal")}
    store_of: list[np.ndarray] = []
    flagged = num_in_split = 0
    for number, store in enumerate(stores):
        patients = store.index.column("patient_id").to_pylist()
        for patient in patients if splits is not None else ():
            if patient not in assigned:
                raise EcglmError(f"{store.path}: patient {patient} has no split in the splits given")
        chosen = np.array([assigned[patient] == split for patient in patients], dtype=bool)
        num_in_split += int(chosen.sum())
        if without_flags:
            refused = set(without_flags)
            clean = [refused.isdisjoint(flags) for flags in store.index.column("flags").to_pylist()]
            flagged += int((chosen & ~np.array(clean, dtype=bool)).sum())
            chosen &= np.array(clean, dtype=bool)
        at = np.flatnonzero(chosen)
        table = store.index.take(at)
        for name, column in (("segment", "segment_id"), ("record", "record_id"), ("patient", "patient_id")):
            parts[name].append(np.array(table.column(column).to_pylist(), dtype=object))
        parts["at"].append(at)
        parts["nominal"].append(_nominal(table.column("metadata")))
        store_of.append(np.full(len(at), number))
    segment = np.concatenate(parts["segment"])
    if not len(segment):
        left = f" ({num_in_split} carry one of the flags {', '.join(without_flags)})" if num_in_split else ""
        names = ", ".join(str(store.path) for store in stores)
        raise EcglmError(f"{names}: no segments of the split '{split}' to draw from{left}")
    order = np.argsort(segment, kind="stable")
    twice = np.flatnonzero(segment[order][1:] == segment[order][:-1])
    if len(twice):
        raise EcglmError(f"segment {segment[order][twice[0]]} stands in two of the stores; give each record once")
    settings = {
        "split": split,
        "splits": files.fingerprint(dict(splits)) if splits is not None else f"official, else seed {split_seed}",
        "without_flags": sorted(without_flags),
    }
    columns = {name: np.concatenate(values)[order] for name, values in parts.items()}
    return Population(
        stores=stores,
        segment_ids=columns["segment"],
        record_ids=columns["record"],
        patient_ids=columns["patient"],
        store_of=np.concatenate(store_of)[order],
        positions=columns["at"],
        nominal=columns["nominal"].astype(bool),
        flagged=flagged,
        settings=settings,
    )


def _nominal(metadata: Any) -> np.ndarray:
    """Which rows' metadata (JSON texts) say that the unit is only nominal."""
    found: np.ndarray = np.array(pc.match_substring(metadata, '"nominal"').to_pylist(), dtype=bool)
    for row in np.flatnonzero(found):
        found[row] = json.loads(metadata[int(row)].as_py()).get("unit_confidence") == "nominal"
    return found
