"""Schedules and optimisers against their formulas: the peak is lr (D11), and decay is where it belongs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ecglm.errors import ConfigError
from ecglm.training.options import TrainConfig
from ecglm.training.schedules import make_adam, make_adamw, make_schedule, noam, peak

STEPS, WARMUP, LR = 40, 8, 3e-3


def rates(config: TrainConfig, steps: int, width: int | None = None) -> list[float]:
    """The learning rate of each step, from the first."""
    optimizer = make_adam(nn.Linear(2, 2), config, fused=False)
    schedule = make_schedule(optimizer, config, steps, width)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def shape(name: str, t: int) -> float:
    """Share of lr at step ``t`` from 0, by the definitions of the schedules; ECG-Bench's count from 1."""
    if name == "inverse_sqrt":
        return min(math.sqrt(WARMUP / (t + 1)), (t + 1) / WARMUP)
    if t < WARMUP:
        return t / WARMUP
    return {
        "constant": 1.0,
        "linear": (STEPS - t) / (STEPS - WARMUP),
        "cosine": 0.5 + 0.5 * math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP)),
    }[name]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [{"warmup_steps": WARMUP}, {"warmup_share": 0.2}], ids=["steps", "share"])
def test_d11_every_schedule_follows_its_formula_and_its_peak_is_lr(name: str, warmup: dict) -> None:
    config = TrainConfig(max_steps=STEPS, lr=LR, schedule=name, **warmup)
    found = rates(config, STEPS)
    assert found == pytest.approx([LR * shape(name, t) for t in range(STEPS)], rel=1e-6)
    assert max(found) == pytest.approx(peak(config, STEPS)) == pytest.approx(LR)


@pytest.mark.parametrize("width, told", [(2048, 9.882e-4), (256, 2.795e-3), (768, 1.6137e-3)])
def test_d11_noam_is_ecg_benchs_and_says_its_peak(width: int, told: float) -> None:
    """Peaks of the specification: about 9.9e-4 for width 2048 and 2.8e-3 for 256, after 500 steps."""
    config = TrainConfig(max_steps=2000, schedule="noam_compat", lr=123.0)
    found = rates(config, 2000, width)
    expected = [width**-0.5 * min(t**-0.5, t * 500**-1.5) for t in range(1, 2001)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert max(found) == pytest.approx(told, rel=1e-3) == pytest.approx(peak(config, 2000, width), rel=1e-3)
    assert found.index(max(found)) == 499  # the 500th step
    assert noam(500, 500, width) == pytest.approx((width * 500) ** -0.5)
    with pytest.raises(ConfigError, match="needs the width"):
        peak(config, 2000)


def test_a_warmup_longer_than_the_epochs_is_refused() -> None:
    config = TrainConfig(max_epochs=2, warmup_steps=30)
    with pytest.raises(ConfigError, match=r"warmup_steps must be below max_steps \(20\), found 30"):
        make_schedule(make_adam(nn.Linear(2, 2), config, fused=False), config, 20)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("fused", [False, True])
def test_both_optimisers_equal_their_papers(kind: str, fused: bool) -> None:
    """Two weights, six steps, written out in double precision; the bias of adamw does not decay, adam's does."""
    config = TrainConfig(optimizer=kind, lr=0.05, beta1=0.8, beta2=0.99, eps=1e-6, weight_decay=0.1)
    model = nn.Linear(1, 1).double()
    with torch.no_grad():
        model.weight.fill_(1.0), model.bias.fill_(-2.0)
    if kind == "adam":
        optimizer = make_adam(model, config, fused=fused)
    else:
        optimizer = make_adamw(model, config, {"weight"}, fused=fused)
    values, first, second = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for t in range(1, 7):
        gradients = [math.sin(t), math.cos(t)]
        model.weight.grad = torch.tensor([[gradients[0]]], dtype=torch.float64)
        model.bias.grad = torch.tensor([gradients[1]], dtype=torch.float64)
        optimizer.step()
        for i in (0, 1):
            g = gradients[i] + (0.1 * values[i] if kind == "adam" else 0.0)
            if kind == "adamw" and i == 0:
                values[i] -= 0.05 * 0.1 * values[i]
            first[i] = 0.8 * first[i] + 0.2 * g
            second[i] = 0.99 * second[i] + 0.01 * g * g
            step = (first[i] / (1 - 0.8**t)) / (math.sqrt(second[i] / (1 - 0.99**t)) + 1e-6)
            values[i] -= 0.05 * step
        assert [model.weight.item(), model.bias.item()] == pytest.approx(values, rel=1e-7)


def test_frozen_weights_reach_no_optimiser() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    for optimizer in (
        make_adam(model, TrainConfig(), fused=False),
        make_adamw(model, TrainConfig(), {"1.weight"}, fused=False),
    ):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in model[1].parameters()}
