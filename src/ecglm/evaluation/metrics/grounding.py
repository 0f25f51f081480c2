"""Grounding: what a report says about measurements, checked against the measurements of that very ECG.

``claims_in`` finds statements about rate, PR, QRS, QT, QTc, axis and ST; ``holds`` checks each with the tolerances of
``claims.py``. Under every control the truth stays the patient's own ECG, so the gap tells whether the model reads it.
The measurements are ours (``signals/measured.py``), put into each row as ``measured`` by ``ecglm score --store``; what
they lack (a flat lead, no P wave) leaves a statement unchecked, neither right nor wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, answer_text, ratio
from ecglm.evaluation.metrics.claims import claims_in, holds
from ecglm.registry import register

_Counts = tuple[float, float, float]
#: What was counted in a row, by its identity, with what it was counted from: three metrics read the same rows.
_known: dict[int, tuple[Row, str, Any, _Counts]] = {}
_MAX_KNOWN = 1 << 18


def counts(rows: Sequence[Row]) -> np.ndarray:
    """Per row: statements that hold, that were checked, that could not be. ``(num_rows, 3)``."""
    if len(_known) + len(rows) > _MAX_KNOWN:
        _known.clear()
    table = np.zeros((len(rows), 3))
    for i, row in enumerate(rows):
        answer, measured = answer_text(row), row.get("measured")
        known = _known.get(id(row))
        if known is None or known[0] is not row or known[1] != answer or known[2] is not measured:
            known = _known[id(row)] = row, answer, measured, _count(answer, measured)
        table[i] = known[3]
    return table


def _count(answer: str, measured: Mapping[str, Any] | None) -> _Counts:
    held, checked, unchecked = 0, 0, 0
    for claim in claims_in(answer):
        agrees = holds(claim, measured) if measured else None
        held, checked, unchecked = held + (agrees is True), checked + (agrees is not None), unchecked + (agrees is None)
    return float(held), float(checked), float(unchecked)


def _share(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    """An answer that is empty or failed counts as one statement that does not hold."""
    table = counts(rows)[:, :2]
    table[[not answer_text(row) for row in rows], 1] = 1.0
    return table


def _coverage(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    return np.stack([counts(rows)[:, 1], np.ones(len(rows))], axis=1)


def _unchecked(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    table = counts(rows)
    return np.stack([table[:, 2], table[:, 1] + table[:, 2]], axis=1)


def _needs(rows: Sequence[Row]) -> str:
    if not any(row.get("measured") for row in rows):
        return "no measurements of the ECGs; give their store: ecglm score DIR --store STORE"
    return ""


GROUNDING = register("metrics", "grounding")(
    Metric(
        _share,
        ratio,
        kinds=("text",),
        needs=_needs,
        about="share of checked statements on rate, PR, QRS, QT, axis and ST that the ECG's own measurements confirm",
    )
)
GROUNDING_COVERAGE = register("metrics", "grounding_coverage")(
    Metric(
        _coverage,
        ratio,
        kinds=("text",),
        span=(0.0, math.inf),
        unit="statements",
        needs=_needs,
        about="checked statements per answer: how much the share of right ones rests on",
    )
)
GROUNDING_UNCHECKED = register("metrics", "grounding_unchecked")(
    Metric(
        _unchecked,
        ratio,
        kinds=("text",),
        higher_is_better=False,
        needs=_needs,
        about="share of statements about measurements that could not be checked",
    )
)
