"""What encoders share: what one reads, how it is built from a name and settings, tokens (batch, tokens, dim) out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ecglm import registry
from ecglm.errors import ConfigError, nearest


def reads(name: str) -> str:
    """What the encoder called ``name`` reads: ``"signal"``, ``"image"``, or ``"symbols"``. ConfigError for an unknown
    name.
    """
    return str(getattr(registry.get("encoders", name), "reads", "signal"))


def picture(name: str | None, options: Mapping[str, Any]) -> tuple[tuple[int, int], int] | tuple[None, None]:
    """(height, width) of the pictures an image encoder reads, and its tokens for one; no weights are made or read.

    Two Nones without an encoder, and for one that reads a signal. Raises ConfigError for an unknown name or option,
    EcglmError for a file that cannot be read.
    """
    if name is None or reads(name) != "image":
        return None, None
    kind = registry.get("encoders", name)
    try:
        return kind.picture(**options)
    except TypeError as error:
        raise ConfigError(f"encoder '{name}': {error}") from error


def build_encoder(name: str, *, input_shape: Sequence[int], options: Mapping[str, Any]) -> nn.Module:
    """An encoder by name, for tensors of ``input_shape``: ``(num_leads, num_samples)`` float32 of a signal, or
    ``(3, height, width)`` uint8 of a picture, or for ``(num_symbols,)``. It has ``dim`` (width of its tokens) and
    ``num_tokens``, and ``forward`` of a batch gives ``(batch, num_tokens, dim)``. Raises ConfigError for an unknown
    name or option, or a shape it does not read.
    """
    kind = registry.get("encoders", name)
    shape: dict[str, Any] = {}
    if reads(name) == "signal":
        if len(input_shape) != 2:
            raise ConfigError(f"encoder '{name}' reads a signal (leads, samples), not shape {tuple(input_shape)}")
        shape = {"num_leads": input_shape[0], "num_samples": input_shape[1]}
    elif reads(name) == "symbols":
        shape = {"num_symbols": input_shape[0]}
    try:
        encoder: nn.Module = kind(**shape, **options)
    except TypeError as error:
        told = str(error)
        known = [n for n in inspect.signature(kind).parameters if n not in shape]
        if "unexpected keyword argument" in told and (odd := [n for n in options if n not in known]):
            told = f"no option '{odd[0]}'{nearest(odd[0], known)}; options: {', '.join(known)}"
        raise ConfigError(f"encoder '{name}': {told}") from error
    if reads(name) == "image" and tuple(input_shape) != (3, *encoder.image_size):  # type: ignore[misc]
        raise ConfigError(
            f"encoder '{name}' reads pictures of shape (3, {', '.join(map(str, encoder.image_size))}), "  # type: ignore[arg-type]
            f"not {tuple(input_shape)}"
        )
    return encoder


def pooled(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One vector per ECG ``(batch, dim)``: what the encoder says itself (``pooled``), or the mean over its tokens."""
    if hasattr(encoder, "pooled"):
        vectors: torch.Tensor = encoder.pooled(x)  # type: ignore[operator]
        return vectors
    found: torch.Tensor = encoder(x).mean(dim=1)
    return found
