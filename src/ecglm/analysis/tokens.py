"""How a tokenizer spends its tokens on the ECGs of a store: frequencies (Zipf), lengths, tokens per ECG and lead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.representations.base import check_leads, reduce_rate, select_leads
from ecglm.representations.ecg_byte import EcgByte
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS

_BATCH = 64


@dataclass(frozen=True)
class TokenSource:
    """Segments of a store as a tokenizer reads them: its leads, in its order, at its rate in Hz."""

    tokenizer: EcgByte
    store: SegmentStore
    leads: tuple[str, ...]
    rate: int

    @property
    def num_samples(self) -> int:
        """Of one lead."""
        return -(-self.store.seg_len * self.rate // self.store.rate)

    @property
    def settings(self) -> dict[str, Any]:
        """For a manifest."""
        return {"leads": list(self.leads), "rate": self.rate}

    @property
    def inputs(self) -> dict[str, str]:
        """For a manifest."""
        return {"tokenizer": self.tokenizer.fingerprint, "store": self.store.fingerprint}

    def __getitem__(self, position: int) -> np.ndarray:
        """float32 ``(num_leads, num_samples)`` in mV."""
        return reduce_rate(select_leads(self.store[position], self.leads), self.store.rate, self.rate)

    def read(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Position and segment of each; a batch of the store is in memory at a time."""
        for start in range(0, len(positions), _BATCH):
            part = positions[start : start + _BATCH]
            for position, segment in zip(part, self.store.take(part), strict=True):
                yield int(position), reduce_rate(select_leads(segment, self.leads), self.store.rate, self.rate)


def token_source(
    tokenizer: EcgByte, store: SegmentStore, leads: Sequence[str] = (), rate: int | None = None
) -> TokenSource:
    """A store as ``tokenizer`` reads it: the leads and the rate it was trained on, unless others are given.

    A tokenizer that does not say (``trained_on``) reads all leads at the store's rate. Raises EcglmError for unknown
    leads or a rate that the store's cannot be reduced to.
    """
    known_leads, known_rate = tokenizer.trained_on.get("leads"), tokenizer.trained_on.get("rate")
    if known_leads is not None and not (
        isinstance(known_leads, list) and all(isinstance(lead, str) for lead in known_leads)
    ):
        raise EcglmError(f"the tokenizer's trained_on.leads must be a list of leads, found {known_leads!r:.60}")
    if known_rate is not None and (type(known_rate) is not int or known_rate < 1):
        raise EcglmError(f"the tokenizer's trained_on.rate must be a whole number of Hz, found {known_rate!r:.60}")
    wanted = rate if rate is not None else known_rate or store.rate
    if wanted < 1 or store.rate % wanted:
        why = "asked for" if rate is not None else "that the tokenizer was trained on"
        raise EcglmError(
            f"{store.path}: its {store.rate} Hz cannot be reduced to the {wanted} Hz {why}; prepare a store at "
            f"{wanted} Hz or a multiple, or give another --rate"
        )
    return TokenSource(tokenizer, store, check_leads(tuple(leads) or tuple(known_leads or LEADS)), wanted)


@dataclass(frozen=True, eq=False)
class TokenStats:
    """Tokens of some segments.

    counts: int64 ``(num_leads, vocab_size)``, how often each id begins in each lead. per_ecg: int32
    ``(num_segments, num_leads)``, tokens that begin there. segment_ids: of the rows of per_ecg.
    """

    source: TokenSource
    counts: np.ndarray
    per_ecg: np.ndarray
    segment_ids: tuple[str, ...]


def token_stats(
    source: TokenSource, positions: Sequence[int], progress: Callable[[int], None] | None = None
) -> TokenStats:
    """Encode the segments at ``positions`` and count. ``progress`` is called with segments done.

    Memory does not grow with the number of segments, but for their tokens per lead. EcglmError without a segment.
    """
    if not len(positions):
        raise EcglmError(f"{source.store.path}: no segment to count tokens of")
    tokenizer, num_leads, size = source.tokenizer, len(source.leads), source.tokenizer.vocab_size
    counts = np.zeros(num_leads * size, np.int64)
    per_ecg = np.zeros((len(positions), num_leads), np.int32)
    for row, (_, segment) in enumerate(source.read(positions)):
        tokens = tokenizer.encode(segment)
        lead = tokens.spans[:, 0] // tokens.shape[1]
        np.add.at(counts, lead * size + tokens.ids, 1)
        per_ecg[row] = np.bincount(lead, minlength=num_leads)
        if progress is not None:
            progress(row + 1)
    names = source.store.index.column("segment_id").take(pa.array(list(positions))).to_pylist()
    return TokenStats(source, counts.reshape(num_leads, size), per_ecg, tuple(names))


def zipf_exponent(counts: np.ndarray) -> float | None:
    """s of Zipf's law, frequency ∝ rank^-s, by maximum likelihood over the ranks of the ids that occur.

    counts: ``(num_ids,)``. None where fewer than two ids occur. The likelihood is that of the law cut at the last
    rank: the mean log rank of the tokens must be the one that the law with this s has.
    """
    ordered = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    if len(ordered) < 2:
        return None
    logs = np.log(np.arange(1, len(ordered) + 1))
    seen = float(ordered @ logs / ordered.sum())
    low, high = -1.0, 50.0  # counts that all are equal give 0
    for _ in range(100):
        middle = (low + high) / 2
        weights = np.exp(-middle * logs)
        low, high = (middle, high) if weights @ logs / weights.sum() > seen else (low, middle)
    return round((low + high) / 2, 6) + 0.0


