"""Corpus BLEU as sacreBLEU computes it (13a tokens, exponential smoothing), divided by 100: from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import sacrebleu

from ecglm.evaluation.metrics.base import Metric, Row, answer_text
from ecglm.evaluation.metrics.bleu import MAX_ORDER, brevity_penalty
from ecglm.registry import register


def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    """Per row, from sacreBLEU: matches (4), n-grams offered (4), answer and reference length. ``(num_rows, 10)``."""
    table = np.zeros((len(rows), 2 * MAX_ORDER + 2))
    for i, row in enumerate(rows):
        table[i] = _counts(str(row["reference"]), answer_text(row))
    return table


@cache
def _scorer() -> sacrebleu.BLEU:
    return sacrebleu.BLEU(effective_order=True)  # the counts are the same; silences a note about single sentences


@lru_cache(maxsize=1 << 16)  # a task is measured several times, and short reports repeat
def _counts(reference: str, answer: str) -> tuple[int, ...]:
    found = _scorer().sentence_score(answer, [reference])
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def value(sums: np.ndarray) -> np.ndarray:
    """BLEU from summed statistics, ``(…, 10)`` → ``(…)``. The k-th order without a match counts as ``2^-k`` matches."""
    matches, offered = sums[..., :MAX_ORDER], sums[..., MAX_ORDER : 2 * MAX_ORDER]
    smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
    precision = smoothed / np.maximum(offered, 1.0)
    score = brevity_penalty(sums[..., -2], sums[..., -1]) * np.exp(np.log(precision).mean(axis=-1))
    # no match at all, or no answer long enough to hold a four-gram: zero, as there
    score = np.where((matches.sum(axis=-1) > 0) & (offered[..., -1] > 0), score, 0.0)
    return np.where(sums[..., -1] > 0, score, np.nan)


BLEU_SACRE = register("metrics", "bleu_sacre")(Metric(statistics, value, kinds=("text",)))
