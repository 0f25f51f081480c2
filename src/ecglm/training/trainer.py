"""The trainer of ECG-language models: ``StatefulTrainer`` with their loss, batches and checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.adapters import is_adapted, load_adapter, save_adapter
from ecglm.models.checkpoint import Bundle, load_ecg_weights, save_ecg_weights, save_pretrained, write_checkpoint
from ecglm.models.llm import load_llm
from ecglm.models.packed_attention import prepare_packing
from ecglm.prompts.collate import collate, collate_packed
from ecglm.prompts.data import ElmDataset, EpochSampler
from ecglm.prompts.packing import PackedRows, PackedSampler, fill_rows, rows_of
from ecglm.training.fsdp import always_encode, shard_units
from ecglm.training.objectives.sft import answer_loss
from ecglm.training.options import TrainConfig
from ecglm.training.stateful import STATES, StatefulTrainer, is_over, resume_point

__all__ = ["STATES", "ElmTrainer", "is_over", "resume_point"]


class ElmTrainer(StatefulTrainer):
    """Trains ``bundle.elm`` into ``out``, with ``best/`` by validation loss per answer token."""

    def __init__(
        self,
        bundle: Bundle,
        train: ElmDataset,
        val: ElmDataset,
        config: TrainConfig,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        self.bundle = bundle
        order = _packed(bundle, train, val, config) if config.packing else _padded(bundle, train, val, config)
        super().__init__(
            bundle.elm,
            registry.get("objectives", config.objective),
            order.train,
            order.val,
            order.config,
            out,
            say,
            collate=order.collate,
            sampler=order.sampler,
            save_weights=functools.partial(save_weights_of, bundle),
            load_weights=functools.partial(load_weights_of, bundle),
            save_best=lambda facts: save_pretrained(bundle, out / "best", facts),
            measure=answer_loss,
            width=bundle.elm.llm.get_input_embeddings().weight.shape[1],
            compiled=bundle.elm.llm,
            needs_ecg=bundle.elm.encoder is not None,
            units=functools.partial(_units, train),
        )


@dataclass(frozen=True)
class _Order:
    """What the trainer is shown, and in which order; ``config`` with the steps of a packed training counted."""

    train: Any
    val: Any
    sampler: Any
    collate: Callable[[Any], dict[str, Any]]
    config: TrainConfig


def _step_rows(config: TrainConfig) -> int:
    """Rows of one step, however many processes share it: the order is made for these, not for their parts."""
    return config.batch_size * config.accumulation


def _padded(bundle: Bundle, train: ElmDataset, val: ElmDataset, config: TrainConfig) -> _Order:
    """Batches of sequences of like length, padded to the longest."""
    pad = bundle.prompter.tokenizer.pad_token_id
    sampler = EpochSampler(train.lengths, _step_rows(config), config.seed)
    return _Order(train, val, sampler, functools.partial(collate, pad_id=pad), config)


def _packed(bundle: Bundle, train: ElmDataset, val: ElmDataset, config: TrainConfig) -> _Order:
    """Batches of packed rows. ConfigError for a model that would mix their sequences up."""
    table = prepare_packing(bundle.elm.llm)
    if not table and (config.share_ecg or bundle.elm.bidirectional):
        what = "train.share_ecg" if config.share_ecg else "model.ecg_attention: bidirectional"
        used = bundle.elm.llm.config._attn_implementation
        raise ConfigError(f"train.packing with {what} needs a mask, which {used} does not take; choose sdpa attention")
    pack_len = config.pack_len or bundle.prompter.max_len
    rows = _step_rows(config)
    steps = config.max_steps or -(-rows_of(train.lengths, pack_len, config.seed, config.max_epochs or 1) // rows)
    try:
        counted = replace(config, max_steps=steps, max_epochs=None)
    except ValueError as error:  # a warm-up longer than that
        raise ConfigError(str(error)) from error
    sampler = PackedSampler(train.lengths, pack_len, config.seed, steps * rows)
    whole = PackedRows(val, fill_rows(val.lengths, max(pack_len, max(val.lengths))))
    return _Order(PackedRows(train), whole, sampler, functools.partial(collate_packed, table=table), counted)


def _units(data: ElmDataset, elm: Any) -> list[Any]:
    """What of an ELM is sharded by itself; its encoders run for every batch from now on."""
    first = next((e for e in (data[i] for i in range(len(data))) if e.ecg is not None), None)
    if first is not None:
        shown = (first.ecg, first.image)
        always_encode(elm, *(None if t is None else torch.from_numpy(np.zeros_like(t[:1])) for t in shown))
    return shard_units(elm)


def save_weights_of(bundle: Bundle, folder: Path) -> None:
    """Write all weights of a model, or those of its adapters and ECG parts, for a state that can be gone on from."""
    if is_adapted(bundle.elm.llm):  # merged, they could not be taken apart again to the last bit
        save_adapter(bundle.elm.llm, folder)
        save_ecg_weights(bundle.elm, folder)
    else:
        write_checkpoint(bundle, folder)


def load_weights_of(bundle: Bundle, folder: Path) -> None:
    """Read back what ``save_weights_of`` wrote."""
    if is_adapted(bundle.elm.llm):
        load_adapter(bundle.elm.llm, folder)
    else:
        saved, _ = load_llm(str(folder / "llm"))
        bundle.elm.llm.load_state_dict(saved.state_dict())
    load_ecg_weights(bundle.elm, folder)
