"""Scores over seeds: mean, standard deviation and t-interval, for decoding seeds and for training seeds apart.

A decoding seed changes only how answers are drawn from one model; a training seed makes another model. Neither interval
says anything about other patients, and the patient bootstrap says nothing about other seeds: they are never merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from ecglm.evaluation.metrics.base import Metric
from ecglm.evaluation.resampling import Measured
from ecglm.evaluation.statistics import clean


def over_seeds(values: Mapping[Any, float | None]) -> dict[str, Any]:
    """Seed → score as ``mean``, ``sd`` (n − 1), ``low`` and ``high`` = mean ∓ t(0.975, n − 1) · sd / √n, ``n``.

    ``values`` keeps the single scores. All but the values and ``n`` are None where a seed's score is undefined; sd and
    interval are None with one seed.
    """
    given = [value for value in values.values() if value is not None]
    found: dict[str, Any] = {
        **{"mean": None, "sd": None, "low": None, "high": None, "n": len(values)},
        "values": {str(seed): value for seed, value in values.items()},
    }
    if not given or len(given) < len(values):
        return found
    mean = float(np.mean(given))
    found["mean"] = clean(mean)
    if len(given) > 1:
        sd = float(np.std(given, ddof=1))
        half = float(student_t.ppf(0.975, len(given) - 1)) * sd / np.sqrt(len(given))
        found |= {"sd": clean(sd), "low": clean(mean - half), "high": clean(mean + half)}
    return found


def decoding_seeds(
    seeds: Mapping[str, Sequence[int]], systems: Sequence[str], measured: Measured, metric: Metric
) -> dict[str, dict[str, Any]]:
    """``over_seeds`` of every system (condition) that was decoded with several seeds; others are left out.

    seeds: system → its decoding seeds. measured: of the systems in their order.
    """
    return {
        system: over_seeds(dict(zip(seeds[system], map(clean, metric.value(point)), strict=True)))
        for system, point in zip(systems, measured.point, strict=True)
        if len(seeds.get(system, ())) > 1
    }
