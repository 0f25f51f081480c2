"""ROUGE-1, ROUGE-2 and ROUGE-L as the package rouge-score defines them (Lin 2004): F1, mean over rows, 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from nltk.stem.porter import PorterStemmer

from ecglm.evaluation.metrics.base import divide
from ecglm.evaluation.metrics.pairs import Pairs, Words, clipped_matches, common_subsequence, pair_mean
from ecglm.registry import register

_STEMMER = PorterStemmer()


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Porter's stem (NLTK's variant) of a lower-case word."""
    return str(_STEMMER.stem(word))


_RUNS = re.compile(r"[a-z0-9]+")


def cut(text: str) -> list[str]:
    """Lower-case runs of ``a-z0-9``, Porter stems of those with more than three letters."""
    return [stem(word) if len(word) > 3 else word for word in _RUNS.findall(text.lower())]


WORDS = Words(cut)


def f1_of(matches: np.ndarray, stated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``2PR / (P + R)`` with ``P = matches/stated`` and ``R = matches/truth``; 0 without a match."""
    return np.nan_to_num(divide(2.0 * matches, stated + truth), nan=0.0)


def compare(references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """ROUGE-1, -2 (clipped n-gram counts) and -L (longest common subsequence) of each pair: ``(num, 3)``."""
    stated, stated_ends = WORDS(answers)
    truth, truth_ends = WORDS(references)
    matches = clipped_matches(stated, stated_ends, truth, truth_ends, 2)
    longest = common_subsequence(stated, stated_ends, truth, truth_ends)
    n, m = np.diff(stated_ends).astype(np.float64), np.diff(truth_ends).astype(np.float64)
    pairs = f1_of(matches[:, 1], np.maximum(n - 1, 0), np.maximum(m - 1, 0))
    return np.stack([f1_of(matches[:, 0], n, m), pairs, f1_of(longest, n, m)], axis=1)


ROUGE = Pairs(3, compare)
ROUGE_1 = register("metrics", "rouge1")(
    pair_mean(ROUGE, 0, kinds=("text",), about="F1 of stemmed words (rouge-score's ROUGE-1), mean over rows")
)
ROUGE_2 = register("metrics", "rouge2")(
    pair_mean(ROUGE, 1, kinds=("text",), about="F1 of pairs of stemmed words (rouge-score's ROUGE-2), mean over rows")
)
ROUGE_L = register("metrics", "rougeL")(
    pair_mean(ROUGE, 2, kinds=("text",), about="F1 of the longest common subsequence of stemmed words, mean over rows")
)
