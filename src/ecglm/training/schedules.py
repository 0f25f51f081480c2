"""Optimisers and learning-rate schedules by name; the peak of every schedule but ``noam_compat`` is ``train.lr``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from ecglm.errors import ConfigError
from ecglm.training.options import TrainConfig


def noam(step: int, warmup: int, width: int) -> float:
    """Learning rate of step ``step`` (from 1): ``width^-0.5 · min(step^-0.5, step · warmup^-1.5)`` (arXiv 1706.03762,
    as ECG-Bench 2025 uses it: nothing scales it, whatever lr says).
    """
    return float(width**-0.5 * min(step**-0.5, step * warmup**-1.5))


def inverse_sqrt(step: int, warmup: int) -> float:
    """Share of the peak at step ``step`` (from 1): ``min(sqrt(warmup / step), step / warmup)``, as ECG-Bench 2026."""
    return float(min((warmup / step) ** 0.5, step / warmup))


def peak(config: TrainConfig, num_steps: int, width: int | None = None) -> float:
    """The highest learning rate of the schedule. width: of the model (the LLM's hidden size), for ``noam_compat``."""
    if config.schedule != "noam_compat":
        return config.lr
    warmup = _warmup(config, num_steps)
    return noam(warmup, warmup, _width(width))


def make_schedule(optimizer: Any, config: TrainConfig, num_steps: int, width: int | None = None) -> LRScheduler:
    """The schedule of ``config`` over ``num_steps`` steps; ConfigError when the warm-up is longer than that."""
    warmup = _warmup(config, num_steps)
    if config.schedule == "noam_compat":
        known = _width(width)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = 1.0
        return LambdaLR(optimizer, lambda done: noam(done + 1, warmup, known))
    if config.schedule == "inverse_sqrt":  # the library's counts from 0, and without a warm-up from 10,000
        return LambdaLR(optimizer, lambda done: inverse_sqrt(done + 1, max(warmup, 1)))
    # The library's own `constant` leaves the warm-up out without a word.
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)


def make_adam(model: nn.Module, config: TrainConfig, *, fused: bool) -> torch.optim.Optimizer:
    """Adam (arXiv 1412.6980) whose decay is part of the gradient (L2) and acts on every weight, as in ECG-Bench."""
    learned = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(learned, **_options(config), weight_decay=config.weight_decay, fused=fused)


def make_adamw(
    model: nn.Module, config: TrainConfig, decayed: Collection[str], *, fused: bool
) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101). decayed: names of the weights that decay; biases and norms do not."""
    learned = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in learned if n in decayed], "weight_decay": config.weight_decay},
        {"params": [p for n, p in learned if n not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **_options(config), fused=fused)


def _options(config: TrainConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}


def _warmup(config: TrainConfig, num_steps: int) -> int:
    try:
        return config.warmup(num_steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _width(width: int | None) -> int:
    if width is None:
        raise ConfigError("train.schedule noam_compat needs the width of the model; choose another schedule")
    return width
