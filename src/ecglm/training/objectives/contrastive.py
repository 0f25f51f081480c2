"""Contrastive losses between ECGs and texts: InfoNCE and SigLIP's sigmoid, with negatives of all ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid

from ecglm.models.text_towers import TextTower, text_tower
from ecglm.models.two_towers import retrieval
from ecglm.training.objectives.base import Pretraining, Setting, Shown, counting, num_counted, stacked

#: Before the names of what the text tower reads, in a batch: they are no answer tokens of a language model.
_TEXT = "text_"


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The text tower. name: ``tiny``, a small new one, or a hub id or folder of a text encoder (``frozen``: whether it
    stands still; ``pooling``, ``max_length``). options: of that tower (models/text_towers.py).
    """

    name: str = "tiny"
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, *, frozen: bool) -> TextTower:
        """The tower; frozen: whether published weights stand still where the options do not say."""
        usual = {} if self.name == "tiny" else {"frozen": frozen}
        return text_tower(self.name, **{**usual, **self.options})


class Contrastive(Pretraining):
    """An objective on pairs of ECG and report; a subclass makes ``model`` (``text`` is its text tower) and says what a
    gathered batch costs.

    Negatives are all other pairs of the step's batch on all ranks; batches that are accumulated do not meet. same_text:
    whether two ECGs with one and the same report are left out instead of being told apart, which no model can.
    """

    reads_text = True
    model: Any
    text: TextTower  # embeddings()[:2] are of the ECG and of its text

    def __init__(self, options: Any, setting: Setting) -> None:
        self.ignores = options.same_text == "ignore"

    def collate(self, rows: Sequence[Shown]) -> dict[str, Any]:
        """``ecg``, what the text tower reads, ``text_id``, the number of the text, ``labels`` that count the ECGs."""
        told = self.text.tokenize([row.text for row in rows])
        tokens = {f"{_TEXT}{name}": value for name, value in told.items()}
        ids = torch.tensor([row.text_id for row in rows])
        return {"ecg": stacked(rows), **tokens, "text_id": ids, "labels": counting(rows)}

    @abstractmethod
    def gathered(
        self, found: Any, everyone: Sequence[torch.Tensor], same: torch.Tensor | None, world: int
    ) -> torch.Tensor:
        """The loss summed over the rows of all ranks. found: the model's output of the own batch. everyone: its
        ``embeddings``, of all ranks. same: bool ``(n, n)``, pairs that are no negatives, or None. world: ranks.
        """

    @abstractmethod
    def embeddings(self, found: Any) -> list[torch.Tensor]:
        """Of a model's output, what is compared between rows: ``(batch, dim)`` each, of length 1."""

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        world = world_size()
        total, num_rows = self._total(model, batch, world)
        if num_items is not None:
            return _value_over(total / num_items, world)
        return _gradient_times(total / num_rows, world)

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """Of a validation batch, which one rank reads as a whole: nothing is gathered."""
        return self._total(model, batch, 1)

    def _total(self, model: nn.Module, batch: dict[str, Any], world: int) -> tuple[torch.Tensor, int]:
        """The loss summed over the rows of all ranks, and their number. Rows that fill up a batch are left out."""
        found, kept = self._run(model, batch), num_counted(batch)
        own = [x[:kept] for x in (batch["text_id"], *self.embeddings(found))]
        ids, *everyone = everyones(*own, world=world)
        return self.gathered(found, everyone, same_text(ids) if self.ignores else None, world), len(ids)

    def _run(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        told = {k.removeprefix(_TEXT): v for k, v in batch.items() if k.startswith(_TEXT) and k != "text_id"}
        return model(ecg=batch["ecg"], **told)

    def judge(self, batches: Iterable[dict[str, Any]]) -> dict[str, float]:
        """Retrieval over all of the validation split: ``models.two_towers.retrieval``."""
        parts: list[tuple[torch.Tensor, ...]] = []
        with torch.inference_mode():
            for batch in batches:
                ecg, text = self.embeddings(self._run(self.model, batch))[:2]
                parts.append((ecg.cpu(), text.cpu(), batch["text_id"].cpu()))
        ecgs, texts, ids = (torch.cat(column) for column in zip(*parts, strict=True))
        return retrieval(ecgs, texts, ids)

    def extra(self) -> dict[str, torch.Tensor]:
        """Heads and projections; the text tower too, unless it is a frozen one."""
        found: dict[str, torch.Tensor] = self.model.extra()
        return found


def info_nce(
    first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor | float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE summed over rows and over both directions: row i of ``first`` belongs to row i of ``second``.

    first, second: ``(n, dim)`` of unit length. scale: one over the temperature. same: bool ``(n, n)``, pairs that are
    no negatives of one another; they are left out of the softmax. The mean of a direction is this over 2 n.
    """
    logits = scale * first @ second.T
    target = torch.arange(len(first), device=first.device)
    if same is not None:
        own = torch.eye(len(first), dtype=torch.bool, device=first.device)
        logits = logits.masked_fill(same & ~own, float("-inf"))
    return cross_entropy(logits, target, reduction="sum") + cross_entropy(logits.T, target, reduction="sum")


def sigmoid_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """SigLIP's loss (arXiv 2303.15343) summed over all pairs: each pair is judged on its own, matched or not.

    same: pairs that are neither; they are left out. The paper's loss is this over n.
    """
    logits = scale * first @ second.T + bias
    own = torch.eye(len(first), dtype=torch.bool, device=first.device)
    losses = -logsigmoid(torch.where(own, logits, -logits))
    if same is not None:
        losses = losses.masked_fill(same & ~own, 0.0)
    return losses.sum()


def world_size() -> int:
    """Processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def everyones(*tensors: torch.Tensor, world: int | None = None) -> list[torch.Tensor]:
    """Each tensor ``(n, …)`` with those of all ranks behind one another, in the order of ranks; ranks may have
    different n. Only the own rows carry a gradient: every rank computes the whole loss, so that the sum of the ranks'
    gradients is that of one process with the whole batch.
    """
    world = world_size() if world is None else world
    if world == 1:
        return list(tensors)
    device = tensors[0].device
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(tensors[0])], device=device))
    sizes = [int(c) for c in counts]
    out = []
    for tensor in tensors:
        padded = tensor.detach().new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        rows = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        rows[dist.get_rank()] = tensor
        out.append(torch.cat(rows))
    return out


def shared(parameter: torch.Tensor, world: int) -> torch.Tensor:
    """A parameter that every rank applies to the whole batch: its value, and one rank's share of its gradient."""
    return parameter if world == 1 else parameter / world + (parameter - parameter / world).detach()


def _gradient_times(loss: torch.Tensor, world: int) -> torch.Tensor:
    """The loss with ``world`` times its gradient: it is then averaged over ranks, each of which holds a part."""
    return loss if world == 1 else world * loss - ((world - 1) * loss).detach()


def _value_over(loss: torch.Tensor, world: int) -> torch.Tensor:
    """The loss with its whole gradient and one rank's share of its value: what is then summed over ranks."""
    return loss if world == 1 else loss + (loss / world - loss).detach()


def same_text(text_ids: torch.Tensor) -> torch.Tensor:
    """bool ``(n, n)``: whether two rows have the same text, by its number in the dataset ``(n,)``."""
    return text_ids[:, None] == text_ids[None, :]
