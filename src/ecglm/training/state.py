"""Optimiser, scheduler and random state as safetensors and JSON: what the Trainer would otherwise pickle."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ecglm.files import read_json, write_json
from ecglm.training.fsdp import shared_like, whole_tensor


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path, *, writes: bool = True) -> None:
    """Write ``optimizer.safetensors`` and ``optimizer.json``. The shares of a sharded state are brought together: then
    every process must call it, and one of them ``writes``.
    """
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                whole = whole_tensor(value.detach())
                if writes:
                    tensors[f"{index}.{name}"] = whole.cpu().contiguous()
            else:
                values.setdefault(str(index), {})[name] = value
    if not writes:
        return
    save_file(tensors, folder / "optimizer.safetensors")
    facts = {"values": values, "param_groups": state["param_groups"], "scheduler": scheduler.state_dict()}
    write_json(folder / "optimizer.json", facts)


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Read back what ``save_optimizer`` wrote, bit for bit, also into an optimiser that is sharded otherwise."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    facts = read_json(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in facts["values"].items()}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = shared_like(tensor, weights[int(index)])
    for group in facts["param_groups"]:
        group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": facts["param_groups"]})
    scheduler.load_state_dict(facts["scheduler"])


def save_rng(folder: Path, rank: int = 0) -> None:
    """Write the states of python's, numpy's and torch's global generators."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    tensors = {
        "python": torch.tensor(internal, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, folder / f"rng-{rank}.safetensors")
    facts = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {"name": name, "position": position, "has_gauss": has_gauss, "cached": cached},
    }
    write_json(folder / f"rng-{rank}.json", facts)


def load_rng(folder: Path, rank: int = 0) -> None:
    """Put the global generators back to where ``save_rng`` found them. A process that was not there then takes the
    numbers of one that was.
    """
    rank = rank % max(len(list(folder.glob("rng-*.json"))), 1)
    facts, tensors = read_json(folder / f"rng-{rank}.json"), load_file(folder / f"rng-{rank}.safetensors")
    random.setstate((facts["python"]["version"], tuple(tensors["python"].tolist()), facts["python"]["gauss"]))
    numpy = facts["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def sync(folder: Path) -> None:
    """Make sure that everything in ``folder`` is on the disk and not only on its way: a power cut must not undo it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _fsync(path)
    _fsync(folder)
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
