"""Work shared by devices: one process each, a batch at a time, every result handed over the moment it is there.

A job is plain data, and the work a function of a module: ``start(job, device)`` loads what is needed on a device, once,
and gives back the function that turns an item into its result. Items and results travel between processes, so they too
are plain data (numbers, texts, lists, dictionaries), never open files or models.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ecglm.errors import EcglmError
from ecglm.store.pool import worker_environment

#: ``(job, device)`` → the function from an item to its result.
Start = Callable[[Any, str], Callable[[Any], Any]]
#: What a process says when it is ready for the next item, gives a result, or cannot go on.
_DONE, _FAILED = "done", "failed"
_SECONDS_TO_END = 5.0


def find_devices(given: Sequence[str] = ("auto",)) -> list[str]:
    """Names of devices as they are: ``auto`` is every GPU, or ``cpu`` where there is none.

    The same name may stand several times: so many processes share it. EcglmError for a name that is no device here.
    """
    import torch

    if list(given) == ["auto"]:
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    if not given:
        raise EcglmError("--devices names none; give auto, cpu or cuda:0 cuda:1 …")
    for name in given:
        kind, colon, number = name.partition(":")
        if name == "auto":
            raise EcglmError("--devices: auto stands alone; it takes every GPU")
        if kind not in ("cpu", "cuda") or (colon and not number.isdigit()) or (kind == "cpu" and colon):
            raise EcglmError(f"--devices: no device '{name}'; auto, cpu, cuda or cuda:N")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            raise EcglmError(f"--devices: no {name} here; GPUs that are: {torch.cuda.device_count()}")
    return list(given)


def run_shards(
    start: Start, job: Any, items: Sequence[Any], devices: Sequence[str], finished: Callable[[int, Any], None]
) -> None:
    """``finished(index, result)`` for every item, in the caller's process, as the results come (not in order).

    One device works in this process; several work in one process each (spawned), which takes the next item when it is
    free, so whoever is killed loses at most one item per device. ``start`` must be a function of a module.

    When a process fails, the others are stopped and its error is raised here as one EcglmError; EcglmError too when one
    is killed. When this returns or raises, Ctrl-C included, no process is left; none outlives its parent either.
    """
    if not items:
        return
    if len(devices) == 1:
        work = start(job, devices[0])
        for index, item in enumerate(items):
            finished(index, work(item))
        return
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU that its parent has touched
    waiting = iter(enumerate(items))
    processes: dict[Connection, Any] = {}
    names: dict[Connection, str] = {}
    try:
        with worker_environment():
            for device in list(devices)[: len(items)]:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(start, job, device, theirs), daemon=True)
                process.start()
                theirs.close()
                processes[ours], names[ours] = process, device
        for pipe in processes:
            _hand(pipe, next(waiting))
        busy = set(processes)
        while busy:
            for ready in wait(list(busy)):
                pipe = next(p for p in busy if p is ready)
                kind, index, result = _told(pipe, names[pipe], processes[pipe])
                if kind == _FAILED:
                    raise EcglmError(result)
                finished(index, result)
                following = next(waiting, None)
                if following is None:
                    busy.discard(pipe)
                else:
                    _hand(pipe, following)
    finally:
        _end(processes)


def _hand(pipe: Connection, item: tuple[int, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died; its last words are read next
        pipe.send(item)


def _told(pipe: Connection, device: str, process: Any) -> tuple[str, int, Any]:
    """What a process says; EcglmError where it has died."""
    try:
        kind, index, result = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join(_SECONDS_TO_END)
        how = f"by signal {-code}" if (code := process.exitcode or 0) < 0 else f"with status {code}"
        raise EcglmError(
            f"the process on {device} ended {how} (killed, or out of memory; see above); what was finished is kept, "
            "run the same command again"
        ) from error
    return str(kind), int(index), result


def _end(processes: dict[Connection, Any]) -> None:
    """No process stays: who waits for work ends when its pipe closes, who works is stopped."""
    for pipe, process in processes.items():
        pipe.close()
        process.terminate()
    for process in processes.values():
        process.join(_SECONDS_TO_END)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(start: Start, job: Any, device: str, pipe: Connection) -> None:
    """Runs in each process: take an item, give its result, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:  # a parent killed with -9 cannot say goodbye
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    if device.startswith("cuda"):
        import torch  # not at the top: a process that needs none starts sooner

        torch.cuda.set_device(device)
    try:
        work = start(job, device)
        while True:
            index, item = pipe.recv()
            pipe.send((_DONE, index, work(item)))
    except (EOFError, BrokenPipeError):
        return  # the parent has no more work
    except EcglmError as error:
        pipe.send((_FAILED, 0, " ".join(str(error).split())))
    except (RuntimeError, MemoryError) as error:  # of torch: no memory left on the device, say
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        pipe.send((_FAILED, 0, f"{device}: {first}; what was finished is kept"))
