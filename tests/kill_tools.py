"""Commands as processes of their own, to be killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable


def start(*args: object) -> subprocess.Popen[str]:
    """``ecglm ARGS`` in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ecglm", *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """It must end well."""
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """SIGKILL to the process and all its workers as soon as ``ready()``."""
    end = time.monotonic() + 120
    while not ready():
        if process.poll() is not None:
            raise AssertionError(f"ended before it could be killed: {process.communicate()[1]}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
