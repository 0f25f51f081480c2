"""A world of twelve synthetic patients: a store, questions about it, and recipes that train on it in a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.models.checkpoint import ModelConfig, TinyConfig
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalOptions
from ecglm.representations.symbols import SymbolsOptions
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.recipe import DataConfig, Recipe, TrainConfig
from ecglm.types import Conversation

RATE, SEG_LEN = 50, 250
TINY = TinyConfig(hidden=32, num_layers=1, num_heads=2, vocab_size=300)
ENCODER = {"widths": [16, 16], "stem_stride": 4}


@dataclass(frozen=True)
class World:
    """Where the store and the questions lie."""

    folder: Path
    store: Path
    data: Path

    def recipe(self, symbols: bool = False, **changes: Any) -> Recipe:
        """A recipe for the tiny signal (or symbols) model. changes: fields of TrainConfig."""
        train = TrainConfig(max_steps=6, batch_size=4, warmup_steps=1, eval_every=2, log_every=1, lr=5e-3)
        return Recipe(
            name="tiny",
            data=DataConfig(files=(str(self.data),), stores=(str(self.store),)),
            signal=None if symbols else SignalOptions(num_tokens=4),
            symbols=SymbolsOptions(leads=("I", "V1"), rate=25, num_merges=30, max_ecg_tokens=60) if symbols else None,
            model=ModelConfig(tiny=TINY, encoder_options={} if symbols else ENCODER, max_len=256),
            train=replace(train, **changes),
        )

    def conversations(self, split: str | None = None) -> list[Conversation]:
        return read_conversations(self.data, split=split)

    def write(self, path: Path, conversations: list[Conversation]) -> Path:
        """A conversations file of one's own."""
        write_conversations(path, conversations, {"by": path.name}, {})
        return path


def make_world(folder: Path) -> World:
    pipeline = get_pipeline("default", rate=RATE, seg_len=SEG_LEN)
    prepare(Synthetic(num_patients=12, seed=3), pipeline, folder / "store", progress=False)
    store = SegmentStore(folder / "store")
    splits = dict(assign_splits(store, seed=0, fractions=(0.6, 0.2, 0.2)))
    map_corpus("labels", [store], folder / "questions.parquet", tasks=["rhythm", "axis"], seed=0, splits=splits)
    return World(folder, folder / "store", folder / "questions.parquet")


def tree(folder: Path) -> dict[str, bytes]:
    """Relative name → bytes of every file but the one that holds a clock."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "speed.jsonl")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
