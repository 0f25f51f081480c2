"""The ECG as a signal: a tensor for an encoder, and placeholders where the connector's output goes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ecglm.config import from_dict
from ecglm.errors import EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import (
    BuildContext,
    RecipeOptions,
    Representation,
    check_leads,
    reduce_rate,
    select_leads,
    spread_evenly,
)
from ecglm.representations.normalise import MODES, normalise, pair_problem, percentile_range, read_amplitudes
from ecglm.types import LEADS, EcgInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignalOptions(RecipeOptions):
    """Show the ECG as a signal through an encoder. leads: all twelve, or these. rate: Hz, None keeps the store's.
    normalise: ``none`` keeps millivolts; ``instance``, ``percentile``, ``lead_zscore`` or ``record_zscore``.
    percentiles: the file of ``ecglm store percentiles``, of training ECGs, for ``percentile``.
    """

    leads: tuple[str, ...] = ()
    rate: int | None = None
    num_tokens: int = 25
    normalise: str = "none"
    percentiles: str | None = None

    def __post_init__(self) -> None:
        if problem := pair_problem(self.normalise, self.percentiles, "signal.normalise", "signal.percentiles"):
            raise ValueError(problem)

    def files(self) -> dict[str, str]:
        """The percentiles, where they are named."""
        return {"percentiles": self.percentiles} if self.percentiles else {}


@register("representations", "signal")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SignalRepresentation(Representation):
    """Leads as float32 ``(num_leads, num_samples)``.

    num_tokens: placeholders per ECG, one for each vector the connector gives. num_samples: samples per lead that
    the encoder reads, after ``rate`` has been applied (2500: 10 s at 250 Hz). rate: Hz to reduce to, a divisor of the
    segment's rate, anti-aliased; None keeps the segment's. leads: which rows, in this order. normalise: a mode of
    ``normalise.MODES``; the default keeps millivolts, since voltage is itself a finding (hypertrophy, low voltage).
    percentiles: p1 and p99 in mV, for that mode alone.
    """

    name: ClassVar[str] = "signal"
    gives: ClassVar[str] = "signal"
    Options: ClassVar[type[RecipeOptions]] = SignalOptions

    num_tokens: int = 25
    num_samples: int = 2500
    rate: int | None = None
    leads: tuple[str, ...] = LEADS
    normalise: str = "none"
    percentiles: tuple[float, float] | None = None
    placeholder: str = "<ecg_token>"

    def __post_init__(self) -> None:
        check_leads(self.leads)
        for field in ("num_tokens", "num_samples"):
            if getattr(self, field) < 1:
                raise EcglmError(f"{field}: must be at least 1, not {getattr(self, field)}")
        if self.normalise not in MODES:
            near = nearest(self.normalise, MODES)
            raise EcglmError(f"normalise: no mode '{self.normalise}'{near}; known: {', '.join(MODES)}")
        if self.normalise == "percentile":
            percentile_range(self._percentiles())
        if not self.placeholder:
            raise EcglmError("placeholder: must not be empty")

    @property
    def added_tokens(self) -> tuple[str, ...]:  # type: ignore[override]
        """The placeholder alone."""
        return (self.placeholder,)

    @property
    def input_shape(self) -> tuple[int, int]:
        """``(num_leads, num_samples)``."""
        return (len(self.leads), self.num_samples)

    def _percentiles(self) -> dict[str, float] | None:
        return None if self.percentiles is None else {"p1": self.percentiles[0], "p99": self.percentiles[1]}

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: ``(12, num_samples)`` in mV at ``rate`` Hz, canonical leads. EcglmError for another shape or NaN."""
        signal = reduce_rate(select_leads(segment, self.leads), rate, self.rate)
        if signal.shape[1] != self.num_samples:
            raise EcglmError(
                f"num_samples: the model reads {self.num_samples} samples per lead at {self.rate or rate} Hz, the "
                f"segment has {signal.shape[1]}; prepare segments of that length, or set num_samples"
            )
        tensor = np.ascontiguousarray(normalise(signal, self.normalise, self._percentiles()))
        return EcgInput(np.zeros(self.num_tokens, np.int64), tensor)

    def spread(self, weights: np.ndarray, segment: np.ndarray, rate: int) -> np.ndarray:
        """Placeholder k of N stands for the k-th of N equal shares of the time, in all shown leads alike."""
        num_samples = segment.shape[1]
        edges = np.linspace(0, num_samples, weights.shape[-1] + 1)
        out = np.zeros((*weights.shape[:-1], len(LEADS), num_samples))
        shown = [LEADS.index(lead) for lead in self.leads]
        out[..., shown, :] = spread_evenly(weights, edges, num_samples)[..., None, :] / len(shown)
        return out

    @classmethod
    def from_recipe(cls, options: SignalOptions, context: BuildContext) -> SignalRepresentation:
        """As many samples as the run's segments have at the rate asked for."""
        amplitudes, _ = read_amplitudes(options.normalise, options.percentiles)
        rate = options.rate or context.rate
        return cls(
            num_tokens=options.num_tokens,
            num_samples=round(context.seg_len * rate / context.rate),
            rate=options.rate,
            leads=options.leads or LEADS,
            normalise=options.normalise,
            percentiles=None if amplitudes is None else (amplitudes["p1"], amplitudes["p99"]),
        )

    def config(self) -> dict[str, Any]:
        """Every option, and the name."""
        values = dataclasses.asdict(self)
        values["leads"] = list(self.leads)
        values["percentiles"] = None if self.percentiles is None else list(self.percentiles)
        return {"name": self.name, **values}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None
    ) -> SignalRepresentation:
        """Rebuild from ``config()``; ConfigError for an unknown key or a wrong type."""
        return from_dict(cls, {k: v for k, v in config.items() if k != "name"}, "representation 'signal'")
