"""Masked reconstruction: hide most patches of an ECG and predict them from the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.training.objectives.base import Pretraining, Setting, Shown, counting, num_counted, stacked


@dataclass(frozen=True, kw_only=True)
class MaskedOptions:
    """Reconstruct masked patches, for ``st_mem``, ``mtae``, ``mlae`` (a decoder beside the encoder) and the image
    encoders (a mask token and a linear head). mask_ratio: share of the patches that are hidden. norm_target: predict
    each patch standardised by its own mean and deviation, as in ST-MEM's paper; off in ECG-Bench.
    """

    mask_ratio: float = 0.75
    norm_target: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"masked.mask_ratio must lie between 0 and 1, found {self.mask_ratio}")


@registry.register("objectives", "masked")
class Masked(Pretraining):
    """Mean squared error on hidden patches: ST-MEM (arXiv 2402.09450), MTAE and MLAE (MaeFE), SimMIM for pictures
    (arXiv 2111.09886). Which patches are hidden is a function of seed, epoch and ECG.
    """

    Options = MaskedOptions

    def __init__(self, options: MaskedOptions, setting: Setting) -> None:
        encoder: Any = setting.encoder
        if not hasattr(encoder, "masked_model"):
            raise ConfigError(
                f"encoder {type(encoder).__name__} has no masked model; objective 'masked' is for st_mem, mtae, mlae "
                "and the image encoders"
            )
        try:
            self.model = encoder.masked_model(**asdict(options))
        except TypeError as error:
            raise ConfigError(f"objective 'masked': {error}") from error

    def collate(self, rows: Sequence[Shown]) -> dict[str, Any]:
        """``ecg``, ``noise`` of the model's ``noise_shape``, and ``labels`` that count the ECGs."""
        shape = self.model.noise_shape(1)[1:]  # type: ignore[operator]
        noise = np.stack([row.rng.random(shape, dtype=np.float32) for row in rows])
        return {"ecg": stacked(rows), "noise": torch.from_numpy(noise), "labels": counting(rows)}

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        loss: torch.Tensor = model(batch["ecg"], batch["noise"]).loss  # every ECG hides as many patches
        return loss if num_items is None else loss * num_counted(batch) / num_items

    def judge(self, batches: Iterable[dict[str, Any]]) -> dict[str, float]:
        """``best_constant``: the error of the best constant patch on the hidden patches, which is what can be reached
        without looking at the ECG; the constant is the mean of the very patches that are to be predicted.
        """
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        with torch.inference_mode():
            for batch in batches:
                found = self.model(batch["ecg"], batch["noise"])
                hidden = found.target[found.mask].double().cpu()
                count += len(hidden)
                total = total + hidden.sum(dim=0)
                squares = squares + hidden.square().sum(dim=0)
        return {"best_constant": float((squares / count - (total / count).square()).mean())}
