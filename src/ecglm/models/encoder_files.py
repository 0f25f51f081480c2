"""Encoder folders: what pretraining and import write, and a recipe's ``model.encoder_from`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from ecglm.errors import ConfigError, EcglmError, TornOutputError, hub_errors, is_path
from ecglm.files import (
    atomic_dir,
    check_outputs,
    file_sha256,
    read_json,
    write_errors,
    write_json,
    write_manifest,
)
from ecglm.models.encoders.base import build_encoder
from ecglm.representations.base import build_representation
from ecglm.representations.signal import SignalRepresentation

KIND = "encoder"
FORMAT = 1
CONFIG, WEIGHTS, EXTRA, TRAINED_ON = (
    "config.json",
    "encoder.safetensors",
    "extra.safetensors",
    "trained_on.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """An encoder folder, read but for its weights.

    name, options: as in a recipe's ``model.encoder`` and ``encoder_options``. input_shape: ``(num_leads, num_samples)``
    or ``(3, height, width)``. pipeline, representation: configurations of what made the encoder's input, or None.
    trained_on: sorted hashes (``prompts.people``) of the patients and ECGs it has learned from, uint64. facts: what
    else its maker says of it (source, what the input must be, scores).
    """

    name: str
    options: dict[str, Any]
    input_shape: tuple[int, ...]
    pipeline: dict[str, Any] | None
    representation: dict[str, Any] | None
    folder: Path
    trained_on: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    facts: dict[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, torch.Tensor]:
        """The encoder's own tensors."""
        return _tensors(self.folder / WEIGHTS)

    def extra(self) -> dict[str, torch.Tensor]:
        """Tensors of what was trained with it: a decoder, projection heads. Empty without any."""
        return _tensors(self.folder / EXTRA) if (self.folder / EXTRA).is_file() else {}


def save_encoder(
    folder: str | Path,
    encoder: nn.Module,
    *,
    name: str,
    options: Mapping[str, Any],
    input_shape: Sequence[int],
    pipeline: Mapping[str, Any] | None = None,
    representation: Mapping[str, Any] | None = None,
    trained_on: np.ndarray | None = None,
    extra: Mapping[str, torch.Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write an encoder folder atomically, replacing an older one of the same name. Same call, same bytes.

    pipeline, representation: configurations (``.config()``). extra: tensors of heads and decoders. facts: JSON-able.
    Raises EcglmError when the disk is full or read-only.
    """
    if hasattr(encoder, "settings"):  # an image tower built from another folder must not need that folder
        options = encoder.settings()  # type: ignore[operator]
    settings = {
        "format": FORMAT,
        "encoder": {"name": name, "options": json.loads(json.dumps(dict(options)))},
        "input_shape": [int(n) for n in input_shape],
        "pipeline": None if pipeline is None else dict(pipeline),
        "representation": None if representation is None else dict(representation),
    }
    try:
        with write_errors(Path(folder)), atomic_dir(folder) as temporary:
            save_file(_plain(encoder.state_dict()), temporary / WEIGHTS)
            if extra:
                save_file(_plain(extra), temporary / EXTRA)
            if trained_on is not None and len(trained_on):
                save_arrays({"people": np.unique(trained_on.astype(np.uint64))}, temporary / TRAINED_ON)
            write_json(temporary / CONFIG, settings)
            outputs = {p.name: file_sha256(p) for p in sorted(temporary.iterdir())}
            write_manifest(temporary / "manifest.json", KIND, settings, {}, outputs, facts=dict(facts or {}))
    except SafetensorError as error:  # how safetensors tells of a full disk
        raise EcglmError(f"{folder}: cannot be written ({error}); run the same command again once it can") from error
    return Path(folder)


def read_encoder(source: str | Path, *, verify: bool = True) -> EncoderFile:
    """Read an encoder folder, or one of the hub by its id. Nothing in it is executed; weights are not loaded yet.

    Raises TornOutputError naming a file that is missing or differs from the manifest (``verify`` checks the sha256 of
    all), ConfigError for another version of the format, EcglmError where there is no such folder.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source))
    manifest = check_outputs(folder, KIND, verify=verify)
    settings = read_json(folder / CONFIG)
    if settings.get("format") != FORMAT:
        raise ConfigError(f"{folder / CONFIG}: encoder format {settings.get('format')}, this ecglm reads {FORMAT}")
    people = np.empty(0, np.uint64)
    if (folder / TRAINED_ON).is_file():
        people = load_arrays(folder / TRAINED_ON)["people"]
    return EncoderFile(
        name=settings["encoder"]["name"],
        options=settings["encoder"]["options"],
        input_shape=tuple(settings["input_shape"]),
        pipeline=settings["pipeline"],
        representation=settings["representation"],
        folder=folder,
        trained_on=people,
        facts=manifest["facts"],
    )


def representation_of(file: EncoderFile) -> Any:
    """What shows an ECG to a folder's encoder; released weights, which name none, read all leads in millivolts.

    EcglmError for an encoder of pictures that does not say how they are made.
    """
    if file.representation is not None:
        return build_representation(file.representation, file.folder)
    if len(file.input_shape) != 2:
        raise EcglmError(f"{file.folder}: does not say how its pictures are made; name one that ecglm pretrain wrote")
    return SignalRepresentation(num_samples=file.input_shape[1])


def load_encoder(source: str | Path | EncoderFile, input_shape: Sequence[int] | None = None) -> nn.Module:
    """The encoder of a folder with its weights, in eval mode; its input of ``input_shape`` where that is given.

    Raises EcglmError naming the weights that do not fit, ConfigError for a shape that this encoder cannot read.
    """
    found = source if isinstance(source, EncoderFile) else read_encoder(source)
    shape = found.input_shape if input_shape is None else tuple(input_shape)
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(found.name, input_shape=shape, options=found.options)
    mend = ""
    if shape != found.input_shape:
        read, asked = (" x ".join(map(str, s)) for s in (found.input_shape, shape))
        mend = f"; they are for input of {read}, not {asked}: prepare a store with segments of that shape"
    load_weights(encoder, found.weights(), str(found.folder / WEIGHTS), mend)
    return encoder.eval()


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], where: str, mend: str = "") -> None:
    """Load all of a module's tensors, checked by name and shape first. where: what the error names.

    A module may have ``fit_weights(weights) -> weights``: what it makes of tensors of another input length, where that
    is exact (fixed positions). Raises EcglmError listing what is missing, unexpected or of another shape.
    """
    if hasattr(module, "fit_weights"):
        weights = module.fit_weights(weights)  # type: ignore[operator]
    if told := differences(module.state_dict(), weights):
        raise EcglmError(f"{where}: not the weights of this encoder: {told}{mend}")
    module.load_state_dict(dict(weights))


def differences(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """What two sets of tensors differ in, names and shapes, as part of a line; empty when they agree."""
    shapes = [
        f"{k} {_shape(found[k])} instead of {_shape(wanted[k])}"
        for k in wanted
        if k in found and found[k].shape != wanted[k].shape
    ]
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": shapes,
    }
    return "; ".join(f"{len(v)} {k} ({_few(v)})" for k, v in problems.items() if v)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor on its own storage, on the CPU, as safetensors wants them."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise TornOutputError(f"{file}: cannot be read ({error}); copy the encoder folder again") from error


def _download(name: str) -> Path:
    made = "`ecglm pretrain` or `ecglm import` makes one"
    if is_path(name):
        raise EcglmError(f"{name}: no such encoder folder; {made}")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except hub_errors() as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EcglmError(
            f"{name}: no such encoder folder ({made}), and not to be had from the hub ({reason})"
        ) from error
