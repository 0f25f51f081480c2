"""Corpus BLEU-4 on whitespace tokens with smoothing method 1, from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row
from ecglm.evaluation.metrics.pairs import Pairs, Words, clipped_matches
from ecglm.registry import register

MAX_ORDER = 4
#: What a zero n-gram count becomes (method 1 of Chen and Cherry 2014).
EPSILON = 0.1

WORDS = Words(str.split)


def counts(words: Words, references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Clipped n-gram matches (4), n-grams the answer holds (4), its length and the reference's. ``(num, 10)``."""
    stated, stated_ends = words(answers)
    truth, truth_ends = words(references)
    lengths = np.diff(stated_ends)[:, None]
    offered = np.maximum(lengths - np.arange(MAX_ORDER), 0)
    matches = clipped_matches(stated, stated_ends, truth, truth_ends, MAX_ORDER)
    return np.concatenate([matches, offered, lengths, np.diff(truth_ends)[:, None]], axis=1).astype(np.float64)


COUNTS = Pairs(2 * MAX_ORDER + 2, lambda references, answers: counts(WORDS, references, answers))


def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    """Per row: clipped n-gram matches (4), n-grams offered (4), answer length, reference length. ``(num_rows, 10)``.

    A row offers at least one n-gram of every order even where it is too short to hold one: the convention of the
    implementation that published ECG-language scores use, and what keeps an empty answer in the denominator.
    """
    table = COUNTS(rows)
    offered = table[:, MAX_ORDER : 2 * MAX_ORDER]
    np.maximum(offered, 1.0, out=offered)
    return table


def value(sums: np.ndarray) -> np.ndarray:
    """BLEU from summed statistics, ``(…, 10)`` → ``(…)``; 0 without a single matching word, NaN without rows."""
    matches, offered = sums[..., :MAX_ORDER], sums[..., MAX_ORDER : 2 * MAX_ORDER]
    precision = np.where(matches > 0, matches, EPSILON) / np.maximum(offered, 1.0)
    score = brevity_penalty(sums[..., -2], sums[..., -1]) * np.exp(np.log(precision).mean(axis=-1))
    return np.where(offered[..., 0] > 0, np.where(matches[..., 0] > 0, score, 0.0), np.nan)


def brevity_penalty(stated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``exp(1 − truth/stated)`` where the answers are shorter than the references, else 1; 0 for no words at all."""
    return np.where(stated > 0, np.exp(np.minimum(0.0, 1.0 - truth / np.maximum(stated, 1.0))), 0.0)


BLEU = register("metrics", "bleu")(
    Metric(statistics, value, kinds=("text",), about="corpus BLEU-4, whitespace tokens, zero counts replaced by 0.1")
)
