"""Corpus BLEU as sacreBLEU computes it (13a tokens, exponential smoothing; Post 2018), divided by 100: from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from ecglm.evaluation.metrics.base import Metric, Row
from ecglm.evaluation.metrics.bleu import MAX_ORDER, brevity_penalty, counts
from ecglm.evaluation.metrics.pairs import Pairs, Words
from ecglm.registry import register

_TOKENIZER = Tokenizer13a()


@lru_cache(maxsize=1 << 16)
def _pieces(word: str) -> tuple[str, ...]:
    return tuple(_TOKENIZER(word).split())


def cut(text: str) -> list[str]:
    """13a tokens. Its rules reach across blanks only at line ends and for entities; else it works word by word."""
    if "\n" in text or "&" in text or "<" in text:
        return list(_TOKENIZER(text).split())
    return [piece for word in text.split() for piece in _pieces(word)]


WORDS = Words(cut)
COUNTS = Pairs(2 * MAX_ORDER + 2, lambda references, answers: counts(WORDS, references, answers))


def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    """Per row: matches (4), n-grams offered (4), answer and reference length, in 13a tokens; 1. ``(num_rows, 11)``."""
    return np.concatenate([COUNTS(rows), np.ones((len(rows), 1))], axis=1)


def value(sums: np.ndarray) -> np.ndarray:
    """BLEU from summed statistics, ``(…, 11)`` → ``(…)``. The k-th order without a match counts as ``2^-k`` matches."""
    matches, offered = sums[..., :MAX_ORDER], sums[..., MAX_ORDER : 2 * MAX_ORDER]
    smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
    precision = smoothed / np.maximum(offered, 1.0)
    score = brevity_penalty(sums[..., -3], sums[..., -2]) * np.exp(np.log(precision).mean(axis=-1))
    # no match at all, or no answer long enough to hold a four-gram: zero, as there
    score = np.where((matches.sum(axis=-1) > 0) & (offered[..., -1] > 0), score, 0.0)
    return np.where(sums[..., -1] > 0, score, np.nan)


BLEU_SACRE = register("metrics", "bleu_sacre")(
    Metric(statistics, value, kinds=("text",), about="corpus BLEU as sacreBLEU computes it (13a, exp), divided by 100")
)
