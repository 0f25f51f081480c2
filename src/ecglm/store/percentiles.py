"""The 1st and 99th percentile of a store's training values, for the percentile mode of ECG-Byte."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, TornOutputError
from ecglm.store.population import Population, population
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import MAX_MICROVOLTS

KIND = "percentiles"
NUM_VALUES = 1_000_000
#: The bound ``rank_error`` fails once in so many draws.
_ODDS = 1e6
_KEYS = ("p1", "p99", "n_values", "n_records", "dataset", "fs", "seed")
_BATCH = 64


def percentiles(
    stores: SegmentStore | Sequence[SegmentStore],
    *,
    seed: int = 0,
    num_values: int = NUM_VALUES,
    split: str = "train",
    splits: Mapping[str, str] | None = None,
    split_seed: int = 0,
    without_flags: Sequence[str] = (),
    allow_nominal: bool = False,
) -> dict[str, Any]:
    """p1 and p99 in mV of ``num_values`` values drawn from all records of a split: each time a record, every one with
    the same odds, then one of its samples (any segment, lead and time).

    Returns the contents of the file that ``write_percentiles`` writes. Values are drawn independently and counted in a
    histogram of microvolts, the store's resolution: memory does not grow, and the result is what
    ``numpy.percentile`` says of the drawn values. ``rank_error`` bounds (Bernstein's inequality, odds 1 : 10^6) how far
    the true rank of p1 lies from 0.01, and that of p99 from 0.99: 0.00055 for a million values, whatever the data.

    Records whose unit is only nominal (CODE-15 %) are not mixed with others unless ``allow_nominal``; their number
    stands in ``n_nominal``. The other options are those of ``population``; the order of stores and files is no matter.
    Raises ConfigError for fewer than 100 values, EcglmError for a mixture or where there is nothing to draw from.
    """
    if num_values < 100:
        raise ConfigError(f"num_values must be at least 100, found {num_values}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, found {seed}")
    found = population(stores, split=split, splits=splits, split_seed=split_seed, without_flags=without_flags)
    names = found.record_ids.astype(str)
    records, counts = np.unique(names, return_counts=True)
    by_record = np.argsort(names, kind="stable")
    nominal = int(found.nominal[by_record][np.cumsum(counts) - 1].sum())
    if 0 < nominal < len(records) and not allow_nominal:
        raise EcglmError(
            f"{nominal} of {len(records)} records (such as CODE-15 %) give their unit only nominally and would shift "
            "the percentiles of the others; give stores apart, or --allow-nominal to mix them knowingly"
        )
    histogram = _histogram(found, by_record, counts, num_values, np.random.default_rng(seed))
    settings = {**found.settings, "seed": seed, "num_values": num_values, "allow_nominal": allow_nominal}
    return {
        "p1": quantile(histogram, 0.01),
        "p99": quantile(histogram, 0.99),
        "n_values": num_values,
        "n_records": len(records),
        "n_nominal": nominal,
        "dataset": found.dataset,
        "fs": found.rate,
        "seed": seed,
        "rank_error": rank_error(num_values),
        "fingerprint": files.plan_fingerprint(KIND, settings, found.inputs),
        "settings": settings,
        "inputs": found.inputs,
    }


def rank_error(num_values: int, share: float = 0.01) -> float:
    """How far the share of all values below the drawn quantile ``share`` may lie from ``share``, by Bernstein."""
    log, error = math.log(2 * _ODDS), 0.0
    for _ in range(50):  # the variance is that of the rank the quantile may in truth have
        variance = min(0.25, (share + error) * (1 - share))
        error = min(1.0, (log / 3 + math.sqrt(log * log / 9 + 2 * num_values * variance * log)) / num_values)
    return error


def quantile(histogram: np.ndarray, share: float) -> float:
    """Linear interpolation between order statistics, in mV; ``histogram`` counts microvolts from -32767 up."""
    ends = np.cumsum(histogram)
    place = share * (int(ends[-1]) - 1)
    low = int(place)
    below, above = (
        int(np.searchsorted(ends, rank, side="right")) - MAX_MICROVOLTS
        for rank in (low, min(low + 1, int(ends[-1]) - 1))
    )
    return (below + (place - low) * (above - below)) / 1000


def _histogram(
    found: Population, by_record: np.ndarray, counts: np.ndarray, num_values: int, rng: np.random.Generator
) -> np.ndarray:
    """Counts of the drawn values by microvolt. ``by_record``: rows sorted by record; ``counts``: rows per record."""
    records = rng.integers(0, len(counts), num_values)
    within = rng.random(num_values)
    first = np.cumsum(counts) - counts
    exact = within * counts[records]  # which segment of the record, and where in it
    segment = np.minimum(exact.astype(np.int64), counts[records] - 1)
    rows = by_record[first[records] + segment]
    inside = exact - segment
    order = np.argsort(rows, kind="stable")
    rows, inside = rows[order], inside[order]
    needed, begin = np.unique(rows, return_index=True)
    end = np.append(begin[1:], len(rows))
    histogram = np.zeros(2 * MAX_MICROVOLTS + 1, np.int64)
    for part, segments in found.read(needed, _BATCH):
        flat = segments.reshape(len(part), -1)
        for place, values in zip(np.searchsorted(needed, part), flat, strict=True):
            at = np.minimum((inside[begin[place] : end[place]] * len(values)).astype(np.int64), len(values) - 1)
            microvolts = np.rint(values[at].astype(np.float64) * 1000).astype(np.int64)
            np.add.at(histogram, microvolts + MAX_MICROVOLTS, 1)
    return histogram


def lines(result: Mapping[str, Any]) -> list[str]:
    """The percentiles for people, with what must be said about them."""
    told = [
        f"p1 {result['p1']:.4f} mV, p99 {result['p99']:.4f} mV of {result['n_values']} values of {result['n_records']} "
        f"records ({result['dataset']}, split '{result['settings']['split']}', seed {result['seed']}); "
        f"ranks within {result['rank_error']:.5f}"
    ]
    if result["n_nominal"]:
        told.append(f"the unit of {result['n_nominal']} records is only nominal: these are not certainly millivolts")
    return told


def write_percentiles(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Write what ``percentiles`` returned as JSON, atomically; the same result gives the same bytes."""
    facts = {name: value for name, value in result.items() if name not in ("fingerprint", "settings", "inputs")}
    files.write_manifest(path, KIND, result["settings"], result["inputs"], {}, **facts)


def read_percentiles(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a percentiles file. TornOutputError where it is missing or damaged, EcglmError for another kind."""
    manifest = files.read_manifest(path, KIND)
    for name in _KEYS:
        if name not in manifest:
            raise TornOutputError(f"{path}: key '{name}' is missing; compute the percentiles again")
    for name in ("p1", "p99"):
        if type(manifest[name]) not in (int, float) or not math.isfinite(manifest[name]):
            raise TornOutputError(f"{path}: {name} is no number in mV; compute the percentiles again")
    if not manifest["p1"] <= manifest["p99"]:
        raise TornOutputError(f"{path}: p1 lies above p99; compute the percentiles again")
    return manifest
