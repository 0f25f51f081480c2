"""Examples → a batch of tensors: padded on the right for training, on the left for generation, or packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ecglm.prompts.examples import IGNORE
from ecglm.prompts.packing import document_table, is_document_table
from ecglm.types import Example


def collate(examples: Sequence[Example], *, pad_id: int, left: bool = False) -> dict[str, Any]:
    """A batch: ``input_ids, attention_mask, position_ids, labels`` ``(batch, length)`` int64 and ``ecg``
    ``(num_ecgs, …)`` as the representation gives it, in row order (absent when no row has one); likewise ``image``
    ``(num_ecgs, 3, height, width)``, the pictures for a second encoder. Where a picture is several tiles, ``ecg`` is
    ``(num_tiles, …)`` of all, and ``tiles`` ``(num_ecgs, 4)`` int64 says how each ECG is cut (``EcgInput.tiles``).

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
    return batch | _tensors(examples)


def _tensors(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """What the encoders read, in row order."""
    found = {name: [getattr(e, name) for e in examples] for name in ("ecg", "image", "tiles")}
    given = {name: [tensor for tensor in tensors if tensor is not None] for name, tensors in found.items()}
    return {name: torch.from_numpy(np.concatenate(tensors)) for name, tensors in given.items() if tensors}


def collate_packed(rows: Sequence[Sequence[Example]], *, table: bool = True) -> dict[str, Any]:
    """A packed batch of rows (``PackedRows``): the examples one after another in a single row without any padding.

    ``input_ids, labels, position_ids`` are ``(1, length)``; positions begin anew with every example. ``attention_mask``
    is the ``document_table`` that keeps the examples apart (``models/packed_attention.py``). Without ``table`` there is
    none: flash attention tells documents apart by the positions; ValueError then for examples with branches.
    """
    examples = [example for row in rows for example in row]
    if not table and any(e.branches is not None for e in examples):
        raise ValueError("examples with branches need a document table")
    if any(e.labels[0] != IGNORE for e in examples):
        raise ValueError("an example cannot learn its first token: it would be learned from the example before it")
    sizes = [len(e.input_ids) for e in examples]
    positions = np.concatenate([branch_positions(e) for e in examples])
    batch: dict[str, Any] = {
        "input_ids": torch.from_numpy(np.concatenate([e.input_ids for e in examples]))[None],
        "labels": torch.from_numpy(np.concatenate([e.labels for e in examples]))[None],
        "position_ids": torch.from_numpy(positions)[None],
    }
    if table:
        branches = [np.zeros(len(e.input_ids), np.int64) if e.branches is None else e.branches for e in examples]
        documents = np.repeat(np.arange(len(examples)), sizes)
        batch["attention_mask"] = document_table(documents, np.concatenate(branches), positions)
    return batch | _tensors(examples)


def token_counts(batch: dict[str, Any]) -> tuple[int, int]:
    """``(tokens of the examples, tokens of the batch)`` of a training batch: what they differ by is padding."""
    shape = batch["input_ids"].shape
    mask = batch.get("attention_mask")
    if mask is None or is_document_table(mask):
        return shape[1], shape[1]
    if mask.ndim == 2:
        return int(mask.sum()), shape[0] * shape[1]
    return int((batch["position_ids"] != 0).sum()) + shape[0], shape[0] * shape[1]


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
