"""Optimiser, scheduler and random state go to disk and back bit for bit, without pickle."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import torch
from transformers import get_scheduler

from ecglm.training.state import load_optimizer, load_rng, save_optimizer, save_rng


def steps(model: torch.nn.Module, optimizer, scheduler, num: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        optimizer.zero_grad()
        model(torch.randn(4, 6, generator=generator)).square().sum().backward()
        optimizer.step()
        scheduler.step()


def fresh() -> tuple:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    groups = [
        {"params": [model[0].weight, model[2].weight], "weight_decay": 0.01},
        {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98))
    return model, optimizer, get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=20)


def test_training_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    model, optimizer, scheduler = fresh()
    steps(model, optimizer, scheduler, 5, seed=1)
    save_optimizer(optimizer, scheduler, tmp_path)
    weights = copy.deepcopy(model.state_dict())
    steps(model, optimizer, scheduler, 5, seed=2)

    other, its_optimizer, its_scheduler = fresh()
    other.load_state_dict(weights)
    load_optimizer(its_optimizer, its_scheduler, tmp_path)
    steps(other, its_optimizer, its_scheduler, 5, seed=2)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
    assert its_scheduler.get_last_lr() == scheduler.get_last_lr()
    for ours, theirs in zip(optimizer.param_groups, its_optimizer.param_groups, strict=True):
        assert {k: v for k, v in ours.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}
    for one, same in zip(optimizer.state.values(), its_optimizer.state.values(), strict=True):
        assert one.keys() == same.keys()
        assert all(torch.equal(one[k], same[k]) for k in one)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def draws() -> list:
    np.random.standard_normal()  # an odd number: the second half of the pair is part of the state
    return [
        [random.random(), random.gauss(0, 1)],
        np.random.standard_normal(3).tolist(),
        np.random.randint(0, 1 << 30, 3).tolist(),
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
    ]


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    random.gauss(0, 1), np.random.standard_normal(1), torch.rand(7)
    save_rng(tmp_path)
    wanted = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert draws() != wanted
    load_rng(tmp_path)
    assert draws() == wanted


def test_each_rank_has_its_own_state(tmp_path: Path) -> None:
    for rank in (0, 1):
        torch.manual_seed(rank)
        save_rng(tmp_path, rank)
    for rank in (0, 1):
        load_rng(tmp_path, rank)
        got, _ = torch.rand(2), torch.manual_seed(rank)
        assert torch.equal(got, torch.rand(2))
