"""What encoders share: built from a name and settings, (batch, leads, samples) → (batch, tokens, dim)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ecglm import registry
from ecglm.errors import ConfigError


def build_encoder(name: str, *, num_leads: int, num_samples: int, options: Mapping[str, Any]) -> nn.Module:
    """An encoder by name. It has ``dim`` (width of its tokens) and ``forward((batch, num_leads, num_samples) float32)``
    giving ``(batch, tokens, dim)``. Raises ConfigError for an unknown name or option.
    """
    kind = registry.get("encoders", name)
    try:
        return kind(num_leads=num_leads, num_samples=num_samples, **options)
    except TypeError as error:
        raise ConfigError(f"encoder '{name}': {error}") from error
