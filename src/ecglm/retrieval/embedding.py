"""One vector per ECG from a frozen encoder, of an encoder folder or of a checkpoint, shown the ECG as it learned it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecglm import config as strict
from ecglm.errors import EcglmError, RejectedRecord, TornOutputError
from ecglm.files import MANIFEST, check_outputs, file_sha256, read_json
from ecglm.models import checkpoint
from ecglm.models.config import ModelConfig
from ecglm.models.encoder_files import load_encoder, load_weights, read_encoder, representation_of, save_encoder
from ecglm.models.encoders.base import pooled
from ecglm.models.towers import build_tower, check_pipeline
from ecglm.representations.base import build_representation
from ecglm.representations.dual import Dual

#: ECGs at once: part of what decides the last bits of a vector.
_BATCH = 64


@dataclass(frozen=True)
class Embedder:
    """An encoder with what shows it an ECG.

    name, options, input_shape: as in an encoder folder. made_from: fingerprint of the folder it came from.
    """

    encoder: nn.Module
    representation: Any
    name: str
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    made_from: str

    def __call__(self, segments: np.ndarray, rate: int) -> np.ndarray:
        """float32 ``(n, dim)``: what the encoder says itself (``pooled``), or the mean over its tokens, of ``(n, 12,
        num_samples)`` in mV at ``rate`` Hz. Rows may hold NaN where the encoder gives it.
        """
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        found = []
        with torch.inference_mode():
            for start in range(0, len(segments), _BATCH):
                batch = segments[start : start + _BATCH]
                shown = np.stack([np.asarray(self.representation(segment, rate).tensor) for segment in batch])
                found.append(pooled(self.encoder, torch.from_numpy(shown).to(device)).float().cpu().numpy())
        return np.concatenate(found)

    def save(self, folder: Path) -> None:
        """Write it as an encoder folder."""
        save_encoder(
            folder,
            self.encoder.cpu(),
            name=self.name,
            options=self.options,
            input_shape=self.input_shape,
            representation=self.representation.config(),
            facts={"made_from": self.made_from},
        )


def read_embedder(source: str | Path, pipeline: Mapping[str, Any] | None = None) -> Embedder:
    """The encoder of an encoder folder, or a hub id of one, or of a checkpoint folder, whose LLM is not read.

    pipeline: configuration of the segments it will be shown. Raises ConfigError where they were made otherwise than
    those it learned from, EcglmError for a model without an encoder of its own, and what reading the folder raises.
    """
    folder = Path(source)
    if (folder / MANIFEST).is_file() and read_json(folder / MANIFEST).get("kind") == checkpoint.KIND:
        return _of_checkpoint(folder, pipeline)
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise EcglmError(f"{folder}: neither an encoder folder nor a checkpoint; name the folder best of a run")
    file = read_encoder(source)
    representation = representation_of(file)
    if pipeline is not None:
        check_pipeline(file, "encoder", pipeline, getattr(representation, "rate", None))
    made_from = file.facts.get("made_from") or file_sha256(file.folder / MANIFEST)
    return Embedder(load_encoder(file), representation, file.name, file.options, file.input_shape, str(made_from))


def _of_checkpoint(folder: Path, pipeline: Mapping[str, Any] | None) -> Embedder:
    """The encoder of a checkpoint: the signal's where it has two."""
    check_outputs(folder, checkpoint.KIND)
    settings = read_json(folder / checkpoint.CONFIG)
    model = strict.from_dict(ModelConfig, settings["model"], str(folder / checkpoint.CONFIG))
    representation = build_representation(settings["representation"], folder)
    shown: Any = getattr(representation, "main", representation)  # behind which words may stand
    shown = shown.signal if isinstance(shown, Dual) else shown
    if model.encoder is None or getattr(shown, "placeholder", None) is None or getattr(shown, "tiled", False):
        raise EcglmError(
            f"{folder}: this model ({shown.name}) has no encoder that gives an ECG one vector; index by features, or "
            "name an encoder folder"
        )
    if pipeline is not None and settings["pipeline"] != dict(pipeline):
        told = ", ".join(
            f"{k} {settings['pipeline'].get(k)} (here {pipeline.get(k)})"
            for k in sorted({*settings["pipeline"], *pipeline})
            if settings["pipeline"].get(k) != pipeline.get(k)
        )
        raise EcglmError(f"{folder}: learned from segments made otherwise: {told}; index a store prepared alike")
    with torch.random.fork_rng(devices=[]):
        encoder = build_tower(model, shown.input_shape)
    file = folder / checkpoint.WEIGHTS
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TornOutputError(f"{file}: cannot be read ({error}); copy the checkpoint again") from error
    mark = "encoder."
    load_weights(encoder, {k[len(mark) :]: v for k, v in tensors.items() if k.startswith(mark)}, str(file))
    made_from = file_sha256(folder / MANIFEST)
    return Embedder(encoder.eval(), shown, model.encoder, model.encoder_options, shown.input_shape, made_from)


def embedded(embedder: Embedder, segments: np.ndarray, rate: int, names: Sequence[str]) -> np.ndarray:
    """``embedder(segments, rate)``; RejectedRecord ``embedding_not_finite`` naming the first ECG whose is not."""
    vectors = embedder(segments, rate)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise RejectedRecord("embedding_not_finite", f"{names[int(bad[0])]}: the encoder's vector holds NaN")
    return vectors
