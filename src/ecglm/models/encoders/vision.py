"""Vision encoders of published families through transformers: a picture's pixels → one token per patch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.errors import ConfigError
from ecglm.models.encoders.vision_config import (
    SIZES,
    Family,
    TowerOptions,
    first_line,
    new_config,
    pair,
    pixel_statistics,
    read_config,
    read_processor,
    values_of,
)
from ecglm.registry import register


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars, and its list of weights it does not need (a text tower's)."""
    from ecglm.models.llm import no_bars  # loads every model of the library: late, so that a bad recipe is told soon

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        with no_bars():
            yield
    finally:
        hf_logging.set_verbosity(before)


class VisionTower(nn.Module):
    """uint8 ``(batch, 3, height, width)`` RGB → ``(batch, tokens, dim)``, patches row by row from the top left.

    The pixels are normalised here, on the device, by the mean and standard deviation the weights were trained with. The
    picture must have ``image_size`` (height, width) already: nothing is resized or cut. Layers behind ``layer`` are not
    built. Raises ConfigError for options or weights that do not fit the family.
    """

    reads: ClassVar[str] = "image"
    family: ClassVar[Family]
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__()
        asked, self.config, layer = self._plan(options)
        self.image_size, self.num_tokens = self._geometry(asked, self.config)
        self.dim = int(self.config.hidden_size)
        self._drop = int(self.family.cls and asked.drop_cls)
        self._last = layer == -1
        self._asked = asked
        self.model, processor = self._make(asked)
        mean, std = pixel_statistics(processor, self.family)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    @classmethod
    def picture(cls, **options: Any) -> tuple[tuple[int, int], int]:
        """(height, width) of the pictures it reads and its tokens for one, from the configuration alone."""
        asked, config, _ = cls._plan(options)
        return cls._geometry(asked, config)

    def settings(self) -> dict[str, Any]:
        """Options that build it again without any other file; its values then come from a checkpoint."""
        usual, values = values_of(type(self.config)()), values_of(self.config)
        kept = {key: value for key, value in values.items() if value != usual.get(key)}
        return {
            "config": {**kept, "num_hidden_layers": values["num_hidden_layers"]},
            "layer": -1 if self._last else values["num_hidden_layers"],
            "drop_cls": self._asked.drop_cls,
        }

    def masked_model(self, **options: Any) -> nn.Module:
        """This tower with a mask token and a head, for pretraining. TypeError for an unknown option."""
        from ecglm.models.masked_vision import MaskedVision

        return MaskedVision(self, **options)

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels as the family's image processor hands them to its model: float32 ``(batch, 3, height, width)``."""
        return (x.float() - self.mean) / self.std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self._run(self.normalise(x))
        tokens = found.last_hidden_state if self._last else found.hidden_states[-1]
        return tokens[:, self._drop :]

    def _run(self, pixels: torch.Tensor) -> Any:
        return self.model(pixel_values=pixels, output_hidden_states=not self._last)

    @classmethod
    def _plan(cls, options: Mapping[str, Any]) -> tuple[TowerOptions, Any, int]:
        """Checked options, the configuration of what will be built, and the layer."""
        name, family = cls._name(), cls.family
        asked = strict.from_dict(TowerOptions, dict(options), f"model.encoder_options of '{name}'")
        if asked.weights is not None:
            if asked.size is not None or asked.config:
                raise ConfigError(f"encoder '{name}': size and config are for a tower without weights; drop them")
            config = read_config(asked.weights, name, family)
        elif asked.size is None and not asked.config:
            raise ConfigError(
                f"encoder '{name}': give weights (a folder or hub id), or size ({', '.join(SIZES)}) for a tower that "
                "has learned nothing"
            )
        else:
            config = new_config(asked, name, family)
        for key, value in family.headless.items():
            setattr(config, key, value)
        if config.num_channels != 3:
            raise ConfigError(f"encoder '{name}': {config.num_channels} channels; the pictures have 3")
        deepest = int(config.num_hidden_layers)
        layer = family.layer if asked.layer is None else asked.layer
        if layer == 0 or not -deepest <= layer <= deepest:
            raise ConfigError(
                f"encoder '{name}': layer {layer} of a tower of {deepest} layers; 1 to {deepest}, or -1 to {-deepest} "
                "from the end"
            )
        if layer != -1:
            config.num_hidden_layers = layer if layer > 0 else deepest + 1 + layer
        return asked, config, layer

    @classmethod
    def _name(cls) -> str:
        return cls.__name__.removesuffix("Tower").lower()

    @classmethod
    def _geometry(cls, asked: TowerOptions, config: Any) -> tuple[tuple[int, int], int]:
        size, patch = pair(config.image_size), pair(config.patch_size)
        if any(s < p or p < 1 for s, p in zip(size, patch, strict=True)):
            raise ConfigError(f"encoder '{cls._name()}': patch_size {patch} does not fit into image_size {size}")
        patches = (size[0] // patch[0]) * (size[1] // patch[1])
        return size, patches + int(cls.family.cls and not asked.drop_cls)

    def _make(self, asked: TowerOptions) -> tuple[nn.Module, dict[str, Any]]:
        """The network, and what its image processor says, where weights come with one."""
        name, kind = self._name(), getattr(transformers, self.family.model)
        extra = {"add_pooling_layer": False} if name == "vit" else {}
        if asked.weights is None:
            return kind(self.config, **extra), {}
        try:
            with _quiet():
                loaded: Any = kind.from_pretrained(
                    asked.weights,
                    config=self.config,
                    dtype=torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                    **extra,
                )
            model, info = loaded
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"encoder '{name}': {asked.weights} cannot be loaded: {first_line(error)}") from error
        if missing := sorted(info["missing_keys"]):  # the library would fill them with noise
            raise ConfigError(
                f"encoder '{name}': {asked.weights} lacks {len(missing)} weights of a {self.family.model} (first: "
                f"{missing[0]})"
            )
        return model, read_processor(asked.weights)


