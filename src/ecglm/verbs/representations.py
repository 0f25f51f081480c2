"""Verbs: segments → what a model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import say, segment_of


def tokenizer_train(
    store: Positional[Path],
    out: Path,
    num_merges: int = 3500,
    boundary: Literal["none", "segment", "lead"] = "segment",
    leads: tuple[str, ...] = (),
    rate: int | None = None,
    sample: Path | None = None,
    limit: int = 2000,
    seed: int = 0,
    split_seed: int = 0,
) -> None:
    """Train an ECG-Byte tokenizer (arXiv 2412.14373) on training segments of a store.

    Args:
        store: the store; segments of official validation and test folds are left out.
        out: the JSON file to make.
        num_merges: how many pairs are merged.
        boundary: what no token crosses.
        leads: all twelve, or these.
        rate: Hz to encode at, a divisor of the store's.
        sample: segments to learn from, as ecglm store sample lists them.
        limit: segments drawn, without --sample.
        seed: of the draw.
        split_seed: of the splits by hash: the --seed of ecglm map.
    """
    import numpy as np

    from ecglm.representations.symbols import train_symbols
    from ecglm.store.reader import SegmentStore
    from ecglm.store.sampling import check_training, places, read_sample
    from ecglm.store.splits import assign_splits
    from ecglm.types import LEADS

    found = SegmentStore(store)
    if sample is not None:
        drawn = read_sample(sample)
        check_training(drawn, "the tokenizer")
        chosen = next(places(drawn, found))[1].tolist()
    else:
        splits = assign_splits(found, seed=split_seed)
        train = [i for i, p in enumerate(found.index.column("patient_id").to_pylist()) if splits[p] == "train"]
        if not train:
            raise EcglmError(f"{store}: no training segments to learn from")
        chosen = sorted(np.random.default_rng(seed).permutation(train)[:limit].tolist())
    made = train_symbols(
        found.take(chosen),
        found.rate,
        leads=leads or LEADS,
        target_rate=rate,
        num_merges=num_merges,
        boundary=boundary,
        seed=seed,
    )
    made.tokenizer.save(out)
    say(f"{made.tokenizer.vocab_size} ids from {len(chosen)} training segments")
    say(f"tokenizer: {out}")


def tokenizer_encode(tokenizer: Positional[Path], store: Positional[Path], segment: Positional[int]) -> None:
    """Print the tokens of one segment.

    Args:
        tokenizer: a tokenizer file.
        store: a segment store.
        segment: position of the segment in the store.
    """
    from ecglm.representations.ecg_byte import EcgByte

    tokens = EcgByte.load(tokenizer).encode(segment_of(store, segment)[0])
    say(" ".join(map(str, tokens.ids)))
    say(
        f"{len(tokens)} tokens for {tokens.shape[0]} × {tokens.shape[1]} samples "
        f"of {tokens.low:.3f} to {tokens.high:.3f} mV"
    )


def render_(
    store: Positional[Path],
    segment: Positional[int],
    out: Path,
    layout: Literal["3x4+1", "3x4", "6x2", "12x1"] = "3x4+1",
) -> None:
    """Draw one segment as ECG paper.

    Args:
        store: a segment store.
        segment: position of the segment in the store.
        out: the PNG file to make.
        layout: how the leads are arranged.
    """
    from ecglm.representations.render import render, save_png

    signal, rate = segment_of(store, segment)
    save_png(out, render(signal, rate, layout=layout))
    say(f"picture: {out}")
