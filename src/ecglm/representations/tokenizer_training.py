"""Training an ECG-Byte tokenizer straight from stores: which segments, read a batch at a time, noted in the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecglm import files
from ecglm.errors import ConfigError, EcglmError
from ecglm.representations.base import check_leads, reduce_rate, select_leads
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.normalise import read_amplitudes
from ecglm.store.population import store_inputs
from ecglm.store.reader import SegmentStore
from ecglm.store.sampling import SampleResult, check_training, places
from ecglm.store.splits import assign_splits
from ecglm.types import LEADS

_BATCH = 64


@dataclass(frozen=True)
class TokenizerTraining:
    """What a tokenizer will be trained on, and how.

    rows: each store with the positions of its segments. leads, rate: as the segments will be encoded, Hz. options:
    keywords of ``EcgByte.train``. settings, inputs: what decides the result, JSON-able.
    """

    rows: tuple[tuple[SegmentStore, np.ndarray], ...]
    leads: tuple[str, ...]
    rate: int
    options: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Of all that decides the merges; the file notes it (``trained_on.plan``)."""
        return files.plan_fingerprint("tokenizer", self.settings, self.inputs)

    @property
    def num_segments(self) -> int:
        """To learn from."""
        return sum(len(positions) for _, positions in self.rows)

    def segments(self) -> Iterator[np.ndarray]:
        """float32 ``(num_leads, num_samples)`` in mV each; a batch of a store is in memory at a time."""
        for store, positions in self.rows:
            for start in range(0, len(positions), _BATCH):
                for segment in store.take(positions[start : start + _BATCH]):
                    yield reduce_rate(select_leads(segment, self.leads), store.rate, self.rate)

    def run(self, tell: Callable[[str, int, int, str], None] = lambda *_: None) -> EcgByte:
        """Train. ``tell`` is called with a stage (symbols, merges), how many are done, of how many, and the unit."""

        def counted() -> Iterator[np.ndarray]:
            for done, segment in enumerate(self.segments(), 1):
                yield segment
                tell("symbols", done, self.num_segments, "segments")

        made = EcgByte.train(
            counted(), **self.options, progress=lambda done, total: tell("merges", done, total, "merges")
        )
        made.trained_on |= {"leads": list(self.leads), "rate": self.rate, "plan": self.fingerprint}
        return made


def plan_training(
    stores: Sequence[SegmentStore],
    num_merges: int = 3500,
    *,
    normalise: str = "instance",
    percentiles: str | os.PathLike[str] | None = None,
    boundary: str = "segment",
    encode_mode: str = "greedy",
    min_count: int = 2,
    leads: Sequence[str] = (),
    rate: int | None = None,
    sample: SampleResult | None = None,
    limit: int = 2000,
    seed: int = 0,
    split_seed: int = 0,
) -> TokenizerTraining:
    """Choose the segments of ``stores`` to train on: those of ``sample``, or ``limit`` at random of the split train.

    percentiles: a file of ``ecglm store percentiles``, for ``normalise="percentile"``. leads: all twelve, or these.
    rate: Hz to encode at, which divides every store's; that of the first store without it. seed: of the draw.
    split_seed: of the splits by hash. The rest as in ``EcgByte.train``. Raises ConfigError or EcglmError for a sample
    or percentiles of another split than train, a rate that does not divide a store's, or where there is nothing.
    """
    if not stores:
        raise ConfigError("name a segment store to learn from")
    target = rate if rate is not None else stores[0].rate
    for store in stores:
        if target < 1 or store.rate % target:
            raise EcglmError(f"{store.path}: its {store.rate} Hz cannot be reduced to {target} Hz; give another --rate")
    amplitudes, measured = read_amplitudes(normalise, percentiles)
    if sample is not None:
        check_training(sample, "the tokenizer")
        rows, draw = tuple(places(sample, stores)), {"sample": sample.fingerprint, "seed": sample.seed}
    else:
        rows = _drawn(stores, limit, seed, split_seed)
        draw = {"limit": limit, "seed": seed, "split_seed": split_seed}
    options = {
        "num_merges": num_merges,
        "normalise": normalise,
        "boundary": boundary,
        "encode_mode": encode_mode,
        "min_count": min_count,
    }
    names = check_leads(leads or LEADS)
    return TokenizerTraining(
        rows=rows,
        leads=names,
        rate=target,
        options={**options, "percentiles": amplitudes, "seed": draw["seed"]},
        settings={**options, "percentiles": measured, "leads": list(names), "rate": target, **draw},
        inputs=store_inputs(stores),
    )


def _drawn(
    stores: Sequence[SegmentStore], limit: int, seed: int, split_seed: int
) -> tuple[tuple[SegmentStore, np.ndarray], ...]:
    """At most ``limit`` training segments, drawn over all stores."""
    if limit < 1:
        raise ConfigError(f"--limit must be 1 or more, found {limit}")
    splits = assign_splits(stores, seed=split_seed)
    train = [
        (number, place)
        for number, store in enumerate(stores)
        for place, patient in enumerate(store.index.column("patient_id").to_pylist())
        if splits[patient] == "train"
    ]
    if not train:
        raise EcglmError(f"{', '.join(str(store.path) for store in stores)}: no training segments to learn from")
    kept = np.sort(np.random.default_rng(seed).permutation(len(train))[:limit])
    rows = np.array(train, np.int64)[kept]
    return tuple((store, rows[rows[:, 0] == number, 1]) for number, store in enumerate(stores))
