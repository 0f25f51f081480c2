"""Rewards for the form of an answer alone; they say nothing of what it states."""

from __future__ import annotations

import re

from ecglm.evaluation.metrics.base import Row, is_unparsed, normalise
from ecglm.evaluation.rewards.base import TAG, answered, reward

_REASONED = re.compile(r"\s*<think>(?P<think>.*)</think>\s*<answer>(?P<answer>.*)</answer>\s*", re.DOTALL)
#: Tags of an answer in the right form: each once, in this order.
_NUM_TAGS = 4


@reward("think_format")
def think_format(prompt: str, completion: str, row: Row) -> float:
    """1 for ``<think>…</think><answer>…</answer>``, each tag exactly once, nothing outside, nothing empty; else 0."""
    found = _REASONED.fullmatch(completion)
    if found is None or len(TAG.findall(completion)) != _NUM_TAGS:
        return 0.0
    return float(all(normalise(found[part]) for part in ("think", "answer")))


@reward("plain_format")
def plain_format(prompt: str, completion: str, row: Row) -> float:
    """1 for an answer without tags that can be read: a choice, a set of choices, one number, any text; else 0."""
    found = None if TAG.search(completion) else answered(prompt, completion, row)
    return float(found is not None and not is_unparsed(found))
