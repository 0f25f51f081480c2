"""One item's grading as numbers: a value per criterion, and their mean where they have one."""

from __future__ import annotations

from collections.abc import Sequence

from ecglm.evaluation.judge.reply import Grading
from ecglm.evaluation.judge.rubric import Criterion, Rubric

#: The mean of all criteria, each in percent of its scale.
OVERALL = "overall"


def value_of(criterion: Criterion, scores: Sequence[float]) -> float:
    """One criterion of one item as a number: the score itself, the share of the highest sum in percent, or the sum."""
    high = criterion.scale[1]
    if criterion.entries == "one":
        return scores[0]
    if criterion.value == "sum":
        return min(sum(scores), high * (criterion.total or len(scores)))
    whole = high * (criterion.total or len(scores))
    return 100.0 * min(sum(scores), whole) / whole


def values_of(rubric: Rubric, grading: Grading | None) -> dict[str, float]:
    """Every criterion's value, and their mean in percent of the scales where they have one; None: the lowest of all."""
    scores = {c.name: [e.score for e in grading[c.name]] if grading else None for c in rubric.criteria}
    found = {}
    for c in rubric.criteria:
        given = scores[c.name]
        found[c.name] = value_of(c, given) if given is not None else (c.scale[0] if c.entries == "one" else 0.0)
    if rubric.has_overall:
        parts = [(found[c.name] - c.scale[0]) / (c.scale[1] - c.scale[0]) for c in rubric.criteria]
        found[OVERALL] = 100.0 * sum(parts) / len(parts)
    return found