def summarise(stats: TokenStats) -> dict[str, Any]:
    """The counts in a few JSON-able numbers."""
    source, per_ecg = stats.source, stats.per_ecg.sum(axis=1)
    tokenizer, counts = source.tokenizer, stats.counts.sum(axis=0)
    reachable, lengths = tokenizer.reachable, tokenizer.expansions.lengths
    num_tokens, used = int(counts.sum()), counts > 0
    merges = counts[256:]
    return {
        "num_segments": len(per_ecg),
        "samples_per_lead": source.num_samples,
        "num_tokens": num_tokens,
        "symbols_per_token": float(lengths @ counts / num_tokens),
        "tokens_per_ecg": spread(np.sort(per_ecg)),
        "token_length": spread(np.sort(lengths), counts[np.argsort(lengths, kind="stable")]),
        "vocab_size": tokenizer.vocab_size,
        "reachable": len(reachable),
        "used": int(used.sum()),
        "used_share": float(used[reachable].sum() / len(reachable)),
        "byte_tokens_share": float(1 - merges.sum() / num_tokens),
        "zipf_exponent": zipf_exponent(counts),
        "per_lead": {
            lead: {
                "tokens_per_ecg": float(stats.per_ecg[:, row].mean()),
                "used_share": float((stats.counts[row, reachable] > 0).mean()),
                "zipf_exponent": zipf_exponent(stats.counts[row]),
            }
            for row, lead in enumerate(source.leads)
        },
    }


def spread(ordered: np.ndarray, times: np.ndarray | None = None) -> dict[str, float]:
    """Mean and quantiles (the smallest value that so many do not exceed) of ascending values, each so many times."""
    times = np.ones(len(ordered), np.int64) if times is None else times
    upto = np.cumsum(times)

    def at(share: float) -> int:
        return int(ordered[np.searchsorted(upto, max(share * upto[-1], 1))])

    quantiles = {"min": at(0), "median": at(0.5), "p95": at(0.95), "max": at(1)}
    return {"mean": float(ordered @ times / upto[-1]), **quantiles}


def write_tables(stats: TokenStats, folder: Path) -> None:
    """Write ``tokens.parquet`` (``token_table``) and ``ecgs.parquet`` (``ecg_table``) to ``folder``."""
    for name, table in (("tokens", token_table(stats)), ("ecgs", ecg_table(stats))):
        with files.atomic_path(folder / f"{name}.parquet") as path:
            pq.write_table(table, path)


def token_table(stats: TokenStats) -> pa.Table:
    """A row per id: symbols, length in samples, rank (null where it does not occur), count in all and per lead."""
    tokenizer, counts = stats.source.tokenizer, stats.counts.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    ranks = np.empty(len(counts), np.int32)
    ranks[order] = np.arange(1, len(counts) + 1)
    columns: dict[str, Any] = {
        "id": np.arange(len(counts), dtype=np.int32),
        "symbols": [text.decode("latin-1") for text in tokenizer.expansions.texts],
        "length": tokenizer.expansions.lengths.astype(np.int32),
        "rank": pa.array(ranks, mask=counts == 0),
        "count": counts,
        "share": counts / counts.sum(),
    }
    columns |= {f"count_{lead}": stats.counts[row] for row, lead in enumerate(stats.source.leads)}
    return pa.table(columns)


def ecg_table(stats: TokenStats) -> pa.Table:
    """A row per segment: tokens in all, symbols per token, tokens per lead."""
    total = stats.per_ecg.sum(axis=1)
    num_symbols = len(stats.source.leads) * stats.source.num_samples
    columns: dict[str, Any] = {
        "segment_id": list(stats.segment_ids),
        "num_tokens": total.astype(np.int32),
        "symbols_per_token": num_symbols / total,
    }
    columns |= {f"tokens_{lead}": stats.per_ecg[:, row] for row, lead in enumerate(stats.source.leads)}
    return pa.table(columns)


def lines(summary: dict[str, Any]) -> list[str]:
    """A summary for people."""
    ecg, length, law = summary["tokens_per_ecg"], summary["token_length"], summary["zipf_exponent"]
    return [
        f"tokens: {summary['num_tokens']} in {summary['num_segments']} ECGs, {ecg['mean']:.0f} per ECG (min "
        f"{ecg['min']}, median {ecg['median']}, 95 % at most {ecg['p95']}, max {ecg['max']})",
        f"length: {length['mean']:.2f} samples per token (median {length['median']}, 95 % at most {length['p95']}, max "
        f"{length['max']}); {100 * summary['byte_tokens_share']:.1f} % are single symbols",
        f"vocabulary: {summary['used']} of {summary['reachable']} ids that an ECG can have occur "
        f"({100 * summary['used_share']:.1f} %)" + ("" if law is None else f"; Zipf exponent {law:.2f}"),
    ]