@register("encoders", "vit")
class VitTower(VisionTower):
    """ViT (arXiv 2010.11929): the last layer's patches, with the final norm."""

    family = Family("ViTConfig", "ViTModel", ("vit",), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), -1, True)


@register("encoders", "clip")
class ClipTower(VisionTower):
    """The vision tower of CLIP (arXiv 2103.00020): the patches of the layer before the last, as LLaVA takes them."""

    family = Family(
        "CLIPVisionConfig",
        "CLIPVisionModel",
        ("clip", "clip_vision_model"),
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        -2,
        True,
    )


@register("encoders", "siglip")
class SiglipTower(VisionTower):
    """The vision tower of SigLIP (arXiv 2303.15343), and of the SigLIP 2 models of one size; no class token."""

    family = Family(
        "SiglipVisionConfig",
        "SiglipVisionModel",
        ("siglip", "siglip_vision_model"),
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        -1,
        False,
        {"vision_use_head": False},
    )


@register("encoders", "siglip2")
class Siglip2Tower(VisionTower):
    """The vision tower of the SigLIP 2 models of any aspect (NaFlex, arXiv 2502.14786), fed with squares."""

    family = Family(
        "Siglip2VisionConfig",
        "Siglip2VisionModel",
        ("siglip2", "siglip2_vision_model"),
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        -1,
        False,
        {"vision_use_head": False},
    )

    @classmethod
    def _geometry(cls, asked: TowerOptions, config: Any) -> tuple[tuple[int, int], int]:
        side = int(config.num_patches**0.5)
        return (side * config.patch_size, side * config.patch_size), side * side

    def _run(self, pixels: torch.Tensor) -> Any:
        """Cut into patches, each (row, column, channel) flat, as its image processor does."""
        patch, side = self.config.patch_size, self.image_size[0] // self.config.patch_size
        patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 4, 5, 1)
        return self.model(
            pixel_values=patches.reshape(len(pixels), side * side, -1),
            pixel_attention_mask=torch.ones(len(pixels), side * side, dtype=torch.long, device=pixels.device),
            spatial_shapes=torch.full((len(pixels), 2), side, dtype=torch.long),
            output_hidden_states=not self._last,
        )
