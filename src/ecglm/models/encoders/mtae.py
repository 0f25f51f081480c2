"""MTAE: a masked autoencoder whose tokens are all leads of one stretch of time (MaeFE, IEEE 9980411)."""

from __future__ import annotations

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.masked import MaskedEncoder, checked_patch_size, initialise


@registry.register("encoders", "mtae")
class Mtae(MaskedEncoder):
    """``(batch, num_leads, num_samples)`` → ``(batch, num_samples / patch_size, dim)``, one token per stretch of time.

    A patch holds ``patch_size`` times ``num_leads`` values, all leads of its first sample first. Positions over time
    are fixed, a learned CLS comes before them. patch_size: samples; None for ECG-Bench's rule. size: ``tiny``,
    ``small`` (384 wide) or ``base`` (768). Masked: stretches of time, in all leads at once.
    """

    def __init__(self, *, num_leads: int, num_samples: int, size: str = "base", patch_size: int | None = None) -> None:
        self.patch_size = checked_patch_size(num_samples, patch_size)
        num_patches, patch_dim = num_samples // self.patch_size, num_leads * self.patch_size
        super().__init__(num_groups=1, num_patches=num_patches, patch_dim=patch_dim, size=size)
        self.cls_embedding = nn.Parameter(torch.zeros(self.dim))
        initialise(self)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, 1, num_patches, patch_size * num_leads)``."""
        return x.transpose(1, 2).unflatten(1, (self.num_patches, -1)).flatten(2)[:, None]

    def mark(self) -> torch.Tensor:
        """CLS."""
        return self.cls_embedding
