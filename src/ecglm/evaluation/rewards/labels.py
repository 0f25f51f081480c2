"""Rewards for the right label, or set of labels, by the rules of the metrics."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import (
    Row,
    answer_kind,
    choices_of,
    is_correct,
    predicted_labels,
    reference_labels,
)
from ecglm.evaluation.metrics.label_f1 import codes_in
from ecglm.evaluation.rewards.base import UNKNOWN, answered, reward


@reward("correct")
def correct(prompt: str, completion: str, row: Row) -> float:
    """1 where the answer is right as ``accuracy`` has it, else 0. Questions with a free text as answer: not computed.

    Several labels for one, and several numbers, are wrong.
    """
    if answer_kind(row) == "text":
        return UNKNOWN
    found = answered(prompt, completion, row)
    return 0.0 if found is None else float(is_correct(found))


@reward("f1")
def f1(prompt: str, completion: str, row: Row) -> float:
    """F1 of stated and gold labels; of a free text, of the SCP-ECG statements it makes. Number questions: not computed.

    ``2 |stated ∩ gold| / (|stated| + |gold|)``, 0 to 1. An answer that names every choice has chosen nothing: 0, unless
    all are right. A reference without any statement gives no reward.
    """
    kind = answer_kind(row)
    gold = codes_in(str(row["reference"])) if kind == "text" else reference_labels(row)
    if kind == "number" or not gold:
        return UNKNOWN
    found = answered(prompt, completion, row)
    if found is None:
        return 0.0
    stated = codes_in(found["prediction"]) if kind == "text" else predicted_labels(found)
    choices = frozenset(choices_of(row))
    if kind == "multi" and choices and choices <= stated and stated != gold:
        return 0.0
    return 2.0 * len(stated & gold) / (len(stated) + len(gold))
