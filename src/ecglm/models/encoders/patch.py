"""A plain transformer over patches of time, all leads at once, in the manner of ViT (arXiv 2010.11929)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.masked import SIZES, Block, checked_patch_size, initialise, positions, refit_positions

#: Root mean square of an ECG in mV, roughly.
TYPICAL = 0.2


@registry.register("encoders", "patch")
class PatchTransformer(nn.Module):
    """``(batch, num_leads, num_samples)`` → ``(batch, num_samples / patch_size, dim)``, one token per stretch of time.

    A patch is projected as it is, so that its voltage is kept (MTAE's are normalised first); fixed sines tell its time;
    no class token. patch_size: samples; None for ECG-Bench's rule, 16 to 64 patches. size: ``tiny`` (128 wide, 4
    blocks), ``small`` (384, 12) or ``base`` (768, 12; with patches of 50 samples at 500 Hz the shape of GEM's ECG
    tower, arXiv 2503.06073). Raises TypeError for another size, or samples that the patch does not divide.
    """

    reads: ClassVar[str] = "signal"

    def __init__(self, *, num_leads: int, num_samples: int, size: str = "small", patch_size: int | None = None) -> None:
        super().__init__()
        if size not in SIZES:
            raise TypeError(f"no size '{size}'; known: {', '.join(SIZES)}")
        self.patch_size = checked_patch_size(num_samples, patch_size)
        self.num_tokens = num_samples // self.patch_size
        self.dim, depth, heads = SIZES[size]
        self.embed = nn.Linear(num_leads * self.patch_size, self.dim)
        self.pos_embedding: torch.Tensor
        self.register_buffer("pos_embedding", positions(self.num_tokens, self.dim, 0, 0))
        self.blocks = nn.Sequential(*[Block(self.dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(self.dim)
        initialise(self)
        values = num_leads * self.patch_size
        nn.init.normal_(self.embed.weight, std=values**-0.5 / TYPICAL)  # patches begin at the scale of their positions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = x.unflatten(2, (self.num_tokens, self.patch_size)).transpose(1, 2).flatten(2)
        tokens: torch.Tensor = self.norm(self.blocks(self.embed(patches) + self.pos_embedding))
        return tokens

    def fit_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights learned on ECGs of another length: positions are fixed, and made anew."""
        found = dict(weights)
        if "pos_embedding" in found:
            found["pos_embedding"] = refit_positions(found["pos_embedding"], self.pos_embedding, 0, 0)
        return found
