"""Several processes train one model: how they meet, who writes, and which part of every step each of them reads."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ecglm.errors import ConfigError, EcglmError
from ecglm.files import fingerprint
from ecglm.prompts.examples import IGNORE

T = TypeVar("T")
_FAILED = "ecglm-failed"


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. main: the one that writes and speaks."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0


def quiet(text: str) -> None:
    """What every process but the first says."""


def ranks() -> Ranks:
    """As ``torchrun`` or ``accelerate launch`` say in the environment; one process where neither started this one."""
    try:
        return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise EcglmError(f"RANK and WORLD_SIZE in the environment must be whole numbers ({error})") from error


def check_device(device: str) -> None:
    """EcglmError for a device that is not there."""
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise EcglmError(f"train.device is {device}, but no CUDA device is to be seen; use --train.device cpu")
    index, found = device.partition(":")[2], torch.cuda.device_count()
    if index and int(index) >= found:
        raise EcglmError(f"train.device is {device}, but there are only {found} (cuda:0 to cuda:{found - 1})")


@contextlib.contextmanager
def together(device: str = "auto", timeout: float = 1800.0) -> Iterator[Ranks]:
    """The processes of a run meet here and stay in touch for the block.

    timeout: seconds a process waits for the others. Where one stops, or does not answer in time, the others stop with
    an EcglmError that says so: none waits for ever.
    """
    here = ranks()
    if here.size == 1:
        yield here
        return
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and device != "cpu" else "gloo"
        if backend != "gloo":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        except (RuntimeError, ValueError) as error:
            raise EcglmError(f"process {here.rank}: the other processes cannot be reached ({_line(error)})") from error
    try:
        yield here
    except EcglmError as error:
        _tell_the_others(f"process {here.rank}: {error}")
        raise
    except RuntimeError as error:
        if not _is_lost_contact(error):
            _tell_the_others(f"process {here.rank}: {_line(error)}")
            raise
        told = _told_by_another() or f"no answer within {timeout:.0f} s or connection lost ({_line(error)})"
        raise EcglmError(
            f"process {here.rank} stops, because another one did: {told}; run the same command again to go on"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _is_lost_contact(error: RuntimeError) -> bool:
    """Whether a collective failed for want of the others, and not the computation itself."""
    text = str(error).lower()
    words = ("connection", "timed out", "timeout", "gloo", "nccl", "peer", "broken pipe", "socket")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _tell_the_others(message: str) -> None:
    with contextlib.suppress(RuntimeError, ValueError):
        _store().set(_FAILED, message)


def _told_by_another() -> str | None:
    """What the process that failed first said of it; it says so before its connections close."""
    with contextlib.suppress(RuntimeError, ValueError):
        store = _store()
        if store.check([_FAILED]):
            return str(store.get(_FAILED).decode(errors="replace"))
    return None


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` gives in the main process, in all of them; it must be JSON. The others wait.

    An EcglmError there is one in all.
    """
    here = ranks()
    if here.size == 1 or not dist.is_initialized():
        return make()
    failure: EcglmError | None = None
    text = b""
    if here.main:
        try:
            text = json.dumps({"value": make()}).encode()
        except EcglmError as error:
            failure, text = error, json.dumps({"error": str(error)}).encode()
    size = torch.tensor([len(text)])
    dist.broadcast(size, src=0)
    data = torch.zeros(int(size), dtype=torch.uint8)
    if here.main:
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    dist.broadcast(data, src=0)
    if failure is not None:
        raise failure
    found = json.loads(bytes(data.tolist()))
    if "error" in found:
        raise EcglmError(found["error"])
    value: T = found["value"]
    return value


def wait() -> None:
    """Until every process has come here."""
    from_main(lambda: None)


def summed(array: np.ndarray) -> np.ndarray:
    """The sum of every process's int64 array."""
    if ranks().size == 1 or not dist.is_initialized():
        return array
    total = torch.from_numpy(array).clone()
    dist.all_reduce(total)
    return total.numpy()


