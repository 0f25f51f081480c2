"""Work for the processes of test_shards.py: functions of a module, as spawned processes need them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError


def square(job: dict[str, Any], device: str) -> Callable[[int], tuple[int, int, str]]:
    """Number → (its square plus the job's offset, the process, the device)."""
    return lambda item: (item * item + job["offset"], os.getpid(), device)


def sleeper(job: dict[str, Any], device: str) -> Callable[[float], float]:
    """Tells its process id in a file, then sleeps as long as an item says."""
    (Path(job["folder"]) / f"{os.getpid()}.pid").touch()

    def work(item: float) -> float:
        time.sleep(item)
        return item

    return work


def fails(job: dict[str, Any], device: str) -> Callable[[int], int]:
    """Fails at item 3 in the way the job names, once there are two processes; is slow behind it."""
    (Path(job["folder"]) / f"{os.getpid()}.pid").touch()

    def work(item: int) -> int:
        if item == 3:
            while len(list(Path(job["folder"]).glob("*.pid"))) < 2:
                time.sleep(0.01)
            if job["how"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if job["how"] == "exit":
                os._exit(7)
            if job["how"] == "memory":
                raise RuntimeError("out of memory: tried to allocate 20 GiB\nsecond line")
            raise EcglmError("item 3 is broken;\n mend it")
        time.sleep(0.02 if item < 3 else 30)
        return item

    return work


def cannot_start(job: dict[str, Any], device: str) -> Callable[[int], int]:
    """No work at all."""
    raise EcglmError(f"{job['name']} cannot be loaded")
