"""Which encoders a model has: what the recipe says of each, and the folder of a pretrained one, where it names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_json
from ecglm.models.config import AUTO, USUAL_ENCODER, ImageConfig, ModelConfig
from ecglm.models.encoder_files import CONFIG, EncoderFile, load_weights, read_encoder
from ecglm.models.encoders.base import build_encoder, reads
from ecglm.models.start import started
from ecglm.representations.dual import Dual

S = TypeVar("S", ModelConfig, ImageConfig)

#: What of a signal must be as it was when the encoder learned, and how a recipe says it.
_SIGNAL = ("leads", "rate", "normalise", "percentiles")


def known_name(section: ModelConfig | ImageConfig) -> str | None:
    """Name of a section's encoder; None where it has none, or where only a folder that is not here could tell."""
    if section.encoder != AUTO:
        return section.encoder
    if getattr(section, "start_from", None) is not None:
        return _started_name(Path(str(section.start_from)) / CONFIG)  # type: ignore[union-attr]
    if section.encoder_from is None:
        return USUAL_ENCODER
    file = Path(section.encoder_from) / CONFIG
    if not file.is_file():
        return None
    return str(read_json(file).get("encoder", {}).get("name")) or None


def _started_name(file: Path) -> str | None:
    return str(read_json(file).get("model", {}).get("encoder") or "") or None if file.is_file() else None


def reads_symbols(section: ModelConfig) -> bool:
    """Whether the encoder is a table for ECG-Byte's symbols, which stands beside the symbols themselves."""
    return section.encoder not in (None, AUTO) and reads(str(section.encoder)) == "symbols"


def resolve(section: S, where: str = "model", *, verify: bool = True) -> tuple[S, EncoderFile | None]:
    """The section with the encoder's name and options as its folder has them, where it names one, and that folder.

    Options a recipe gives stand above those of the folder. Raises ConfigError where it names another encoder, and what
    ``read_encoder`` raises for the folder. where: the section, for the error.
    """
    if section.encoder_from is None:
        return (replace(section, encoder=USUAL_ENCODER) if section.encoder == AUTO else section), None
    try:
        file = read_encoder(section.encoder_from, verify=verify)
    except EcglmError as error:
        raise type(error)(f"{where}.encoder_from: {error}") from error
    if section.encoder not in (AUTO, file.name):
        raise ConfigError(
            f"{where}.encoder is '{section.encoder}', but {where}.encoder_from {section.encoder_from} holds a "
            f"'{file.name}'; leave {where}.encoder out, or name the folder of a '{section.encoder}'"
        )
    return replace(section, encoder=file.name, encoder_options={**file.options, **section.encoder_options}), file


def resolved(model: ModelConfig, *, verify: bool = True) -> tuple[ModelConfig, dict[str, EncoderFile]]:
    """A model's settings with all that its encoders' folders, or the checkpoint it starts from, decide; and the
    folders: ``encoder``, ``image``.
    """
    files: dict[str, EncoderFile] = {}
    made, file = resolve(model if model.start_from is None else started(model), verify=verify)
    if file is not None:
        files["encoder"] = file
    if made.image is not None:
        image, file = resolve(made.image, "model.image", verify=verify)
        made = replace(made, image=image)
        if file is not None:
            files["image"] = file
    return made, files


def build_tower(
    section: ModelConfig | ImageConfig, input_shape: Sequence[int], file: EncoderFile | None = None
) -> nn.Module:
    """The encoder of a resolved section, random or with the weights of its folder. EcglmError for weights that do not
    fit it, ConfigError for what ``build_encoder`` refuses.
    """
    if section.encoder is None:
        raise ConfigError("this representation feeds an encoder: model.encoder must name one")
    options = section.encoder_options
    if file is not None:
        options = {k: v for k, v in options.items() if k != "weights"}
    encoder = build_encoder(section.encoder, input_shape=input_shape, options=options)
    if file is not None:
        load_weights(encoder, file.weights(), f"encoder_from {file.folder}", _mend(file))
    return encoder


def _mend(file: EncoderFile) -> str:
    shape = " x ".join(map(str, file.input_shape))
    return f"; it reads {shape} with the options {_told(file.options)}: use these, or name another folder"


