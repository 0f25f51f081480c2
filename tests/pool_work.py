"""Work for the processes of test_pool.py: functions of a module, as spawned processes need them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ecglm.errors import EcglmError


def square(number: int, seconds: float = 0.0) -> tuple[int, int]:
    """(its square, the process)."""
    time.sleep(seconds)
    return number * number, os.getpid()


def sleep(folder: str, seconds: float) -> None:
    """Tells its process id in a file, then sleeps."""
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(seconds)


def fail(how: str) -> None:
    """Fails in the way that is named."""
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise EcglmError("this one is broken")
