"""How likely a model holds an answer: log-probabilities of its tokens, each told by the tokens before it (D10)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ecglm.prompts.examples import IGNORE


def last_answer(labels: np.ndarray) -> np.ndarray:
    """Labels ``(length,)`` of which only the last answer's tokens and its end token are left; earlier answers of a talk
    are part of the prompt.
    """
    learned = labels != IGNORE
    if not learned.any():
        return labels
    end = len(labels) - int(np.argmax(learned[::-1]))
    before = np.flatnonzero(~learned[:end])
    kept = np.full_like(labels, IGNORE)
    start = int(before[-1]) + 1 if len(before) else 0
    kept[start:end] = labels[start:end]
    return kept


def answer_logits(elm: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """``(logits, targets)`` of every answer token of a batch, row after row: float32 ``(num_tokens, vocabulary)`` and
    int64 ``(num_tokens,)``.

    batch: as ``collate`` makes it, with the labels under ``answers`` ``(batch, length)``. The logits of a position are
    those of the token behind it; only positions before an answer token reach the output layer.
    """
    targets = batch["answers"][:, 1:]
    columns = torch.nonzero((targets != IGNORE).any(dim=0))[:, 0]
    logits = elm(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        ecg=batch.get("ecg"),
        image=batch.get("image"),
        tiles=batch.get("tiles"),
        logits_to_keep=columns,
    )
    targets = targets[:, columns]
    at = targets != IGNORE
    return logits[at].float(), targets[at]


def token_logprobs(elm: Any, batch: dict[str, Any]) -> torch.Tensor:
    """``log p(token | all before it)`` of every answer token of a batch (``answer_logits``), ``(num_tokens,)``."""
    logits, targets = answer_logits(elm, batch)
    return -cross_entropy(logits, targets, reduction="none")


def owners(batch: dict[str, Any]) -> torch.Tensor:
    """Of every answer token, in the order of ``token_logprobs``, the number of its answer: int64 ``(num_tokens,)``."""
    found: torch.Tensor = batch["owners"][:, 1:][batch["answers"][:, 1:] != IGNORE]
    return found


def of_answers(tokens: torch.Tensor, owner: torch.Tensor, num_answers: int, *, mean: bool) -> torch.Tensor:
    """The log-probability of each answer ``(num_answers,)``: the sum over its tokens, or with ``mean`` their mean."""
    total = tokens.new_zeros(num_answers).index_add(0, owner, tokens)
    if not mean:
        return total
    return total / torch.bincount(owner, minlength=num_answers).clamp(min=1).to(total)


def likeliest(logits: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log-probabilities of the ``number`` likeliest tokens of each row: ``(num_tokens, number)`` both."""
    logp, ids = torch.log_softmax(logits, dim=-1).topk(min(number, logits.shape[-1]), dim=-1)
    return ids, logp


def next_token_kl(logits: torch.Tensor, ids: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(model ‖ reference) of the next token at each position, nats, over the tokens ``ids`` that the reference holds
    likeliest and all others taken together: float64 ``(num_tokens,)``, at least 0, and at most the KL over single
    tokens. reference: log-probabilities of ``ids``.
    """
    ours = torch.log_softmax(logits, dim=-1).gather(-1, ids).double()
    theirs = reference.double()
    kl = (ours.exp() * (ours - theirs)).sum(dim=-1)
    if ids.shape[-1] == logits.shape[-1]:
        return kl.clamp(min=0)
    tiny = torch.finfo(torch.float32).eps  # what float32 leaves of 1 after the likeliest are taken off
    rest, rest_before = ((1 - p.exp().sum(dim=-1)).clamp(min=tiny) for p in (ours, theirs))
    return (kl + rest * (rest.log() - rest_before.log())).clamp(min=0)
