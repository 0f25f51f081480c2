"""Reward for statements about measurements that the ECG's own measurements confirm."""

from __future__ import annotations

from ecglm.evaluation.metrics.base import Row
from ecglm.evaluation.metrics.claims import Claim, claims_in, holds
from ecglm.evaluation.rewards.base import UNKNOWN, reward, without_tags


@reward("grounded", measured=True)
def grounded(prompt: str, completion: str, row: Row) -> float:
    """Share of the quantities stated (rate, PR, QRS, QT, QTc, axis, ST) that hold on this ECG; 0 where none is stated.

    A quantity holds where every statement about it does, by the tolerances of the metric ``grounding``, and where no
    two different numbers are given for it. What the question itself says earns nothing. Statements that cannot be
    checked count neither way. An ECG without measurements: not computed.
    """
    measured = row.get("measured")
    if not measured:
        return UNKNOWN
    given = frozenset(claims_in(prompt))
    found: dict[str, list[tuple[Claim, bool]]] = {}
    for claim in claims_in(without_tags(completion)):
        if claim not in given and (agrees := holds(claim, measured)) is not None:
            found.setdefault(claim.quantity, []).append((claim, agrees))
    right = sum(_is_right(claims) for claims in found.values())
    return right / len(found) if found else 0.0


def _is_right(claims: list[tuple[Claim, bool]]) -> bool:
    numbers = {claim.value for claim, _ in claims if claim.value is not None}
    return len(numbers) <= 1 and all(agrees for _, agrees in claims)
