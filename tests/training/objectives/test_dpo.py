"""Preference losses against their formulas in numpy, numbers worked out by hand, and what the log says of them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ecglm.prompts.examples import IGNORE
from ecglm.training.objectives.dpo import NAMES, Preference, dpo_loss, ipo_loss, stand_still, told

MARGINS = np.array([-3.0, -0.5, 0.0, 0.2, 4.0])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_dpo_is_its_formula(beta: float, epsilon: float) -> None:
    expected = -(1 - epsilon) * np.log(sigmoid(beta * MARGINS)) - epsilon * np.log(sigmoid(-beta * MARGINS))
    found = dpo_loss(torch.tensor(MARGINS), beta, epsilon)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_dpo_by_hand() -> None:
    """No preference yet: log 2, whatever the noise. β h = log 3: σ = 3/4."""
    assert dpo_loss(torch.tensor(0.0), 0.1).item() == pytest.approx(math.log(2))
    assert dpo_loss(torch.tensor(0.0), 0.1, 0.3).item() == pytest.approx(math.log(2))
    h = torch.tensor(math.log(3) / 0.1)
    assert dpo_loss(h, 0.1).item() == pytest.approx(math.log(4 / 3))
    assert dpo_loss(h, 0.1, 0.25).item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def test_conservative_dpo_is_least_where_the_preference_is_as_sure_as_the_pairs() -> None:
    """Its gradient vanishes where σ(β h) = 1 - ε."""
    h = torch.tensor(math.log(0.9 / 0.1) / 0.5, requires_grad=True)
    dpo_loss(h, 0.5, 0.1).backward()
    assert h.grad is not None and abs(h.grad.item()) < 1e-7


def test_ipo_by_hand() -> None:
    np.testing.assert_allclose(ipo_loss(torch.tensor(MARGINS), 0.1).numpy(), (MARGINS - 5) ** 2)
    assert ipo_loss(torch.tensor(0.5), 1.0).item() == 0


class Table(nn.Module):
    """Logits by the last token alone; a dropout that must not act."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(5, 5, generator=generator, dtype=torch.float64))
        self.dropout = nn.Dropout(0.9)

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **more: Any) -> torch.Tensor:
        return self.dropout(self.table[input_ids])[:, logits_to_keep]


#: Three pairs: prompt 0 1, then answers of one to three tokens; -1 is padding.
SEQUENCES = [[0, 1, 2, 3], [0, 1, 4, -1], [0, 1, 3, 3], [0, 1, 2, 4], [0, 1, 1, -1], [0, 1, 3, 2]]


def batch_of(reference: nn.Module | None, counts: int = 3) -> dict[str, Any]:
    ids = torch.tensor(SEQUENCES)
    answers = torch.where(torch.arange(4) > 1, ids, IGNORE).masked_fill(ids < 0, IGNORE)
    found = {
        "input_ids": ids.clamp(min=0),
        "attention_mask": (ids >= 0).long(),
        "position_ids": torch.arange(4).expand(6, 4),
        "answers": answers,
        "owners": torch.arange(6)[:, None].expand(6, 4),
        "labels": torch.where(torch.arange(3)[:, None] < counts, 1, IGNORE).expand(3, 2),
    }
    if reference is not None:
        logp = [lp for row in by_hand(reference) for lp in row]
        found["reference"] = torch.tensor(logp)
        soft = torch.log_softmax(reference.table, -1)
        at = answers[:, 1:] != IGNORE
        found["likeliest"] = torch.arange(5).expand(len(logp), 5)
        found["likeliest_logp"] = soft[found["input_ids"][:, :-1][at]].detach()
    return found


