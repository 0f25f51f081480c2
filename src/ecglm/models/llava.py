"""LLaVA-1.6's checkpoint format, which PULSE has (arXiv 2410.19008): its configuration and its names in our terms."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from ecglm.errors import ConfigError, nearest
from ecglm.files import read_json
from ecglm.models.encoders.vision import ClipTower
from ecglm.models.encoders.vision_config import pair, values_of
from ecglm.representations.anyres import GRIDS, MERGES, MOST_TILES

#: ``model_type`` of the original's configurations.
TYPES = ("llava", "llava_llama")
#: Projector of the original → connector of ours, tensors of the one behind ``model.mm_projector`` in both.
PROJECTORS = ("linear", "mlp2x_gelu")
PROJECTOR, NEWLINE = "model.mm_projector.", "model.image_newline"
VISION = "model.vision_tower.vision_tower.vision_model."
#: The tower of all published LLaVA-1.5 and 1.6, and what its configuration decides.
CLIP_336 = "openai/clip-vit-large-patch14-336"
CLIP_336_CONFIG = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
#: Of the language model's values, those that must be 1 or more.
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_FROM_TO = re.compile(r"\((\d{1,3})x(\d{1,3})\),\s*\.\.\.,\s*\((\d{1,3})x(\d{1,3})\)")
#: The comma that Python, but not JSON, allows before the end of a list.
_TRAILING = re.compile(r",\s*\]")
_LLM_VALUES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "pretraining_tp", "tie_word_embeddings", "rope_theta"),
    *("rope_scaling", "rope_parameters", "attention_bias", "attention_dropout", "mlp_bias", "head_dim"),
)


@dataclass(frozen=True, kw_only=True)
class Llava:
    """What a LLaVA configuration says. llm: of the language model. vision: name of the CLIP checkpoint, or empty.
    layer: whose output its tokens are. pinpoints: (width, height) of the grids, in pixels, or in_tiles. told_merge:
    whether the configuration names the merge type; without, it is ``flat``, as in the original's code.
    """

    llm: LlamaConfig
    kind: str
    vision: str
    layer: int
    connector: str
    merge: str
    told_merge: bool
    pinpoints: tuple[tuple[int, int], ...]
    in_tiles: bool
    max_len: int

    def grids(self, tile: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """The grids in tiles, (columns, rows); ConfigError where they are no multiples of a tile (height, width)."""
        if not self.pinpoints:
            return GRIDS
        if self.in_tiles:
            return self.pinpoints
        odd = [p for p in self.pinpoints if p[0] % tile[1] or p[1] % tile[0] or min(p) < 1]
        if odd:
            raise ConfigError(
                f"image_grid_pinpoints {list(odd[0])} is no multiple of the vision tower's tile {tile[1]} x {tile[0]}; "
                "the tower does not belong to this checkpoint"
            )
        return tuple((w // tile[1], h // tile[0]) for w, h in self.pinpoints)


def read_llava(folder: Path) -> Llava:
    """A LLaVA-1.6 configuration from ``config.json``; the folder's name says nothing.

    Raises ConfigError, in one line, for another kind of model and for a way of showing pictures that is not anyres.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"{folder}: holds no config.json; name the folder of a LLaVA-1.6 checkpoint, or its hub id")
    told = read_json(file)
    kind = told.get("model_type") if isinstance(told, dict) else None
    if kind not in TYPES:
        of_hf = kind in ("llava_next", "llava_onevision")
        why = "a conversion for transformers, which says no merge type; name the original checkpoint" if of_hf else ""
        raise ConfigError(f"{file}: model_type '{kind}', not {' or '.join(TYPES)}{f' ({why})' if why else ''}")
    _check_manner(told, file)
    merge = _one_of(told, "mm_patch_merge_type", "flat", MERGES, file)
    connector = _one_of(told, "mm_projector_type", "linear", PROJECTORS, file)
    try:
        llm = LlamaConfig(**{k: told[k] for k in _LLM_VALUES if told.get(k) is not None})
        layer = int(told.get("mm_vision_select_layer", -2))
        pinpoints, in_tiles = _pinpoints(told.get("image_grid_pinpoints"))
        most = min(int(told.get("tokenizer_model_max_length") or 4096), int(llm.max_position_embeddings))
    except (TypeError, ValueError, OverflowError, StrictDataclassError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{file}: {said}; fetch it again") from error
    for key in _SIZES:
        if (size := getattr(llm, key)) < 1:
            raise ConfigError(f"{file}: {key} is {size}, and must be 1 or more; fetch it again")
    return Llava(
        llm=llm,
        kind=str(kind),
        vision=str(told.get("mm_vision_tower") or told.get("vision_tower") or ""),
        layer=layer,
        connector=connector,
        merge=merge,
        told_merge=told.get("mm_patch_merge_type") is not None,
        pinpoints=pinpoints,
        in_tiles=in_tiles,
        max_len=most,
    )


def _check_manner(told: Mapping[str, Any], file: Path) -> None:
    """Ways of LLaVA that its release 1.6, and PULSE, do not have."""
    for key, usual, found in (
        ("image_aspect_ratio", "anyres", told.get("image_aspect_ratio")),
        ("mm_use_im_start_end", False, told.get("mm_use_im_start_end") or False),
        ("mm_vision_select_feature", "patch", told.get("mm_vision_select_feature") or "patch"),
    ):
        if found != usual:
            raise ConfigError(f"{file}: {key} is {found!r}, and LLaVA-1.6's {usual!r} alone can be imported")


def _pinpoints(told: Any) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The grids, (width, height), and whether they count tiles, not pixels. LLaVA's scripts also write the list as a
    text, and all grids from one to another as ``(1x1),...,(6x6)``. ValueError for anything else.
    """
    if isinstance(told, str) and (ends := _FROM_TO.fullmatch(told.strip())):
        left, top, right, bottom = map(int, ends.groups())
        if not (1 <= left <= right < MOST_TILES and 1 <= top <= bottom < MOST_TILES):
            raise ValueError(f"image_grid_pinpoints {told!r}: grids from 1x1 on, of fewer than {MOST_TILES} tiles")
        return tuple((w, h) for w in range(left, right + 1) for h in range(top, bottom + 1)), True
    if isinstance(told, str):
        try:
            told = json.loads(_TRAILING.sub("]", told.replace("(", "[").replace(")", "]")))
        except ValueError:
            told = None if not told.strip() else told
    if not isinstance(told or [], list) or not all(isinstance(p, list) and len(p) == 2 for p in told or []):
        raise ValueError(f"image_grid_pinpoints must be a list of [width, height], found {told!r:.80}")
    return tuple((int(w), int(h)) for w, h in told or ()), False


def _one_of(told: Mapping[str, Any], key: str, usual: str, known: tuple[str, ...], file: Path) -> str:
    found = str(told.get(key) or usual)
    if found not in known:
        raise ConfigError(f"{file}: {key} '{found}'{nearest(found, known)}; {', '.join(known)} can be imported")
    return found


def tower_options(weights: str, layer: int) -> dict[str, Any]:
    """Options of our ``clip`` encoder for the tower of a CLIP checkpoint (folder or hub id), cut behind ``layer``, from
    its configuration alone; that of ``CLIP_336`` is known. ConfigError where it cannot be had, or is no CLIP.
    """
    known: dict[str, Any] = {"config": CLIP_336_CONFIG} if weights == CLIP_336 else {"weights": weights}
    _, config, layer = ClipTower._plan({**known, "layer": layer})
    kept = int(config.num_hidden_layers)
    return {"config": values_of(config), "layer": -1 if layer == -1 else kept, "drop_cls": True}


def is_clip_336(config: Any) -> bool:
    """Whether a tower, but for its number of layers, is the one of the published models."""
    return all(
        pair(getattr(config, key)) == pair(value)
        for key, value in CLIP_336_CONFIG.items()
        if key != "num_hidden_layers"
    )


def to_ours(name: str) -> tuple[str, str]:
    """``("llm" or "ecg", our name)`` of a tensor of the original."""
    if name.startswith(PROJECTOR):
        return "ecg", f"connector.project.{name.removeprefix(PROJECTOR)}"
    if name == NEWLINE:
        return "ecg", "connector.image_newline"
    if name.startswith(VISION):
        return "ecg", f"encoder.model.{name.removeprefix(VISION)}"
    return "llm", name


def to_llava(name: str) -> str | None:
    """The original's name of a tensor of ours that is not the LLM's; None for what the original has not."""
    if name == "connector.image_newline":
        return NEWLINE
    if name.startswith("connector.project."):
        return PROJECTOR + name.removeprefix("connector.project.")
    if name.startswith("encoder.model."):
        return VISION + name.removeprefix("encoder.model.")
    return None


def in_order(name: str) -> list[Any]:
    """Sorts names so that layer 2 comes before layer 10, as shards are cut."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
