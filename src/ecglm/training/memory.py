"""How much memory a training step takes, from the model's shape alone: the step is traced on tensors without values."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ecglm.training.fsdp import shard_units

Sharding = Literal["none", "fsdp", "zero2", "zero3"]
_UNTRACEABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)


@dataclass(frozen=True)
class Batch:
    """The largest batch of a run, as one process reads it at once.

    rows, length: of ``input_ids``. answers: tokens of the whole batch that are learned from. kept: positions of a row
    that reach the output layer. ecgs: how many; ecg_shape, ecg_dtype: of each one's tensor; image_shape: of the picture
    beside it. masked: whether a mask of ``(rows, 1, length, length)`` goes with it.
    """

    rows: int
    length: int
    answers: int
    kept: int
    ecgs: int = 0
    ecg_shape: tuple[int, ...] = ()
    ecg_dtype: torch.dtype = torch.float32
    image_shape: tuple[int, ...] = ()
    masked: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes in one process at the peak of a step. activations: all that is neither weight, gradient nor optimiser
    state. gathered: whole weights that a sharded model holds for a moment. untraced: parts whose activations are not
    in it."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int = 0
    untraced: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.gathered

    def __str__(self) -> str:
        parts = [("weights", self.parameters), ("gradients", self.gradients), ("optimiser", self.optimizer)]
        parts += [("activations", self.activations), *([("gathered", self.gathered)] if self.gathered else [])]
        without = f", {' and '.join(self.untraced)} not traced" if self.untraced else ""
        return f"{size_text(self.total)} ({', '.join(f'{name} {size_text(n)}' for name, n in parts)}{without})"


def size_text(count: int) -> str:
    """Bytes, for a person."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class _Live(TorchDispatchMode):
    """Counts the bytes of every storage that operations make, as long as something holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()

    def forget(self, tensors: Iterator[torch.Tensor]) -> None:
        """Leave these out: they are counted elsewhere."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                size = self._known[storage] = storage.nbytes()
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, size)
        return made

    def _free(self, size: int) -> None:
        self.live -= size


def _hollow(model: nn.Module) -> None:
    """Weights and buffers without values, within a ``FakeTensorMode``; what was shared stays shared."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                    made[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def estimate(
    elm: Any,
    batch: Batch,
    *,
    bf16: bool = False,
    accumulation: int = 1,
    processes: int = 1,
    sharding: Sharding = "none",
    states: int = 2,
) -> Memory:
    """Memory of one process at the peak of a step. elm: built on the meta device, with its parts frozen, adapted and
    checkpointed as they will be; it is of no other use afterwards. states: numbers the optimiser keeps for each weight
    that learns, two for Adam and AdamW.

    The forward and backward pass are run on tensors without values, and what is alive at every operation is counted:
    so attention kind, adapters, checkpointing, autocast and frozen parts count as what they are. Raises nothing for a
    part that cannot be traced (its output depends on values): it is named in ``untraced``.
    """
    weights = _bytes(elm.parameters()) + _bytes(elm.buffers())
    learned = [p for p in elm.parameters() if p.requires_grad]
    gradients = _bytes(learned)
    optimizer = states * gradients
    with FakeTensorMode():
        _hollow(elm)
        alive, untraced = _peak(elm, batch, bf16=bf16, accumulated=accumulation > 1)
    activations = max(alive - gradients, 0)
    if processes == 1 or sharding == "none":
        # Data parallel alone: gradients are summed in place, in buckets that the gradients are views of.
        return Memory(weights, gradients, optimizer, activations, untraced=untraced)
    gathered = 0
    if sharding in ("fsdp", "zero3"):
        gathered = _gathered(elm, 2 if bf16 else 4)
        weights //= processes
    return Memory(weights, gradients // processes, optimizer // processes, activations, gathered, untraced)


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def _gathered(elm: Any, width: int) -> int:
    """Weights that stand whole at the worst moment: the root's, a layer's, the next one's, a layer's gradient."""
    units = shard_units(elm)
    inside = {id(p) for unit in units for p in unit.parameters()}
    root = sum(p.numel() for p in elm.parameters() if id(p) not in inside)
    sizes = [sum(p.numel() for p in unit.parameters()) for unit in units]
    return width * (root + 3 * max(sizes, default=0))


def _peak(elm: Any, batch: Batch, *, bf16: bool, accumulated: bool) -> tuple[int, tuple[str, ...]]:
    """Most bytes alive during one step beside the weights, gradients among them."""
    untraced: list[str] = []
    elm.train()
    live = _Live()
    live.forget(t for ts in (elm.parameters(), elm.buffers()) for t in ts)
    with live:
        for _ in range(2 if accumulated else 1):  # a second pass finds the first one's gradients
            live.peak = live.live
            _step(elm, batch, bf16, untraced)
    for weight in elm.parameters():
        weight.grad = None
    return live.peak, tuple(dict.fromkeys(untraced))


def _step(elm: Any, batch: Batch, bf16: bool, untraced: list[str]) -> None:
    rows, length = batch.rows, batch.length
    ids, positions = (torch.empty(rows, length, dtype=torch.long) for _ in range(2))
    mask = torch.empty(rows, 1, length, length) if batch.masked else None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        embedded = elm.llm.get_input_embeddings()(ids)
        for vectors in _encoded(elm, batch, untraced):
            at = torch.empty(rows, length, 1, dtype=torch.bool)
            embedded = embedded.masked_scatter(at, vectors.to(embedded.dtype))
        logits = elm.llm(
            inputs_embeds=embedded,
            attention_mask=None if mask is None else mask.to(embedded.dtype),
            position_ids=positions,
            use_cache=False,
            logits_to_keep=torch.empty(batch.kept, dtype=torch.long),
        ).logits
        targets = torch.empty(rows, batch.kept, dtype=torch.long)
        row, column = (torch.empty(batch.answers, dtype=torch.long) for _ in range(2))
        loss = cross_entropy(logits[row, column].float(), targets[row, column], reduction="sum")
        del logits, embedded  # as the objective's are gone before the backward pass
    if loss.requires_grad:
        loss.backward()


def _encoded(elm: Any, batch: Batch, untraced: list[str]) -> Iterator[torch.Tensor]:
    """The connectors' tokens. An encoder that looks at its values cannot be traced; then its output is made up."""
    if not batch.ecgs:
        return
    towers = [(elm.encoder, elm.connector, batch.ecg_shape, batch.ecg_dtype)]
    if batch.image_shape:
        towers.append((elm.image_encoder, elm.image_connector, batch.image_shape, torch.uint8))
    for encoder, connector, shape, dtype in towers:
        try:
            tokens = encoder(torch.empty(batch.ecgs, *shape, dtype=dtype))
        except _UNTRACEABLE:
            untraced.append("encoder")
            tokens = torch.empty(batch.ecgs, encoder.num_tokens, encoder.dim)
        vectors = connector(tokens)
        yield elm.image_connector.project(vectors) if elm.shared and connector is elm.connector else vectors


def llm_without_weights(config: Any, *, attention: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM of a configuration, on the meta device."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    extra = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, **extra)
