"""Text towers for contrastive pretraining: any text encoder of transformers, or a small new one; one vector a text."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ecglm.errors import ConfigError, nearest
from ecglm.models.llm import no_bars

Pooling = Literal["pooler", "cls", "mean"]
#: Model types whose checkpoints hold a picture tower too → the class of their text tower.
TEXT_MODELS = {"clip": "CLIPTextModel", "siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
MAX_LENGTH = 256
_WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")


@dataclass(frozen=True)
class HubTokens:
    """Texts → ``input_ids`` and ``attention_mask``, int64 ``(batch, length)``, by a tower's own tokenizer.

    fixed: always pad to ``max_length``, and give no mask, as SigLIP was trained.
    """

    tokenizer: Any
    max_length: int
    fixed: bool = False

    def __call__(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        padding = "max_length" if self.fixed else True
        found = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        wanted = ("input_ids",) if self.fixed else ("input_ids", "attention_mask")
        return {name: found[name] for name in wanted}


@dataclass(frozen=True)
class HashedWords:
    """Texts → ids of their lower-case words by a checksum, so that there is no vocabulary to learn or to keep.

    0 pads, 1 begins every text; a digit is a word by itself. Two words may share an id, rarely.
    """

    vocab_size: int
    max_length: int

    def __call__(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        rows = []
        for text in texts:
            words = _WORD.findall(text.lower())[: self.max_length - 1]
            rows.append([1, *(2 + zlib.crc32(w.encode()) % (self.vocab_size - 2) for w in words)])
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}


class TextTower(nn.Module):
    """``tokenize`` makes of texts the keywords of ``forward``, which gives ``(batch, dim)``.

    dim: width of the vectors. frozen: its weights stand still, and it stays in evaluation mode. ``config()`` is what
    ``text_tower`` needs to build it again. ``tokenize`` can go to a worker process without the weights.
    """

    dim: int
    frozen: bool
    tokenize: HubTokens | HashedWords

    def config(self) -> dict[str, Any]:
        """Keywords of ``text_tower``."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> TextTower:
        super().train(mode and not self.frozen)
        return self

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts → ``(batch, dim)``, on the tower's device."""
        device = next(self.parameters()).device
        found: torch.Tensor = self(**{k: v.to(device) for k, v in self.tokenize(texts).items()})
        return found


class HubText(TextTower):
    """A text encoder by hub id or folder, such as ``ncbi/MedCPT-Query-Encoder`` (768), safetensors alone, no code of
    the repository.

    pooling: ``pooler``, the model's own; ``cls``, the first token; ``mean``, over the tokens that are no padding.
    max_length: tokens, at most those the model has positions for; None: 256 (64 in ECG-Bench) or fewer. Raises
    ConfigError where it cannot be loaded or lacks weights, a pooler among them.
    """

    def __init__(
        self, name: str, *, frozen: bool = True, pooling: Pooling = "pooler", max_length: int | None = None
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            known = get_args(Pooling)
            raise ConfigError(f"text tower: no pooling '{pooling}'{nearest(pooling, known)}; {', '.join(known)}")
        self.name, self.frozen, self.pooling = name, frozen, pooling
        self.model, tokenizer, kind = _load(name, pooling)
        self.dim = int(self.model.config.hidden_size)
        most = min(int(getattr(self.model.config, "max_position_embeddings", MAX_LENGTH)), tokenizer.model_max_length)
        if max_length is not None and not 1 < max_length <= most:
            raise ConfigError(f"text tower '{name}': max_length must lie between 2 and {most}, found {max_length}")
        fixed = kind.startswith("siglip")
        self.tokenize = HubTokens(tokenizer, max_length or (most if fixed else min(most, MAX_LENGTH)), fixed)
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def config(self) -> dict[str, Any]:
        """Keywords of ``text_tower``."""
        return {
            "name": self.name,
            "frozen": self.frozen,
            "pooling": self.pooling,
            "max_length": self.tokenize.max_length,
        }

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        pooled: torch.Tensor
        if self.pooling == "pooler":
            pooled = found.pooler_output
        elif self.pooling == "cls":
            pooled = found.last_hidden_state[:, 0]
        else:
            pooled = _masked_mean(found.last_hidden_state, attention_mask)
        return pooled


class TinyText(TextTower):
    """A small transformer over hashed words, new and learning: for a CPU, and for tests."""

    def __init__(
        self,
        *,
        dim: int = 64,
        num_layers: int = 1,
        num_heads: int = 2,
        vocab_size: int = 4096,
        max_length: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("dim", dim, 1),
            ("num_layers", num_layers, 1),
            ("num_heads", num_heads, 1),
            ("vocab_size", vocab_size, 3),
            ("max_length", max_length, 2),
        ):
            if value < least:
                raise ConfigError(f"text tower 'tiny': {name} must be {least} or more, found {value}")
        if dim % num_heads:
            raise ConfigError(f"text tower 'tiny': dim must be a multiple of num_heads ({num_heads}), found {dim}")
        self.dim, self.frozen = dim, False
        self.options = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "vocab_size": vocab_size,
            "max_length": max_length,
            "dropout": dropout,
        }
        self.tokenize = HashedWords(vocab_size, max_length)
        self.words = nn.Embedding(vocab_size, dim, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(max_length, dim))
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    def config(self) -> dict[str, Any]:
        """Keywords of ``text_tower``."""
        return {"name": "tiny", **self.options}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids) + self.positions[: input_ids.shape[1]]
        return _masked_mean(self.layers(x, src_key_padding_mask=attention_mask == 0), attention_mask)


def text_tower(name: str, **options: Any) -> TextTower:
    """``tiny`` with the options of ``TinyText``, or a hub id or folder with those of ``HubText``.

    A new tower's weights come from torch's generator: seed it. Raises ConfigError for an unknown option.
    """
    if name == "tiny" and options.pop("frozen", False):
        raise ConfigError("text tower 'tiny' has learned nothing yet; let it learn (frozen: false)")
    try:
        return TinyText(**options) if name == "tiny" else HubText(name, **options)
    except TypeError as error:
        raise ConfigError(f"text tower '{name}': {error}") from error


def _masked_mean(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``(batch, length, dim)`` → ``(batch, dim)`` over the tokens that ``mask`` keeps, or all."""
    if mask is None:
        return tokens.mean(dim=1)
    kept = mask[..., None].to(tokens.dtype)
    return (tokens * kept).sum(dim=1) / kept.sum(dim=1)


def _load(name: str, pooling: str) -> tuple[Any, Any, str]:
    """Model, tokenizer and model type."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = str(config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        loader: Any = getattr(transformers, TEXT_MODELS[kind]) if kind in TEXT_MODELS else AutoModel
        with no_bars():
            model, info = loader.from_pretrained(
                name, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"text tower '{name}' cannot be loaded: {first}") from error
    tokenizer.padding_side = "right"  # the first token is then no padding
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(f"text tower '{name}': its tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    missing = sorted(info["missing_keys"])
    if pooling != "pooler":
        missing = [key for key in missing if "pooler" not in key]
    if any("pooler" in key for key in missing):
        raise ConfigError(f"text tower '{name}': its file holds no pooler; choose pooling 'cls' or 'mean'")
    if missing:  # the library would fill them with noise
        raise ConfigError(f"text tower '{name}': {len(missing)} weights are missing (first: {missing[0]})")
    if pooling == "pooler" and kind not in TEXT_MODELS and getattr(model, "pooler", None) is None:
        raise ConfigError(
            f"text tower '{name}': a {type(model).__name__} has no pooler; choose pooling 'cls' or 'mean'"
        )
    return model, tokenizer, kind
