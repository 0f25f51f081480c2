"""What the masked encoders share: patches, fixed positions, transformer blocks, features without a mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from ecglm.models.encoders.masked_model import MaskedModel

#: Size → width, blocks, heads (of 64), as in the papers; ``tiny`` is ours, for tests and a CPU.
SIZES = {"tiny": (128, 4, 2), "small": (384, 12, 6), "base": (768, 12, 12)}
HEAD_DIM = 64
FEWEST, MOST, WANTED = 16, 64, 32


def patch_size_of(num_samples: int) -> int:
    """Samples per patch by ECG-Bench's rule: 16 to 64 patches, as close to 32 as the divisors of ``num_samples`` allow.

    The smaller patch of two that are equally close. Raises TypeError when no divisor gives 16 to 64 patches.
    """
    fitting = [p for p in range(1, num_samples + 1) if num_samples % p == 0 and FEWEST <= num_samples // p <= MOST]
    if not fitting:
        raise TypeError(
            f"{num_samples} samples cannot be cut into {FEWEST} to {MOST} equal patches; give patch_size, or prepare "
            "segments of another length"
        )
    return min(fitting, key=lambda p: abs(num_samples // p - WANTED))


def checked_patch_size(num_samples: int, patch_size: int | None) -> int:
    """``patch_size``, or the rule's; TypeError naming the nearest lengths when it does not divide ``num_samples``."""
    if patch_size is None:
        return patch_size_of(num_samples)
    if patch_size < 1:
        raise TypeError(f"patch_size must be 1 or more, found {patch_size}")
    if num_samples % patch_size:
        below = num_samples // patch_size * patch_size
        near = " or ".join(str(n) for n in (below, below + patch_size) if n)
        raise TypeError(
            f"{num_samples} samples are no multiple of patch_size {patch_size}; prepare segments of {near} samples "
            "(--seg-len)"
        )
    return patch_size


