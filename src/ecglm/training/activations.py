"""Gradient checkpointing: activations inside a layer are computed again in the backward pass, not kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ecglm.errors import ConfigError

LAYERS = (GradientCheckpointingLayer, nn.TransformerEncoderLayer)


def checkpoint_layers(model: nn.Module) -> int:
    """Checkpoint every transformer layer of ``model`` (arXiv 1604.06174) and return how many there are.

    Not the library's own switch: that one sleeps in evaluation mode, where a frozen LLM stays while gradients pass
    through it to the connector. Non-reentrant, so it needs no gradient at its input; the same random numbers are drawn
    again, so dropout does not change. Raises ConfigError for a model without such layers.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, LAYERS) or getattr(m, "checkpointed", False)]
    if not layers:
        raise ConfigError("train.gradient_checkpointing: this model has no transformer layers; switch it off")
    for layer in layers:
        layer.forward = functools.partial(_again, layer.forward)
    return len(layers)


def _again(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    return checkpoint(forward, *args, use_reentrant=False, **options)
