"""Connectors: an encoder's tokens (batch, tokens, dim) → the LLM's embeddings (batch, num_tokens, hidden)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.representations.anyres import num_tokens as tokens_of_tiles
from ecglm.representations.anyres import unpadded
from ecglm.representations.pictures import Pooling


@registry.register("connectors", "linear")
def linear(dim: int, hidden: int) -> nn.Module:
    """One linear layer with bias."""
    return nn.Linear(dim, hidden)


@registry.register("connectors", "mlp2x_gelu")
def mlp2x_gelu(dim: int, hidden: int) -> nn.Module:
    """Linear, GELU, linear: LLaVA-1.5's projector (arXiv 2310.03744)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))


@registry.register("connectors", "pool_linear")
class PoolLinear(nn.Linear):
    """One linear layer behind means over the tokens in their order, a picture's too: ECG-Bench's of 2026."""

    in_order = True


@registry.register("connectors", "resampler")
class Resampler(nn.Module):
    """``(batch, tokens, dim)`` → ``(batch, num_tokens, hidden)``: learned queries look at all tokens, in the manner of
    the Perceiver resampler (arXiv 2204.14198), one layer of cross-attention and one feed-forward.

    Any number of tokens gives ``num_tokens``. Where a token stands is added to its key as sines and cosines.
    """

    resamples = True

    def __init__(self, dim: int, hidden: int, num_tokens: int) -> None:
        super().__init__()
        heads = next(h for h in (8, 4, 2, 1) if hidden % h == 0)
        self.queries = nn.Parameter(torch.randn(num_tokens, hidden) * hidden**-0.5)
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden))
        self.norm = nn.LayerNorm(hidden)
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.feed = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden)
        )
        self.leave = nn.Linear(hidden, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.enter(tokens)
        keys = values + _places(values.shape[1], values.shape[2]).to(values)
        asked = self.norm(self.queries).expand(len(tokens), -1, -1)
        seen, _ = self.attention(asked, keys, values, need_weights=False)
        found = self.queries + seen
        return self.leave(found + self.feed(found))


def _places(num_tokens: int, width: int) -> torch.Tensor:
    """Sines and cosines of the place, ``(num_tokens, width)`` (arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-torch.log(torch.tensor(10_000.0)) / width))
    angles = torch.arange(num_tokens)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class Connector(nn.Module):
    """Averages the encoder's tokens to ``num_tokens``, then projects each by the named projection; or a resampler.

    pooling: how a picture's tokens become fewer, on their grid; None: over time, as those of a signal. Raises
    ConfigError for an unknown name, and at the first batch when the encoder gives fewer tokens than asked.
    """

    def __init__(self, name: str, *, dim: int, hidden: int, num_tokens: int, pooling: Pooling | None = None) -> None:
        super().__init__()
        kind = registry.get("connectors", name)
        self.resamples = resamples(name)
        self.num_tokens = num_tokens
        self.pooling = None if getattr(kind, "in_order", False) else pooling
        self.project = kind(dim, hidden, num_tokens) if self.resamples else kind(dim, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.resamples:
            return self.project(tokens)
        if tokens.shape[1] < self.num_tokens:
            raise ConfigError(too_few(tokens.shape[1], self.num_tokens))
        if tokens.shape[1] != self.num_tokens:
            tokens = self._pooled(tokens)
        return self.project(tokens)

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.pooling is None:
            return adaptive_avg_pool1d(tokens.transpose(1, 2), self.num_tokens).transpose(1, 2)
        extra = self.pooling.extra
        patches = tokens[:, extra:].transpose(1, 2).unflatten(2, self.pooling.patches)
        means = adaptive_avg_pool2d(patches, self.pooling.grid).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, :extra], means], dim=1)


class TileConnector(nn.Module):
    """Projects every token of every tile, then joins the tiles of a picture to one sequence (LLaVA-1.6's anyres).

    patches: (rows, columns) of a tile. merge: ``flat`` tile after tile; ``spatial`` the first tile, then the grid of
    tiles as one picture, row by row; ``spatial_unpad`` likewise without the rows or columns that are padding, and
    ``image_newline`` behind every row. ConfigError for a resampler, which has no token per patch.
    """

    def __init__(self, name: str, *, dim: int, hidden: int, patches: tuple[int, int], merge: str) -> None:
        super().__init__()
        if resamples(name):
            raise ConfigError(f"model.connector {name} makes tokens of its own, and anyres shows one per patch")
        self.project = registry.get("connectors", name)(dim, hidden)
        self.patches, self.merge = patches, merge
        newline = torch.randn(hidden) / hidden**0.5 if merge == "spatial_unpad" else None
        self.image_newline = None if newline is None else nn.Parameter(newline)

    def counts(self, tiles: torch.Tensor) -> list[int]:
        """Tokens of each ECG. tiles: ``(num_ecgs, 4)``, as ``EcgInput.tiles`` says each."""
        return [tokens_of_tiles(one, self.patches, self.merge) for one in tiles.tolist()]

    def forward(self, tokens: torch.Tensor, tiles: torch.Tensor | None = None) -> torch.Tensor:
        """``(num_tokens, hidden)`` of all ECGs one after another, of the tokens ``(num_tiles, rows * columns, dim)``.
        Without ``tiles`` each is a picture of one tile. ValueError where tiles and ``tiles`` do not agree.
        """
        vectors = self.project(tokens)
        if tiles is None:
            behind = () if self.image_newline is None else (self.image_newline.to(vectors.dtype)[None],)
            return torch.cat([part for one in vectors for part in (one, *behind)])
        each = tiles.tolist()
        sizes = [1 + columns * rows for columns, rows, _, _ in each]
        if sum(sizes) != len(vectors):
            raise ValueError(f"{len(vectors)} tiles, but {sum(sizes)} are told of")
        if self.merge == "flat":
            return vectors.flatten(0, 1)
        return torch.cat([self._merged(v, one) for v, one in zip(vectors.split(sizes), each, strict=True)])

    def _merged(self, vectors: torch.Tensor, tiles: list[int]) -> torch.Tensor:
        columns, rows = tiles[:2]
        grid = vectors[1:].unflatten(1, self.patches).unflatten(0, (rows, columns))
        grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (rows of patches, columns of patches, hidden)
        if self.image_newline is not None:
            grid = grid[unpadded(tiles, self.patches)]
            newline = self.image_newline.to(grid.dtype).expand(len(grid), 1, -1)
            grid = torch.cat([grid, newline], dim=1)
        return torch.cat([vectors[0], grid.flatten(0, 1)])


def resamples(name: str) -> bool:
    """Whether a connector makes its number of tokens from any other; ConfigError for an unknown name."""
    return bool(getattr(registry.get("connectors", name), "resamples", False))


def too_few(given: int, wanted: int) -> str:
    """What is said where an encoder gives fewer tokens than the representation has placeholders."""
    return (
        f"the encoder gives {given} tokens, the representation wants {wanted}; lower representation.num_tokens, or use "
        "model.connector resampler"
    )
