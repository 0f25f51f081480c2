"""Pairs of reference and answer in bulk: every text is cut into words once, every pair is compared once.

A task is measured several times (per condition, per question type, for the gaps), and short reports repeat; whatever
depends on the two texts alone is therefore kept per pair, and computed for all new pairs in one compiled loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, answer_text, means, ratio
from ecglm.signals.compiled import compiled

#: Pairs (and texts) kept; with more, the table starts anew, so that memory stays bounded.
MAX_KEPT = 1 << 20

Compare = Callable[[Sequence[str], Sequence[str]], np.ndarray]


class Pairs:
    """``table(rows)``: numbers of each row's (reference, answer), float64 ``(num_rows, width)``.

    compare: references and answers, both stripped, of pairs not seen yet → ``(num_pairs, width)``; an empty answer
    comes as an empty string.
    """

    def __init__(self, width: int, compare: Compare) -> None:
        self.width, self.compare = width, compare
        self._place: dict[tuple[str, str], int] = {}
        self._kept = np.zeros((0, width))

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        pairs = [(str(row["reference"]).strip(), answer_text(row)) for row in rows]
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._place]
        if new:
            if len(self._place) + len(new) > MAX_KEPT:
                self._place, self._kept = {}, np.zeros((0, self.width))
                new = list(dict.fromkeys(pairs))
            found = self.compare([truth for truth, _ in new], [stated for _, stated in new])
            self._place.update(zip(new, range(len(self._kept), len(self._kept) + len(new)), strict=True))
            self._kept = np.concatenate([self._kept, found.reshape(len(new), self.width)])
        places = np.fromiter(map(self._place.__getitem__, pairs), np.int64, len(pairs))
        return self._kept[places]


def pair_mean(table: Pairs, column: int = 0, **facts: Any) -> Metric:
    """The metric "mean over rows" of one column of a table of pairs."""

    def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
        return means(table(rows)[:, column])

    return Metric(statistics, ratio, **facts)


class _Numbers(dict[str, int]):
    """Word → its number; a new word gets the next one."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class Words:
    """Texts as arrays of word numbers, each text cut once. The same word has the same number in all texts.

    first: words whose numbers are 0, 1, … always.
    """

    def __init__(self, cut: Callable[[str], Sequence[str]], first: Sequence[str] = ()) -> None:
        self.cut, self.first = cut, first
        self._number = _Numbers({word: place for place, word in enumerate(self.first)})
        self._texts: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(all numbers one text after the other, int32; where each text starts and the last ends, int64)."""
        if len(self._texts) + len(texts) > MAX_KEPT:
            self._texts = {}  # the numbers stay: answers and references come in two calls
        arrays = [self._of(text) for text in texts]
        ends = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return (np.concatenate(arrays) if arrays else np.zeros(0, np.int32)), ends

    def _of(self, text: str) -> np.ndarray:
        found = self._texts.get(text)
        if found is None:
            words = self.cut(text)
            numbers = np.fromiter(map(self._number.__getitem__, words), np.int32, len(words))
            found = self._texts[text] = numbers
        return found


@compiled
def clipped_matches(a: np.ndarray, a_ends: np.ndarray, b: np.ndarray, b_ends: np.ndarray, max_order: int) -> np.ndarray:
    """n-grams of ``a`` also in ``b``, each at most as often as it stands in ``b``: ``(num_texts, max_order)``."""
    num = len(a_ends) - 1
    out = np.zeros((num, max_order))
    for text in range(num):
        x, y = a[a_ends[text] : a_ends[text + 1]], b[b_ends[text] : b_ends[text + 1]]
        shared = np.ones(len(x), np.bool_)  # whether the shorter n-gram that begins here stands in both
        for order in range(1, max_order + 1):
            total = 0
            for i in range(len(x) - order + 1):
                if not shared[i]:
                    continue
                offered, wanted = 1, 0
                for j in range(len(y) - order + 1):
                    wanted += _same(x, i, y, j, order)
                shared[i] = wanted > 0
                if wanted == 0:
                    continue
                earlier = False
                for j in range(i):
                    if _same(x, i, x, j, order):
                        earlier = True
                        break
                if earlier:
                    continue
                if wanted > 1:
                    for j in range(i + 1, len(x) - order + 1):
                        offered += _same(x, i, x, j, order)
                total += min(offered, wanted)
            out[text, order - 1] = total
            if total == 0:
                break
    return out


@compiled
def _same(x: np.ndarray, i: int, y: np.ndarray, j: int, order: int) -> bool:
    for k in range(order):  # noqa: SIM110 (compiled)
        if x[i + k] != y[j + k]:
            return False
    return True


@compiled
def distinct_ngrams(a: np.ndarray, a_ends: np.ndarray, max_order: int) -> np.ndarray:
    """Number of different n-grams of each text and order: ``(num_texts, max_order)``."""
    num = len(a_ends) - 1
    out = np.zeros((num, max_order))
    for text in range(num):
        x = a[a_ends[text] : a_ends[text + 1]]
        for order in range(1, max_order + 1):
            for i in range(len(x) - order + 1):
                fresh = True
                for j in range(i):
                    if _same(x, i, x, j, order):
                        fresh = False
                        break
                out[text, order - 1] += fresh
    return out


@compiled
def distinct_matches(
    a: np.ndarray, a_ends: np.ndarray, b: np.ndarray, b_ends: np.ndarray, max_order: int
) -> np.ndarray:
    """Number of different n-grams that two texts share, per order: ``(num_texts, max_order)``."""
    num = len(a_ends) - 1
    out = np.zeros((num, max_order))
    for text in range(num):
        x, y = a[a_ends[text] : a_ends[text + 1]], b[b_ends[text] : b_ends[text + 1]]
        for order in range(1, max_order + 1):
            for i in range(len(x) - order + 1):
                fresh = True
                for j in range(i):
                    if _same(x, i, x, j, order):
                        fresh = False
                        break
                if fresh:
                    for j in range(len(y) - order + 1):
                        if _same(x, i, y, j, order):
                            out[text, order - 1] += 1
                            break
    return out


@compiled
def common_subsequence(a: np.ndarray, a_ends: np.ndarray, b: np.ndarray, b_ends: np.ndarray) -> np.ndarray:
    """Length of the longest common subsequence of each pair of texts: ``(num_texts,)``."""
    num = len(a_ends) - 1
    out = np.zeros(num)
    for text in range(num):
        x, y = a[a_ends[text] : a_ends[text + 1]], b[b_ends[text] : b_ends[text + 1]]
        row = np.zeros(len(y) + 1, np.int32)
        for i in range(len(x)):
            diagonal = 0
            for j in range(len(y)):
                above = row[j + 1]
                row[j + 1] = diagonal + 1 if x[i] == y[j] else max(above, row[j])
                diagonal = above
        out[text] = row[len(y)]
    return out
