"""Whether a tokenizer gives ECGs back: symbols exactly, millivolts within half a bin; with pictures on ECG paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.analysis.tokens import TokenSource, spread
from ecglm.errors import EcglmError
from ecglm.representations.ecg_byte import NUM_SYMBOLS
from ecglm.representations.render import render, save_picture
from ecglm.types import LEADS

_DECODED = np.array([214, 40, 40])
_DPI = 200


@dataclass(frozen=True, eq=False)
class RoundTrips:
    """Round trips of some segments, an array entry each.

    positions: in the store. num_tokens. exact: the symbols came back. max_error, mean_error: mV, of the samples inside
    the range that the symbols span. bound: half a bin in mV. clipped: samples outside that range (of ``percentile``
    alone). encode_s, decode_s: seconds it took.
    """

    source: TokenSource
    positions: np.ndarray
    num_tokens: np.ndarray
    exact: np.ndarray
    max_error: np.ndarray
    mean_error: np.ndarray
    bound: np.ndarray
    clipped: np.ndarray
    encode_s: np.ndarray
    decode_s: np.ndarray

    @property
    def within(self) -> np.ndarray:
        """bool: no error larger than the bound."""
        return self.max_error <= self.bound

    @property
    def held(self) -> bool:
        """Every segment came back."""
        return bool(self.exact.all() and self.within.all())


def round_trips(
    source: TokenSource, positions: Sequence[int], progress: Callable[[int], None] | None = None
) -> RoundTrips:
    """Encode and decode the segments at ``positions``. ``progress`` is called with segments done.

    The bound is ``(high - low) / 52 + 1e-6`` mV, and what float32 cannot tell apart at that amplitude.
    EcglmError without a segment.
    """
    if not len(positions):
        raise EcglmError(f"{source.store.path}: no segment to encode")
    tokenizer, rows = source.tokenizer, []
    for number, (_, segment) in enumerate(source.read(positions)):
        began = time.perf_counter()
        tokens = tokenizer.encode(segment)
        encoded = time.perf_counter()
        back = tokenizer.decode(tokens)
        decoded = time.perf_counter()
        symbols = tokenizer.symbolise(segment)[0].tobytes().decode("latin-1")
        error = np.abs(back.astype(np.float64) - segment)
        inside = (segment >= tokens.low) & (segment <= tokens.high)
        bound = (tokens.high - tokens.low) / (2 * NUM_SYMBOLS) + 1e-6 + float(np.spacing(np.abs(back).max()))
        rows.append(
            (
                len(tokens),
                tokenizer.decode_symbols(tokens.ids) == symbols,
                error[inside].max(initial=0.0),
                error[inside].mean() if inside.any() else 0.0,
                bound,
                segment.size - int(inside.sum()),
                encoded - began,
                decoded - encoded,
            )
        )
        if progress is not None:
            progress(number + 1)
    return RoundTrips(source, np.array(positions, np.int64), *map(np.array, zip(*rows, strict=True)))


def summarise(trips: RoundTrips) -> dict[str, Any]:
    """The round trips in a few JSON-able numbers; no times, which are others each time."""
    source, num = trips.source, len(trips.positions)
    num_symbols = len(source.leads) * source.num_samples
    return {
        "num_segments": num,
        "leads": list(source.leads),
        "rate": source.rate,
        "symbols_per_ecg": num_symbols,
        "symbols_exact": int(trips.exact.sum()),
        "within_half_a_bin": int(trips.within.sum()),
        "max_error_mv": float(trips.max_error.max()),
        "mean_error_mv": float(trips.mean_error.mean()),
        "half_a_bin_mv": {"mean": float(trips.bound.mean()), "max": float(trips.bound.max())},
        "clipped_share": float(trips.clipped.sum() / (num * num_symbols)),
        "symbols_per_token": float(num * num_symbols / trips.num_tokens.sum()),
        "tokens_per_ecg": spread(np.sort(trips.num_tokens)),
        "failed": trips.positions[~(trips.exact & trips.within)].tolist()[:20],
    }


def write_round_trips(trips: RoundTrips, folder: Path, num_pictures: int = 4) -> dict[str, Any]:
    """Write ``segments.parquet`` (a row per segment) and pictures to ``folder``; returns the summary.

    Drawn are the segments with the largest error, the most tokens, the fewest, and then others in order.
    """
    source = trips.source
    names = source.store.index.column("segment_id").take(pa.array(trips.positions)).to_pylist()
    columns: dict[str, Any] = {"position": trips.positions, "segment_id": names}
    for name in ("num_tokens", "exact", "within", "max_error", "mean_error", "bound", "clipped"):
        columns[name] = getattr(trips, name)
    with files.atomic_path(folder / "segments.parquet") as path:
        pq.write_table(pa.table(columns), path)
    firsts = [trips.max_error.argmax(), trips.num_tokens.argmax(), trips.num_tokens.argmin()]
    for row in list(dict.fromkeys([*map(int, firsts), *range(len(names))]))[:num_pictures]:
        save_picture(folder / f"roundtrip-{trips.positions[row]}.png", draw_round_trip(trips, row))
    return summarise(trips)


def draw_round_trip(trips: RoundTrips, row: int) -> np.ndarray:
    """The segment of one row on ECG paper, uint8 ``(height, width, 3)``: as encoded in black, decoded in red."""
    source = trips.source
    segment = source[int(trips.positions[row])]
    back = source.tokenizer.decode(source.tokenizer.encode(segment))
    # no ids: the picture may be shown to others
    header = f"black: ECG; red: decoded ({trips.num_tokens[row]} tokens, within {trips.max_error[row]:.3f} mV)"
    pictures = []
    for values, grid, width in ((segment, True, 0.2), (segment, False, 0.2), (back, False, 0.5)):
        full = np.full((len(LEADS), values.shape[1]), np.nan, np.float32)
        full[[LEADS.index(lead) for lead in source.leads]] = values
        drawn = render(full, source.rate, dpi=_DPI, header=header, grid=grid, line_width=width, color="mono")
        pictures.append(drawn.astype(np.float64))
    paper, original, decoded = pictures
    ink, red = (1 - picture.mean(axis=2, keepdims=True) / 255 for picture in (original, decoded))
    share = np.clip(red - ink, 0, 1)  # the ECG lies on top
    return np.round(paper * (1 - share) + _DECODED * share).astype(np.uint8)


def speed(trips: RoundTrips) -> str:
    """How long an ECG took, for people; the median, as others use the machine too."""
    encode, decode = 1000 * np.median(trips.encode_s), 1000 * np.median(trips.decode_s)
    return f"time: {encode:.2f} ms to encode an ECG, {decode:.2f} ms to decode it (median)"


def lines(summary: dict[str, Any]) -> list[str]:
    """A summary for people."""
    num, tokens, bin_ = summary["num_segments"], summary["tokens_per_ecg"], summary["half_a_bin_mv"]
    told = [
        f"symbols: {summary['symbols_exact']} of {num} ECGs came back exactly "
        f"({len(summary['leads'])} leads at {summary['rate']} Hz, {summary['symbols_per_ecg']} symbols each)",
        f"error: max {summary['max_error_mv']:.4f} mV, mean {summary['mean_error_mv']:.4f} mV; within half a bin "
        f"({bin_['mean']:.4f} mV, at most {bin_['max']:.4f}) in {summary['within_half_a_bin']} of {num}",
        f"tokens: {tokens['mean']:.0f} per ECG (min {tokens['min']}, 95 % at most {tokens['p95']}, max "
        f"{tokens['max']}), {summary['symbols_per_token']:.2f} symbols per token",
    ]
    if summary["clipped_share"]:
        told.append(
            f"clipped: {100 * summary['clipped_share']:.3f} % of the samples lie outside the percentiles' range"
        )
    if summary["failed"]:
        told.append(f"FAILED: segments {', '.join(map(str, summary['failed']))}")
    return told
