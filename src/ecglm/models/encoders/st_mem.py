"""ST-MEM: a masked autoencoder whose tokens are one lead by one stretch of time (arXiv 2402.09450)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.masked import MaskedEncoder, checked_patch_size, initialise


@registry.register("encoders", "st_mem")
class StMem(MaskedEncoder):
    """``(batch, num_leads, num_samples)`` → ``(batch, num_leads * num_samples / patch_size, dim)``, lead after lead.

    Positions over time are fixed; a learned SEP stands at both ends of each lead, and a learned embedding per lead is
    added to all its tokens. patch_size: samples; None for ECG-Bench's rule. size: ``tiny``, ``small`` (384 wide) or
    ``base`` (768). Masked: patches of each lead by themselves.
    """

    after: ClassVar[int] = 1

    @property
    def grid(self) -> tuple[int, int]:
        """(leads, stretches of time) of the tokens: fewer of them are means over all leads of a time first."""
        return self.num_groups, self.num_patches

    def __init__(self, *, num_leads: int, num_samples: int, size: str = "base", patch_size: int | None = None) -> None:
        patch = checked_patch_size(num_samples, patch_size)
        super().__init__(num_groups=num_leads, num_patches=num_samples // patch, patch_dim=patch, size=size)
        self.sep_embedding = nn.Parameter(torch.zeros(self.dim))
        self.lead_embeddings = nn.ParameterList([nn.Parameter(torch.zeros(self.dim)) for _ in range(num_leads)])
        initialise(self)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, num_leads, num_patches, patch_size)``."""
        return x.unflatten(2, (self.num_patches, self.patch_dim))

    def mark(self) -> torch.Tensor:
        """SEP."""
        return self.sep_embedding

    def framed(self, x: torch.Tensor) -> torch.Tensor:
        """The lead's embedding is added to its SEPs too."""
        return super().framed(x) + torch.stack(list(self.lead_embeddings))[None, :, None]
