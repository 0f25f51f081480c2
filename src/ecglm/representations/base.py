"""What every representation offers, how one is rebuilt from its config, and the two steps several share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.signal import resample_poly

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.types import LEADS, EcgInput


class Representation(ABC):
    """Turns a segment into what the model reads: input ids, and a tensor where an encoder reads it.

    name: as registered. added_tokens: the texts the LLM's tokenizer gets, in the order ``EcgInput.token_ids`` counts
    them. placeholder: the added token whose embedding the encoder's output replaces, or None. num_tokens: ids per
    ECG, or None where it varies. input_shape: shape of ``EcgInput.tensor``, or None where there is no tensor.
    """

    name: ClassVar[str]
    added_tokens: tuple[str, ...]
    placeholder: str | None
    num_tokens: int | None

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the tensor of one ECG, or None."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able; with the files of ``save`` it is all that ``build_representation`` needs."""

    @abstractmethod
    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: float32 ``(12, num_samples)`` in mV, canonical leads, at ``rate`` Hz. EcglmError if unusable."""

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write what does not fit into the config to ``folder``; returns the names of the files."""
        return []

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None) -> Representation:
        """Rebuild from ``config()`` and the folder that ``save`` wrote to."""


def build_representation(config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> Representation:
    """The representation a ``config()`` describes; ``folder`` is where its ``save`` put side files, if any.

    Raises ConfigError for an unknown name or key, EcglmError for a missing or other side file.
    """
    if not isinstance(config.get("name"), str):
        raise ConfigError("representation: key 'name' is missing")
    kind = registry.get("representations", config["name"])
    return kind.from_config(config, Path(folder) if folder is not None else None)


def check_leads(leads: Sequence[str]) -> tuple[str, ...]:
    """Lead names as a tuple; EcglmError when there is none, one is unknown, or one stands twice."""
    if not leads:
        raise EcglmError("leads: at least one lead is needed")
    for lead in leads:
        if lead not in LEADS:
            raise EcglmError(f"leads: no lead '{lead}'{nearest(lead, LEADS)}; known: {', '.join(LEADS)}")
    if len(set(leads)) != len(leads):
        raise EcglmError(f"leads: a lead stands twice in {', '.join(leads)}")
    return tuple(leads)


def select_leads(segment: np.ndarray, leads: Sequence[str]) -> np.ndarray:
    """The named rows of a canonical segment ``(12, num_samples)``; EcglmError for another shape."""
    segment = np.asarray(segment)
    if segment.ndim != 2 or segment.shape[0] != len(LEADS) or segment.shape[1] == 0:
        raise EcglmError(
            f"a segment of shape (12, num_samples) in canonical lead order is needed, found {segment.shape}; "
            "ecglm.preprocess makes one from a record"
        )
    if tuple(leads) == LEADS:
        return segment
    return segment[[LEADS.index(lead) for lead in leads]]


def reduce_rate(segment: np.ndarray, rate: int, target: int | None) -> np.ndarray:
    """``(num_leads, num_samples)`` at ``rate`` Hz → float32 at ``target`` Hz, by a whole factor, zero-phase,
    anti-aliased.

    Raises EcglmError when ``target`` is not a divisor of ``rate`` (``None`` keeps the rate) or a sample is not finite.
    """
    if target is None or target == rate:
        return np.asarray(segment, np.float32)
    if target < 1 or rate % target:
        raise EcglmError(f"rate: cannot reduce {rate} Hz to {target} Hz; the target must divide {rate}")
    if not np.isfinite(segment).all():
        raise EcglmError("ECG signal holds NaN or infinity; choose a NaN policy in the pipeline that made it")
    # the ends of a lead continue at their own level, so that an offset makes no step there
    reduced = resample_poly(np.asarray(segment, np.float64), 1, rate // target, axis=-1, padtype="line")
    return reduced.astype(np.float32)
