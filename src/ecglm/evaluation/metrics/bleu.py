"""Corpus BLEU-4 on whitespace tokens with smoothing method 1, from 0 to 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, answer_text
from ecglm.registry import register

MAX_ORDER = 4
#: What a zero n-gram count becomes (method 1 of Chen and Cherry 2014).
EPSILON = 0.1


def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    """Per row: clipped n-gram matches (4), n-grams offered (4), answer length, reference length. ``(num_rows, 10)``.

    A row offers at least one n-gram of every order even where it is too short to hold one: the convention of the
    implementation that published ECG-language scores use, and what keeps an empty answer in the denominator.
    """
    table = np.zeros((len(rows), 2 * MAX_ORDER + 2))
    for i, row in enumerate(rows):
        stated, truth = answer_text(row).split(), str(row["reference"]).split()
        for order in range(1, MAX_ORDER + 1):
            offered, wanted = _ngrams(stated, order), _ngrams(truth, order)
            table[i, order - 1] = (offered & wanted).total()
            table[i, MAX_ORDER + order - 1] = max(1, offered.total())
        table[i, -2:] = len(stated), len(truth)
    return table


def _ngrams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def value(sums: np.ndarray) -> np.ndarray:
    """BLEU from summed statistics, ``(…, 10)`` → ``(…)``; 0 without a single matching word, NaN without rows."""
    matches, offered = sums[..., :MAX_ORDER], sums[..., MAX_ORDER : 2 * MAX_ORDER]
    precision = np.where(matches > 0, matches, EPSILON) / np.maximum(offered, 1.0)
    score = brevity_penalty(sums[..., -2], sums[..., -1]) * np.exp(np.log(precision).mean(axis=-1))
    return np.where(offered[..., 0] > 0, np.where(matches[..., 0] > 0, score, 0.0), np.nan)


def brevity_penalty(stated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``exp(1 − truth/stated)`` where the answers are shorter than the references, else 1; 0 for no words at all."""
    return np.where(stated > 0, np.exp(np.minimum(0.0, 1.0 - truth / np.maximum(stated, 1.0))), 0.0)


BLEU = register("metrics", "bleu")(Metric(statistics, value, kinds=("text",)))
