"""What objectives that pretrain an encoder are: what they read, the model they make, their batches and their loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ecglm.prompts.examples import IGNORE
from ecglm.types import EcgInput


@dataclass(frozen=True)
class Setting:
    """What a run knows when it makes its objective.

    encoder: what is to learn; name, options: as in the recipe. representation: what shows it the ECG. texts: of the
    training ECGs, sorted, each once; empty for an objective that reads none. seed: of the run.
    """

    encoder: nn.Module
    name: str
    options: Mapping[str, Any]
    representation: Any
    texts: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Shown:
    """One ECG of a batch. id: of its segment. input: as the representation gives it. text: its report. text_id: the
    same number for the same text. rng: of this ECG in this epoch, whichever worker or rank asks.
    """

    id: str
    input: EcgInput
    text: str
    text_id: int
    rng: np.random.Generator


class Pretraining(ABC):
    """An objective of ``ecglm pretrain``: subclass it and register the class under "objectives".

    Options: its section in a recipe, a dataclass. reads_text: whether every ECG needs a report. has_length: whether its
    items have ``input_ids`` and may be too long. model: holds the encoder and whatever learns beside it; made by
    ``__init__``. Where the encoder stands in it under another name than ``encoder``, ``extra`` must leave it out.
    """

    Options: ClassVar[type[Any]]
    reads_text: ClassVar[bool] = False
    has_length: ClassVar[bool] = False
    model: nn.Module

    @abstractmethod
    def __init__(self, options: Any, setting: Setting) -> None:
        """Make the model. ConfigError for options that do not fit the encoder."""

    def item(self, row: Shown) -> Any:
        """What a dataset gives of one ECG; RejectedRecord where it cannot be used."""
        return row

    @abstractmethod
    def collate(self, rows: Sequence[Any]) -> dict[str, Any]:
        """A batch of items."""

    @abstractmethod
    def __call__(self, model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        """The loss: a sum over the batch divided by num_items, what is counted in the whole step (accumulated, over all
        ranks), so that the losses of batches and ranks add up; None: the mean over this batch. model: ``self.model``,
        possibly wrapped: call it as a whole.
        """

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """``(summed loss, count)`` of a validation batch."""
        count = num_counted(batch)
        return self(model, batch) * count, count

    def judge(self, batches: Iterable[dict[str, Any]]) -> dict[str, float]:
        """What else to say of the model on the validation batches, beside its loss: what that loss is to be compared
        with, or a measure that people read.
        """
        return {}

    def extra(self) -> dict[str, torch.Tensor]:
        """Tensors that an encoder folder keeps beside the encoder's: decoder, heads, text tower."""
        return {k: v for k, v in self.model.state_dict().items() if not k.startswith("encoder.")}

    def facts(self) -> dict[str, Any]:
        """JSON-able: what it takes to build the model again around its encoder."""
        return {}


def stacked(rows: Sequence[Shown]) -> torch.Tensor:
    """The tensors of the rows: ``(batch, *input_shape)``."""
    return torch.from_numpy(np.stack([np.asarray(row.input.tensor) for row in rows]))


def counting(rows: Sequence[Shown]) -> torch.Tensor:
    """``labels`` of a batch in which every ECG counts once: ``(batch, 2)``. The trainer counts them over the step, and
    sets those of a batch that merely fills up a process's share to ``IGNORE``.
    """
    return torch.ones(len(rows), 2, dtype=torch.int64)


def num_counted(batch: dict[str, Any]) -> int:
    """ECGs of a batch that count."""
    return int((batch["labels"][:, 1:] != IGNORE).any(dim=1).sum())
