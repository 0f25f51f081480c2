"""Batches from several processes: ECGs are read, drawn and spelled beside the training, in the order that it wants."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ecglm.errors import EcglmError
from ecglm.prompts.packing import PackedRows


class LoadError(EcglmError):
    """An item that could not be made. The message stays one line when it comes out of a worker with its traceback."""

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{__name__}.LoadError: "))


class _Named(Dataset[Any]):
    """A dataset whose errors say which item it was. What could be found before training was: these are surprises."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.data[index]
        except LoadError:
            raise
        except (EcglmError, OSError) as error:
            rows = getattr(self.data, "rows", None)
            item = index[0] if isinstance(index, tuple) else index
            name = rows[item] if rows is not None and isinstance(item, int) else f"item {index}"
            raise LoadError(f"{name}: {' '.join(str(error).split())}") from error


def _one_thread(worker: int) -> None:
    """A worker is one of several: it must not start threads of its own for every picture or matrix."""
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(1)


def make_loader(
    data: Dataset[Any],
    collate: Callable[[list[Any]], dict[str, Any]],
    *,
    batch_size: int,
    sampler: Sampler[Any] | Iterable[Any] | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    context: str | None = None,
) -> DataLoader[Any]:
    """The batches of ``data`` in the order of ``sampler``: the same bytes for any ``num_workers``.

    Workers live on from epoch to epoch and are two batches ahead each. pin_memory: for copies to a GPU. context: how
    workers start (``fork``, ``spawn``, ``forkserver``), the system's way unless given. An item that cannot be made ends
    the iteration with a ``LoadError`` that names it.
    """
    more: dict[str, Any] = {}
    if num_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or each fork prints a warning
        more = {"persistent_workers": True, "prefetch_factor": 2, "multiprocessing_context": context}
    named = PackedRows(_Named(data.data), data.rows) if isinstance(data, PackedRows) else _Named(data)
    return DataLoader(
        named,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
        generator=torch.Generator().manual_seed(0),  # or how often workers start would show in the model's dropout
        **more,
    )


def end_workers(loader: Any) -> None:
    """End the workers of a loader, or of one that ``accelerate`` put around it; both may still be iterated anew.

    Left to the garbage collector, which may take their queues first, each worker would keep it waiting for seconds.
    """
    for known in (loader, getattr(loader, "base_dataloader", None)):
        workers: Any = getattr(known, "_iterator", None)
        if hasattr(workers, "_shutdown_workers"):
            workers._shutdown_workers()
            known._iterator = None  # type: ignore[union-attr]
