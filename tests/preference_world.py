"""Preference files about the ECGs of a ``tiny_world.World``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ecglm.training.align_recipe import AlignData, AlignRecipe, AlignTrainConfig
from ecglm.types import Conversation


def row(name: str, question: str = "<ecg>\nRhythm?", **fields: Any) -> dict[str, Any]:
    """A version-1 row as the chat writes it; ``fields`` replace what they name."""
    empty = {"chosen": None, "rejected": None, "answer": None, "thumb": None, "other": None}
    return {
        "version": 1,
        "id": name,
        "source": "compare",
        "turns": [{"role": "user", "text": question}],
        "ecgs": [],
        "split": "",
        "people": [],
        "model": {"name": "m", "fingerprint": "f"},
        **empty,
        **fields,
    }


def of_conversation(c: Conversation, better: str = "certainly ", **fields: Any) -> dict[str, Any]:
    """The conversation's own answer, preferred with ``better`` before it."""
    answer = c.turns[-1].text
    shown = {"turns": [{"role": t.role, "text": t.text} for t in c.turns[:-1]], "ecgs": [{"record": e} for e in c.ecgs]}
    return row(c.id, **{**shown, "chosen": better + answer, "rejected": answer, **fields})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return path


def recipe(world: Any, model: Path, pairs: Path, **fields: Any) -> AlignRecipe:
    """A recipe of a few steps; ``train`` may be a dict of changes."""
    train = {"max_steps": 4, "batch_size": 4, "warmup_steps": 1, "eval_every": 2, "log_every": 1, "lr": 1e-3}
    train |= fields.pop("train", {})
    data = AlignData(pairs=(str(pairs),), stores=(str(world.store),), files=(str(world.data),), val_share=0.25)
    return AlignRecipe(name="tiny", model=str(model), data=data, train=AlignTrainConfig(**train), **fields)
