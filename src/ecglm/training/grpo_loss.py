"""Group-relative policy optimisation (GRPO): advantages within the answers to one question, and the clipped loss."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

#: Rewards of a group that differ by no more than this are the same: rounding is no signal.
SAME = 1e-9


def advantages(rewards: np.ndarray, *, divide_by_std: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """``(advantages (groups, samples), has_signal (groups,))`` of rewards ``(groups, samples)``.

    Each reward less the mean of its group (arXiv 2503.20783), and with divide_by_std over the group's standard
    deviation (arXiv 2402.03300; of the population, ``ddof`` 0). A group whose rewards are all the same, or are NaN, has
    no signal: zeros.
    """
    rewards = np.asarray(rewards, np.float64)
    spread = rewards.max(axis=1) - rewards.min(axis=1)  # NaN stays NaN, and is not above
    has_signal = spread > SAME
    found = rewards - rewards.mean(axis=1, keepdims=True)
    if divide_by_std:
        std = rewards.std(axis=1, keepdims=True)
        found = found / np.where(has_signal[:, None], std, 1.0)
    return np.where(has_signal[:, None], found, 0.0), has_signal


def token_weights(lengths: np.ndarray, length: Literal["constant", "sample"], max_new_tokens: int) -> np.ndarray:
    """What a token of each answer counts ``(num_answers,)``: 1 over max_new_tokens, or over the answer's own length."""
    lengths = np.asarray(lengths)
    if length == "constant":
        return np.full(len(lengths), 1.0 / max_new_tokens)
    return 1.0 / np.maximum(lengths, 1)


def grpo_loss(
    tokens: torch.Tensor,
    old: torch.Tensor,
    advantage: torch.Tensor,
    weight: torch.Tensor,
    *,
    clip: float,
    beta: float = 0.0,
    reference: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``Σ weight · (-min(r A, clamp(r, 1 - clip, 1 + clip) A) + beta · k)`` over the tokens of all answers.

    tokens, old, reference: log-probability of each token by the model that learns, by the one that drew it, and by the
    reference ``(num_tokens,)``. r: exp(tokens - old). k: exp(q) - q - 1 with q = reference - tokens, an unbiased
    estimate of KL(model ‖ reference) that is never negative (k3, as in arXiv 2402.03300). advantage, weight: of each
    token's answer; weights say how tokens and answers are averaged. Also given: ``clipped``, a token's 1 where the
    clamp has taken its gradient away, and ``kl``.
    """
    ratio = torch.exp(tokens - old)
    free, held = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    losses = -torch.minimum(free, held)
    facts: dict[str, Any] = {"clipped": (held < free).detach().to(tokens)}
    if reference is not None:
        gap = reference - tokens
        kl = torch.exp(gap) - gap - 1
        losses = losses + beta * kl
        facts["kl"] = kl.detach()
    return (weight * losses).sum(), facts
