"""The one ECG-language model: embed the ids, and where an id is the ECG placeholder put the connector's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ecglm.errors import ConfigError, nearest
from ecglm.models.adapters import freeze_base, is_adapted

PARTS = ("encoder", "connector", "llm")


class Elm(nn.Module):
    """LLM + optional encoder + optional connector. Training ways are settings of this class, not subclasses.

    placeholder_id: the token replaced by the ECG's embeddings, or None where the ECG is spelled in symbol tokens.
    """

    def __init__(
        self,
        llm: Any,
        encoder: nn.Module | None = None,
        connector: nn.Module | None = None,
        placeholder_id: int | None = None,
    ) -> None:
        super().__init__()
        if placeholder_id is not None and (encoder is None or connector is None):
            raise ConfigError("this representation feeds an encoder: the model needs an encoder and a connector")
        self.llm, self.encoder, self.connector = llm, encoder, connector
        self.placeholder_id = placeholder_id

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def embed(self, input_ids: torch.Tensor, ecg: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings ``(batch, length, hidden)`` of ids ``(batch, length)`` and ECGs, ``(num_ecgs, leads, samples)``
        of signals or ``(num_ecgs, 3, height, width)`` of pictures.

        The ECGs come in row order; each fills the placeholders of its own row. Raises ValueError when the number of
        placeholders does not fit the ECGs.
        """
        embedded = self.llm.get_input_embeddings()(input_ids)
        if self.encoder is None or self.connector is None:
            return embedded
        at = torch.eq(input_ids, -1 if self.placeholder_id is None else self.placeholder_id)
        if ecg is None:
            if bool(at.any()):
                raise ValueError("placeholders without an ECG")
            return embedded
        vectors = self.connector(self.encoder(ecg.to(embedded.device)))
        num_tokens = vectors.shape[1]
        if int(at.sum()) != vectors.shape[0] * num_tokens or bool((at.sum(dim=1) % num_tokens).any()):
            raise ValueError(f"{int(at.sum())} placeholders for {vectors.shape[0]} ECGs of {num_tokens} tokens")
        return embedded.masked_scatter(at[..., None], vectors.to(embedded.dtype))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        ecg: torch.Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> torch.Tensor:
        """Logits ``(batch, length or logits_to_keep, vocab)``."""
        out = self.llm(
            inputs_embeds=self.embed(input_ids, ecg),
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=logits_to_keep,
        )
        return out.logits

    def set_trainable(self, parts: Sequence[str]) -> dict[str, int]:
        """Let only these parts (``encoder``, ``connector``, ``llm``) learn; returns trainable parameters per part."""
        for part in parts:
            if part not in PARTS:
                raise ConfigError(f"no part '{part}'{nearest(part, PARTS)}; parts: {', '.join(PARTS)}")
            if getattr(self, part) is None:
                raise ConfigError(f"this model has no {part}; leave it out of train.parts")
        if "llm" not in parts and is_adapted(self.llm):
            raise ConfigError("model.lora adapts the LLM, but train.parts leaves llm out; name it there, or drop lora")
        counts = {}
        for part in PARTS:
            module = getattr(self, part)
            if module is not None:
                module.requires_grad_(part in parts)
                if part == "llm" and is_adapted(module):
                    freeze_base(module)
                counts[part] = sum(p.numel() for p in module.parameters() if p.requires_grad)
        return counts

    def train(self, mode: bool = True) -> Elm:
        """As usual, but a frozen part stays in evaluation mode: its dropout and norms must not move."""
        super().train(mode)
        for part in PARTS:
            module = getattr(self, part)
            if mode and module is not None and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self
