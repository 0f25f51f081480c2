"""A stem of strided convolutions instead of an encoder (ELF, arXiv 2601.18798; stems of this kind: 2106.14881)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.masked import checked_patch_size


def factors(number: int) -> list[int]:
    """Prime factors, largest first: ``factors(50) == [5, 5, 2]``."""
    found, rest, prime = [], number, 2
    while rest > 1:
        while rest % prime == 0:
            found.append(prime)
            rest //= prime
        prime += 1
    return found[::-1]


@registry.register("encoders", "conv")
class ConvStem(nn.Module):
    """``(batch, num_leads, num_samples)`` → ``(batch, num_samples / patch_size, dim)``, one token per stretch of time.

    One convolution per prime factor of ``patch_size`` with that stride, each reaching over its neighbours
    (kernel 2 stride + 1), GELU between them, LayerNorm at the end: 5, 5, 2 for 50 samples. Nothing is shared between
    distant stretches: that is left to the LLM. It has weights, and learns with the connector: ``train.parts``, where
    given, must name ``encoder``. patch_size: samples; None for ECG-Bench's rule. Raises TypeError for samples that it
    does not divide.
    """

    reads: ClassVar[str] = "signal"

    def __init__(self, *, num_leads: int, num_samples: int, dim: int = 256, patch_size: int | None = None) -> None:
        super().__init__()
        if dim < 1:
            raise TypeError(f"dim must be 1 or more, found {dim}")
        self.patch_size = checked_patch_size(num_samples, patch_size)
        strides = factors(self.patch_size) or [1]
        layers: list[nn.Module] = []
        for number, stride in enumerate(strides):
            layers.append(nn.Conv1d(dim if number else num_leads, dim, 2 * stride + 1, stride, stride))
            layers.append(nn.GELU())
        self.stem = nn.Sequential(*layers[:-1])
        self.norm = nn.LayerNorm(dim)
        self.dim, self.num_tokens = dim, num_samples // self.patch_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.norm(self.stem(x).transpose(1, 2))
        return tokens
