"""Run by test_contrastive.py: each objective on two processes under DDP, and in one process on the whole batch."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ecglm.training.objectives.clip import Clip, ClipOptions, Siglip, SiglipOptions
from ecglm.training.objectives.merl import MerlObjective, MerlOptions

CASES = {"mean": (3, False), "counted": (3, True), "uneven": (2, True)}  # rows of rank 0 of six, whether counted
TEXTS = ["sinus rhythm", "atrial fibrillation", "sinus rhythm", "left axis", "paced rhythm", "normal ecg"]


class Small(nn.Module):
    """An encoder without batch statistics or dropout, which no two processes could share."""

    dim, num_tokens = 8, 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 8, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(x)).transpose(1, 2)


def objective(name: str):
    torch.manual_seed(0)
    setting = SimpleNamespace(encoder=Small())
    if name == "merl":
        return MerlObjective(MerlOptions(dim=8, dropout=0.0), setting)
    kind, options = {"clip": (Clip, ClipOptions), "siglip": (Siglip, SiglipOptions)}[name]
    return kind(options(dim=8), setting)


def batch(made, rows: slice) -> dict[str, torch.Tensor]:
    ecg = torch.randn(6, 2, 20, generator=torch.Generator().manual_seed(1))
    tokens = made.text.tokenize(TEXTS)
    ids = torch.tensor([TEXTS.index(t) for t in TEXTS])
    labels = torch.ones(6, 2, dtype=torch.int64)
    own = {"ecg": ecg, "text_id": ids, "labels": labels, **{f"text_{k}": v for k, v in tokens.items()}}
    return {k: v[rows] for k, v in own.items()}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def rank(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meet'}",
        rank=number,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    out = {}
    for name in ("merl", "clip", "siglip"):
        for case, (first, counted) in CASES.items():
            made = objective(name)
            model = DistributedDataParallel(made.model, find_unused_parameters=True)  # as the trainer does
            own = batch(made, slice(0, first) if number == 0 else slice(first, 6))
            loss = made(model, own, 6 if counted else None)
            if counted:
                loss = loss * 2  # as the trainer does: gradients are averaged over ranks, and these must be summed
            loss.backward()
            value = loss.detach() / 2
            dist.all_reduce(value)  # in both cases the mean of what the ranks say
            out[f"{name}/{case}"] = (float(value), gradients(model))
    if number == 0:
        torch.save({k: (torch.tensor(v), g) for k, (v, g) in out.items()}, folder / "rank.bin")
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=rank, args=(number, folder)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
    found = {}
    for key, (loss, ranks) in torch.load(folder / "rank.bin", weights_only=True).items():
        made = objective(key.split("/")[0])
        whole = made(made.model, batch(made, slice(0, 6)))
        whole.backward()
        alone = gradients(made.model)
        assert alone.keys() == ranks.keys()
        found[key] = {
            "loss": float(loss),
            "whole_loss": float(whole.detach()),
            "largest_gradient": max(float(g.abs().max()) for g in alone.values()),
            "largest_difference": max(float((alone[n] - ranks[n]).abs().max()) for n in alone),
            "num_compared": len(alone),
        }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
