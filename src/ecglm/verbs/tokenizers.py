"""Verbs: ECG-Byte tokenizers, trained, converted, checked and looked into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import FewStores, is_made, say
from ecglm.verbs.progress import counted, stages

if TYPE_CHECKING:
    from ecglm.analysis.tokens import TokenSource
    from ecglm.store.reader import SegmentStore


def tokenizer_train(
    stores: FewStores,
    out: Path,
    num_merges: int = 3500,
    normalise: Literal["instance", "percentile"] = "instance",
    percentiles: Path | None = None,
    boundary: Literal["none", "segment", "lead"] = "segment",
    encode_mode: Literal["greedy", "ranked"] = "greedy",
    min_count: int = 2,
    leads: tuple[str, ...] = (),
    rate: int | None = None,
    sample: Path | None = None,
    limit: int = 2000,
    seed: int = 0,
    split_seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Train an ECG-Byte tokenizer (arXiv 2412.14373) on training segments of stores.

    Args:
        stores: segment stores; segments of official validation and test folds are left out.
        out: the JSON file to make.
        num_merges: how many pairs are merged.
        normalise: a segment's own range, or one for all.
        percentiles: of the amplitudes, as ecglm store percentiles writes them, for --normalise percentile.
        boundary: what no token crosses.
        encode_mode: longest match, or merges in training order.
        min_count: a pair that occurs less often is not merged.
        leads: all twelve, or these.
        rate: Hz to encode at, a divisor of the stores'.
        sample: segments to learn from, as ecglm store sample lists them.
        limit: segments drawn, without --sample.
        seed: of the draw.
        split_seed: of the splits by hash: the --seed of ecglm map.
        overwrite: replace a tokenizer trained otherwise.
    """
    from ecglm.representations.ecg_byte import EcgByte
    from ecglm.representations.tokenizer_training import plan_training
    from ecglm.store.reader import SegmentStore
    from ecglm.store.sampling import read_sample

    training = plan_training(
        [SegmentStore(store) for store in stores],
        num_merges,
        normalise=normalise,
        percentiles=percentiles,
        boundary=boundary,
        encode_mode=encode_mode,
        min_count=min_count,
        leads=leads,
        rate=rate,
        sample=read_sample(sample) if sample is not None else None,
        limit=limit,
        seed=seed,
        split_seed=split_seed,
    )
    if is_made(out, training.fingerprint, lambda path: str(EcgByte.load(path).trained_on.get("plan")), overwrite):
        say(f"tokenizer: {out} (was trained already, reused)")
        return
    with stages() as tell:
        made = training.run(tell)
    made.save(out)
    if len(made.merges) < num_merges:
        say(f"only {len(made.merges)} of {num_merges} merges: no other pair occurs {min_count} times")
    say(f"{made.vocab_size} ids from {training.num_segments} training segments")
    say(f"tokenizer: {out}")


def tokenizer_encode(
    tokenizer: Positional[Path],
    store: Positional[Path],
    segment: Positional[int],
    show: Path | None = None,
    data: Path | None = None,
    leads: tuple[str, ...] = (),
    rate: int | None = None,
) -> None:
    """Print the tokens of one segment; draw which stretch of each lead a token stands for.

    Args:
        tokenizer: a tokenizer file.
        store: a segment store.
        segment: position of the segment in the store.
        show: a PNG file to make, with each lead in the colours of its tokens.
        data: a CSV or JSON file to make, with a row per token (id, lead, start, end, text).
        leads: those the tokenizer was trained on, or these.
        rate: Hz to encode at, where it is not the one the tokenizer was trained on.
    """
    from ecglm.analysis.results import save_figure
    from ecglm.analysis.tracks import draw_track, track, write_track

    source = _source(tokenizer, store, leads, rate)
    if not 0 <= segment < len(source.store):
        raise EcglmError(f"{store}: no segment {segment}; it holds 0 to {len(source.store) - 1}")
    if data is not None and data.suffix not in (".csv", ".json"):
        raise ConfigError(f"--data {data}: tokens are written as .csv or .json; name such a file")
    signal = source[segment]
    tokens = source.tokenizer.encode(signal)
    say(" ".join(map(str, tokens.ids)))
    say(
        f"{len(tokens)} tokens for {tokens.shape[0]} × {tokens.shape[1]} samples "
        f"of {tokens.low:.3f} to {tokens.high:.3f} mV"
    )
    if data is None and show is None:
        return
    parts = track(source.tokenizer, tokens, source.leads)
    if data is not None:
        write_track(data, parts)
        say(f"tokens: {data}")
    if show is not None:
        save_figure(draw_track(signal, parts, source.leads, source.rate), show)
        say(f"picture: {show}")


