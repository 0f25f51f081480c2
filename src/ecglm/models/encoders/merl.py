"""MERL's ECG encoder (arXiv 2403.06659): a 1-D ResNet of 18, 34, 50 or 101 layers without max-pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from ecglm import registry

#: Depth → blocks per stage, and whether they are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
STRIDES = (1, 2, 2, 2)


def _conv(in_dim: int, out_dim: int, kernel: int, stride: int = 1) -> nn.Conv1d:
    return nn.Conv1d(in_dim, out_dim, kernel, stride, kernel // 2, bias=False)


class _Block(nn.Module):
    """Two convolutions of three samples, or a bottleneck of 1, 3, 1 that widens four times; and a shortcut.

    Its names are those of the released weights.
    """

    def __init__(self, in_dim: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        out_dim = width * (4 if bottleneck else 1)
        self.conv1 = _conv(in_dim, width, 1) if bottleneck else _conv(in_dim, width, 3, stride)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = _conv(width, width, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm1d(width)
        if bottleneck:
            self.conv3 = _conv(width, out_dim, 1)
            self.bn3 = nn.BatchNorm1d(out_dim)
        same = stride == 1 and in_dim == out_dim
        self.shortcut = (
            nn.Sequential() if same else nn.Sequential(_conv(in_dim, out_dim, 1, stride), nn.BatchNorm1d(out_dim))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + self.shortcut(x))


@registry.register("encoders", "merl")
class MerlResNet(nn.Module):
    """``(batch, num_leads, num_samples)`` → ``(batch, num_tokens, dim)``, the map of the last stage over time.

    num_tokens is num_samples / 16, rounded up: 32, 79, 157, 313 for 500, 1250, 2500, 5000 samples. dim is 8 × width
    for 18 and 34 layers, 32 × width for 50 and 101 (512 and 2048). depth: layers. width: of the stem, 64 in the paper.

    Batch norm: in evaluation mode, as for every frozen encoder, one ECG's features do not depend on the others of its
    batch. While it learns they do, and small batches make its statistics noisy. Raises TypeError for another depth or
    fewer than 16 samples.
    """

    reads: ClassVar[str] = "signal"

    def __init__(self, *, num_leads: int, num_samples: int, depth: int = 18, width: int = 64) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise TypeError(f"no depth {depth}; one of {', '.join(map(str, DEPTHS))}")
        if width < 1:
            raise TypeError(f"width must be 1 or more, found {width}")
        if num_samples < 16:
            raise TypeError(f"{num_samples} samples are too few; at least 16")
        blocks, bottleneck = DEPTHS[depth]
        self.conv1 = _conv(num_leads, width, 7, 2)
        self.bn1 = nn.BatchNorm1d(width)
        dim = width
        for stage, (number, stride) in enumerate(zip(blocks, STRIDES, strict=True)):
            layers = []
            for block in range(number):
                own = width * 2**stage
                layers.append(_Block(dim, own, stride if block == 0 else 1, bottleneck=bottleneck))
                dim = own * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.dim = dim
        self.num_tokens = math.ceil(num_samples / (2 * math.prod(STRIDES)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(len(STRIDES)):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.transpose(1, 2)

    def fit_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights learned on ECGs of another length: convolutions read any."""
        return dict(weights)
