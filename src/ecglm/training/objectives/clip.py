"""CLIP and SigLIP: an ECG, as a picture or a signal, is brought near its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ecglm import registry
from ecglm.models.two_towers import TwoTowers
from ecglm.training.objectives.base import Setting
from ecglm.training.objectives.contrastive import Contrastive, TextOptions, info_nce, shared, sigmoid_loss


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """CLIP. text: the text tower; a published one learns on. dim: of the common space. temperature: where it begins; it
    is learned. same_text: what two ECGs of a batch with the same report are to each other: ``ignore``, nothing;
    ``negative``, as in the paper.
    """

    text: TextOptions = field(default_factory=TextOptions)
    dim: int = 512
    temperature: float = 0.07
    same_text: Literal["ignore", "negative"] = "ignore"

    def __post_init__(self) -> None:
        _check(self, "clip")


@dataclass(frozen=True, kw_only=True)
class SiglipOptions:
    """SigLIP. text: the text tower; a published one learns on, and reads its 64 tokens without a mask, as it was
    trained. dim: of the common space. temperature, bias: where they begin; they are learned. same_text: as for clip.
    """

    text: TextOptions = field(default_factory=TextOptions)
    dim: int = 768
    temperature: float = 0.1
    bias: float = -10.0
    same_text: Literal["ignore", "negative"] = "ignore"

    def __post_init__(self) -> None:
        _check(self, "siglip")


def _check(options: ClipOptions | SiglipOptions, name: str) -> None:
    if not 0.01 <= options.temperature <= 100:
        raise ValueError(f"{name}.temperature must lie between 0.01 and 100, found {options.temperature}")
    if options.dim < 1:
        raise ValueError(f"{name}.dim must be 1 or more, found {options.dim}")


class _Towers(Contrastive):
    """What both share: two towers whose output names scale and bias."""

    bias: float | None = None

    def __init__(self, options: Any, setting: Setting) -> None:
        super().__init__(options, setting)
        self.text = options.text.build(frozen=False)
        self.begin = {"dim": options.dim, "temperature": options.temperature, "bias": getattr(options, "bias", None)}
        self.model = TwoTowers(setting.encoder, self.text, **self.begin)

    def embeddings(self, found: Any) -> list[torch.Tensor]:
        return [found.ecg, found.text]

    def facts(self) -> dict[str, Any]:
        return {"towers": "two", "text": self.text.config(), **self.begin}


@registry.register("objectives", "clip")
class Clip(_Towers):
    """The mean of both directions of InfoNCE, with a learned temperature (arXiv 2103.00020)."""

    Options = ClipOptions

    def gathered(
        self, found: Any, everyone: Sequence[torch.Tensor], same: torch.Tensor | None, world: int
    ) -> torch.Tensor:
        ecg, text = everyone
        return 0.5 * info_nce(ecg, text, shared(found.scale, world), same)


@registry.register("objectives", "siglip")
class Siglip(_Towers):
    """Every pair of the batch judged on its own: matched or not (arXiv 2303.15343)."""

    Options = SiglipOptions

    def gathered(
        self, found: Any, everyone: Sequence[torch.Tensor], same: torch.Tensor | None, world: int
    ) -> torch.Tensor:
        ecg, text = everyone
        return sigmoid_loss(ecg, text, shared(found.scale, world), shared(found.bias, world), same)
