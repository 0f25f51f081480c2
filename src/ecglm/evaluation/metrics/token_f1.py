"""Token F1 as SQuAD 1.1 defines it (arXiv 1606.05250): F1 of the bags of words, mean over rows, 0 to 1."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np

from ecglm.evaluation.metrics.pairs import Pairs, Words, clipped_matches, pair_mean
from ecglm.evaluation.metrics.rouge import f1_of
from ecglm.registry import register

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def cut(text: str) -> list[str]:
    """Lower case, ASCII punctuation removed, then the articles a, an, the; split at blanks."""
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


WORDS = Words(cut)


def compare(references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """``2PR / (P + R)`` over words, each counted as often as it stands in both; 0 where a text is empty. ``(num,)``."""
    stated, stated_ends = WORDS(answers)
    truth, truth_ends = WORDS(references)
    matches = clipped_matches(stated, stated_ends, truth, truth_ends, 1)[:, 0]
    return f1_of(matches, np.diff(stated_ends).astype(np.float64), np.diff(truth_ends).astype(np.float64))


TOKEN_F1 = register("metrics", "token_f1")(
    pair_mean(
        Pairs(1, compare),
        kinds=("closed", "multi", "text"),
        about="F1 of the bags of words as in SQuAD, mean over rows",
    )
)
