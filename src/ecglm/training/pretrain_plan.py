"""A pretraining recipe with what it names opened: stores, representation, encoder, and the objective around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ecglm.errors import ConfigError, EcglmError
from ecglm.models.encoder_files import EncoderFile, differences, load_encoder, read_encoder
from ecglm.models.encoders.base import build_encoder, picture
from ecglm.models.towers import check_input, check_pipeline
from ecglm.representations.base import BuildContext, Representation
from ecglm.store.reader import SegmentStore
from ecglm.training.objectives.base import Pretraining, Setting
from ecglm.training.pretrain_data import Row
from ecglm.training.pretrain_recipe import OBJECTIVES, REPRESENTATIONS, PretrainRecipe


@dataclass(frozen=True)
class Plan:
    """A recipe with everything it names, read but for the ECGs."""

    recipe: PretrainRecipe
    stores: list[SegmentStore]
    name: str
    options: dict[str, Any]
    start: EncoderFile | None
    representation: Representation

    @property
    def pipeline(self) -> dict[str, Any]:
        """Configuration of the pipeline that made the segments."""
        found: dict[str, Any] = self.stores[0].manifest["settings"]["pipeline"]
        return found


def plan_of(recipe: PretrainRecipe) -> Plan:
    """Open what a recipe names and make its representation; no ECG is read.

    Raises ConfigError or EcglmError for stores of different pipelines, an encoder folder that is not there, and options
    that fit neither the stores nor the encoder.
    """
    stores = [SegmentStore(p) for p in recipe.data.stores]
    if not stores:
        raise ConfigError("data.stores names no store; name one (ecglm prepare)")
    pipelines = [s.manifest["settings"]["pipeline"] for s in stores]
    if any(p != pipelines[0] for p in pipelines[1:]):
        raise EcglmError("the stores were prepared by different pipelines; prepare them alike to learn from both")
    start = None if recipe.encoder.start_from is None else read_encoder(recipe.encoder.start_from)
    name = recipe.encoder.name if start is None else start.name
    assert name is not None
    options = recipe.encoder.options if start is None else start.options
    recipe.check_encoder(name)
    if start is not None:
        rate = getattr(recipe.representation_options(name), "rate", None)
        check_pipeline(start, "encoder.start_from", pipelines[0], rate)
    size, tokens = picture(name, options)
    context = BuildContext(
        rate=stores[0].rate,
        seg_len=stores[0].seg_len,
        seed=recipe.train.seed,
        records=(),
        segment=_no_segment,
        image_size=size,
        image_tokens=tokens,
    )
    kind = REPRESENTATIONS[recipe.representation_for(name)]
    representation = kind.from_recipe(recipe.representation_options(name), context)
    if start is not None:
        check_input(start, "encoder.start_from", representation.config(), representation.input_shape or ())
    return Plan(recipe, stores, name, dict(options), start, representation)


def _no_segment(record_id: str) -> np.ndarray:
    raise AssertionError(f"{record_id}: no representation of an encoder learns from ECGs")


def make_encoder(plan: Plan) -> nn.Module:
    """The encoder as training begins: seeded, or with the weights it starts from."""
    shape = plan.representation.input_shape
    assert shape is not None
    if plan.start is not None:
        return load_encoder(plan.start, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.recipe.train.seed)
        return build_encoder(plan.name, input_shape=shape, options=plan.options)


def make_objective(
    plan: Plan, encoder: nn.Module, train_rows: Sequence[Row], say: Callable[[str], None] = print
) -> Pretraining:
    """The objective around the encoder; its heads begin with those of the encoder folder, where they fit."""
    recipe = plan.recipe
    options = encoder.settings() if hasattr(encoder, "settings") else plan.options  # type: ignore[operator]
    texts = tuple(sorted({row.text for row in train_rows if row.text}))
    setting = Setting(encoder, plan.name, options, plan.representation, texts, recipe.train.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        objective = OBJECTIVES[recipe.objective](getattr(recipe, recipe.objective), setting)
    if plan.start is not None:
        found = plan.start.extra()
        if found and not differences(objective.extra(), found):
            objective.model.load_state_dict(found, strict=False)
            say(f"begins with the encoder and the heads of {plan.start.folder}")
        else:
            say(f"begins with the encoder of {plan.start.folder}, heads are new")
    return objective
