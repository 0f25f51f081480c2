"""A small store for pretraining, and recipes for it that run in a second or two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm.models.config import TinyConfig
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.training.objectives.captioning import CaptioningOptions
from ecglm.training.objectives.clip import ClipOptions, SiglipOptions
from ecglm.training.objectives.masked import MaskedOptions
from ecglm.training.objectives.merl import MerlOptions
from ecglm.training.options import TrainConfig
from ecglm.training.pretrain_recipe import EncoderConfig, PretrainData, PretrainRecipe

RATE, SEG_LEN = 50, 200
RESNET = EncoderConfig(name="resnet1d", options={"widths": [8, 8], "stem_stride": 4})
MTAE = EncoderConfig(name="mtae", options={"size": "tiny"})
OBJECTIVES: dict[str, tuple[EncoderConfig, Any]] = {
    "masked": (MTAE, MaskedOptions()),
    "merl": (RESNET, MerlOptions(dim=8)),
    "clip": (RESNET, ClipOptions(dim=8)),
    "siglip": (RESNET, SiglipOptions(dim=8)),
    "captioning": (
        RESNET,
        CaptioningOptions(tiny=TinyConfig(hidden=16, num_layers=1, num_heads=2, vocab_size=300), max_len=300),
    ),
}


@dataclass(frozen=True)
class PretrainWorld:
    """Where the store lies: thirty patients, those of three rhythms, 4 s at 50 Hz, two segments and more each."""

    folder: Path
    store: Path

    def recipe(self, objective: str, **changes: Any) -> PretrainRecipe:
        """changes: fields of TrainConfig, or of the recipe."""
        encoder, options = OBJECTIVES[objective]
        own = {
            k: changes.pop(k) for k in list(changes) if k in ("encoder", "data", "signal", "stacked", "probe", "image")
        }
        train = {"max_steps": 4, "batch_size": 8, "warmup_steps": 1, "eval_every": 2, "log_every": 1, **changes}
        given = {"data": PretrainData(stores=(str(self.store),)), "encoder": encoder, objective: options, **own}
        if objective == "captioning" and "signal" not in given:
            from ecglm.representations.signal import SignalOptions

            given["signal"] = SignalOptions(num_tokens=3)
        return PretrainRecipe(name=objective, train=TrainConfig(**train), **given)


def make_pretrain_world(folder: Path) -> PretrainWorld:
    source = Synthetic(
        num_patients=30, seed=1, records_per_patient=(1, 2), rhythms=("sinus_rhythm", "paced", "atrial_fibrillation")
    )
    prepare(source, get_pipeline("default", rate=RATE, seg_len=SEG_LEN), folder / "store", progress=False)
    return PretrainWorld(folder, folder / "store")
