"""Connectors: an encoder's tokens (batch, tokens, dim) → the LLM's embeddings (batch, num_tokens, hidden)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.representations.pictures import Pooling


@registry.register("connectors", "linear")
def linear(dim: int, hidden: int) -> nn.Module:
    """One linear layer with bias."""
    return nn.Linear(dim, hidden)


@registry.register("connectors", "mlp2x_gelu")
def mlp2x_gelu(dim: int, hidden: int) -> nn.Module:
    """Linear, GELU, linear: LLaVA-1.5's projector (arXiv 2310.03744)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))


class Connector(nn.Module):
    """Averages the encoder's tokens to ``num_tokens``, then projects each by the named projection.

    pooling: how a picture's tokens become fewer, on their grid; None: over time, as those of a signal. Raises
    ConfigError for an unknown name, and at the first batch when the encoder gives fewer tokens than asked.
    """

    def __init__(self, name: str, *, dim: int, hidden: int, num_tokens: int, pooling: Pooling | None = None) -> None:
        super().__init__()
        self.num_tokens, self.pooling = num_tokens, pooling
        self.project = registry.get("connectors", name)(dim, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if tokens.shape[1] < self.num_tokens:
            raise ConfigError(
                f"the encoder gives {tokens.shape[1]} tokens, the representation wants {self.num_tokens}; "
                "lower representation.num_tokens"
            )
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
