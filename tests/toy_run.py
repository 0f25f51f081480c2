"""A training of a few numbers by a network of two layers, in milliseconds: ten rows, any loss, any option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ecglm.files import read_jsonl
from ecglm.training.options import TrainConfig
from ecglm.training.resume import resume_point
from ecglm.training.stateful import StatefulTrainer

NUM_ROWS, WIDTH = 10, 6


@dataclass(frozen=True)
class Row:
    id: str
    x: torch.Tensor
    ecg: object = None
    image: object = None


class Order(torch.utils.data.Sampler):
    """Another order in every epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return NUM_ROWS

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(NUM_ROWS, generator=generator).tolist()


def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    return [Row(f"r{i}", torch.randn(WIDTH, generator=generator)) for i in range(NUM_ROWS)]


def network(dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, WIDTH))


def collate(found: list[Row]) -> dict[str, Any]:
    return {"x": torch.stack([r.x for r in found])}


def reconstruction(model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
    assert set(batch) == {"x"} and num_items is None  # what the log counts never reaches a loss
    return (model(batch["x"]) - batch["x"]).square().mean()


class Run:
    """A training in a folder, with everything it did kept for the tests."""

    def __init__(self, out: Path, loss=reconstruction, model: nn.Module | None = None, **changes: Any) -> None:
        options = {"max_steps": 6, "batch_size": 2, "warmup_steps": 1, "eval_every": 3, "lr": 0.01, "log_every": 1}
        config = TrainConfig(**{**options, "device": "cpu", **changes})
        self.model, self.out = model or network(), out
        self.said: list[str] = []
        self.best: list[dict[str, Any]] = []
        self.seen: list[list[str]] = []

        def watched(found: list[Row]) -> dict[str, Any]:
            self.seen.append([r.id for r in found])
            return collate(found)

        self.trainer = StatefulTrainer(
            self.model,
            loss,
            rows(),
            rows()[:3],
            config,
            out,
            self.said.append,
            collate=watched,
            sampler=Order(),
            save_weights=lambda folder: save_file(self.model.state_dict(), folder / "weights.safetensors"),
            load_weights=lambda folder: self.model.load_state_dict(load_file(folder / "weights.safetensors")) and None,
            save_best=self.best.append,
            width=WIDTH,
            needs_ecg=True,
        )

    def train(self) -> Run:
        torch.manual_seed(7)
        self.trainer.train(resume_from_checkpoint=resume_point(self.out / "states"))
        return self

    def metrics(self, key: str) -> dict[int, Any]:
        return {r["step"]: r[key] for r in read_jsonl(self.out / "metrics.jsonl") if key in r}

    def weights(self) -> list[torch.Tensor]:
        return [w.detach().clone() for w in self.model.parameters()]
