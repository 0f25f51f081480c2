"""The loss of GRPO (grpo_loss.py) against numbers worked out by hand and in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecglm.training.grpo_loss import advantages, grpo_loss, token_weights


def test_advantages_are_rewards_less_the_mean_of_their_group() -> None:
    found, signal = advantages(np.array([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]]))
    assert found.tolist() == [[0.0, -1.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
    assert signal.tolist() == [True, False]


def test_divided_by_the_standard_deviation_of_the_group() -> None:
    found, _ = advantages(np.array([[1.0, 0.0, 0.0, 3.0]]), divide_by_std=True)
    std = math.sqrt((0 + 1 + 1 + 4) / 4)
    assert found[0] == pytest.approx([0.0, -1 / std, -1 / std, 2 / std])


def test_a_group_without_reward_or_with_rounding_alone_has_no_signal() -> None:
    found, signal = advantages(np.array([[math.nan] * 2, [0.1 + 0.2, 0.3], [0.0, 1e-6]]), divide_by_std=True)
    assert signal.tolist() == [False, False, True]
    assert found[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert found[2] == pytest.approx([-1.0, 1.0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.booleans(), st.floats(-3, 3))
def test_advantages_sum_to_nothing_and_know_no_offset(rewards: list[float], divide: bool, offset: float) -> None:
    found, signal = advantages(np.array([rewards]), divide_by_std=divide)
    assert found.sum() == pytest.approx(0.0, abs=1e-6)
    if signal[0] and max(rewards) - min(rewards) > 1e-3:
        moved, _ = advantages(np.array([rewards]) + offset, divide_by_std=divide)
        assert moved[0] == pytest.approx(found[0], abs=1e-6)


def test_what_a_token_counts() -> None:
    assert token_weights(np.array([2, 4]), "constant", 8).tolist() == [1 / 8, 1 / 8]
    assert token_weights(np.array([2, 4, 0]), "sample", 8).tolist() == [1 / 2, 1 / 4, 1.0]


# Two answers of two tokens each, the first better than the second. Probabilities now, when drawn, by the reference.
NOW = np.array([0.5, 0.3, 0.2, 0.6])
OLD = np.array([0.4, 0.4, 0.2, 0.4])
REFERENCE = np.array([0.5, 0.5, 0.1, 0.6])
ADVANTAGE = np.array([1.0, 1.0, -1.0, -1.0])
WEIGHT = np.full(4, 1 / (2 * 2))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(a, dtype=torch.float64) for a in arrays]


def test_two_tokens_times_two_samples_by_hand() -> None:
    tokens, old, reference, advantage, weight = tensors(np.log(NOW), np.log(OLD), np.log(REFERENCE), ADVANTAGE, WEIGHT)
    loss, facts = grpo_loss(tokens, old, advantage, weight, clip=0.2, beta=0.1, reference=reference)
    # Ratios 1.25, 0.75, 1, 1.5. A > 0: min(1.25, 1.2) and min(0.75, 0.8); A < 0: min(-1, -1) and min(-1.5, -1.2).
    surrogate = [1.2, 0.75, -1.0, -1.5]
    # Reference over now: 1, 5/3, 1/2, 1.
    kl = [0.0, 5 / 3 - math.log(5 / 3) - 1, 0.5 - math.log(0.5) - 1, 0.0]
    expected = sum((-s + 0.1 * k) / 4 for s, k in zip(surrogate, kl, strict=True))
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert facts["kl"].tolist() == pytest.approx(kl)
    assert facts["clipped"].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_the_gradient_by_hand() -> None:
    tokens, old, advantage, weight = tensors(np.log(NOW), np.log(OLD), ADVANTAGE, WEIGHT)
    tokens.requires_grad_()
    loss, _ = grpo_loss(tokens, old, advantage, weight, clip=0.2)
    loss.backward()
    # -w r A, and nothing where the clamp holds.
    assert tokens.grad.tolist() == pytest.approx([0.0, -0.75 / 4, 1.0 / 4, 1.5 / 4])


def test_on_the_policy_itself_it_is_the_policy_gradient() -> None:
    tokens, advantage, weight = tensors(np.log(NOW), ADVANTAGE, WEIGHT)
    tokens.requires_grad_()
    loss, facts = grpo_loss(tokens, tokens.detach(), advantage, weight, clip=0.2)
    loss.backward()
    assert tokens.grad.tolist() == pytest.approx((-WEIGHT * ADVANTAGE).tolist())
    assert loss.item() == pytest.approx(0.0)  # of advantages that sum to nothing, answers of one length
    assert not facts["clipped"].any()


def test_the_kl_pulls_towards_the_reference_and_is_least_there() -> None:
    tokens, reference, weight = tensors(np.log(NOW), np.log(REFERENCE), WEIGHT)
    tokens.requires_grad_()
    loss, _ = grpo_loss(
        tokens, tokens.detach(), torch.zeros(4).double(), weight, clip=0.2, beta=2.0, reference=reference
    )
    loss.backward()
    assert tokens.grad.tolist() == pytest.approx((2.0 * WEIGHT * (1 - REFERENCE / NOW)).tolist())
    same, _ = grpo_loss(reference, reference, torch.zeros(4), weight, clip=0.2, beta=2.0, reference=reference)
    assert float(same) == 0.0


@given(st.lists(st.floats(-6, 0), min_size=1, max_size=6), st.lists(st.floats(-6, 0), min_size=6, max_size=6))
def test_the_kl_of_every_token_is_never_negative(now: list[float], reference: list[float]) -> None:
    tokens, other = torch.tensor(now).double(), torch.tensor(reference[: len(now)]).double()
    ones = torch.ones(len(now)).double()
    _, facts = grpo_loss(tokens, tokens, ones, ones, clip=0.2, beta=1.0, reference=other)
    assert (facts["kl"] >= -1e-12).all()
