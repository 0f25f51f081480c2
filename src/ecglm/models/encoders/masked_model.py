"""Pretraining of masked encoders: show a quarter of the patches, predict the samples of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ecglm.models.encoders.masked import Block, MaskedEncoder, initialise, kept, positions, refit_positions

#: Size of the encoder → width, blocks, heads (of 64) of the decoder.
DECODERS = {"tiny": (64, 2, 1), "small": (256, 4, 4), "base": (256, 4, 4)}


@dataclass(frozen=True)
class MaskedOutput:
    """What a masked model says of a batch. loss: mean squared error over masked patches, a scalar. prediction, target:
    samples of every patch, ``(batch, …, patch_dim)``, ``…`` being (leads, patches) of ST-MEM, (patches,) of MTAE,
    (leads,) of MLAE. mask: ``(batch, …)``, true where a patch was hidden.
    """

    loss: torch.Tensor
    prediction: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor


class MaskedModel(nn.Module):
    """``encoder`` and a decoder that predicts hidden patches (arXiv 2111.06377, 2402.09450).

    mask_ratio: share of the patches of each group that are hidden. norm_target: predict each patch standardised by its
    own mean and standard deviation. The decoder reads each group by itself with the same weights, so that a lead of
    ST-MEM must be told from what the encoder took from the other leads. Names are those of the released checkpoints.
    """

    def __init__(self, encoder: MaskedEncoder, *, mask_ratio: float = 0.75, norm_target: bool = False) -> None:
        super().__init__()
        kept(encoder.num_patches, mask_ratio)
        self.mask_ratio, self.norm_target = mask_ratio, norm_target
        width, depth, heads = DECODERS[encoder.size]
        self.to_decoder_embedding = nn.Linear(encoder.dim, width)
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed: torch.Tensor
        self.register_buffer("decoder_pos_embed", positions(encoder.num_patches, width, encoder.before, encoder.after))
        self.decoder_blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_head = nn.Linear(width, encoder.patch_dim)
        initialise(self)
        self.encoder = encoder  # behind the initialisation: it has its own weights already

    def noise_shape(self, batch: int) -> tuple[int, int, int]:
        """Shape of the ``noise`` of a batch of so many ECGs: ``(batch, num_groups, num_patches)``."""
        return (batch, self.encoder.num_groups, self.encoder.num_patches)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> MaskedOutput:
        """x: ``(batch, num_leads, num_samples)``. noise: numbers of ``noise_shape``; the patches with the smallest of
        their group are shown. Without: uniform from torch's own generator.
        """
        shape = self.noise_shape(len(x))
        noise = torch.rand(shape, device=x.device) if noise is None else noise.to(x.device).reshape(shape)
        order = noise.argsort(dim=2, stable=True)
        shown = order[:, :, : kept(shape[2], self.mask_ratio)]
        mask = torch.ones(shape, dtype=torch.bool, device=x.device).scatter(2, shown, False)
        patches = self.encoder.patches(x)
        prediction = self.decode(self.encoder.norm(self.encoder.encode(patches, shown)), shown).float()
        target = self._target(patches.float())
        loss = (prediction - target).square().mean(dim=-1)[mask].mean()
        if type(self.encoder).after:
            return MaskedOutput(loss, prediction, target, mask)
        return MaskedOutput(loss, prediction.squeeze(1), target.squeeze(1), mask.squeeze(1))

    def decode(self, latent: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Samples ``(batch, num_groups, num_patches, patch_dim)`` of every patch, from what the encoder gives of those
        at the positions ``shown``, ``(batch, num_groups, before + n + after, dim)``.
        """
        batch, groups, num = self.noise_shape(len(latent))
        before, after = self.encoder.before, self.encoder.after
        x = self.to_decoder_embedding(latent)
        width = x.shape[-1]
        hidden = self.mask_embedding.to(x.dtype).expand(batch, groups, num, width)
        seen = x[:, :, before : x.shape[2] - after]
        filled = hidden.scatter(2, shown[..., None].expand(-1, -1, -1, width), seen)
        x = torch.cat([x[:, :, :before], filled, x[:, :, x.shape[2] - after :]], dim=2) + self.decoder_pos_embed
        x = x.flatten(0, 1)
        for block in self.decoder_blocks:
            x = block(x)
        out: torch.Tensor = self.decoder_head(self.decoder_norm(x))[:, before : before + num]
        return out.unflatten(0, (batch, groups))

    def _target(self, patches: torch.Tensor) -> torch.Tensor:
        if not self.norm_target:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def fit_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of another ECG length as they are for this one, in the encoder and in the decoder."""
        own = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
        found = {k: v for k, v in weights.items() if not k.startswith("encoder.")}
        found |= {f"encoder.{k}": v for k, v in self.encoder.fit_weights(own).items()}
        if "decoder_pos_embed" in found:
            found["decoder_pos_embed"] = refit_positions(
                found["decoder_pos_embed"], self.decoder_pos_embed, self.encoder.before, self.encoder.after
            )
        return found