def by_hand(model: Any) -> list[list[float]]:
    table = model.table.detach().numpy()
    logp = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    return [[float(logp[a, b]) for a, b in pairwise(row[1:]) if b >= 0] for row in SEQUENCES]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_the_loss_of_a_batch_equals_an_independent_reference(method: str, mean: bool) -> None:
    model, reference = Table(1), Table(2)
    take = np.mean if mean else np.sum
    now, before = (np.array([take(row) for row in by_hand(m)]).reshape(3, 2) for m in (model, reference))
    h = (now - before)[:, 0] - (now - before)[:, 1]
    losses = (h - 1 / 0.4) ** 2 if method == "ipo" else -np.log(sigmoid(0.2 * h))
    objective = Preference(method, 0.2, mean=mean)
    batch = batch_of(reference)
    assert objective(model, batch).item() == pytest.approx(losses.mean())
    sums = objective.take()
    assert sums[0] == 3 and objective.take() == [0.0] * (3 + len(NAMES))
    said = told(sums, "val_")
    assert said["val_margin"] == pytest.approx(0.2 * h.mean())
    assert said["val_accuracy"] == pytest.approx((h > 0).mean())
    assert said["val_reward_chosen"] == pytest.approx(0.2 * (now - before)[:, 0].mean())
    assert said["val_reward_rejected"] == pytest.approx(0.2 * (now - before)[:, 1].mean())
    assert said["val_logp_chosen"] == pytest.approx(now[:, 0].mean())
    assert said["val_logp_rejected"] == pytest.approx(now[:, 1].mean())
    soft = [torch.log_softmax(m.table.detach(), -1).numpy() for m in (model, reference)]
    kl = (np.exp(soft[0]) * (soft[0] - soft[1])).sum(axis=1)
    at = [a for row in SEQUENCES for a, b in pairwise(row[1:]) if b >= 0]
    assert said["val_kl"] == pytest.approx(kl[at].mean(), rel=1e-5)


def test_a_step_is_the_sum_over_its_batches() -> None:
    """num_items: pairs of the whole step; pairs that only fill a process's share count nothing."""
    model, reference = Table(1), Table(2)
    objective = Preference("dpo", 0.2)
    whole = objective(model, batch_of(reference)).item()
    assert objective(model, batch_of(reference), 6).item() == pytest.approx(whole / 2)
    assert objective(model, batch_of(reference, 0)).item() == 0
    total, count = objective.measure(model, batch_of(reference, 2))
    assert count == 2 and total.item() < 3 * whole + 1
    assert told([0.0] * (3 + len(NAMES))) == {}


def test_the_model_as_it_was_has_neither_margin_nor_kl_even_in_training() -> None:
    model = Table(1).train()
    objective = Preference("dpo", 0.2)
    assert objective(model, batch_of(Table(1))).item() == pytest.approx(math.log(2), abs=1e-6)
    said = told(objective.take())
    assert abs(said["margin"]) < 1e-6 and said["kl"] < 1e-6


def test_the_gradient_moves_chosen_up_and_rejected_down() -> None:
    """∂loss/∂log p(chosen) = -β σ(-β h) at every pair, and the opposite for rejected (arXiv 2305.18290, section 4)."""
    model, reference = Table(1), Table(2)
    batch = batch_of(reference)
    Preference("dpo", 0.2)(model, batch).backward()
    now, before = (np.array([sum(row) for row in by_hand(m)]).reshape(3, 2) for m in (model, reference))
    h = (now - before)[:, 0] - (now - before)[:, 1]
    weight = 0.2 * sigmoid(-0.2 * h) / 3
    soft = torch.softmax(model.table.detach(), -1).numpy()
    expected = np.zeros((5, 5))
    for number, row in enumerate(SEQUENCES):
        sign = -1 if number % 2 == 0 else 1
        for a, b in pairwise(row[1:]):
            if b >= 0:
                expected[a] += sign * weight[number // 2] * (np.eye(5)[b] - soft[a])
    assert model.table.grad is not None
    np.testing.assert_allclose(model.table.grad.numpy(), expected, atol=1e-9)


def test_dropout_and_batch_statistics_stand_still() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3)).train()
    stand_still(model)
    assert [m.training for m in model] == [False, False, True]
    x = torch.randn(8, 3)
    torch.testing.assert_close(model(x), model(x))
    assert model[0].running_mean is not None and not model[0].running_mean.any()
