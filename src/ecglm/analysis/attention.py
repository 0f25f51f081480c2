"""Where a model looks: its attention on the ECG, sample by sample, and on the words beside it (arXiv 2412.14373)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ecglm.errors import EcglmError
from ecglm.models.checkpoint import Bundle
from ecglm.models.elm import Elm
from ecglm.models.generate import generate
from ecglm.prompts.examples import Prompter
from ecglm.representations.pictures import Pooling
from ecglm.types import ECG_MARK, LEADS, EcgInput, Example, Turn

#: What a position of the sequence is: the chat format's own tokens, the system's text, the question, the ECG's tokens,
#: words that belong to the ECG (measured features), the answer.
KINDS = ("control", "system", "question", "ecg", "words", "answer")


@dataclass(frozen=True)
class Position:
    """One token of the sequence: its text as the tokenizer spells it, and its kind, one of ``KINDS``."""

    text: str
    kind: str


@dataclass(frozen=True)
class AttentionMap:
    """Attention of some tokens on everything before them, mean over all layers and heads.

    rows: who looks: ``question`` and ``answer`` (the mean over their tokens), then each token of the answer.
    positions: what is looked at. weights: float64 ``(num_rows, num_positions)``, each row sums to 1. ecg: float64
    ``(num_rows, 12, num_samples)``, the weights on the ECG's tokens laid over the samples they stand for, canonical
    leads; None where that cannot be said. patches: ``(num_rows, rows, columns)``, where the ECG is a picture: the
    weights on the encoder's patches. seen: bool ``(12, num_samples)``, samples that some token stands for. segment: mV.
    """

    question: str
    answer: str
    rows: tuple[str, ...]
    positions: tuple[Position, ...]
    weights: np.ndarray
    ecg: np.ndarray | None
    patches: np.ndarray | None
    seen: np.ndarray
    segment: np.ndarray
    rate: int

    def totals(self) -> list[dict[str, float]]:
        """Per row: attention on ``ecg`` and ``text``, which add up to 1; on each kind of position; and on ``samples``,
        the part of ``ecg`` that falls on samples (not on leads' names, or paper without a trace).
        """
        kinds = np.array([p.kind for p in self.positions])
        found = []
        for number, weights in enumerate(self.weights):
            by_kind = {kind: float(weights[kinds == kind].sum()) for kind in KINDS}
            samples = by_kind["ecg"] if self.ecg is None else float(self.ecg[number].sum())
            found.append(
                {"samples": samples, "text": float(weights.sum()) - by_kind["ecg"]} | by_kind  # ecg is one of the kinds
            )
        return found


def attention_map(
    bundle: Bundle,
    segment: np.ndarray,
    rate: int,
    question: str,
    *,
    answer: str | None = None,
    max_new_tokens: int = 128,
) -> AttentionMap:
    """The model's attention while it reads a question about a segment, and its answer to it.

    segment: ``(12, num_samples)`` in mV at ``rate`` Hz, as the model's pipeline makes it. answer: looked at in place of
    the model's own (greedy) one. Raises EcglmError for an empty question, or a sequence that does not fit the model.
    """
    if not question.strip():
        raise EcglmError("the question is empty; say what you want to know about the ECG")
    if question.count(ECG_MARK) > 1:
        raise EcglmError(f"the question shows {question.count(ECG_MARK)} ECGs; the map is of one")
    text = question.strip() if ECG_MARK in question else f"{ECG_MARK}\n{question.strip()}"
    shown, prompter = bundle.representation(segment, rate), bundle.prompter
    asked = [Turn("user", text)]
    if answer is None:
        example = prompter.build("attention", asked, [shown], generate=True)
        answer = str(generate(bundle.elm, prompter, [example], max_new_tokens=max_new_tokens)[0]["text"])
    turns = [*asked, Turn("assistant", answer)]
    example = prompter.build("attention", turns, [shown])
    positions = layout(prompter, turns, shown, example)
    rows, queries = _queries(positions)
    weights = attention_rows(bundle.elm, example, queries)
    on_ecg = weights[:, [p.kind == "ecg" for p in positions]]
    ecg, patches, seen = _on_the_ecg(bundle, on_ecg, segment, rate)
    return AttentionMap(
        text, answer, rows, tuple(positions), weights, ecg, patches, seen, np.asarray(segment, np.float32), rate
    )


def layout(prompter: Prompter, turns: Sequence[Turn], ecg: EcgInput, example: Example) -> list[Position]:
    """What each token of an example is; ``turns`` and ``ecg`` are what the example was built of."""
    shown = list(turns)
    if prompter.system and "dropped_system" not in example.truncated:
        shown.insert(0, Turn("system", prompter.system))
    kinds = [{"user": "question", "assistant": "answer"}.get(t.role, t.role) for t in prompter.chat.turns(shown)]
    found: list[Position] = []
    for piece, ids in prompter.spell(shown, [ecg]):
        kind = kinds[piece.turn] if piece.kind == "text" else piece.kind
        found += [Position(prompter.tokenizer.decode([i]), kind) for i in ids]
    if len(found) != len(example.input_ids):
        raise EcglmError(f"the sequence is longer than the model takes ({prompter.max_len} tokens); ask a shorter one")
    return found


def _queries(positions: Sequence[Position]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the rows and, for each, the share that every position has in it: ``(num_rows, num_positions)``."""
    kinds = np.array([p.kind for p in positions])
    rows, queries = [], []
    for kind in ("question", "answer"):
        if (kinds == kind).any():
            rows.append(kind)
            queries.append((kinds == kind) / (kinds == kind).sum())
    for at in np.flatnonzero(kinds == "answer").tolist():
        rows.append(positions[at].text)
        queries.append(np.arange(len(kinds)) == at)
    return tuple(rows), np.array(queries, np.float64)


@torch.inference_mode()
def attention_rows(elm: Elm, example: Example, queries: np.ndarray) -> np.ndarray:
    """Attention of each row of queries ``(num_rows, length)`` on all positions, mean over layers and heads: float64,
    same shape. The example is read alone, layer by layer, so that no more than one layer's attention is held.

    Raises EcglmError for a model that does not show its attention.
    """
    elm.eval()
    found: list[torch.Tensor] = []
    wanted = torch.from_numpy(queries).to(elm.device)

    def take(module: Any, inputs: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.dim() == 4:
            found.append(wanted @ weights[0].double().mean(dim=0))

    ecg = None if example.ecg is None else torch.from_numpy(example.ecg)
    image = None if example.image is None else torch.from_numpy(example.image)
    tiles = None if example.tiles is None else torch.from_numpy(example.tiles)
    embeds = elm.embed(torch.from_numpy(example.input_ids)[None].to(elm.device), ecg, image, tiles)
    with _eager(elm.llm), _hooked(elm.llm, take):
        elm.llm(inputs_embeds=embeds, use_cache=False, logits_to_keep=1)
    if len(found) != elm.llm.config.num_hidden_layers:
        raise EcglmError(
            f"this LLM ({type(elm.llm).__name__}) shows the attention of {len(found)} of its "
            f"{elm.llm.config.num_hidden_layers} layers; the map needs all"
        )
    return torch.stack(found).mean(dim=0).cpu().numpy()


@contextmanager
def _eager(llm: Any) -> Iterator[None]:
    """Plain attention for the block: the fast ones never hold the weights."""
    before = llm.config._attn_implementation
    llm.set_attn_implementation("eager")
    try:
        yield
    finally:
        llm.set_attn_implementation(before)


@contextmanager
def _hooked(llm: Any, take: Any) -> Iterator[None]:
    """``take`` sees what every attention layer gives, for the block."""
    layers = [m for m in llm.modules() if type(m).__name__.endswith("Attention")]
    hooks = [layer.register_forward_hook(take) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _on_the_ecg(
    bundle: Bundle, weights: np.ndarray, segment: np.ndarray, rate: int
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Weights ``(num_rows, num_ids)`` over samples, over patches, and which samples are seen at all."""
    representation, encoder = bundle.representation, bundle.elm.encoder
    nothing = np.zeros((len(LEADS), np.shape(segment)[1]), bool)
    told = weights.shape[1] == 0  # the ECG is told in words alone
    if told or bundle.elm.image_encoder is not None or getattr(bundle.elm.connector, "resamples", False):
        return None, None, nothing  # two inputs, or tokens that each look at the whole ECG, have no one place
    both = np.vstack([weights, np.ones(weights.shape[1])])  # the last row: whatever any token stands for
    if representation.gives == "image" and encoder is not None:
        size: tuple[int, int] = representation.input_shape[1:]
        num_tokens = int(getattr(encoder, "num_tokens", representation.num_tokens))
        pooling = Pooling.of(size, num_tokens, weights.shape[1])
        if pooling is None:
            return None, None, nothing
        patches = on_patches(both, pooling)
        points = representation.points(segment, rate) if hasattr(representation, "points") else None
        if points is None:
            return None, patches[:-1], nothing
        ecg: np.ndarray | None = patches_to_samples(patches, points, size, nothing.shape)
    else:
        patches, ecg = None, representation.spread(both, segment, rate)
    if ecg is None:
        return None, None, nothing
    return ecg[:-1], None if patches is None else patches[:-1], ecg[-1] > 0


def on_patches(weights: np.ndarray, pooling: Pooling) -> np.ndarray:
    """Weights ``(num_rows, num_ids)`` of placeholders over the patches they stand for: ``(num_rows, rows, columns)``.

    The connector makes each placeholder's vector as the mean over its window of patches (``Pooling``): its weight is
    shared among them evenly. A class token stands before them and for no place.
    """
    down, across = pooling.windows()
    means = weights[:, pooling.extra :].reshape(len(weights), *pooling.grid)
    return np.einsum("nij,ir,jc->nrc", means, down, across)


def patches_to_samples(
    patches: np.ndarray,
    points: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    size: tuple[int, int],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Weights of patches ``(num_rows, rows, columns)`` shared among the samples drawn in each: ``(num_rows, *shape)``.

    points: lead (row of the result), sample, and pixel (x, y) where it is drawn, of each mark on a picture of ``size``
    (height, width). The weight of a patch in which nothing is drawn goes to no sample.
    """
    num_rows, down, across = patches.shape
    lead, sample, x, y = points
    patch = size[0] // down
    row, column = np.floor((y + 0.5) / patch).astype(int), np.floor((x + 0.5) / patch).astype(int)
    inside = (row >= 0) & (row < down) & (column >= 0) & (column < across)
    where = (row * across + column)[inside]
    target = (lead * shape[1] + sample)[inside]
    count = np.bincount(where, minlength=down * across)
    out = np.empty((num_rows, shape[0] * shape[1]))
    for number in range(num_rows):
        each = patches[number].reshape(-1)[where] / count[where]
        out[number] = np.bincount(target, weights=each, minlength=out.shape[1])
    return out.reshape(num_rows, *shape)
