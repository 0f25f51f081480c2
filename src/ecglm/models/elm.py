"""The one ECG-language model: embed the ids, and where an id is an ECG placeholder put a connector's output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from ecglm.errors import ConfigError, nearest
from ecglm.models.adapters import adapter_weights, ecg_gate, freeze_base, is_adapted
from ecglm.models.connector import TileConnector
from ecglm.prompts.packing import is_document_table

#: What learns or stands still as one. ``embeddings`` are the LLM's token tables, at its input and its output.
PARTS = ("encoder", "image_encoder", "connector", "llm", "embeddings")


@dataclass(frozen=True)
class Learning:
    """What of a model learns: names of parts that do, of those that stand still, and of those that adapters change.

    counts: part → number of weights that learn, a weight two parts share counted once.
    """

    train: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


class Elm(nn.Module):
    """LLM + optional encoder + optional connector. Training ways are settings of this class, not subclasses.

    placeholder_id: the token replaced by the ECG's embeddings, or None where the ECG is spelled in symbol tokens.
    image_encoder, image_connector, image_placeholder_id: likewise of the picture beside the signal. shared: the
    signal's vectors go through the picture's projection too. bidirectional: the tokens of one ECG see each other, not
    only those before them (VoRA, arXiv 2503.20680).
    """

    def __init__(
        self,
        llm: Any,
        encoder: nn.Module | None = None,
        connector: nn.Module | None = None,
        placeholder_id: int | None = None,
        *,
        image_encoder: nn.Module | None = None,
        image_connector: nn.Module | None = None,
        image_placeholder_id: int | None = None,
        shared: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        if placeholder_id is not None and (encoder is None or connector is None):
            raise ConfigError("this representation feeds an encoder: the model needs an encoder and a connector")
        if image_placeholder_id is not None and (image_encoder is None or image_connector is None):
            raise ConfigError("this representation feeds two encoders: the model needs model.image")
        self.llm, self.encoder, self.connector = llm, encoder, connector
        self.image_encoder, self.image_connector = image_encoder, image_connector
        self.placeholder_id, self.image_placeholder_id = placeholder_id, image_placeholder_id
        self.shared, self.bidirectional = shared, bidirectional

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Tokens whose own embeddings are never read."""
        return tuple(i for i in (self.placeholder_id, self.image_placeholder_id) if i is not None)

    def embed(
        self,
        input_ids: torch.Tensor,
        ecg: torch.Tensor | None = None,
        image: torch.Tensor | None = None,
        tiles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings ``(batch, length, hidden)`` of ids ``(batch, length)`` and ECGs, ``(num_ecgs, leads, samples)``
        of signals or ``(num_ecgs, 3, height, width)`` of pictures; image: the pictures beside signals. tiles: where a
        picture is several of ``ecg``, ``(num_ecgs, 4)``, how each is cut (``EcgInput.tiles``).

        The ECGs come in row order; each fills the placeholders of its own row. Raises ValueError when the number of
        placeholders does not fit the ECGs.
        """
        table = self.llm.get_input_embeddings()
        known = input_ids
        if any(i >= table.weight.shape[0] for i in self.placeholder_ids):  # an imported model has no row for it
            known = input_ids.masked_fill(self._shown(input_ids), 0)
        embedded = table(known)
        if (gate := ecg_gate(self.llm)) is not None:
            gate.at = self._shown(input_ids)
        if self.encoder is None or self.connector is None:
            return embedded
        if hasattr(self.encoder, "put"):  # a table for symbols, which stand in the prompt themselves
            return self.encoder.put(embedded, input_ids, self.connector.project)  # type: ignore[operator, no-any-return]
        if isinstance(self.connector, TileConnector):
            return self._put_tiles(embedded, input_ids, ecg, tiles)
        embedded = self._put(embedded, input_ids, self.placeholder_id, ecg, self._signal_vectors)
        if self.image_placeholder_id is not None:
            embedded = self._put(embedded, input_ids, self.image_placeholder_id, image, self._image_vectors)
        return embedded

    def _signal_vectors(self, ecg: torch.Tensor) -> torch.Tensor:
        vectors = self.connector(self.encoder(ecg))  # type: ignore[misc]
        return self.image_connector.project(vectors) if self.shared else vectors  # type: ignore[union-attr, operator]

    def _image_vectors(self, image: torch.Tensor) -> torch.Tensor:
        return self.image_connector(self.image_encoder(image))  # type: ignore[misc]

    def _put(
        self, embedded: torch.Tensor, input_ids: torch.Tensor, placeholder: int | None, ecg: Any, vectors: Any
    ) -> Any:
        """Embeddings with the ECGs' vectors at their placeholders."""
        at = torch.eq(input_ids, -1 if placeholder is None else placeholder)
        if ecg is None:
            if bool(at.any()):
                raise ValueError("placeholders without an ECG")
            return embedded
        found = vectors(ecg.to(embedded.device))
        num_tokens = found.shape[1]
        if int(at.sum()) != found.shape[0] * num_tokens or bool((at.sum(dim=1) % num_tokens).any()):
            raise ValueError(f"{int(at.sum())} placeholders for {found.shape[0]} ECGs of {num_tokens} tokens")
        return embedded.masked_scatter(at[..., None], found.to(embedded.dtype))

    def _put_tiles(
        self, embedded: torch.Tensor, input_ids: torch.Tensor, ecg: torch.Tensor | None, tiles: torch.Tensor | None
    ) -> torch.Tensor:
        """As ``_put``, for pictures of different numbers of tokens."""
        at = torch.eq(input_ids, -1 if self.placeholder_id is None else self.placeholder_id)
        if ecg is None or tiles is None:
            if bool(at.any()):
                raise ValueError("placeholders without an ECG")
            return embedded
        counts = self.connector.counts(tiles)  # type: ignore[union-attr, operator]
        ends = {0, *accumulate(counts)}
        if sum(counts) != int(at.sum()) or not ends.issuperset(at.sum(dim=1).cumsum(dim=0).tolist()):
            raise ValueError(f"{int(at.sum())} placeholders for ECGs of {', '.join(map(str, counts))} tokens")
        found = self.connector(self.encoder(ecg.to(embedded.device)), tiles)  # type: ignore[misc]
        return embedded.masked_scatter(at[..., None], found.to(embedded.dtype))

    def _shown(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where an ECG's vectors stand: bool ``(batch, length)``."""
        return torch.isin(input_ids, torch.tensor(self.placeholder_ids, device=input_ids.device))

    def attention(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask the LLM gets: as it comes, or opened among the tokens of each ECG, then additive float32
        ``(batch, 1, length, length)``.

        attention_mask: ``(batch, length)``, 1 for a token, or ``(batch, 1, length, length)``, bool or additive; or the
        ``document_table`` of a packed row, which then says of each token too which ECG it is of.
        """
        if not self.bidirectional:
            return attention_mask
        if attention_mask is None:
            raise ValueError("tokens of one ECG see each other only through a mask, and there is none")
        if is_document_table(attention_mask):
            number = torch.zeros_like(input_ids)
            for sign, placeholder, connector in (
                (1, self.placeholder_id, self.connector),
                (-1, self.image_placeholder_id, self.image_connector),
            ):
                if placeholder is not None:
                    at = input_ids == placeholder
                    which = (at.cumsum(dim=1) - 1) // connector.num_tokens + 1  # type: ignore[operator, union-attr]
                    number = torch.where(at, sign * which, number)
            return torch.cat([attention_mask, number[:, None, None]], dim=2)
        length = input_ids.shape[1]
        if attention_mask.dim() == 4:
            allowed = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
        else:
            causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
            allowed = (causal & attention_mask[:, None, :].bool())[:, None]
            allowed = allowed | torch.eye(length, dtype=torch.bool, device=input_ids.device)  # no empty softmax
        for placeholder, connector in (
            (self.placeholder_id, self.connector),
            (self.image_placeholder_id, self.image_connector),
        ):
            if placeholder is not None:
                at = input_ids == placeholder
                number = (at.cumsum(dim=1) - 1) // connector.num_tokens  # type: ignore[operator, union-attr]
                same = (number[:, :, None] == number[:, None, :]) & at[:, :, None] & at[:, None, :]
                allowed = allowed | same[:, None]
        mask = torch.zeros(allowed.shape, device=input_ids.device)
        return mask.masked_fill_(~allowed, torch.finfo(torch.float32).min)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        ecg: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image: torch.Tensor | None = None,
        tiles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits ``(batch, length or logits_to_keep, vocab)``; logits_to_keep: so many last positions (0: all), or
        int64 positions.
        """
        embeds = self.embed(input_ids, ecg, image, tiles)
        mask = self.attention(input_ids, attention_mask)
        out = self.llm(
            inputs_embeds=embeds,
            attention_mask=mask.to(embeds.dtype) if mask is not None and mask.is_floating_point() else mask,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=logits_to_keep,
        )
        return out.logits

    def part(self, name: str) -> Iterator[nn.Parameter]:
        """Weights of a part, each once; an output layer tied to the input table belongs to ``embeddings`` with it."""
        tables = {id(w): w for w in _tables(self.llm)}
        if name == "embeddings":
            yield from tables.values()
        elif name == "llm":
            yield from (w for w in self.llm.parameters() if id(w) not in tables)
        else:
            modules = [getattr(self, name)] + ([self.image_connector] if name == "connector" else [])
            yield from (w for m in modules if m is not None for w in m.parameters())

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts this model has."""
        return tuple(p for p in PARTS if p in ("llm", "embeddings") or getattr(self, p) is not None)

    def set_trainable(self, parts: Sequence[str]) -> Learning:
        """Let only these parts learn. ``llm`` takes its ``embeddings`` with it, unless adapters stand in the LLM: then
        they learn, and what ``model.lora`` says of new rows. ConfigError for a part that is not there or cannot learn.
        """
        check_parts(parts)
        for part in parts:
            if part not in self.parts:
                raise ConfigError(f"this model has no {part}; leave it out of train.parts")
            if part in ("encoder", "image_encoder") and getattr(getattr(self, part), "frozen", False):
                kind = type(getattr(self, part)).__name__
                raise ConfigError(f"train.parts names {part}, but {kind} never learns; leave {part} out of train.parts")
        adapted = is_adapted(self.llm)
        if adapted and "llm" not in parts:
            raise ConfigError("model.lora adapts the LLM, but train.parts leaves llm out; name it there, or drop lora")
        if adapted and "embeddings" in parts:
            raise ConfigError(
                "model.lora leaves the LLM's embeddings alone, but for model.lora.train_new_embeddings; leave "
                "embeddings out of train.parts, or drop lora"
            )
        learn = {*parts, *(("embeddings",) if "llm" in parts and not adapted else ())}
        for part in self.parts:
            for weight in self.part(part):
                weight.requires_grad_(part in learn)
        lora: tuple[str, ...] = ()
        if adapted:
            freeze_base(self.llm)
            rows = any(name.endswith(".rows") for name, _ in adapter_weights(self.llm))
            lora = ("llm", "embeddings") if rows else ("llm",)
        counts = {part: sum(w.numel() for w in self.part(part) if w.requires_grad) for part in self.parts}
        train = tuple(p for p in self.parts if p in learn and p not in lora)
        frozen = tuple(p for p in self.parts if p not in learn and p not in lora)
        return Learning(train, frozen, lora, counts)

    def train(self, mode: bool = True) -> Elm:
        """As usual, but a frozen part stays in evaluation mode: its dropout and norms must not move."""
        super().train(mode)
        for module in (self.encoder, self.connector, self.image_encoder, self.image_connector):
            if mode and module is not None and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        if mode and not any(p.requires_grad for p in self.part("llm")):  # its embeddings alone may learn
            self.llm.eval()
        return self


def check_parts(parts: Sequence[str]) -> None:
    """ConfigError for a name of ``train.parts`` that is no part."""
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"train.parts: no part '{part}'{nearest(part, PARTS)}; parts: {', '.join(PARTS)}")


def usual_parts(elm: Elm) -> list[str]:
    """What learns where ``train.parts`` says nothing: all that can."""
    lora = is_adapted(elm.llm)
    return [
        p for p in elm.parts if not (lora and p == "embeddings") and not getattr(getattr(elm, p, None), "frozen", False)
    ]


def _tables(llm: Any) -> Iterator[nn.Parameter]:
    """Weights of the LLM's input and output layers."""
    for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
        if layer is not None:
            yield from layer.parameters()
