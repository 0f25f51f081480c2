"""The baseline of every table: an encoder with random weights that never learn (arXiv 2602.17531)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.base import build_encoder, reads


@registry.register("encoders", "random")
class RandomEncoder(nn.Module):
    """``(batch, num_leads, num_samples)`` → what the encoder ``of`` gives with the weights it begins with.

    Under linear probes random weights come close to many that were pretrained: a pretrained encoder is worth what it
    gives beyond this one. of: the name of any encoder that reads a signal. options: its options. seed: of its weights,
    the same in every process; they are part of a checkpoint. It stays in evaluation mode. Raises TypeError for an
    encoder that reads something else or has no weights to draw.
    """

    reads: ClassVar[str] = "signal"
    frozen: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_leads: int,
        num_samples: int,
        of: str = "resnet1d",
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        kind = registry.get("encoders", of)
        if reads(of) != "signal" or getattr(kind, "frozen", False):
            fitting = [
                name
                for name in registry.names("encoders")
                if reads(name) == "signal" and not getattr(registry.get("encoders", name), "frozen", False)
            ]
            raise TypeError(f"of must name an encoder of signals that can learn ({', '.join(fitting)}), found '{of}'")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = build_encoder(of, input_shape=(num_leads, num_samples), options=dict(options or {}))
        self.requires_grad_(False).eval()
        self.dim = int(self.encoder.dim)  # type: ignore[arg-type]
        self.num_tokens = int(self.encoder.num_tokens)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> RandomEncoder:
        """Always evaluation mode: batch statistics and dropout must not move."""
        super().train(False)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.encoder(x)
        return tokens
