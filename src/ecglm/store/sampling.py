"""Choosing segments for training a tokenizer: at random, or evenly over morphologies; a JSON list of segment ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError, nearest
from ecglm.signals.features import ecg_bench_288
from ecglm.store.clustering import stratify
from ecglm.store.population import Population, population, store_inputs
from ecglm.store.reader import SegmentStore

KIND = "segment-sample"
METHODS = ("random", "stratified")
UNITS = ("segment", "record", "patient")
#: The stratified draw looks at so many times the segments asked for, and at so many at least.
POOL_FACTOR, MIN_POOL = 10, 20_000
_BATCH = 32


@dataclass(frozen=True)
class SampleResult:
    """Segments that were drawn.

    segment_ids: in ascending order. clusters: cluster id of each with the method ``stratified``, else None.
    fingerprint: of everything that decided the draw. settings, inputs: what that was. facts: counts and, of a
    stratified draw, the clusters (``cluster_sizes``, ``cluster_groups``, ``num_clusters``, ``inertias``,
    ``silhouette``), JSON-able.
    """

    segment_ids: tuple[str, ...]
    clusters: tuple[int, ...] | None
    fingerprint: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.segment_ids)

    @property
    def method(self) -> str:
        """``random`` or ``stratified``."""
        return str(self.settings["method"])

    @property
    def seed(self) -> int:
        """Of the draw."""
        return int(self.settings["seed"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sample as JSON, atomically; the same draw gives the same bytes."""
        content = {"segment_ids": list(self.segment_ids), "clusters": self.clusters and list(self.clusters)}
        digest = files.fingerprint(content)
        facts = {**content, "seed": self.seed, "sha256": digest, "facts": dict(self.facts)}
        files.write_manifest(path, KIND, self.settings, self.inputs, {}, **facts)

    def lines(self) -> list[str]:
        """The draw for people."""
        facts, asked = self.facts, self.settings["n"]
        lines = [
            f"{len(self)} segments of {facts['num_records']} records drawn ({self.method}, seed {self.seed}) "
            f"from {facts['num_candidates']} of the split '{self.settings['split']}'"
        ]
        if len(self) < asked:
            lines.append(f"only {len(self)} of the {asked} asked for: there are no more")
        if facts["num_flagged"]:
            lines.append(f"{facts['num_flagged']} left out for {', '.join(self.settings['without_flags'])}")
        if self.clusters is not None:
            sizes, groups = facts["cluster_sizes"], facts["cluster_groups"]
            counts = np.bincount(self.clusters, minlength=len(sizes))
            lines.append(
                f"{len(sizes)} clusters in {max(groups) + 1} groups of {facts['num_pool']} segments, silhouette "
                f"{facts['silhouette']:.2f}; per cluster {counts.min()} to {counts.max()} drawn of "
                f"{min(sizes)} to {max(sizes)}"
            )
        return lines


