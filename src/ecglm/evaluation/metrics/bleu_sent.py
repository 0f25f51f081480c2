"""Mean sentence BLEU on whitespace tokens: n-grams up to what both texts can hold, from 0 to 1; higher is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, means, ratio
from ecglm.evaluation.metrics.bleu import COUNTS, EPSILON, MAX_ORDER, brevity_penalty
from ecglm.registry import register


def of_rows(rows: Sequence[Row]) -> np.ndarray:
    """Sentence BLEU of each row, ``(num_rows,)``: uniform weights over orders 1 to ``min(4, both lengths)``.

    Zero counts become 0.1 (method 1 of Chen and Cherry 2014); 0 without a matching word, or where a text is empty.
    """
    table = COUNTS(rows)
    matches, offered = table[:, :MAX_ORDER], table[:, MAX_ORDER : 2 * MAX_ORDER]
    stated, truth = table[:, -2], table[:, -1]
    orders = np.minimum(MAX_ORDER, np.minimum(stated, truth))
    used = np.arange(MAX_ORDER) < orders[:, None]
    logs = np.log(np.where(matches > 0, matches, EPSILON) / np.maximum(offered, 1.0))
    score = brevity_penalty(stated, truth) * np.exp(np.where(used, logs, 0.0).sum(axis=1) / np.maximum(orders, 1))
    return np.where(matches[:, 0] > 0, score, 0.0)


def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    """Per row: its score, and 1. ``(num_rows, 2)``."""
    return means(of_rows(rows))


BLEU_SENT = register("metrics", "bleu_sent")(
    Metric(statistics, ratio, kinds=("text",), about="mean sentence BLEU, orders up to min(4, both lengths)")
)
