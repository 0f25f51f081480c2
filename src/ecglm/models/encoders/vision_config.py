"""What a vision tower is: families, options, and the configuration and pixel statistics beside published weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin

from ecglm.errors import ConfigError, nearest

#: Size → width, layers, heads, as in ViT (arXiv 2010.11929) and DeiT (arXiv 2012.12877); ``nano`` is ours, for tests.
SIZES = {
    "nano": (64, 2, 2),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}

#: Values of every configuration that do not decide what the network is.
_BESIDES = {
    *("transformers_version", "architectures", "model_type", "dtype", "torch_dtype", "id2label", "label2id"),
    *("output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder"),
    *("problem_type", "_name_or_path"),
}


@dataclass(frozen=True)
class Family:
    """What is published of a family. config, model: classes of transformers. types: its configurations' model_type.

    mean, std: of the pixels as fractions, where no file beside the weights says otherwise. layer: whose output is
    taken. cls: whether a class token comes before the patches.
    """

    config: str
    model: str
    types: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: int
    cls: bool
    headless: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TowerOptions:
    """A recipe's ``model.encoder_options``. weights: folder or hub id, safetensors. Without: a tower that has learned
    nothing, of a size of ``SIZES``, of the family's ``config`` values, or both. layer: whose output the tokens are,
    1 for the first; -1 is the last with the final norm, where the family has one, -2 the one before it, without.
    drop_cls: give the patches alone.
    """

    weights: str | None = None
    size: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    layer: int | None = None
    drop_cls: bool = True


def pair(value: Any) -> tuple[int, int]:
    """A configuration's size as (height, width)."""
    return (int(value), int(value)) if isinstance(value, int | float) else (int(value[0]), int(value[1]))


def values_of(config: Any) -> dict[str, Any]:
    """What decides the network, of all that a configuration holds."""
    return {k: v for k, v in config.to_dict().items() if k not in _BESIDES and isinstance(v, int | float | str | list)}


def first_line(error: Exception) -> str:
    """What a library says, as one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_config(weights: str, name: str, family: Family) -> Any:
    """The vision part of the configuration beside the weights; ConfigError when it is of another family."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(weights)
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder '{name}': {weights} cannot be loaded: {first_line(error)}") from error
    found = values.get("model_type", "")
    if found not in family.types:
        raise ConfigError(
            f"encoder '{name}': {weights} holds a model of type '{found}', not {' or '.join(family.types)}"
        )
    try:
        return getattr(transformers, family.config)(**values.get("vision_config", values))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"encoder '{name}': {weights}: config.json: {first_line(error)}") from error


def new_config(asked: TowerOptions, name: str, family: Family) -> Any:
    """A configuration of the family's defaults, the size asked for, and single values."""
    kind = getattr(transformers, family.config)
    known = values_of(kind())
    for key in asked.config:
        if key not in known:
            raise ConfigError(f"encoder '{name}': no value '{key}' in config{nearest(key, known)}")
    values: dict[str, Any] = {}
    if asked.size is not None:
        if asked.size not in SIZES:
            near = nearest(asked.size, SIZES)
            raise ConfigError(f"encoder '{name}': no size '{asked.size}'{near}; known: {', '.join(SIZES)}")
        width, layers, heads = SIZES[asked.size]
        values = {"hidden_size": width, "intermediate_size": 4 * width}
        values |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    values |= asked.config
    try:
        config = kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"encoder '{name}': config: {first_line(error)}") from error
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"encoder '{name}': hidden_size {config.hidden_size} is no multiple of num_attention_heads "
            f"{config.num_attention_heads}"
        )
    return config


def read_processor(weights: str) -> dict[str, Any]:
    """What preprocessor_config.json (or processor_config.json) beside the weights says; empty without one."""
    try:
        values: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(weights)[0]
    except (OSError, ValueError):
        return {}
    return values


def pixel_statistics(processor: Mapping[str, Any], family: Family) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in units of a pixel's 0 to 255."""
    mean, std = processor.get("image_mean") or family.mean, processor.get("image_std") or family.std
    if not processor.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    unit = 1.0 / float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    return [unit * float(m) for m in mean], [unit * float(s) for s in std]