def sample(
    stores: SegmentStore | Sequence[SegmentStore],
    n: int = 20_000,
    *,
    method: str = "random",
    seed: int = 0,
    split: str = "train",
    per: str = "segment",
    without_flags: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    split_seed: int = 0,
    pool: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SampleResult:
    """Draw ``n`` segments of one split without replacement; all there are where there are fewer.

    method: ``random``, or ``stratified``: evenly over groups and clusters of similar ECGs (``clustering.stratify``) in
    a random pool of ``pool`` segments (default: ten times ``n``, at least 20,000), measured by ``ecg_bench_288``.
    per: at most one segment per ``record`` or ``patient``, or any ``segment``. without_flags: quality flags that keep
    a segment out. splits, split_seed: see ``population``. progress: called with segments measured and their number.

    The draw depends on segment ids, signals and options, not on the order of the stores or of their files.
    Raises ConfigError for an unknown option or a number below 1, EcglmError where there is nothing to draw from.
    """
    for name, value, known in (("method", method, METHODS), ("per", per, UNITS)):
        if value not in known:
            raise ConfigError(f"{name}: no '{value}'{nearest(value, known)}; one of {', '.join(known)}")
    if n < 1:
        raise ConfigError(f"n must be at least 1, found {n}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, found {seed}")
    if pool is not None and (method != "stratified" or pool < n):
        raise ConfigError(f"pool {pool}: is for the method 'stratified' and at least n ({n})")
    pool = max(POOL_FACTOR * n, MIN_POOL) if pool is None else pool
    found = population(stores, split=split, splits=splits, split_seed=split_seed, without_flags=without_flags)
    rng = np.random.default_rng(seed)
    candidates = _one_per(found, rng.permutation(len(found)), per)
    facts: dict[str, Any] = {"num_candidates": len(candidates), "num_flagged": found.flagged}
    settings = {**found.settings, "n": n, "method": method, "seed": seed, "per": per}
    clusters: tuple[int, ...] | None = None
    if method == "random":
        rows = np.sort(candidates[:n])
    else:
        settings["pool"] = pool
        rows = np.sort(candidates[:pool])
        strata = stratify(_features(found, rows, progress), n, rng)
        facts |= {
            "num_pool": len(rows),
            "num_components": strata.num_components,
            "k": strata.k,
            "inertias": {str(k): value for k, value in strata.inertias.items()},
            "silhouette": strata.silhouette,
            "num_clusters": len(strata.cluster_sizes),
            "cluster_sizes": list(strata.cluster_sizes),
            "cluster_groups": list(strata.cluster_groups),
        }
        rows, clusters = rows[strata.chosen], tuple(strata.clusters.tolist())
    facts["num_records"] = len(set(found.record_ids[rows].tolist()))
    return SampleResult(
        segment_ids=tuple(found.segment_ids[rows].tolist()),
        clusters=clusters,
        fingerprint=files.plan_fingerprint(KIND, settings, found.inputs),
        settings=settings,
        inputs=found.inputs,
        facts=facts,
    )


def _one_per(found: Population, rows: np.ndarray, per: str) -> np.ndarray:
    """The first of ``rows`` of each record or patient, in their order."""
    if per == "segment":
        return rows
    owners = (found.record_ids if per == "record" else found.patient_ids)[rows].tolist()
    first: dict[str, int] = {}
    for place, owner in enumerate(owners):
        first.setdefault(owner, place)
    chosen: np.ndarray = rows[np.fromiter(first.values(), np.int64, len(first))]
    return chosen


def _features(found: Population, rows: np.ndarray, progress: Callable[[int, int], None] | None) -> np.ndarray:
    """float32 ``(len(rows), 288)``."""
    out = np.empty((len(rows), 288), np.float32)
    done = 0
    for part, segments in found.read(rows, _BATCH):
        out[np.searchsorted(rows, part)] = ecg_bench_288(segments, found.rate)
        done += len(part)
        if progress is not None:
            progress(done, len(rows))
    return out


def read_sample(path: str | os.PathLike[str]) -> SampleResult:
    """Read a sample's JSON file.

    Raises TornOutputError where it is missing or altered, EcglmError where it is something else.
    """
    manifest = files.read_manifest(path, KIND)
    try:
        ids, clusters = manifest["segment_ids"], manifest["clusters"]
        whole = manifest["sha256"] == files.fingerprint({"segment_ids": ids, "clusters": clusters})
        plan = files.plan_fingerprint(KIND, manifest["settings"], manifest["inputs"])
        result = SampleResult(
            segment_ids=tuple(ids),
            clusters=None if clusters is None else tuple(clusters),
            fingerprint=manifest["fingerprint"],
            settings=manifest["settings"],
            inputs=manifest["inputs"],
            facts=manifest["facts"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TornOutputError(f"{path}: key {error} is missing or damaged; draw the sample again") from error
    if not whole or plan != manifest["fingerprint"]:
        raise TornOutputError(f"{path}: was altered after it was written; draw the sample again")
    return result


def places(
    drawn: SampleResult, stores: SegmentStore | Sequence[SegmentStore]
) -> Iterator[tuple[SegmentStore, np.ndarray]]:
    """Each store with the positions (int64, ascending) of the sample's segments in it.

    Raises StaleOutputError when the sample was drawn from other stores, or a segment is in none of them.
    """
    stores = (stores,) if isinstance(stores, SegmentStore) else tuple(stores)
    if dict(drawn.inputs) != store_inputs(stores):
        names = ", ".join(str(store.path) for store in stores)
        raise StaleOutputError(f"{names}: the sample was drawn from other stores (or older ones); draw it again")
    wanted = set(drawn.segment_ids)
    found: list[tuple[SegmentStore, np.ndarray]] = []
    for store in stores:
        ids = store.index.column("segment_id").to_pylist()
        found.append((store, np.array([i for i, name in enumerate(ids) if name in wanted], dtype=np.int64)))
    if sum(len(at) for _, at in found) != len(wanted):
        raise StaleOutputError("the stores lack segments of the sample; draw it again")
    yield from found


def sampled_segments(
    drawn: SampleResult, stores: SegmentStore | Sequence[SegmentStore], batch: int = 256
) -> Iterator[np.ndarray]:
    """The sample's segments one by one, float32 ``(12, seg_len)`` in mV, in the order on disk; see ``places``."""
    for store, at in places(drawn, stores):
        for start in range(0, len(at), batch):
            yield from store.take(at[start : start + batch])


def check_training(drawn: SampleResult, what: str) -> None:
    """Raise EcglmError when the sample is of another split than ``train``: ``what`` must not learn from it."""
    if drawn.settings["split"] != "train":
        raise EcglmError(
            f"{what}: the sample is of the split '{drawn.settings['split']}'; only train may be learnt from"
        )
