"""Work of several processes, in order; none stays, whatever ends it (src/ecglm/store/pool.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pool_work
from ecglm.errors import EcglmError
from ecglm.store.pool import results

HERE = Path(__file__).parents[1]


def soon(check: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        time.sleep(0.01)
    return check()


def living(folder: Path) -> list[str]:
    """The processes that told their id in a folder and are there still."""

    def is_there(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    return [file.stem for file in folder.glob("*.pid") if is_there(file.stem)]


def test_results_come_in_order_from_other_processes() -> None:
    calls = [(3, 0.3), (1,), (4,), (1,), (5,)]
    found = list(results("test", pool_work.square, calls, 2))
    assert [number for number, _ in found] == [9, 1, 16, 1, 25]
    assert os.getpid() not in {process for _, process in found} and len({process for _, process in found}) <= 2


@pytest.mark.parametrize(
    ("how", "told"),
    [("error", r"^this one is broken$"), ("killed", r"^test: a worker process died \(killed, or out of memory\)")],
)
def test_one_that_fails_ends_all(how: str, told: str) -> None:
    with pytest.raises(EcglmError, match=told):
        list(results("test", pool_work.fail, [(how,)], 1))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(how: int, tmp_path: Path) -> None:
    """Ctrl-C lets what is begun end and begins no more; kill -9 ends it."""
    seconds = 0.5 if how == signal.SIGINT else 100.0
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import pool_work\n"
        "from ecglm.store.pool import results\n"
        f"list(results('test', pool_work.sleep, [({str(tmp_path)!r}, {seconds})] * 200, 2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert soon(lambda: len(living(tmp_path)) == 2)
        parent.send_signal(how)
        if how == signal.SIGINT:
            assert parent.communicate(timeout=30)[1].rstrip().endswith("KeyboardInterrupt")
        assert soon(lambda: not living(tmp_path), 20)
    finally:
        parent.kill()
        parent.communicate()
        for pid in living(tmp_path):
            os.kill(int(pid), signal.SIGKILL)
