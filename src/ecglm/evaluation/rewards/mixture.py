"""Several rewards, weighted, as one number for each answer; what cannot be computed drops out and is counted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.metrics.base import Row


class Mixture:
    """``weights``: name → weight above 0. ConfigError for a reward nobody knows, another weight, and none at all."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights:
            known = ", ".join(registry.names("rewards"))
            raise ConfigError(f"no reward is named; give one or more as NAME or NAME:WEIGHT of {known}")
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(f"reward {name}: the weight must be above 0, found {weight}")
        self.weights = {name: float(weight) for name, weight in sorted(weights.items())}
        self.rewards = {name: registry.get("rewards", name) for name in self.weights}

    @classmethod
    def of(cls, texts: Sequence[str]) -> Mixture:
        """Of ``NAME`` (weight 1) or ``NAME:WEIGHT``; ConfigError for other texts and a name that stands twice."""
        weights: dict[str, float] = {}
        for text in texts:
            name, colon, weight = text.partition(":")
            if name in weights:
                raise ConfigError(f"reward {name} stands twice; name it once")
            try:
                weights[name] = float(weight) if colon else 1.0
            except ValueError as error:
                raise ConfigError(f"reward {text!r}: NAME:WEIGHT with a number is needed") from error
        return cls(weights)

    @property
    def needs_measured(self) -> bool:
        """Whether rows need ``measured``."""
        return any(getattr(function, "measured", False) for function in self.rewards.values())

    def sources(self) -> dict[str, str]:
        """Name → source text of each reward's module: what tells one version of a reward from another."""
        return {name: _source(inspect.unwrap(function)) for name, function in self.rewards.items()}

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row], num_samples: int = 1
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """``(total, parts)``: the weighted sum of each completion, and each reward without its weight, ``(n,)``.

        num_samples: so many completions in a row answer the same question. A reward that is NaN for one of them drops
        out for all of them, so that they are compared by the same rewards: it is NaN in ``parts``. Where all drop out
        ``total`` is NaN. EcglmError for a reward function that gives too few numbers, or an infinite one.
        """
        parts = {name: self._score(name, prompts, completions, rows, num_samples) for name in self.weights}
        stacked = np.stack([weight * parts[name] for name, weight in self.weights.items()])
        total = np.where(np.isnan(stacked).all(axis=0), np.nan, np.nansum(stacked, axis=0))
        return total, parts

    def _score(
        self, name: str, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row], num_samples: int
    ) -> np.ndarray:
        given: Any = self.rewards[name](prompts, completions, rows)
        found = np.asarray(given, dtype=np.float64)
        if found.shape != (len(completions),) or np.isinf(found).any():
            raise EcglmError(
                f"reward {name}: gives {found.shape} numbers for {len(completions)} answers, or an infinite one; one "
                "finite number each, or NaN where it cannot be computed"
            )
        groups = found.reshape(-1, num_samples).copy()
        groups[np.isnan(groups).any(axis=1)] = np.nan
        return groups.reshape(-1)


def _source(function: Any) -> str:
    """Of the module of a function; its name where there is none, as in a console."""
    try:
        return inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        return str(function.__qualname__)