def tokenizer_verify(
    tokenizer: Positional[Path],
    store: Positional[Path],
    segments: int = 1000,
    out: Path | None = None,
    leads: tuple[str, ...] = (),
    rate: int | None = None,
    overwrite: bool = False,
) -> int:
    """Encode and decode ECGs: whether they come back, how exactly, in how many tokens. Exit status 1 if one does not.

    Args:
        tokenizer: a tokenizer file.
        store: a segment store.
        segments: how many, spread evenly over the store.
        out: a folder for the results, a row per segment, and pictures of original and decoded.
        leads: those the tokenizer was trained on, or these.
        rate: Hz to encode at, where it is not the one the tokenizer was trained on.
        overwrite: replace other results.
    """
    from ecglm.analysis import roundtrip
    from ecglm.analysis.results import result_folder

    source = _source(tokenizer, store, leads, rate)
    positions = _spread_over(source.store, segments, "--segments")
    speed: list[str] = []

    def trips() -> Any:
        with counted("round trips", len(positions), "ECGs") as done:
            found = roundtrip.round_trips(source, positions, done)
        speed.append(roundtrip.speed(found))
        return found

    if out is None:
        summary = roundtrip.summarise(trips())
    else:
        summary = result_folder(
            out,
            "tokenizer-verify",
            {**source.settings, "segments": segments},
            source.inputs,
            lambda folder: roundtrip.write_round_trips(trips(), folder),
            overwrite,
        )
    for line in [*roundtrip.lines(summary), *speed]:
        say(line)
    if out is not None:
        say(f"results: {out}")
    return int(bool(summary["failed"]))


def tokenizer_stats(
    tokenizer: Positional[Path],
    store: Positional[Path],
    out: Path,
    limit: int | None = None,
    leads: tuple[str, ...] = (),
    rate: int | None = None,
    overwrite: bool = False,
) -> None:
    """Count tokens: how often each occurs (Zipf), how long they are, how many an ECG takes; tables and pictures.

    Args:
        tokenizer: a tokenizer file.
        store: a segment store.
        out: the folder to make.
        limit: at most so many segments, spread evenly over the store.
        leads: those the tokenizer was trained on, or these.
        rate: Hz to encode at, where it is not the one the tokenizer was trained on.
        overwrite: replace other results.
    """
    from ecglm.analysis import tokens
    from ecglm.analysis.results import result_folder
    from ecglm.analysis.token_plots import write_pictures

    source = _source(tokenizer, store, leads, rate)
    positions = _spread_over(source.store, limit, "--limit")

    def make(folder: Path) -> dict[str, Any]:
        with counted("tokens", len(positions), "ECGs") as done:
            found = tokens.token_stats(source, positions, done)
        tokens.write_tables(found, folder)
        write_pictures(found, folder)
        return tokens.summarise(found)

    settings = {**source.settings, "limit": limit}
    summary = result_folder(out, "tokenizer-stats", settings, source.inputs, make, overwrite)
    for line in tokens.lines(summary):
        say(line)
    say(f"results: {out}")


def tokenizer_convert(
    file: Positional[Path],
    out: Path,
    normalise: Literal["instance", "percentile"] = "instance",
    percentiles: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Read a tokenizer of the original ECG-Byte, a pickle file, as data alone; write it as JSON.

    Args:
        file: the pickle file.
        out: the JSON file to make.
        normalise: how the ECGs were scaled, which the file does not say.
        percentiles: of the amplitudes, as ecglm store percentiles writes them, for --normalise percentile.
        overwrite: replace another tokenizer.
    """
    from ecglm.representations.ecg_byte import EcgByte
    from ecglm.representations.legacy import convert_legacy
    from ecglm.representations.normalise import read_amplitudes

    made = convert_legacy(file, normalise=normalise, percentiles=read_amplitudes(normalise, percentiles)[0])
    if not is_made(out, made.fingerprint, lambda path: EcgByte.load(path).fingerprint, overwrite):
        made.save(out)
    longest = int(made.expansions.lengths.max())
    first = " ".join(made.decode_symbols([token]) for token in range(256, min(260, made.vocab_size)))
    say(f"{made.vocab_size} ids, {len(made.merges)} merges (first {first}), longest token {longest} symbols")
    say(f"tokenizer: {out}")


def _source(tokenizer: Path, store: Path, leads: Sequence[str], rate: int | None) -> TokenSource:
    from ecglm.analysis.tokens import token_source
    from ecglm.representations.ecg_byte import EcgByte
    from ecglm.store.reader import SegmentStore

    return token_source(EcgByte.load(tokenizer), SegmentStore(store), leads, rate)


def _spread_over(store: SegmentStore, most: int | None, option: str) -> list[int]:
    """Positions of at most so many segments, spread evenly."""
    import numpy as np

    if most is not None and most < 1:
        raise ConfigError(f"{option} must be 1 or more, found {most}")
    num = min(len(store), most or len(store))
    return np.unique(np.linspace(0, len(store) - 1, num).round().astype(np.int64)).tolist() if num else []
