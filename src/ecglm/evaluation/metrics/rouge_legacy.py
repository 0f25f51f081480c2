"""ROUGE-1, -2 and -L as the older package ``rouge`` 1.0.1 defines them, which ECG-Bench uses: F1, 0 to 1.

It neither stems nor lower-cases. A text is split into sentences at every full stop (those in numbers too) and into
words at blanks. ROUGE-n compares the **sets** of n-grams, across sentences. ROUGE-L is of summary level, with sets of
words: the words of the longest common subsequence of each reference sentence with each answer sentence, all together,
over the different words of either text. ``F = 2PR / (P + R + 1e-8)``, so that a perfect answer scores 1 − 5e-9.
The package fails on an empty answer; here it scores 0 and stays in the denominator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.base import divide
from ecglm.evaluation.metrics.pairs import Pairs, Words, distinct_matches, distinct_ngrams, pair_mean
from ecglm.registry import register
from ecglm.signals.compiled import compiled

_EPSILON = 1e-8
#: Stands between two sentences; no word holds a blank.
_END = " "


def cut(text: str) -> list[str]:
    """Words, with ``_END`` between sentences. A sentence of blanks alone is one empty word."""
    words: list[str] = []
    for number, sentence in enumerate(piece for piece in text.split(".") if piece):
        words += [_END] * (number > 0) + " ".join(sentence.split()).split(" ")
    return words


WORDS = Words(cut, first=(_END,))
_BREAK = 0


def compare(references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """ROUGE-1, -2 and -L of each pair: ``(num, 3)``."""
    stated, stated_ends = WORDS(answers)
    truth, truth_ends = WORDS(references)
    of_l = _union_of_subsequences(stated, stated_ends, truth, truth_ends, _BREAK)
    flat_stated, flat_truth = _joined(stated, stated_ends), _joined(truth, truth_ends)
    both = distinct_matches(*flat_stated, *flat_truth, 2)
    n, m = distinct_ngrams(*flat_stated, 2), distinct_ngrams(*flat_truth, 2)
    return np.stack(
        [_f1(both[:, 0], n[:, 0], m[:, 0]), _f1(both[:, 1], n[:, 1], m[:, 1]), _f1(of_l, n[:, 0], m[:, 0])], axis=1
    )


def _joined(words: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts without their sentence ends."""
    kept = words != _BREAK
    return words[kept], np.concatenate([[0], np.cumsum(kept)])[ends]


def _f1(both: np.ndarray, stated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    precision, recall = np.nan_to_num(divide(both, stated)), np.nan_to_num(divide(both, truth))
    result: np.ndarray = 2.0 * (precision * recall / (precision + recall + _EPSILON))
    return result


@compiled
def _union_of_subsequences(
    a: np.ndarray, a_ends: np.ndarray, b: np.ndarray, b_ends: np.ndarray, stop: int
) -> np.ndarray:
    num = len(a_ends) - 1
    out = np.zeros(num)
    for text in range(num):
        x, y = a[a_ends[text] : a_ends[text + 1]], b[b_ends[text] : b_ends[text + 1]]
        found = np.zeros(len(y), np.bool_)
        y_start = 0
        while y_start < len(y):
            y_stop = y_start
            while y_stop < len(y) and y[y_stop] != stop:
                y_stop += 1
            x_start = 0
            while x_start < len(x):
                x_stop = x_start
                while x_stop < len(x) and x[x_stop] != stop:
                    x_stop += 1
                _mark_subsequence(y[y_start:y_stop], x[x_start:x_stop], found[y_start:y_stop])
                x_start = x_stop + 1
            y_start = y_stop + 1
        for i in range(len(y)):
            fresh = found[i]
            for j in range(i):
                if found[j] and y[j] == y[i]:
                    fresh = False
            out[text] += fresh
    return out


@compiled
def _mark_subsequence(y: np.ndarray, x: np.ndarray, found: np.ndarray) -> None:
    """Mark the words of ``y`` on the longest common subsequence, ties as the package goes: back along ``x`` first."""
    table = np.zeros((len(y) + 1, len(x) + 1), np.int32)
    for i in range(1, len(y) + 1):
        for j in range(1, len(x) + 1):
            if y[i - 1] == x[j - 1]:
                table[i, j] = table[i - 1, j - 1] + 1
            else:
                table[i, j] = max(table[i - 1, j], table[i, j - 1])
    i, j = len(y), len(x)
    while i > 0 and j > 0:
        if y[i - 1] == x[j - 1]:
            found[i - 1] = True
            i, j = i - 1, j - 1
        elif table[i - 1, j] > table[i, j - 1]:
            i -= 1
        else:
            j -= 1


ROUGE_LEGACY = Pairs(3, compare)
ROUGE_LEGACY_1 = register("metrics", "rouge_legacy_1")(
    pair_mean(ROUGE_LEGACY, 0, kinds=("text",), about="F1 of the sets of words (package rouge), mean over rows")
)
ROUGE_LEGACY_2 = register("metrics", "rouge_legacy_2")(
    pair_mean(ROUGE_LEGACY, 1, kinds=("text",), about="F1 of the sets of word pairs (package rouge), mean over rows")
)
ROUGE_LEGACY_L = register("metrics", "rouge_legacy_l")(
    pair_mean(ROUGE_LEGACY, 2, kinds=("text",), about="summary-level ROUGE-L of the package rouge, mean over rows")
)
