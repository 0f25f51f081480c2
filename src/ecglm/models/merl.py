"""MERL's two towers (arXiv 2403.06659): an ECG encoder and a text encoder with the heads that bring them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import normalize

from ecglm.models.encoders.merl import DEPTHS
from ecglm.models.text_towers import TextTower

#: Width of the released text tower's vectors (MedCPT), for heads that are built without it.
TEXT_DIM = 768
ENCODER, TEXT = "ecg_encoder.", "lm_model."
#: A classifier of the released ResNets that nothing uses.
UNUSED = "ecg_encoder.linear."


class MerlOutput(NamedTuple):
    """All ``(batch, dim)`` and of any length; a loss normalises them.

    ecg, text: the cross-modal pair. view1, view2: two views of one ECG by dropout, the uni-modal pair.
    """

    ecg: torch.Tensor
    text: torch.Tensor
    view1: torch.Tensor
    view2: torch.Tensor


class AttentionPool(nn.Module):
    """``(batch, num_tokens, dim)`` → ``(batch, dim)``: a learned token looks at all tokens and itself, by position.

    The learned token's own position is added to it twice, as in the released weights' code.
    """

    def __init__(self, num_tokens: int, dim: int, num_heads: int = 4) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(1, num_tokens + 1, dim) / dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.mhsa = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.c_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.cls_token + self.positional_embedding[:, :1]
        x = torch.cat([query.expand(len(x), -1, -1), x], dim=1) + self.positional_embedding
        pooled: torch.Tensor = self.c_proj(self.mhsa(x[:, :1], x, x, need_weights=False)[0])
        return pooled[:, 0]


class Merl(nn.Module):
    """Both towers and their heads; parameters are named as in the released weights.

    encoder: any that reads a signal, ``(batch, num_tokens, encoder.dim)``; the paper's is ``merl``. text: a text
    tower, or None where only the ECG's side is wanted. dim: width of both embeddings. num_heads, dropout: of the
    attention pool and of the uni-modal views.
    """

    def __init__(
        self,
        encoder: nn.Module,
        text: TextTower | None,
        *,
        dim: int = 256,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.ecg_encoder, self.lm_model = encoder, text
        self.downconv = nn.Conv1d(int(encoder.dim), dim, 1)  # type: ignore[arg-type]
        self.att_pool_head = AttentionPool(int(encoder.num_tokens), dim, num_heads)  # type: ignore[arg-type]
        self.linear1 = nn.Linear(dim, dim, bias=False)
        self.linear2 = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        text_dim = TEXT_DIM if text is None else text.dim
        self.proj_t = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    @property
    def encoder(self) -> nn.Module:
        """The ECG's encoder, which an encoder folder keeps."""
        return self.ecg_encoder

    def ecg_tokens(self, ecg: torch.Tensor) -> torch.Tensor:
        """``(batch, num_leads, num_samples)`` → the encoder's tokens as the heads see them ``(batch, tokens, dim)``."""
        return self.downconv(self.ecg_encoder(ecg).transpose(1, 2)).transpose(1, 2)

    def project_text(self, pooled: torch.Tensor) -> torch.Tensor:
        """A text tower's vectors ``(batch, text_dim)`` → ``(batch, dim)``."""
        projected: torch.Tensor = self.proj_t(pooled)
        return projected

    def forward(
        self, ecg: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> MerlOutput:
        """ecg: ``(batch, num_leads, num_samples)``. input_ids, attention_mask: of the text tower's ``tokenize``."""
        tokens = self.ecg_tokens(ecg)
        mean = tokens.mean(dim=1)
        masks = {} if attention_mask is None else {"attention_mask": attention_mask}
        return MerlOutput(
            ecg=self.att_pool_head(tokens),
            text=self.project_text(self._text()(input_ids, **masks)),
            view1=self.dropout(self.linear1(mean)),
            view2=self.dropout(self.linear2(mean)),
        )

    def embed_ecg(self, ecg: torch.Tensor) -> torch.Tensor:
        """ECGs → cross-modal embeddings ``(batch, dim)`` of length 1."""
        return normalize(self.att_pool_head(self.ecg_tokens(ecg)), dim=-1)

    def embed_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts → cross-modal embeddings ``(batch, dim)`` of length 1. Class prompts go in lower case in the paper."""
        return normalize(self.project_text(self._text().embed(texts)), dim=-1)

    def _text(self) -> TextTower:
        if self.lm_model is None:
            raise ValueError("these towers were built without a text tower")
        return self.lm_model

    def extra(self) -> dict[str, torch.Tensor]:
        """What an encoder folder keeps beside the encoder: the heads, and the text tower unless it is a frozen one."""
        frozen = self.lm_model is None or self.lm_model.frozen
        left_out = (ENCODER, TEXT) if frozen else (ENCODER,)
        return {k: v for k, v in self.state_dict().items() if not k.startswith(left_out)}


def split_released(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of a released checkpoint → those of the encoder ``merl``, and of the heads (``Merl.extra``).

    The text tower's and an unused classifier's are left out; a ``module.`` of parallel training is cut off.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    encoder = {k.removeprefix(ENCODER): v for k, v in plain.items() if k.startswith(ENCODER)}
    heads = {k: v for k, v in plain.items() if not k.startswith((ENCODER, TEXT))}
    return {k: v for k, v in encoder.items() if not (ENCODER + k).startswith(UNUSED)}, heads


def released_shape(encoder: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Depth of the ResNet, and tokens the heads were trained on (313 for 5000 samples), told from the tensors.

    Raises ValueError where the names are not those of a MERL ResNet.
    """
    blocks = [
        max((int(k.split(".")[1]) + 1 for k in encoder if k.startswith(f"layer{s}.")), default=0) for s in range(1, 5)
    ]
    bottleneck = "layer1.0.conv3.weight" in encoder
    depth = next((d for d, found in DEPTHS.items() if found == (tuple(blocks), bottleneck)), None)
    if depth is None or "att_pool_head.positional_embedding" not in heads:
        raise ValueError("not the weights of a MERL ResNet")
    return depth, heads["att_pool_head.positional_embedding"].shape[1] - 1
