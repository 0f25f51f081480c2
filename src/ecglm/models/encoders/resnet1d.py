"""A 1-D residual convolutional encoder over time, in the manner of ResNet (arXiv 1512.03385), for a CPU too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from ecglm import registry


class _Block(nn.Module):
    """Two convolutions and a shortcut; the first halves the time axis when ``stride`` is 2."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_dim, out_dim, kernel, stride, kernel // 2, bias=False)
        self.norm1 = nn.GroupNorm(8, out_dim)
        self.conv2 = nn.Conv1d(out_dim, out_dim, kernel, 1, kernel // 2, bias=False)
        self.norm2 = nn.GroupNorm(8, out_dim)
        self.shortcut = nn.Conv1d(in_dim, out_dim, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


@registry.register("encoders", "resnet1d")
class ResNet1d(nn.Module):
    """``(batch, num_leads, num_samples)`` in millivolts → ``(batch, ceil(num_samples / reduction), dim)``.

    Group norm instead of batch norm: one ECG's features do not depend on the others in its batch. widths: one stage
    each, multiples of 8, every stage after the stem halves time. stem_stride: time reduction of the first convolution.
    """

    reads: ClassVar[str] = "signal"

    def __init__(
        self,
        *,
        num_leads: int,
        num_samples: int,
        widths: Sequence[int] = (32, 64, 128, 128),
        kernel: int = 7,
        stem_kernel: int = 15,
        stem_stride: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_samples < stem_stride * 2 ** len(widths):
            raise TypeError(f"{num_samples} samples are too few for {len(widths)} stages")
        if kernel % 2 == 0 or any(width < 8 or width % 8 for width in widths):
            raise TypeError(f"kernel must be odd and widths multiples of 8, found {kernel} and {list(widths)}")
        self.stem = nn.Sequential(
            nn.Conv1d(num_leads, widths[0], stem_kernel, stem_stride, stem_kernel // 2, bias=False),
            nn.GroupNorm(8, widths[0]),
            nn.ReLU(),
        )
        dims = [widths[0], *widths]
        self.stages = nn.Sequential(*[_Block(a, b, kernel, 2) for a, b in zip(dims, widths, strict=False)])
        self.dropout = nn.Dropout(dropout)
        self.dim = widths[-1]
        stem_tokens = (num_samples + 2 * (stem_kernel // 2) - stem_kernel) // stem_stride + 1
        self.num_tokens = math.ceil(stem_tokens / 2 ** len(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.stages(self.stem(x)).transpose(1, 2))

    def fit_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights learned on ECGs of another length: convolutions read any."""
        return dict(weights)
