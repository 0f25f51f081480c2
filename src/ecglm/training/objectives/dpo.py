"""Preference losses on pairs of answers, against a reference: DPO, conservative DPO and IPO."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid

from ecglm.prompts.examples import IGNORE
from ecglm.training.logprobs import answer_logits, next_token_kl, of_answers, owners

#: What is summed over the pairs of a step or a validation, and divided by their number; kl by the answer tokens.
NAMES = ("loss", "margin", "accuracy", "reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected")


def dpo_loss(margin: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """``-(1 - ε) log σ(β h) - ε log σ(-β h)`` of each pair: DPO (arXiv 2305.18290, equation 7), and for
    label_smoothing ε > 0 conservative DPO (Mitchell, A note on DPO with noisy preferences and relationship to IPO,
    2023), which takes a share ε of the pairs to be the wrong way round. margin: h, how much more than the reference the
    model prefers the chosen answer, ``(num_pairs,)``.
    """
    wins, loses = logsigmoid(beta * margin), logsigmoid(-beta * margin)
    return -(1 - label_smoothing) * wins - label_smoothing * loses


def ipo_loss(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """``(h - 1 / (2 β))²`` of each pair: IPO (arXiv 2310.12036, equation 17, β is its τ)."""
    return (margin - 1 / (2 * beta)) ** 2


class Preference:
    """The loss of a batch of pairs (``collate_pairs``) for ``StatefulTrainer``, with what the log says of them.

    method: ``dpo`` or ``ipo``. mean: log-probabilities per token. Dropout and the statistics of batches are off: the
    reference was computed without them.
    """

    def __init__(self, method: str, beta: float, *, label_smoothing: float = 0.0, mean: bool = False) -> None:
        self.method, self.beta, self.label_smoothing, self.mean = method, beta, label_smoothing, mean
        self.sums: torch.Tensor | None = None

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        """Summed loss over ``num_items``, the pairs of the whole step; None: over those of this batch."""
        total, count = self.measure(model, batch)
        return total / (max(count, 1) if num_items is None else num_items)

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """``(summed loss, number of pairs)``; adds to ``sums``."""
        stand_still(model)
        logits, targets = answer_logits(model, batch)
        tokens, owner = -cross_entropy(logits, targets, reduction="none"), owners(batch)
        counts = (batch["labels"][:, 1] != IGNORE).to(tokens)
        number = len(counts)
        chosen, rejected = of_answers(tokens, owner, 2 * number, mean=self.mean).reshape(number, 2).T
        before = of_answers(batch["reference"], owner, 2 * number, mean=self.mean).reshape(number, 2).T
        margin = (chosen - before[0]) - (rejected - before[1])
        if self.method == "ipo":
            losses = ipo_loss(margin, self.beta)
        else:
            losses = dpo_loss(margin, self.beta, self.label_smoothing)
        with torch.no_grad():
            rewards = self.beta * (chosen - before[0]), self.beta * (rejected - before[1])
            told = (losses, self.beta * margin, (margin > 0).to(tokens), *rewards, chosen, rejected)
            of_token = counts[owner // 2].double()
            moved = next_token_kl(logits, batch["likeliest"], batch["likeliest_logp"])
            kl = (moved * of_token).sum(), of_token.sum()
            sums = torch.stack([counts.double().sum(), *kl, *((t.double() * counts).sum() for t in told)])
            self.sums = sums if self.sums is None else self.sums + sums
        return (losses * counts).sum(), int(counts.sum())

    def take(self) -> list[float]:
        """The sums since the last time: of pairs, KL terms, tokens and ``NAMES``."""
        found = [0.0] * (3 + len(NAMES)) if self.sums is None else list(self.sums.tolist())
        self.sums = None
        return found


def told(sums: list[float], ahead: str = "") -> dict[str, float]:
    """What ``Preference.take`` gives, as means: ``NAMES`` over pairs, ``kl`` over answer tokens."""
    pairs, kl, tokens, *rest = sums
    if not pairs:
        return {}
    means = {name: value / pairs for name, value in zip(NAMES, rest, strict=True) if name != "loss"}
    return {f"{ahead}{name}": value for name, value in {**means, "kl": kl / max(tokens, 1.0)}.items()}


def stand_still(model: nn.Module) -> None:
    """Switch dropout and the statistics of batches off, whatever else of the model is in training."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm) and module.training:
            module.eval()
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # some families draw it inside their attention
