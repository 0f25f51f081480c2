"""Fully sharded training (FSDP2): every process holds a share of each weight, its gradient and its optimiser state."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ecglm.errors import ConfigError


def layers_of(llm: nn.Module) -> list[nn.Module]:
    """The transformer layers: the longest list of modules, by weights."""
    lists: list[Any] = [m for m in llm.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ConfigError("train.sharding: this language model has no list of layers to shard; use none")
    largest: Any = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))
    return list(largest)


def shard_units(model: Any) -> list[nn.Module]:
    """What is gathered and let go by itself: every layer of an ELM's LLM, its encoders and connectors. What is left
    (embeddings, output, final norm) is the root's, which stays whole from the forward to the backward pass.
    """
    parts = (getattr(model, name, None) for name in ("encoder", "image_encoder", "connector", "image_connector"))
    return [*layers_of(model.llm), *(p for p in parts if p is not None and any(True for _ in p.parameters()))]


def shard(model: nn.Module, units: Sequence[nn.Module], device: torch.device, *, bf16: bool) -> nn.Module:
    """Shard ``model`` in place over all processes, each of ``units`` by itself (arXiv 2304.11277), and return it.

    bf16: weights are gathered and used in bfloat16, gradients summed in float32; the shares stay as they are. Needs
    ``torch.distributed`` to be initialised. ConfigError for weights of several types in one unit.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for unit in [*units, model]:
        kinds = {p.dtype for p in unit.parameters() if not isinstance(p, DTensor)}
        if len(kinds) > 1:
            raise ConfigError(
                f"train.sharding: {type(unit).__name__} holds weights of several types ({', '.join(map(str, kinds))}); "
                "set model.dtype to float32, and train.bf16 for speed"
            )
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    model.no_sync = functools.partial(_no_sync, model)  # type: ignore[assignment, arg-type]
    return model


@contextlib.contextmanager
def _no_sync(model: FSDPModule) -> Iterator[None]:
    """Gradients of this backward pass wait for a later one to be summed over the processes."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def always_encode(elm: Any, ecg_blank: torch.Tensor | None, image_blank: torch.Tensor | None) -> None:
    """Let a sharded ELM run its encoders also for a batch without an ECG, on an empty one, at no weight: the others
    wait for this process to gather the encoder's weights with them. (So a step that shows no process any ECG moves the
    encoder by its momentum, where it would stand still unsharded.)
    """
    plain = elm.embed

    def embed(input_ids: torch.Tensor, ecg: Any = None, image: Any = None, tiles: Any = None) -> Any:
        embedded = plain(input_ids, ecg, image, tiles)
        pairs = ((ecg, ecg_blank, elm._signal_vectors), (image, image_blank, elm._image_vectors))
        for given, blank, encode in pairs:
            if given is None and blank is not None:
                embedded = embedded + 0.0 * encode(blank.to(embedded.device)).sum().to(embedded.dtype)
        return embedded

    elm.embed = embed


def gather_into(model: nn.Module, whole: nn.Module, *, keep: bool) -> None:
    """The weights of a sharded model, copied into the unsharded ``whole`` where ``keep`` is set (the process that
    writes). Every process must call it: the weights are gathered from all, one after another, in the CPU's memory.
    """
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if keep:
        whole.load_state_dict(state, strict=True)


def whole_tensor(value: Any) -> Any:
    """A tensor with all its shares (every process must ask), any other thing as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shared_like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor, as ``like`` is shared."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements, src_data_rank=None)
