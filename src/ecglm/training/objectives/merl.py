"""MERL: an ECG is brought near its report, and two views of its features near each other (arXiv 2403.06659)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.functional import normalize

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.merl import Merl
from ecglm.training.objectives.base import Setting
from ecglm.training.objectives.contrastive import Contrastive, TextOptions, info_nce


@dataclass(frozen=True, kw_only=True)
class MerlOptions:
    """MERL, for encoders of signals. text: the text tower, frozen in the paper where it is a published one. dim: of the
    common space. temperature: fixed. dropout: between the two views of an ECG. same_text: what two ECGs of a batch with
    the same report are to each other: ``ignore``, nothing; ``negative``, as in the paper.
    """

    text: TextOptions = field(default_factory=TextOptions)
    dim: int = 256
    temperature: float = 0.07
    dropout: float = 0.1
    same_text: Literal["ignore", "negative"] = "ignore"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"merl.temperature must be above 0, found {self.temperature}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"merl.dropout must be at least 0 and below 1, found {self.dropout}")
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"merl.dim must be a multiple of 4, the heads of its attention pool, found {self.dim}")


@registry.register("objectives", "merl")
class MerlObjective(Contrastive):
    """``InfoNCE(ecg, text) + InfoNCE(view, view)``, each the sum of the means of both directions."""

    Options = MerlOptions

    def __init__(self, options: MerlOptions, setting: Setting) -> None:
        super().__init__(options, setting)
        if not hasattr(setting.encoder, "num_tokens"):
            raise ConfigError(
                f"objective 'merl' needs an encoder that says how many tokens it gives (num_tokens), which "
                f"{type(setting.encoder).__name__} does not; choose merl or st_mem"
            )
        self.text = options.text.build(frozen=True)
        self.model = Merl(setting.encoder, self.text, dim=options.dim, dropout=options.dropout)
        self.scale = 1.0 / options.temperature
        self.options = options

    def embeddings(self, found: Any) -> list[torch.Tensor]:
        return [normalize(x, dim=-1) for x in found]

    def gathered(
        self, found: Any, everyone: Sequence[torch.Tensor], same: torch.Tensor | None, world: int
    ) -> torch.Tensor:
        ecg, text, view1, view2 = everyone
        return info_nce(ecg, text, self.scale, same) + info_nce(view1, view2, self.scale)

    def facts(self) -> dict[str, Any]:
        return {"towers": "merl", "text": self.text.config(), "dim": self.options.dim, "dropout": self.options.dropout}
