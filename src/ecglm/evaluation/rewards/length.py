"""Penalty for long answers."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row
from ecglm.evaluation.rewards.base import reward

#: Words that cost nothing, and words from which on the whole penalty is due.
FREE_WORDS, MOST_WORDS = 100, 200


@reward("brief", span=(-1.0, 0.0))
def brief(prompt: str, completion: str, row: Row) -> float:
    """0 up to 100 words, from there down to -1 at 200 and more: the soft punishment of arXiv 2503.14476, in words."""
    over = len(completion.split()) - FREE_WORDS
    return -min(1.0, max(0.0, over / (MOST_WORDS - FREE_WORDS))) + 0.0