def _told(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in options.items() if not isinstance(v, dict)) or "of its maker"


def settings_of(section: S, encoder: nn.Module) -> S:
    """The section as a checkpoint keeps it: nothing outside the checkpoint is named any more."""
    options = encoder.settings() if hasattr(encoder, "settings") else section.encoder_options  # type: ignore[operator]
    return replace(section, encoder_options=dict(options), encoder_from=None)


def check_input(file: EncoderFile, where: str, representation: Mapping[str, Any], shape: Sequence[int]) -> None:
    """ConfigError when a signal would not be shown to a pretrained encoder as it was when it learned.

    representation: configuration of the run's, which names the leads, their order and how they are normalised. A
    picture must have the size, which its encoder decides itself.
    """
    if reads(file.name) == "image":
        return
    if tuple(shape) != file.input_shape and not hasattr(registry.get("encoders", file.name), "fit_weights"):
        leads, samples = file.input_shape
        raise ConfigError(
            f"{where} {file.folder} learned from {leads} leads of {samples} samples, but this run shows {shape[0]} of "
            f"{shape[1]}; prepare segments of that length, or choose those leads"
        )
    before = file.representation
    if before is None or before.get("name") != representation.get("name"):
        return
    for key in _SIGNAL:
        if key != "rate" and before.get(key) != representation.get(key):
            name = representation["name"]
            raise ConfigError(
                f"{where} {file.folder} learned with {name}.{key} {_show(before.get(key))}, but this run has "
                f"{_show(representation.get(key))}; set {name}.{key} alike"
            )


def check_pipeline(file: EncoderFile, where: str, pipeline: Mapping[str, Any], rate: int | None) -> None:
    """ConfigError when the segments of a run were made otherwise than those a pretrained encoder learned from.

    pipeline: configuration of the run's stores. rate: Hz the run's representation reduces to, None for none.
    """
    if reads(file.name) == "image":
        return
    was = (file.representation or {}).get("rate") or (file.pipeline or {}).get("rate")
    now = rate or pipeline.get("rate")
    if was is not None and was != now:
        raise ConfigError(
            f"{where} {file.folder} learned at {was} Hz, but this run shows {now} Hz; prepare the store at that rate"
        )
    if file.pipeline is None:  # released weights: their authors' signals were not made by a pipeline of ours
        return
    differs = sorted(
        k for k in {*file.pipeline, *pipeline} - {"rate", "seg_len"} if file.pipeline.get(k) != pipeline.get(k)
    )
    if differs:
        told = ", ".join(f"{k} {_show(file.pipeline.get(k))} (here {_show(pipeline.get(k))})" for k in differs)
        raise ConfigError(f"{where} {file.folder} learned from segments made otherwise: {told}; prepare them alike")


def check_files(files: Mapping[str, EncoderFile], representation: Any, pipeline: Mapping[str, Any]) -> None:
    """``check_input`` and ``check_pipeline`` of the encoder that reads the signal."""
    if (file := files.get("encoder")) is not None:
        shown = getattr(representation, "main", representation)  # behind which words may stand
        shown = shown.signal if isinstance(shown, Dual) else shown
        if shown.input_shape is not None:
            check_pipeline(file, "model.encoder_from", pipeline, getattr(shown, "rate", None))
            check_input(file, "model.encoder_from", shown.config(), shown.input_shape)


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def count_tokens(encoder: nn.Module, input_shape: Sequence[int], kind: str) -> int:
    """Tokens an encoder gives for one ECG, as it says itself, or by one forward pass."""
    if isinstance(found := getattr(encoder, "num_tokens", None), int):
        return found
    weight = next(encoder.parameters(), None)
    dtype = torch.uint8 if kind == "image" else torch.float32
    with torch.no_grad():
        shown = torch.zeros(1, *input_shape, dtype=dtype, device=None if weight is None else weight.device)
        return int(encoder(shown).shape[1])


def learned_from(files: Mapping[str, EncoderFile]) -> np.ndarray:
    """Hashes (``prompts.people``) of all whom the pretrained encoders have learned from, sorted, uint64."""
    none = np.empty(0, np.uint64)
    return np.unique(np.concatenate([none, *(f.trained_on for f in files.values())]))
