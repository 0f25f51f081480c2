"""Captioning: a small language model writes the report of the ECG from the encoder's tokens, and both learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ecglm import registry
from ecglm.models.checkpoint import create
from ecglm.models.config import ModelConfig, TinyConfig
from ecglm.prompts.collate import collate
from ecglm.training.objectives.base import Pretraining, Setting, Shown
from ecglm.training.objectives.sft import answer_loss, sft
from ecglm.types import ECG_MARK, Turn


@dataclass(frozen=True, kw_only=True)
class CaptioningOptions:
    """Write the report from the ECG's tokens. llm: what writes, ``tiny`` (a new one, of ``tiny``'s size), a hub id or a
    folder; it learns too. connector: between encoder and LLM. max_len: tokens of ECG and report; a longer pair is
    rejected and counted.
    """

    llm: str = "tiny"
    tiny: TinyConfig = field(default_factory=TinyConfig)
    connector: str = "linear"
    max_len: int = 512

    def __post_init__(self) -> None:
        if self.max_len < 2:
            raise ValueError(f"captioning.max_len must be 2 or more, found {self.max_len}")


@registry.register("objectives", "captioning")
class Captioning(Pretraining):
    """Next-token cross-entropy of the report behind the ECG: the image-captioning half of CoCa (arXiv 2205.01917), with
    the ELM's own way of showing tokens to a language model.
    """

    Options = CaptioningOptions
    reads_text = True
    has_length = True

    def __init__(self, options: CaptioningOptions, setting: Setting) -> None:
        model = ModelConfig(
            llm=options.llm,
            tiny=options.tiny,
            encoder=setting.name,
            encoder_options=dict(setting.options),
            connector=options.connector,
            max_len=options.max_len,
        )
        bundle = create(model, setting.representation, {}, list(setting.texts), setting.seed)
        bundle.elm.encoder = setting.encoder
        self.prompter, self.model, self.options = bundle.prompter, bundle.elm, options

    def item(self, row: Shown) -> Any:
        """An ``Example``; RejectedRecord where it is too long."""
        turns = [Turn("user", ECG_MARK), Turn("assistant", row.text)]
        return self.prompter.build(row.id, turns, [row.input])

    def collate(self, rows: Sequence[Any]) -> dict[str, Any]:
        return collate(rows, pad_id=self.prompter.tokenizer.pad_token_id)

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        return sft(model, batch, num_items)

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
        return answer_loss(model, batch)

    def facts(self) -> dict[str, Any]:
        return {"llm": self.options.llm}
