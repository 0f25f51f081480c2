"""Reward for a number near the right one."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import TOLERANCES, Row, answer_kind, number_error, number_in, quantity
from ecglm.evaluation.rewards.base import UNKNOWN, answered, reward

#: So many tolerances away an answer earns nothing.
_FAR = 3.0


@reward("near_number")
def near_number(prompt: str, completion: str, row: Row) -> float:
    """1 within the tolerance of the quantity (5 bpm, 20 or 40 ms, 15°), from there down to 0 at three times as far.

    0 for an answer that states no number or several different ones. Other questions than for a number: not computed.
    """
    if answer_kind(row) != "number" or number_in(str(row["reference"])) is None:
        return UNKNOWN
    found = answered(prompt, completion, row)
    error = None if found is None else number_error(found)
    if error is None:
        return 0.0
    tolerances = error / TOLERANCES[quantity(row)]
    return min(1.0, max(0.0, (_FAR - tolerances) / (_FAR - 1.0)))
