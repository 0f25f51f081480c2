"""Two towers in one space: an ECG (or picture) encoder and a text tower, as CLIP and SigLIP train them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import normalize

from ecglm.errors import ConfigError
from ecglm.models.encoder_files import EncoderFile, differences, load_encoder, read_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.models.merl import Merl
from ecglm.models.text_towers import TextTower, text_tower

#: The scale of the similarities never grows beyond this (CLIP, arXiv 2103.00020).
MOST_SCALE = 100.0
ENCODER, TEXT = "encoder.", "text."


class TowersOutput(NamedTuple):
    """ecg, text: ``(batch, dim)`` of length 1, row by row a pair. scale: what similarities are multiplied by, one over
    the temperature. bias: what is then added, 0 where the loss has none.
    """

    ecg: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor


class TwoTowers(nn.Module):
    """The encoder's mean token and the text tower's vector, each through a linear projection, and a learned scale.

    encoder: any, ``(batch, tokens, encoder.dim)``. dim: width of the common space. temperature: where it begins;
    learned as the logarithm of its inverse. bias: where SigLIP's learned bias begins (arXiv 2303.15343); None: no bias.
    """

    def __init__(
        self,
        encoder: nn.Module,
        text: TextTower,
        *,
        dim: int = 512,
        temperature: float = 0.07,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.text = encoder, text
        self.ecg_projection = nn.Linear(int(encoder.dim), dim, bias=False)  # type: ignore[arg-type]
        self.text_projection = nn.Linear(text.dim, dim, bias=False)
        for layer in (self.ecg_projection, self.text_projection):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self, ecg: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> TowersOutput:
        """ecg: what the encoder reads. input_ids, attention_mask: of the text tower's ``tokenize``."""
        masks = {} if attention_mask is None else {"attention_mask": attention_mask}
        scale = self.logit_scale.exp().clamp(max=MOST_SCALE)
        # a weight itself must not be an output: DDP would take it for one that nothing used
        bias = torch.zeros_like(scale) if self.logit_bias is None else self.logit_bias + 0.0
        return TowersOutput(self.embed_ecg(ecg), self._project(self.text(input_ids, **masks)), scale, bias)

    def embed_ecg(self, ecg: torch.Tensor) -> torch.Tensor:
        """ECGs → ``(batch, dim)`` of length 1."""
        return normalize(self.ecg_projection(self.encoder(ecg).mean(dim=1)), dim=-1)

    def embed_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts → ``(batch, dim)`` of length 1."""
        return self._project(self.text.embed(texts))

    def _project(self, vectors: torch.Tensor) -> torch.Tensor:
        return normalize(self.text_projection(vectors), dim=-1)

    def extra(self) -> dict[str, torch.Tensor]:
        """What an encoder folder keeps beside the encoder: projections, scale, and the text tower unless frozen."""
        left_out = (ENCODER, TEXT) if self.text.frozen else (ENCODER,)
        return {k: v for k, v in self.state_dict().items() if not k.startswith(left_out)}


def retrieval(
    ecg: torch.Tensor, text: torch.Tensor, text_ids: torch.Tensor, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Recall at k both ways over all pairs, and what chance would give.

    ecg, text: ``(n, dim)`` of length 1, row by row a pair. text_ids: ``(n,)``, equal for equal texts, which count as
    one: ``ecg_to_text@k`` is the share of ECGs whose text is among the k nearest different texts, ``text_to_ecg@k`` the
    share of different texts with an ECG of theirs among the k nearest ECGs. Ties count against.
    """
    _, first = torch.unique(text_ids, return_inverse=True)
    num_texts = int(first.max()) + 1
    row = torch.full((num_texts,), len(ecg)).scatter_reduce(0, first, torch.arange(len(ecg)), "amin")
    likeness = ecg.double() @ text[row].double().T  # (ECGs, different texts)
    belongs = first[:, None] == torch.arange(num_texts)[None]
    own = likeness[belongs]
    before = (likeness >= own[:, None]).sum(dim=1) - 1  # other texts that are at least as near
    best = likeness.masked_fill(~belongs, -2.0).amax(dim=0)
    ahead = ((likeness >= best) & ~belongs).sum(dim=0)  # ECGs of other texts that are at least as near
    matches = belongs.sum(dim=0).tolist()
    found: dict[str, float] = {}
    for k in ks:
        found[f"ecg_to_text@{k}"] = float((before < k).double().mean())
        found[f"ecg_to_text@{k} by chance"] = min(1.0, k / num_texts)
        found[f"text_to_ecg@{k}"] = float((ahead < k).double().mean())
        misses = [math.comb(len(ecg) - m, k) / math.comb(len(ecg), min(k, len(ecg))) for m in matches]
        found[f"text_to_ecg@{k} by chance"] = 1.0 - sum(misses) / num_texts
    return {**found, "num_ecgs": len(ecg), "num_texts": num_texts}


def load_towers(source: str | Path | EncoderFile, *, weights: bool = True, seed: int = 0) -> TwoTowers | Merl:
    """Both towers of an encoder folder that was pretrained with texts: ``embed_ecg`` and ``embed_text``, in eval mode.

    weights: False gives the same towers with random weights, seeded, for a baseline. A frozen published text tower is
    taken from where it was published. Raises ConfigError for an encoder that was pretrained without texts.
    """
    file = source if isinstance(source, EncoderFile) else read_encoder(source)
    facts = file.facts
    if "towers" not in facts:
        raise ConfigError(
            f"{file.folder}: this encoder was pretrained without texts, so that no class prompt can be compared with "
            "its ECGs; pretrain one by merl, clip or siglip"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = (
            load_encoder(file)
            if weights
            else build_encoder(file.name, input_shape=file.input_shape, options=file.options)
        )
        text = text_tower(**facts["text"])
        towers: TwoTowers | Merl
        if facts["towers"] == "merl":
            towers = Merl(encoder, text, dim=facts["dim"], dropout=facts["dropout"])
        else:
            begin = {k: facts[k] for k in ("dim", "temperature", "bias")}
            towers = TwoTowers(encoder, text, **begin)
    if weights:
        found = file.extra()
        if told := differences(towers.extra(), found):
            raise ConfigError(f"{file.folder}: its heads are not those of its own description: {told}")
        towers.load_state_dict(found, strict=False)
    return towers.eval()
