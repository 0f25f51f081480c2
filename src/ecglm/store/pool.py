"""Worker processes, of shards and of measurements: started by spawn, one thread each, gone when their parent is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ecglm.errors import EcglmError
from ecglm.interrupts import LOOK, counted_interrupts
from ecglm.store.progress import RecordProgress
from ecglm.store.writer import Source, write_shard

if TYPE_CHECKING:
    from ecglm.signals.pipeline import Pipeline

#: What a worker starts with: one thread for the numeric libraries, or the cores are overrun; and the arrays of one
#: record kept for the next by the C library (glibc), which otherwise asks the kernel for them again each time.
WORKER_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    **dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(256 << 20)),
}

R = TypeVar("R")


def run_pool(
    source: Source, pipeline: Pipeline, out: Path, chunks: dict[int, list[str]], workers: int, bar: RecordProgress
) -> None:
    """Write the shard of every chunk (shard number → record ids) with ``workers`` processes.

    Raises what a worker raises, and EcglmError when one is killed. When it returns or raises, no worker is left.
    """
    # spawn, never fork: a forked child would inherit the lock, locked mutexes of BLAS threads, open HDF5 files.
    context = multiprocessing.get_context("spawn")
    shared = context.Array("q", 3)  # records done, records rejected, stop
    start = (source, pipeline, out, shared)
    with (
        counted_interrupts() as ctrl_c,
        worker_environment(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=start) as pool,
    ):
        try:
            pending = {pool.submit(_work, number, keys) for number, keys in chunks.items()}
            while pending and not ctrl_c.count:
                finished, pending = wait(pending, timeout=LOOK, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                bar.update(bar.before + shared[0], shared[1])
        except BrokenProcessPool as error:
            raise EcglmError(
                f"{out}: a worker process died (killed, or out of memory); finished shards are kept, run the same "
                "command again, with fewer --workers if it repeats"
            ) from error
        finally:
            shared[2] = 1
            pool.shutdown(cancel_futures=True)
    if ctrl_c.count:
        raise KeyboardInterrupt


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
    """What is set here a spawned process finds when it starts."""
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def results(what: str, work: Callable[..., R], calls: Sequence[tuple[Any, ...]], workers: int) -> Iterator[R]:
    """``work(*call)`` of every call in their order, by ``workers`` processes; ``work`` is a function of a module.

    Raises what it raises, and EcglmError, which ``what`` begins, when a process is killed. When the iterator ends, is
    closed or raises, Ctrl-C included, no process is left; none outlives this one either.
    """
    # spawn, never fork: a forked child would inherit locked mutexes of BLAS threads
    context = multiprocessing.get_context("spawn")
    with (
        worker_environment(),
        ProcessPoolExecutor(min(workers, len(calls)), mp_context=context, initializer=_follow_parent) as pool,
    ):
        try:
            with counted_interrupts() as ctrl_c:
                tasks = deque(pool.submit(work, *call) for call in calls)
            while tasks and not ctrl_c.count:
                with counted_interrupts() as ctrl_c:
                    while not ctrl_c.count and wait([tasks[0]], timeout=LOOK).not_done:
                        pass
                if not ctrl_c.count:
                    yield tasks.popleft().result()
            if ctrl_c.count:
                raise KeyboardInterrupt
        except BrokenProcessPool as error:
            raise EcglmError(
                f"{what}: a worker process died (killed, or out of memory); use fewer --workers"
            ) from error
        finally:
            with counted_interrupts():
                pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Runs once in each worker process: Ctrl-C is the parent's to hear, and with the parent the worker leaves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:  # a parent killed with -9 cannot say goodbye
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


_worker: tuple[Source, Pipeline, Path, Callable[[bool], None]]


def _start_worker(source: Source, pipeline: Pipeline, out: Path, shared: Any) -> None:
    """Runs once in each worker process."""
    global _worker
    _follow_parent()

    def tick(rejected: bool) -> None:
        with shared.get_lock():
            shared[0] += 1
            shared[1] += rejected
            stopped = shared[2]
        if stopped:
            raise EcglmError("stopped")

    _worker = (source, pipeline, out, tick)


def _work(number: int, keys: Sequence[str]) -> None:
    source, pipeline, out, tick = _worker
    write_shard(out, number, source, pipeline, keys, tick)