def sin_cos(num: int, dim: int) -> torch.Tensor:
    """Fixed positions 0 to ``num - 1``: sines in the first half of ``dim``, cosines behind (arXiv 1706.03762)."""
    rates = torch.pow(10000.0, -torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.arange(num, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def positions(num: int, dim: int, before: int, after: int) -> torch.Tensor:
    """``(1, before + num + after, dim)``: ``sin_cos`` for the patches, zeros for the marks beside them."""
    return torch.cat([torch.zeros(before, dim), sin_cos(num, dim), torch.zeros(after, dim)])[None]


def refit_positions(found: torch.Tensor, own: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """``found``, or, where it holds fixed positions for another number of patches, the same ones for ``own``'s.

    Marks may have zeros, or be counted like patches.
    """
    if found.dim() != 3 or found.shape[1] <= before + after or found.shape[1] == own.shape[1]:
        return found
    slots, dim = found.shape[1:]
    if dim == own.shape[2]:
        more = own.shape[1] - slots
        for make in (lambda n: positions(n, dim, before, after), lambda n: sin_cos(n + before + after, dim)[None]):
            if torch.allclose(found.float().cpu(), make(slots - before - after), atol=1e-4):
                return make(slots + more - before - after).to(found)
    return found


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * heads * HEAD_DIM)
        self.to_out = nn.Sequential(nn.Linear(heads * HEAD_DIM, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1)
        )
        mixed: torch.Tensor = self.to_out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class _FeedForward(nn.Module):
    """The gap in the numbers stands for a dropout of the released checkpoints, whose names are kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


class _PreNorm(nn.Module):
    """``x + fn(norm(x))``."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.fn(self.norm(x))
        return out


class Block(nn.Module):
    """A pre-norm transformer block, heads of 64, MLP of four times the width (arXiv 2010.11929), LayerNorm eps 1e-5."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _PreNorm(width, _Attention(width, heads))
        self.ff = _PreNorm(width, _FeedForward(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, tokens, width)`` → the same shape."""
        out: torch.Tensor = self.ff(self.attn(x))
        return out


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias, N(0, 0.02) for what is learned beside them."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    for name, value in module.named_parameters():
        if name.endswith("_embedding") or "lead_embeddings." in name:
            nn.init.normal_(value, std=0.02)


class MaskedEncoder(nn.Module):
    """A transformer over patches of an ECG that learns by reconstructing masked ones, and then reads all of them.

    Patches are ``(batch, num_groups, num_patches, patch_dim)``: a group is what is masked and decoded by itself (a lead
    of ST-MEM; the whole ECG of MTAE and MLAE). Learned marks stand at the ends of each group: ``before`` and ``after``.
    A subclass cuts the patches and names the mark. Parameter names are those of the released checkpoints.
    """

    reads: ClassVar[str] = "signal"
    before: ClassVar[int] = 1
    after: ClassVar[int] = 0

    def __init__(self, *, num_groups: int, num_patches: int, patch_dim: int, size: str) -> None:
        super().__init__()
        if size not in SIZES:
            raise TypeError(f"no size '{size}'; known: {', '.join(SIZES)}")
        self.size, self.num_groups, self.num_patches, self.patch_dim = size, num_groups, num_patches, patch_dim
        self.dim, self.depth, heads = SIZES[size]
        self.num_tokens = num_groups * num_patches
        self.to_patch_embedding = nn.Sequential(
            nn.Identity(), nn.LayerNorm(patch_dim), nn.Linear(patch_dim, self.dim), nn.LayerNorm(self.dim)
        )
        self.pos_embedding: torch.Tensor
        self.register_buffer("pos_embedding", positions(num_patches, self.dim, self.before, self.after))
        for number in range(self.depth):
            self.add_module(f"block{number}", Block(self.dim, heads))
        self.norm = nn.LayerNorm(self.dim)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, num_leads, num_samples)`` → ``(batch, num_groups, num_patches, patch_dim)``."""
        raise NotImplementedError

    def mark(self) -> torch.Tensor:
        """The learned embedding ``(dim,)`` that stands at the ends of a group."""
        raise NotImplementedError

    def framed(self, x: torch.Tensor) -> torch.Tensor:
        """Embedded patches ``(batch, num_groups, n, dim)`` between their marks."""
        shape = (*x.shape[:2], 1, self.dim)
        parts = [(self.mark() + self.pos_embedding[0, 0]).expand(shape), x]
        if self.after:
            parts.append((self.mark() + self.pos_embedding[0, -1]).expand(shape))
        return torch.cat(parts, dim=2)

    def encode(self, patches: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens before the final norm, marks included: ``(batch, num_groups, before + n + after, dim)``.

        keep: positions ``(batch, num_groups, n)`` of the patches that are shown; all of them without.
        """
        x = self.to_patch_embedding(patches) + self.pos_embedding[:, self.before : self.before + self.num_patches]
        if keep is not None:
            x = x.gather(2, keep[..., None].expand(-1, -1, -1, self.dim))
        x = self.framed(x)
        groups, length = x.shape[1:3]
        x = x.flatten(1, 2)
        for number in range(self.depth):
            x = self.get_submodule(f"block{number}")(x)
        return x.unflatten(1, (groups, length))

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of all patches before the final norm, without the marks."""
        return self.encode(self.patches(x))[:, :, self.before : self.before + self.num_patches]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, num_leads, num_samples)`` → ``(batch, num_tokens, dim)``: nothing masked, final norm, no marks."""
        tokens: torch.Tensor = self.norm(self._tokens(x))
        return tokens.flatten(1, 2)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """One vector per ECG, ``(batch, dim)``: the final norm of the mean of the tokens before that norm."""
        mean: torch.Tensor = self.norm(self._tokens(x).mean(dim=(1, 2)))
        return mean

    def masked_model(self, **options: Any) -> MaskedModel:
        """This encoder with a new decoder, for pretraining. TypeError for an unknown option."""
        from ecglm.models.encoders.masked_model import MaskedModel

        return MaskedModel(self, **options)

    def fit_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of another ECG length as they are for this one: positions that are fixed are made anew."""
        found = dict(weights)
        if "pos_embedding" in found:
            own = self.pos_embedding
            found["pos_embedding"] = refit_positions(found["pos_embedding"], own, self.before, self.after)
        return found


def kept(num: int, mask_ratio: float) -> int:
    """How many of ``num`` patches are shown: ``int(num * (1 - mask_ratio))``; TypeError when that is none or all."""
    if not (math.isfinite(mask_ratio) and 0 < mask_ratio < 1):
        raise TypeError(f"mask_ratio must lie between 0 and 1, found {mask_ratio}")
    shown = int(num * (1 - mask_ratio))
    if not 0 < shown < num:
        raise TypeError(f"mask_ratio {mask_ratio} of {num} patches shows {shown}; at least one shown and one masked")
    return shown
