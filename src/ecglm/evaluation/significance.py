"""Two systems on the same patients: permutation test, Holm correction, and the smallest gap so many patients can show.

Everything works on additive statistics (``metrics/base.py``) summed per patient, so that a test of any metric is one
matrix product. Patients, not rows, are what is exchanged, since the rows of one patient are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import norm

from ecglm.evaluation.statistics import clean
from ecglm.randomness import generator_for

#: Drawn exchanges of the Monte Carlo test. With so few patients that all exchanges are no more, all are tried.
NUM_DRAWS = 9999
#: The power and the two-sided level that ``detectable_gap`` is stated for.
POWER, LEVEL = 0.80, 0.05

_BLOCK = 4_000_000  # exchanges worked on at once
_TIE = 1e-12


def permutation_test(
    first: np.ndarray,
    second: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> float | None:
    """Two-sided p of ``value(first) − value(second)`` under exchange of the two systems' answers, patient by patient.

    first, second: summed statistics ``(num_patients, k)`` of the two systems on the same rows. If the systems were
    alike, each patient's answers could as well have come the other way round. Patients whose sums agree cannot change
    anything and are left alone. Where the 2^m exchanges of the m others are at most ``num_draws`` + 1, all of them are
    tried (p = share as extreme as found); else ``num_draws`` are drawn and p = (b + 1) / (num_draws + 1), b of them as
    extreme (arXiv 1603.05766). An exchange that leaves the metric undefined counts as extreme. None where the
    difference itself is undefined.
    """
    differ = np.flatnonzero(np.any(first != second, axis=1))
    totals, change = (first.sum(axis=0), second.sum(axis=0)), (second - first)[differ]
    observed = float(value(totals[0]) - value(totals[1]))
    if np.isnan(observed):
        return None
    if not len(differ):
        return 1.0
    exact = len(differ) < 60 and 2 ** len(differ) <= num_draws + 1
    total = 2 ** len(differ) if exact else num_draws
    generator = generator_for(seed, "permutation")
    width = -(-len(differ) // 8)
    extreme, block = 0, max(1, _BLOCK // len(differ))
    for start in range(0, total, block):
        size = min(block, total - start)
        if exact:
            swapped: np.ndarray = (np.arange(start, start + size)[:, None] >> np.arange(len(differ))) & 1
        else:
            drawn = np.frombuffer(generator.bytes(size * width), dtype=np.uint8).reshape(size, width)
            swapped = np.unpackbits(drawn, axis=1)[:, : len(differ)]
        moved = swapped.astype(np.float64) @ change
        found = value(totals[0] + moved) - value(totals[1] - moved)
        least = abs(observed) - _TIE * max(1.0, abs(observed))
        extreme += int(np.count_nonzero(np.isnan(found) | (np.abs(found) >= least)))
    return extreme / total if exact else (extreme + 1) / (num_draws + 1)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction of several p-values; None stays None and is not counted.

    The i-th smallest of m is multiplied by m − i + 1; none may be smaller than one before it, nor above 1.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for i, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - i) * p))
        adjusted[name] = largest
    return adjusted


def detectable_gap(differences: np.ndarray) -> float | None:
    """The true gap that a two-sided 5 % test on this many patients finds with 80 % power: (z.975 + z.80) · sd.

    differences: the paired difference of two systems on every bootstrap resample of the patients ``(num_resamples,)``;
    sd is theirs: the standard error of the difference, taken as normal. None where it is undefined or never moves but
    for rounding (one patient, or systems that answer alike).
    """
    known = differences[~np.isnan(differences)]
    if known.size < 2 or (sd := float(known.std(ddof=1))) <= _TIE * max(1.0, float(np.abs(known).max())):
        return None
    return clean(float(norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * sd)
