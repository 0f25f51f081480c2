"""Supervised fine-tuning: next-token cross entropy on the answer tokens, summed and divided by their number."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ecglm import registry
from ecglm.prompts.examples import IGNORE


@registry.register("objectives", "sft")
def sft(elm: Any, batch: dict[str, Any], num_items: torch.Tensor | int | None = None) -> torch.Tensor:
    """Loss of a batch from ``collate``. num_items: answer tokens of the whole (accumulated, global) step, so that
    1×8 accumulated, 8×1 and 2 ranks × 4 are the same step; None: those of this batch.
    """
    total, count = answer_loss(elm, batch)
    return total / (count if num_items is None else num_items)


def answer_loss(elm: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """``(sum of losses, number of answer tokens)``; only positions before a learned token reach the output layer."""
    labels = batch["labels"][:, 1:]
    columns = torch.nonzero((labels != IGNORE).any(dim=0))[:, 0]
    if not len(columns):  # no loss, but a graph all the same
        columns = columns.new_zeros(1)
    logits = elm(
        input_ids=batch["input_ids"],
        attention_mask=batch.get("attention_mask"),
        position_ids=batch["position_ids"],
        ecg=batch.get("ecg"),
        image=batch.get("image"),
        tiles=batch.get("tiles"),
        logits_to_keep=columns,
    )
    targets = labels[:, columns]
    at = targets != IGNORE
    return cross_entropy(logits[at].float(), targets[at], reduction="sum"), int(at.sum())
