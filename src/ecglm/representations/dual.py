"""The ECG twice: as a signal and, behind it, as a picture, each for an encoder of its own (GEM, arXiv 2503.06073)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.randomness import generator_for
from ecglm.representations.base import Representation
from ecglm.types import EcgInput

SIGNAL, IMAGE = "signal", "image"


class Dual(Representation):
    """Two representations of one segment: the signal's placeholders, then the picture's.

    signal, image: what gives each tensor. modality_dropout: the share of training ECGs that are shown without one of
    the two, at even odds which (as arXiv 2602.04279 does, so that either may be missing in use).
    """

    name: ClassVar[str] = "dual"
    gives: ClassVar[str | None] = SIGNAL
    placeholder = "<ecg_token>"
    image_placeholder = "<ecg_image>"
    added_tokens = (placeholder, image_placeholder)

    def __init__(self, signal: Representation, image: Representation, modality_dropout: float = 0.0) -> None:
        if (signal.gives, image.gives) != (SIGNAL, IMAGE):
            raise ConfigError("two encoders read a signal and a picture: name one representation that gives each")
        if not 0 <= modality_dropout <= 1:
            raise ConfigError(f"modality_dropout must lie between 0 and 1, found {modality_dropout}")
        self.signal: Any = signal
        self.image: Any = image
        self.modality_dropout = modality_dropout
        self.num_tokens = _fixed(signal) + _fixed(image)

    def __getattr__(self, name: str) -> Any:
        if name == "signal" or name.startswith("__"):  # while a copy is made
            raise AttributeError(name)
        return getattr(self.signal, name)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the signal."""
        return self.signal.input_shape

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """Both. EcglmError where one of them cannot use the segment."""
        return self._joined(self.signal(segment, rate), self.image(segment, rate))

    def in_training(self, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> EcgInput:
        """Both as training shows them, or one of them alone, decided by the seed and the row (and epoch) alone."""
        shown = self._joined(
            *(part.in_training(segment, rate, seed=seed, row_id=row_id) for part in (self.signal, self.image))
        )
        if self.modality_dropout == 0:
            return shown
        drawn = generator_for(seed, "modality", row_id).random()
        if drawn >= self.modality_dropout:
            return shown
        return self.without(shown, SIGNAL if drawn < self.modality_dropout / 2 else IMAGE)

    def without(self, shown: EcgInput, modality: str) -> EcgInput:
        """An ECG of this representation without its ``signal`` or its ``image``: neither tensor nor placeholders."""
        if modality == SIGNAL:
            return replace(shown, token_ids=shown.token_ids[shown.token_ids != 0], tensor=None)
        return replace(shown, token_ids=shown.token_ids[shown.token_ids != 1], image=None)

    def _joined(self, signal: EcgInput, image: EcgInput) -> EcgInput:
        ids = np.r_[np.zeros(len(signal.token_ids), np.int64), np.ones(len(image.token_ids), np.int64)]
        return replace(signal, token_ids=ids, image=image.tensor, truncated=(*signal.truncated, *image.truncated))

    def spread(self, weights: np.ndarray, segment: np.ndarray, rate: int) -> np.ndarray | None:
        """None: the picture's tokens stand for patches, and there is no one map for both."""
        return None

    def config(self) -> dict[str, Any]:
        """Both configs, and the dropout."""
        return {
            "name": self.name,
            "signal": self.signal.config(),
            "image": self.image.config(),
            "modality_dropout": self.modality_dropout,
        }

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """The files of the signal in ``folder``, those of the picture in a folder ``image`` below, if there are any."""
        below = Path(folder) / IMAGE
        below.mkdir(exist_ok=True)
        files = [*self.signal.save(folder), *(f"{IMAGE}/{name}" for name in self.image.save(below))]
        if not any(below.iterdir()):
            below.rmdir()
        return files

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> Dual:
        """Rebuild both."""
        if set(config) != {"name", SIGNAL, IMAGE, "modality_dropout"}:
            raise ConfigError(f"representation '{cls.name}': signal, image and modality_dropout are needed, no more")
        parts = []
        for part, below in ((SIGNAL, folder), (IMAGE, None if folder is None else Path(folder) / IMAGE)):
            inner = config[part]
            if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
                raise ConfigError(f"representation '{cls.name}': {part} must be the config of a representation")
            parts.append(registry.get("representations", inner["name"]).from_config(inner, below))
        return cls(parts[0], parts[1], config["modality_dropout"])


def _fixed(representation: Representation) -> int:
    if representation.num_tokens is None:
        raise EcglmError(
            f"representation '{representation.name}' has no fixed number of tokens, as two encoders need it; use image"
        )
    return representation.num_tokens
