"""MLAE: a masked autoencoder whose tokens are whole leads (MaeFE, IEEE 9980411)."""

from __future__ import annotations

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.masked import MaskedEncoder, initialise


@registry.register("encoders", "mlae")
class Mlae(MaskedEncoder):
    """``(batch, num_leads, num_samples)`` → ``(batch, num_leads, dim)``, one token per lead.

    Positions over the leads are fixed, a learned CLS comes before them. size: ``tiny``, ``small`` (384 wide) or
    ``base`` (768). Masked: whole leads. Its weights belong to one length of ECG.
    """

    def __init__(self, *, num_leads: int, num_samples: int, size: str = "base") -> None:
        super().__init__(num_groups=1, num_patches=num_leads, patch_dim=num_samples, size=size)
        self.cls_embedding = nn.Parameter(torch.zeros(self.dim))
        initialise(self)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, 1, num_leads, num_samples)``."""
        return x[:, None]

    def mark(self) -> torch.Tensor:
        """CLS."""
        return self.cls_embedding
