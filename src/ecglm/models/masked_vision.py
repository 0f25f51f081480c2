"""Masked patches for a vision tower: a learned token stands where patches are hidden, a linear head tells their pixels.

The manner of SimMIM (arXiv 2111.09886): the tower itself reads the mask tokens, so that any family of it can learn this
way, with no decoder that would have to be thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ecglm.errors import ConfigError
from ecglm.models.encoders.masked import kept
from ecglm.models.encoders.masked_model import MaskedOutput
from ecglm.models.encoders.vision import VisionTower
from ecglm.models.encoders.vision_config import pair

#: Where the families keep the layer that makes a token of a patch.
_EMBEDDINGS = ("embeddings.patch_embeddings.projection", "embeddings.patch_embedding")


class MaskedVision(nn.Module):
    """``encoder``, its mask token and its head.

    mask_ratio: share of the patches that are hidden. norm_target: predict each patch standardised by its own mean and
    standard deviation. Raises ConfigError for a tower whose patches cannot be found.
    """

    def __init__(self, encoder: VisionTower, *, mask_ratio: float = 0.75, norm_target: bool = False) -> None:
        super().__init__()
        self.mask_ratio, self.norm_target = mask_ratio, norm_target
        patch = pair(encoder.config.patch_size)[0]
        self.patch = patch
        self.grid = (encoder.image_size[0] // patch, encoder.image_size[1] // patch)
        self.num_patches = self.grid[0] * self.grid[1]
        kept(self.num_patches, mask_ratio)
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.zeros(encoder.dim))
        self.head = nn.Linear(encoder.dim, 3 * patch * patch)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        names = dict(encoder.model.named_modules())
        found = next((names[name] for name in names if name.endswith(_EMBEDDINGS)), None)
        if found is None:
            raise ConfigError(f"encoder '{type(encoder).__name__}': its patches cannot be masked; choose another tower")
        self._hidden: torch.Tensor | None = None
        found.register_forward_hook(self._hide)

    def noise_shape(self, batch: int) -> tuple[int, int]:
        """Shape of the ``noise`` of a batch of so many pictures: ``(batch, num_patches)``."""
        return (batch, self.num_patches)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> MaskedOutput:
        """x: uint8 ``(batch, 3, height, width)``. noise: ``noise_shape``; the patches with the smallest are shown."""
        shape = self.noise_shape(len(x))
        noise = torch.rand(shape, device=x.device) if noise is None else noise.to(x.device).reshape(shape)
        shown = noise.argsort(dim=1, stable=True)[:, : kept(self.num_patches, self.mask_ratio)]
        mask = torch.ones(shape, dtype=torch.bool, device=x.device).scatter(1, shown, False)
        self._hidden = mask
        try:
            tokens = self.encoder(x)[:, -self.num_patches :]
        finally:
            self._hidden = None
        prediction = self.head(tokens).float()
        target = self._target(x)
        loss = (prediction - target).square().mean(dim=-1)[mask].mean()
        return MaskedOutput(loss, prediction, target, mask)

    def _hide(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        """The mask token in place of hidden patches, ``(batch, dim, rows, columns)`` or ``(batch, patches, dim)``."""
        if self._hidden is None:
            return None
        token = self.mask_token.to(output.dtype)
        if output.dim() == 4:
            return torch.where(self._hidden.unflatten(1, output.shape[2:])[:, None], token[:, None, None], output)
        return torch.where(self._hidden[..., None], token, output)

    def _target(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised pixels of each patch: ``(batch, num_patches, 3 * patch * patch)``."""
        rows, columns = self.grid
        pixels = self.encoder.normalise(x)[:, :, : rows * self.patch, : columns * self.patch]
        cut = pixels.unflatten(3, (columns, self.patch)).unflatten(2, (rows, self.patch))
        target = cut.permute(0, 2, 4, 3, 5, 1).reshape(len(x), self.num_patches, -1)
        if not self.norm_target:
            return target
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        return (target - mean) / (variance + 1e-6).sqrt()
