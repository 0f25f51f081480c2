"""No encoder: the ECG is cut into patches, and the connector alone projects them (ELF, arXiv 2601.18798)."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from ecglm import registry
from ecglm.models.encoders.masked import checked_patch_size

By = Literal["time", "lead"]


@registry.register("encoders", "linear")
class Patches(nn.Module):
    """``(batch, num_leads, num_samples)`` → the same values as ``(batch, num_tokens, dim)``: it has no weights.

    With the connector ``linear`` the model is one linear layer before the LLM, and connector and LLM are all that
    learns. by: ``time``, a token is a stretch of time of all leads, lead after lead; ``lead``, of one lead, those of
    lead I before those of II. patch_size: samples; None for ECG-Bench's rule, 16 to 64 patches (25 for 500, 1250, 2500
    and 5000 samples). Raises TypeError for samples that the patch does not divide.
    """

    reads: ClassVar[str] = "signal"
    frozen: ClassVar[bool] = True

    def __init__(self, *, num_leads: int, num_samples: int, patch_size: int | None = None, by: By = "time") -> None:
        super().__init__()
        if by not in get_args(By):
            raise TypeError(f"no way to cut '{by}'; one of {', '.join(get_args(By))}")
        self.patch_size, self.by = checked_patch_size(num_samples, patch_size), by
        patches = num_samples // self.patch_size
        self.num_tokens = patches * (num_leads if by == "lead" else 1)
        self.dim = self.patch_size * (1 if by == "lead" else num_leads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cut = x.unflatten(2, (-1, self.patch_size))
        return cut.flatten(1, 2) if self.by == "lead" else cut.transpose(1, 2).flatten(2)


@registry.register("encoders", "base")
class Whole(Patches):
    """``(batch, num_leads, num_samples)`` → ``(batch, 1, num_leads * num_samples)``: the ECG as one token.

    With the connector ``linear``, Fuyu's manner: Linear(12 L → hidden). The representation's ``num_tokens`` must be 1.
    """

    def __init__(self, *, num_leads: int, num_samples: int) -> None:
        super().__init__(num_leads=num_leads, num_samples=num_samples, patch_size=num_samples)
