"""ECG-Byte (arXiv 2412.14373): a segment quantised to 26 symbols, and byte-pair encoding of the symbols."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ecglm import files
from ecglm.errors import EcglmError, nearest
from ecglm.representations import bpe, bpe_encode
from ecglm.representations.normalise import percentile_range
from ecglm.representations.quantise import FIRST_SYMBOL, NUM_SYMBOLS, dequantise, quantise_rows

FORMAT = "ecglm-bpe"
VERSION = 1
NORMALISE = ("instance", "percentile")
BOUNDARIES = ("none", "segment", "lead")
ENCODE_MODES = ("greedy", "ranked")

_BLOCK = 16  # segments that one compiled call encodes: together they fit the second-level cache

_REQUIRED = (
    "format", "version", "symbols", "normalise", "boundary", "encode_mode", "merges", "num_merges", "trained_on",
)  # fmt: skip
_OPTIONAL = ("percentiles", "legacy_vocab_order")


@dataclass(frozen=True, eq=False)
class EcgTokens:
    """One encoded segment.

    ids: uint16 ``(num_tokens,)``, or uint32 where the vocabulary has more than 65,536 ids. low, high: mV, the range the
    symbols span (needed to decode to mV). shape: ``(num_leads, num_samples)`` of the segment. spans: int64
    ``(num_tokens, 2)``, first and past-the-last symbol of each token in the segment flattened lead by lead; they tile
    ``[0, num_leads * num_samples)``.
    """

    ids: np.ndarray
    low: float
    high: float
    shape: tuple[int, int]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class EcgByte:
    """An ECG-Byte tokenizer: ids 0-255 are bytes, id ``256 + i`` is merge i.

    normalise: ``instance`` (the segment's own range) or ``percentile`` (a fixed one, of ``percentiles`` p1 and p99 in
    mV). boundary: what no merge may cross: ``none``, ``segment`` or ``lead``. encode_mode: ``greedy`` (longest match)
    or ``ranked`` (training order). trained_on: where the merges come from. legacy_vocab_order: the order in which
    the ids of a converted tokenizer become LLM tokens. Raises EcglmError for anything inconsistent.
    """

    def __init__(
        self,
        merges: Any,
        *,
        normalise: str = "instance",
        boundary: str = "segment",
        encode_mode: str = "greedy",
        percentiles: Mapping[str, float] | None = None,
        trained_on: Mapping[str, Any] | None = None,
        legacy_vocab_order: list[int] | None = None,
    ) -> None:
        for field, value, known in (
            ("normalise", normalise, NORMALISE),
            ("boundary", boundary, BOUNDARIES),
            ("encode_mode", encode_mode, ENCODE_MODES),
        ):
            if value not in known:
                raise EcglmError(f"{field}: no '{value}'{nearest(value, known)}; one of {', '.join(known)}")
        if normalise == "percentile":
            percentile_range(percentiles)
        elif percentiles is not None:
            raise EcglmError(f"percentiles are given, but normalise is '{normalise}'; use normalise 'percentile'")
        self.merges = _checked_merges(merges)
        self.normalise, self.boundary, self.encode_mode = normalise, boundary, encode_mode
        self.percentiles = {k: float(percentiles[k]) for k in ("p1", "p99")} if percentiles is not None else None
        self.trained_on = dict(trained_on or {})
        self.expansions = bpe_encode.Expansions(self.merges)
        if legacy_vocab_order is not None and sorted(legacy_vocab_order) != list(range(self.vocab_size)):
            raise EcglmError(f"legacy_vocab_order must hold each id from 0 to {self.vocab_size - 1} once")
        self.legacy_vocab_order = legacy_vocab_order
        self._encoder: bpe_encode.GreedyEncoder | bpe_encode.RankedEncoder
        if encode_mode == "greedy":
            self._encoder = bpe_encode.GreedyEncoder(self.expansions)
        else:
            self._encoder = bpe_encode.RankedEncoder(self.merges, self.expansions)

    @classmethod
    def train(
        cls,
        segments: Iterable[np.ndarray],
        num_merges: int = 3500,
        *,
        normalise: str = "instance",
        boundary: str = "segment",
        encode_mode: str = "greedy",
        min_count: int = 2,
        percentiles: Mapping[str, float] | None = None,
        seed: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> EcgByte:
        """Learn merges from segments ``(num_leads, num_samples)`` in mV (an array of them, or any iterable).

        Segments are read one by one and kept as symbols, a byte per sample, so a generator over a store of any size
        will do: ``EcgByte.train(store[i] for i in chosen)``.
        Stops before ``num_merges`` where no pair is left that occurs ``min_count`` times: see ``len(tok.merges)``.
        seed: with which the segments were sampled; it is only noted in the file, as training draws nothing at random.
        progress: called with merges made and asked for. Raises EcglmError for NaN or infinity in a segment, or none.
        """
        empty = cls(
            [], normalise=normalise, boundary=boundary, encode_mode=encode_mode, percentiles=percentiles
        )  # checks the options before the work
        sequences: list[np.ndarray] = []
        digest, num_segments = hashlib.sha256(), 0
        for segment in segments:
            symbols, _, _ = empty.symbolise(segment)
            digest.update(repr(symbols.shape).encode())
            digest.update(symbols.tobytes())
            sequences.extend(symbols if boundary == "lead" else [symbols.reshape(-1)])
            num_segments += 1
        if not num_segments:
            raise EcglmError("no segments to train on; give at least one")
        merges = bpe.train_merges(
            sequences, num_merges, min_count=min_count, joined=boundary == "none", progress=progress
        )
        trained_on = {"fingerprint": digest.hexdigest(), "n_segments": num_segments, "seed": seed}
        return cls(
            merges,
            normalise=normalise,
            boundary=boundary,
            encode_mode=encode_mode,
            percentiles=percentiles,
            trained_on=trained_on,
        )

    @property
    def vocab_size(self) -> int:
        """256 bytes and one id per merge."""
        return 256 + len(self.merges)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides which ids a segment gets (not of ``trained_on``)."""
        return files.fingerprint({k: v for k, v in self.to_dict().items() if k != "trained_on"})

    @cached_property
    def reachable(self) -> np.ndarray:
        """int32, ascending: the ids an ECG can be encoded to, i.e. those made of 'a'..'z' alone."""
        letters = bytes(range(FIRST_SYMBOL, FIRST_SYMBOL + NUM_SYMBOLS))
        texts = self.expansions.texts
        return np.array([i for i in self._encoder.reachable.tolist() if not texts[i].strip(letters)], np.int32)

    @property
    def id_type(self) -> type[np.unsignedinteger[Any]]:
        """uint16, or uint32 where the vocabulary has more than 65,536 ids."""
        return bpe_encode.id_type(self.vocab_size)

    def symbolise(self, segment: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Symbols (uint8, ``(num_leads, num_samples)``) of a segment in mV, and the range low, high in mV."""
        symbols, low, high = self._symbolise(_checked(segment)[None])
        return symbols[0], float(low[0]), float(high[0])

    def encode(self, segment: np.ndarray) -> EcgTokens:
        """Encode a segment ``(num_leads, num_samples)`` in mV. EcglmError for NaN, infinity or another shape."""
        return self._encode(_checked(segment)[None])[0]

    def encode_batch(self, segments: Iterable[np.ndarray], *, threads: int = 1) -> list[EcgTokens]:
        """Encode many segments, each as ``encode`` does: an array ``(n, num_leads, num_samples)``, or any iterable.

        One compiled call for each run of equally shaped segments; with ``threads`` the runs are shared among them,
        which changes nothing but the time. EcglmError naming the segment's position for one that cannot be encoded.
        """
        if threads < 1:
            raise EcglmError(f"threads must be at least 1, not {threads}")
        if threads == 1:
            return [tokens for first, block in _blocks(segments) for tokens in self._encode(block, first)]
        made: list[EcgTokens] = []
        waiting: deque[Future[list[EcgTokens]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for first, block in _blocks(segments):  # a few ahead of the threads: the iterable may be a whole store
                waiting.append(pool.submit(self._encode, block, first))
                if len(waiting) > 2 * threads:
                    made += waiting.popleft().result()
            for future in waiting:
                made += future.result()
        return made

    def _symbolise(self, block: np.ndarray, first: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Symbols of ``(n, num_leads, num_samples)``, and the range of each (float64); first: position, for errors."""
        rows = block.reshape(len(block), -1)
        low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.isfinite(high - low)
        if not finite.all():
            where = "" if first is None else f"segment {first + int(np.argmin(finite))}: "
            raise EcglmError(
                f"{where}ECG signal holds NaN or infinity; choose a NaN policy in the pipeline that made it"
            )
        if self.normalise == "percentile":
            low[:], high[:] = percentile_range(self.percentiles)
        return quantise_rows(rows, low, high).reshape(block.shape), low, high

    def _encode(self, block: np.ndarray, first: int | None = None) -> list[EcgTokens]:
        symbols, low, high = self._symbolise(block, first)
        num, (num_leads, num_samples) = len(block), block.shape[1:]
        texts = symbols.reshape(-1, num_samples) if self.boundary == "lead" else symbols.reshape(num, -1)
        ids, ends = self._encoder.rows(texts)
        ends = ends.reshape(num, -1)[:, -1].tolist()
        spans = self.expansions.spans(ids)
        made = []
        for k, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            own = spans[begin:end] - k * num_leads * num_samples
            made.append(EcgTokens(ids[begin:end], float(low[k]), float(high[k]), (num_leads, num_samples), own))
        return made

    def decode(self, tokens: EcgTokens, *, compat: bool = False) -> np.ndarray:
        """The segment in mV, float32 ``(num_leads, num_samples)``, at the bin centres of its symbols.

        Within ``(high - low) / 52 + 1e-6`` mV of what lay between ``tokens.low`` and ``tokens.high``. compat: at
        ``q / 25`` of the range instead, as ECG-Bench decodes. EcglmError for ids or a shape of another tokenizer.
        """
        symbols = self.expansions.decode(self._checked_ids(tokens.ids))
        if symbols.size != tokens.shape[0] * tokens.shape[1]:
            raise EcglmError(
                f"tokens stand for {symbols.size} symbols, their shape {tokens.shape} needs another number"
            )
        if ((symbols < FIRST_SYMBOL) | (symbols >= FIRST_SYMBOL + NUM_SYMBOLS)).any():
            raise EcglmError("tokens stand for bytes outside 'a'..'z': not an encoded ECG")
        return dequantise(symbols, tokens.low, tokens.high, compat=compat).reshape(tokens.shape)

    def encode_symbols(self, symbols: str | bytes) -> list[int]:
        """Ids of one sequence of symbols; bytes in no merge (any, not only a-z) become byte ids."""
        return [token for token, _, _ in self.encode_spans(symbols)]

    def encode_spans(self, symbols: str | bytes) -> list[tuple[int, int, int]]:
        """``(id, start, end)`` of each token of one sequence of symbols."""
        if isinstance(symbols, str):
            try:
                symbols = symbols.encode("latin-1")
            except UnicodeEncodeError as error:
                raise EcglmError(f"symbol {symbols[error.start]!r} is no byte; symbols are 'a' to 'z'") from error
        ids = self._encoder(np.frombuffer(bytearray(symbols), np.uint8))
        spans = self.expansions.spans(ids).tolist()
        return [(token, start, end) for token, (start, end) in zip(ids.tolist(), spans, strict=True)]

    def decode_symbols(self, ids: Iterable[int] | np.ndarray) -> str:
        """The symbols that ids stand for, one character per byte; EcglmError for an id out of range."""
        checked = self._checked_ids(ids if isinstance(ids, np.ndarray) else np.array(list(ids)))
        return self.expansions.decode(checked).tobytes().decode("latin-1")

    def _checked_ids(self, ids: np.ndarray) -> np.ndarray:
        if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= self.vocab_size):
            raise EcglmError(f"token ids must be whole numbers from 0 to {self.vocab_size - 1}: another tokenizer?")
        return ids.astype(self.id_type)

    def to_dict(self) -> dict[str, Any]:
        """The contents of the tokenizer file."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "symbols": NUM_SYMBOLS,
            "normalise": self.normalise,
            "boundary": self.boundary,
            "encode_mode": self.encode_mode,
            "merges": self.merges.tolist(),
            "num_merges": len(self.merges),
            "trained_on": self.trained_on,
        }
        if self.percentiles is not None:
            values["percentiles"] = self.percentiles
        if self.legacy_vocab_order is not None:
            values["legacy_vocab_order"] = self.legacy_vocab_order
        return values

    @classmethod
    def from_dict(cls, values: Any, name: str = "tokenizer") -> EcgByte:
        """The reverse of ``to_dict``; EcglmError naming ``name`` and the field for anything unexpected."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise EcglmError(f"{name}: is no ECG-Byte tokenizer (format '{FORMAT}' is needed)")
        if values.get("version") != VERSION:
            raise EcglmError(f"{name}: version {values.get('version')!r}, this ecglm reads {VERSION}; train it again")
        for key in values:
            if key not in _REQUIRED + _OPTIONAL:
                raise EcglmError(f"{name}: unknown key '{key}'{nearest(key, _REQUIRED + _OPTIONAL)}")
        for key in _REQUIRED:
            if key not in values:
                raise EcglmError(f"{name}: key '{key}' is missing; the file is damaged, train the tokenizer again")
        if values["symbols"] != NUM_SYMBOLS:
            raise EcglmError(f"{name}: symbols is {values['symbols']!r}, {NUM_SYMBOLS} are possible")
        for key, kind in (("trained_on", dict), ("percentiles", dict), ("legacy_vocab_order", list)):
            if not isinstance(values.get(key, kind()), kind):
                raise EcglmError(f"{name}: {key} must be a {kind.__name__}, found {values[key]!r:.60}")
        for key in ("normalise", "boundary", "encode_mode"):
            if not isinstance(values[key], str):
                raise EcglmError(f"{name}: {key} must be text, found {values[key]!r:.60}")
        if any(type(i) is not int for i in values.get("legacy_vocab_order", [])):
            raise EcglmError(f"{name}: legacy_vocab_order must hold whole numbers")
        if any(type(v) not in (int, float) for v in values.get("percentiles", {}).values()):
            raise EcglmError(f"{name}: percentiles must be numbers in mV")
        try:
            tokenizer = cls(
                values["merges"],
                normalise=values["normalise"],
                boundary=values["boundary"],
                encode_mode=values["encode_mode"],
                percentiles=values.get("percentiles"),
                trained_on=values["trained_on"],
                legacy_vocab_order=values.get("legacy_vocab_order"),
            )
        except EcglmError as error:
            raise EcglmError(f"{name}: {error}") from error
        if values["num_merges"] != len(tokenizer.merges) or type(values["num_merges"]) is not int:
            raise EcglmError(f"{name}: num_merges is {values['num_merges']!r}, but {len(tokenizer.merges)} are listed")
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as JSON, atomically; the same tokenizer gives the same bytes."""
        files.write_text(path, files.canonical_json(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EcgByte:
        """Read a tokenizer file; EcglmError naming the file and the field for anything unexpected."""
        return cls.from_dict(files.read_json(path), os.fspath(path))


def _checked(segment: Any) -> np.ndarray:
    """A segment as an array of real numbers of two dimensions, neither empty; EcglmError for anything else."""
    segment = np.asarray(segment)
    if segment.ndim != 2 or segment.dtype.kind not in "fiu":
        raise EcglmError(
            f"a segment is an array (num_leads, num_samples) in mV, not {segment.dtype} of shape {segment.shape}"
        )
    if segment.size == 0:
        raise EcglmError(f"empty ECG signal of shape {segment.shape}; a segment (num_leads, num_samples) is needed")
    return segment


def _blocks(segments: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of at most ``_BLOCK`` segments of one shape and type as one array, each with the position of its first."""
    if isinstance(segments, np.ndarray) and segments.ndim == 3 and len(segments):
        _checked(segments[0])  # one stands for all
        yield from ((first, segments[first : first + _BLOCK]) for first in range(0, len(segments), _BLOCK))
        return
    run: list[np.ndarray] = []
    first = 0
    for position, segment in enumerate(segments):
        try:
            segment = _checked(segment)
        except EcglmError as error:
            raise EcglmError(f"segment {position}: {error}") from error
        if run and (len(run) == _BLOCK or run[0].shape != segment.shape or run[0].dtype != segment.dtype):
            yield first, np.stack(run)
            first, run = position, []
        run.append(segment)
    if run:
        yield first, np.stack(run)


def _checked_merges(merges: Any) -> np.ndarray:
    """Merges as int32 ``(n, 2)``; EcglmError for another shape or type, too many, or a pair that stands twice."""
    if isinstance(merges, np.ndarray):
        merges = merges.tolist()
    if not isinstance(merges, list):
        raise EcglmError(f"merges must be a list of pairs [left, right], found {merges!r:.60}")
    if len(merges) > bpe.MAX_VOCAB - 256:
        raise EcglmError(f"{len(merges)} merges, at most {bpe.MAX_VOCAB - 256} are possible")
    seen: dict[tuple[int, int], int] = {}
    for index, pair in enumerate(merges):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or any(type(i) is not int for i in pair):
            raise EcglmError(f"merge {index} must be a pair of ids [left, right], found {pair!r:.60}")
        if not all(0 <= i < 256 + index for i in pair):
            raise EcglmError(f"merge {index} {list(pair)} names an id that does not exist before it")
        if seen.setdefault((pair[0], pair[1]), index) != index:
            raise EcglmError(f"merge {index} {list(pair)} stands twice (first as merge {seen[pair[0], pair[1]]})")
    return np.array(merges, np.int32).reshape(-1, 2)
