"""BERTScore (arXiv 1904.09675): greedy matching of contextual word vectors; means over rows, usually 0.8 to 1.

Vectors of one hidden layer of a language model, each to length one. Precision: of every token of the answer the highest
cosine with a token of the reference, mean; recall the same the other way round; F1 = 2PR / (P + R). The first and the
last token (``[CLS]``, ``[SEP]``) may be matched but do not count. No idf weights, no rescaling: values of different
models, layers or with rescaling are not comparable, so the model's name, layer and hash stand beside the score.
The model is any local folder or hub id in safetensors; roberta-large is what papers in English use.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, means, ratio
from ecglm.evaluation.metrics.pairs import Pairs
from ecglm.registry import register

#: (model type, number of layers) → the layer that agrees best with people, as the authors' package has chosen it.
LAYERS: dict[tuple[str, int], int] = {
    ("roberta", 24): 17, ("roberta", 12): 10, ("roberta", 6): 5, ("xlm-roberta", 12): 9, ("xlm-roberta", 24): 17,
    ("bert", 12): 9, ("bert", 24): 18, ("distilbert", 6): 5, ("deberta", 12): 9, ("deberta", 24): 18,
    ("deberta", 48): 40, ("mpnet", 12): 8,
}  # fmt: skip
_PAIRS_AT_ONCE = 256
_TEXTS_AT_ONCE = 64

_chosen: ContextVar[str | None] = ContextVar("bertscore_model", default=None)


@contextlib.contextmanager
def computed_with(model: str | None) -> Iterator[None]:
    """Within it BERTScore is computed with this model (folder or hub id); None leaves it out."""
    before = _chosen.set(model)
    try:
        yield
    finally:
        _chosen.reset(before)


class BertScore:
    """A model and its tokenizer. layer: of the hidden states, default that of ``LAYERS``, else the last.

    Raises OSError or ValueError for what is no model, or not on this machine while offline.
    """

    def __init__(self, model: str, layer: int | None = None) -> None:
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        config = AutoConfig.from_pretrained(model)
        depth = int(config.num_hidden_layers)
        self.name = model
        self.layer = LAYERS.get((config.model_type, depth), depth) if layer is None else layer
        if not 0 <= self.layer <= depth:
            raise ValueError(f"{model} has layers 0 to {depth}, not {self.layer}")
        # words at the start of a text are to be cut as those inside it
        options = {"add_prefix_space": True} if config.model_type in ("roberta", "gpt2") else {}
        self.tokenizer = AutoTokenizer.from_pretrained(model, **options)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32).eval().to(self.device)
        places = int(getattr(config, "max_position_embeddings", 512)) - (2 if "roberta" in config.model_type else 0)
        self.max_length = min(int(self.tokenizer.model_max_length), places)
        self.pairs = Pairs(3, self.compare)

    @property
    def sha256(self) -> str:
        """Of the weights and the vocabulary, whatever files they came in."""
        digest = hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def compare(self, references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Precision, recall and F1 of each pair ``(num, 3)``; zeros where a text is empty."""
        out = np.zeros((len(references), 3))
        order = sorted(range(len(references)), key=lambda i: (len(references[i]), references[i], len(answers[i])))
        order = [i for i in order if references[i].strip() and answers[i].strip()]
        for start in range(0, len(order), _PAIRS_AT_ONCE):
            chosen = order[start : start + _PAIRS_AT_ONCE]
            vectors = self._vectors(sorted({t for i in chosen for t in (references[i], answers[i])}, key=len))
            for i in chosen:
                (truth, counts), (stated, counted) = vectors[references[i]], vectors[answers[i]]
                cosine = stated @ truth.T
                precision = _mean(cosine.max(axis=1), counted)
                recall = _mean(cosine.max(axis=0), counts)
                both = precision + recall
                out[i] = precision, recall, 2 * precision * recall / both if both else 0.0
        return out

    def _vectors(self, texts: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Text → unit vectors ``(num_tokens, width)`` of its tokens, and which of them count."""
        import torch

        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        found = {}
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = [text.strip() for text in texts[start : start + _TEXTS_AT_ONCE]]
            encoded = self.tokenizer(
                part, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            ).to(self.device)
            inputs = {k: v for k, v in encoded.items() if k in ("input_ids", "attention_mask")}
            with torch.no_grad():
                states = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]
            states = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
            for text, ids, mask, rows in zip(
                texts[start : start + _TEXTS_AT_ONCE],
                encoded["input_ids"].cpu().numpy(),
                encoded["attention_mask"].cpu().numpy().astype(bool),
                states,
                strict=True,
            ):
                found[text] = rows[mask], ~np.isin(ids[mask], [i for i in special if i is not None])
        return found


def _mean(values: np.ndarray, counted: np.ndarray) -> float:
    return float(values[counted].astype(np.float64).mean()) if counted.any() else 0.0


@cache
def _loaded(model: str) -> BertScore | str:
    """The model, or why it cannot be had."""
    if model.startswith(("/", "./", "../")) and not Path(model).is_dir():
        return f"the model {model} cannot be read: no such folder"
    try:
        return BertScore(model)
    except (OSError, ValueError) as error:
        return f"the model {model} cannot be read: {str(error).strip().splitlines()[0]}"


def _needs(rows: Sequence[Row]) -> str:
    model = _chosen.get()
    if model is None:
        return "no model given: ecglm score DIR --bertscore MODEL (a folder or hub id; papers use roberta-large)"
    found = _loaded(model)
    return found if isinstance(found, str) else ""


def _facts() -> Mapping[str, Any]:
    found = _loaded(_chosen.get() or "")
    if isinstance(found, str):
        return {}
    return {"model": found.name, "layer": found.layer, "sha256": found.sha256, "idf": False, "rescaled": False}


def _metric(column: int, about: str) -> Metric:
    def statistics(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
        found = _loaded(_chosen.get() or "")
        if isinstance(found, str):
            return np.zeros((len(rows), 2))  # undefined, as without rows
        return means(found.pairs(rows)[:, column])

    return Metric(statistics, ratio, kinds=("text",), span=(-1.0, 1.0), needs=_needs, facts=_facts, about=about)


BERTSCORE_P = register("metrics", "bertscore_p")(
    _metric(0, "BERTScore precision, no idf, no rescaling, mean over rows")
)
BERTSCORE_R = register("metrics", "bertscore_r")(_metric(1, "BERTScore recall, no idf, no rescaling, mean over rows"))
BERTSCORE_F1 = register("metrics", "bertscore_f1")(_metric(2, "BERTScore F1, no idf, no rescaling, mean over rows"))
