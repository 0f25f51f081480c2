"""Looked at before a model is loaded to answer questions: whether they, the stores and the controls are for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ecglm import config as strict
from ecglm import registry
from ecglm.errors import EcglmError
from ecglm.evaluation.controls import apply_control, is_perturbation
from ecglm.files import check_outputs, read_json, read_manifest
from ecglm.models.checkpoint import CONFIG, KIND, TRAINED_ON, checkpoint_folder
from ecglm.prompts.people import seen
from ecglm.prompts.retrieved import RagOptions
from ecglm.representations.base import build_representation
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint says of itself without its weights. outputs: name → sha256 of its files."""

    folder: Path
    outputs: dict[str, str]

    @classmethod
    def of(cls, model: str | Path) -> ModelFacts:
        """Of a folder or hub id; EcglmError where there is no such checkpoint."""
        folder = checkpoint_folder(model)
        return cls(folder, read_manifest(folder, KIND)["outputs"])

    def verify(self) -> None:
        """TornOutputError where a file differs from the manifest."""
        check_outputs(self.folder, KIND)

    def settings(self) -> tuple[Any, dict[str, Any]]:
        """``(representation, pipeline)`` of its training."""
        found = read_json(self.folder / CONFIG)
        return build_representation(found["representation"], self.folder), found["pipeline"]

    def rag(self) -> RagOptions | None:
        """How it was told of retrieved ECGs in its training; None where it was not."""
        found = read_json(self.folder / CONFIG).get("rag")
        return None if found is None else strict.from_dict(RagOptions, found, str(self.folder / CONFIG))

    def check_stores(self, stores: Sequence[SegmentStore]) -> None:
        """The stores must hold segments made as those it learned from. An imported model of pictures has learned from
        no store: any segments will do that can be drawn and are as long. EcglmError with the mend.
        """
        representation, pipeline = self.settings()
        origin = read_manifest(self.folder, KIND).get("imported_from") or {}
        if origin.get("format") != "pulse":  # what filters leave of a trace is what a model has learned to read
            check_pipeline(pipeline, stores)
            return
        for store in stores:
            wanted, found = pipeline["seg_len"] / pipeline["rate"], store.seg_len / store.rate
            if found != wanted:
                raise EcglmError(
                    f"{store.path}: holds segments of {found:g} s, but the model's pages show {wanted:g} s; prepare it "
                    f"with --seg-len {round(wanted * store.rate)}, or import the model with --rate and --seg-len alike"
                )
            representation(np.zeros((12, store.seg_len), np.float32), store.rate)

    def trained_on(self) -> np.ndarray:
        """Hashes of the people it has learned from, uint64."""
        file = self.folder / TRAINED_ON
        return load_file(file)["people"] if file.is_file() else np.empty(0, np.uint64)


def check_controls(controls: Sequence[str]) -> None:
    """A name nobody knows, or one that stands twice, is told before anything is made."""
    for control in controls:
        registry.get("controls", control)
        if list(controls).count(control) > 1:
            raise EcglmError(f"control '{control}' stands twice; name it once")


def check_numbers(**numbers: int | None) -> None:
    """EcglmError for one that is below 1."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise EcglmError(f"{name} must be 1 or more, found {number}")


def check_decoding(seeds: Sequence[int], temperature: float | None, top_p: float) -> None:
    """Greedy answers are the same under every seed: to ask for several is a mistake."""
    if temperature is None and top_p != 1.0:
        raise EcglmError("--top-p chooses among tokens that are drawn, but decoding is greedy; give --temperature too")
    if temperature is None and seeds:
        raise EcglmError(
            "--seeds change what is drawn, but decoding is greedy; give --temperature too, or drop --seeds"
        )
    for seed in seeds:
        if seed < 0 or list(seeds).count(seed) > 1:
            raise EcglmError(f"--seeds: {seed} is negative or stands twice; name each once")


def check_pipeline(pipeline: dict[str, Any], stores: Sequence[SegmentStore]) -> None:
    """The model must see segments made as those it learned from."""
    for store in stores:
        made = store.manifest["settings"]["pipeline"]
        differs = sorted(k for k in made.keys() | pipeline.keys() if made.get(k) != pipeline.get(k))
        if differs:
            told = ", ".join(f"{k} {made.get(k)} (model: {pipeline.get(k)})" for k in differs)
            raise EcglmError(f"{store.path}: prepared otherwise than the model's data: {told}; prepare it alike")


def try_perturbations(controls: Sequence[str], stores: Sequence[SegmentStore]) -> None:
    """On an empty segment, so that hum which a rate cannot show, say, is told before the first answer."""
    for control in filter(is_perturbation, controls):
        for store in stores:
            apply_control(control, np.zeros((12, store.seg_len)), store.rate, seed=0, row_id="")


def check_modalities(representation: Any, controls: Sequence[str]) -> None:
    """What a control hides must be one of two."""
    for control in controls:
        if registry.get("controls", control).hides and not hasattr(representation, "image_placeholder"):
            raise EcglmError(f"control '{control}' hides one of two inputs, but this model reads one; leave it out")


def check_unseen(trained_on: np.ndarray, conversations: Sequence[Conversation], data: str | Path) -> None:
    """No question may be about somebody the model has learned from: its answer would be remembered, not read."""
    known = seen(conversations, trained_on)
    if known:
        raise EcglmError(
            f"{data}: {len(known)} of {len(conversations)} questions are about patients this model was trained on "
            f"(first: {known[0].id}); predict its own test split or fold, or say --allow-seen"
        )
