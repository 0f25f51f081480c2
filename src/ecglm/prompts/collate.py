"""Examples → a batch of tensors, padded on the right for training and on the left for generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ecglm.prompts.examples import IGNORE
from ecglm.types import Example


def collate(examples: Sequence[Example], *, pad_id: int, left: bool = False) -> dict[str, Any]:
    """A batch: ``input_ids, attention_mask, position_ids, labels`` ``(batch, length)`` int64 and ``ecg``
    ``(num_ecgs, …)`` as the representation gives it, in row order (absent when no row has one).

    Rows with ``branches`` make ``attention_mask`` float32 ``(batch, 1, length, length)`` (0 where a token may look,
    the most negative number elsewhere) and positions that restart at the end of the shared prefix.
    """
    length = max(len(e.input_ids) for e in examples)
    shape = (len(examples), length)
    input_ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    mask = np.zeros(shape, np.int64)
    positions = np.zeros(shape, np.int64)
    branches = np.full(shape, -1, np.int64)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        at = slice(length - size, length) if left else slice(0, size)
        input_ids[row, at] = example.input_ids
        labels[row, at] = example.labels
        mask[row, at] = 1
        positions[row, at] = branch_positions(example)
        branches[row, at] = 0 if example.branches is None else example.branches
    batch: dict[str, Any] = {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(positions),
    }
    if any(e.branches is not None for e in examples):
        batch["attention_mask"] = branch_mask(torch.from_numpy(branches))
    else:
        batch["attention_mask"] = torch.from_numpy(mask)
    ecgs = [e.ecg for e in examples if e.ecg is not None]
    if ecgs:
        batch["ecg"] = torch.from_numpy(np.concatenate(ecgs))
    return batch


def branch_positions(example: Example) -> np.ndarray:
    """Positions ``(length,)``: 0, 1, 2 … along the prefix, going on from its end in every branch anew."""
    size = len(example.input_ids)
    if example.branches is None:
        return np.arange(size)
    starts = np.r_[True, np.diff(example.branches) != 0]
    begin = np.maximum.accumulate(np.where(starts, np.arange(size), 0))
    prefix = int((example.branches == 0).sum())
    return np.arange(size) - begin + np.where(example.branches > 0, prefix, 0)


def branch_mask(branches: torch.Tensor) -> torch.Tensor:
    """Additive attention mask from ``branches`` ``(batch, length)``: causal, within the own branch and the prefix.

    Padding has branch -1; a padding row may look at itself so that no softmax is empty.
    """
    length = branches.shape[1]
    query, key = branches[:, :, None], branches[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = causal & ((key == query) | ((key == 0) & (query >= 0)))
    mask = torch.full(allowed.shape, torch.finfo(torch.float32).min)
    mask.masked_fill_(allowed, 0.0)
    return mask[:, None]