def agree(what: str, value: Any) -> None:
    """EcglmError when ``value`` (JSON) is not the same in every process: each has made it for itself, from the same
    files, and a model trained on different ones would be neither's.
    """
    ours = fingerprint(value)
    theirs = from_main(lambda: ours)
    different = torch.tensor([int(ours != theirs)])
    if ranks().size > 1 and dist.is_initialized():
        dist.all_reduce(different)
    if int(different):
        raise EcglmError(
            f"{what} differs between the processes: do all of them see the same stores, questions and recipe?"
        )


def shares(batch_size: int, accumulation: int, size: int) -> tuple[int, int]:
    """(sequences, forward passes) of one process in a step of ``batch_size`` × ``accumulation`` sequences.

    A step holds the same sequences however many processes share it; ``batch_size`` is the most that one reads at once.
    Raises ConfigError when they cannot be shared evenly.
    """
    step = batch_size * accumulation
    if step % size:
        raise ConfigError(
            f"a step of {step} sequences (train.batch_size {batch_size} x train.accumulation {accumulation}) cannot be "
            f"shared by {size} processes; make it a multiple of {size}"
        )
    own = step // size
    passes = next(n for n in range(1, own + 1) if own % n == 0 and own // n <= batch_size)
    return own // passes, passes


class Blank(NamedTuple):
    """An item that fills up a process's batches where an epoch ends: read like any other, and counting nothing."""

    index: Any


class RankBatches(Sampler[list[Any]]):
    """One process's batches of every step: the steps are those of a single process, each shared among all.

    batches: of ``batch_size`` items for a single process, ``accumulation`` of them a step. Every process gets as many;
    where an epoch's last step has too few items, ``Blank`` ones stand in.
    """

    def __init__(self, batches: Any, accumulation: int, here: Ranks) -> None:
        self.batch_sampler, self.accumulation, self.here = batches, accumulation, here
        self.own, self.passes = shares(batches.batch_size, accumulation, here.size)

    def __len__(self) -> int:
        items, step = len(self.batch_sampler.sampler), self.batch_sampler.batch_size * self.accumulation
        return items // step * self.passes + self._passes(items % step)

    def _passes(self, items: int) -> int:
        """Forward passes that so many items take of each process."""
        return -(-items // (self.own * self.here.size))

    def __iter__(self) -> Iterator[list[Any]]:
        step: list[Any] = []
        taken = 0
        for batch in self.batch_sampler:
            step += batch
            taken += 1
            if taken == self.accumulation:
                yield from self._own(step)
                step, taken = [], 0
        if step:
            yield from self._own(step)

    def _own(self, step: list[Any]) -> Iterator[list[Any]]:
        cuts = [step[i : i + self.own] for i in range(0, len(step), self.own)]
        for number in range(self._passes(len(step))):
            at = number * self.here.size + self.here.rank
            yield cuts[at] if at < len(cuts) else [Blank(cuts[-1][0])]


class _Marked(Dataset[Any]):
    """A dataset that hands a ``Blank`` on as one."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        return Blank(self.data[index.index]) if isinstance(index, Blank) else self.data[index]


class _CollateMarked:
    """A collate function for ``_Marked``: nothing is learned from a batch of blanks, and it counts nothing."""

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        if not isinstance(rows[0], Blank):
            return self.collate(rows)
        batch = self.collate([row.index for row in rows])
        if "labels" in batch:
            batch["labels"] = torch.full_like(batch["labels"], IGNORE)
        if "facts" in batch:
            told = batch["facts"]
            nothing = {k: 0 for k, v in told.items() if isinstance(v, int) and not isinstance(v, bool)}
            batch["facts"] = {**told, **nothing, "ids": []}
        return batch


def share_loader(loader: DataLoader[Any], accumulation: int, here: Ranks) -> DataLoader[Any]:
    """This process's part of a loader made for one: of its own batches for training, of all for validation.

    The order of the samples stays that of ``loader``, whatever the number of processes. accumulation: batches a step.
    """
    if here.size == 1:
        return loader
    assert isinstance(loader.batch_sampler, BatchSampler) and not loader.batch_sampler.drop_last
    more: dict[str, Any] = {}
    if loader.num_workers:
        more = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    return DataLoader(
        _Marked(loader.dataset),
        batch_sampler=RankBatches(loader.batch_sampler, accumulation, here),
        collate_fn=_CollateMarked(loader.collate_fn),  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        **more,
    )
