"""Shards: every item once, whoever does it; one that fails stops all, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import shard_work
from ecglm.errors import EcglmError
from ecglm.evaluation.shards import find_devices, run_shards

HERE = Path(__file__).parents[1]


def alive(folder: Path) -> list[int]:
    """Processes that left their id in the folder and still run."""
    found = []
    for file in folder.glob("*.pid"):
        try:
            os.kill(int(file.stem), 0)
        except ProcessLookupError:
            continue
        state = Path(f"/proc/{file.stem}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state != "Z":
            found.append(int(file.stem))
    return found


def soon(ready: Callable[[], Any], seconds: float = 30) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(0.02)
    return False


def collect(start: Any, job: Any, items: Any, devices: list[str]) -> dict[int, Any]:
    found: dict[int, Any] = {}

    def finished(index: int, result: Any) -> None:
        assert index not in found
        found[index] = result

    run_shards(start, job, items, devices, finished)
    return found


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]])
def test_every_item_once_by_as_many_processes_as_devices(devices: list[str]) -> None:
    found = collect(shard_work.square, {"offset": 5}, [3, 1, 4, 1, 5, 9], devices)
    assert [found[i][0] for i in range(6)] == [14, 6, 21, 6, 30, 86]
    processes = {pid for _, pid, _ in found.values()}
    assert len(processes) <= len(devices)
    assert (os.getpid() in processes) is (len(devices) == 1)
    assert {device for _, _, device in found.values()} == {"cpu"}


def test_no_items_start_nothing() -> None:
    assert collect(shard_work.cannot_start, {"name": "x"}, [], ["cpu", "cpu"]) == {}


def test_more_devices_than_items() -> None:
    assert collect(shard_work.square, {"offset": 0}, [7], ["cpu", "cpu", "cpu"])[0][0] == 49  # one process


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("error", r"^item 3 is broken; mend it$"),
        ("killed", r"^the process on cpu ended by signal 9 "),
        ("exit", r"^the process on cpu ended with status 7 "),
        ("memory", r"^cpu: out of memory: tried to allocate 20 GiB; what was finished is kept$"),
    ],
)
def test_one_that_fails_stops_the_others(how: str, told: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(EcglmError, match=told):
        collect(shard_work.fails, {"how": how, "folder": str(tmp_path)}, list(range(8)), ["cpu", "cpu"])
    assert time.monotonic() - begun < 25  # nobody slept to the end
    assert len(list(tmp_path.glob("*.pid"))) == 2 and not alive(tmp_path)


def test_what_cannot_start_is_told_in_its_own_words() -> None:
    for devices in (["cpu"], ["cpu", "cpu"]):
        with pytest.raises(EcglmError, match=r"^model x cannot be loaded$"):
            collect(shard_work.cannot_start, {"name": "model x"}, [1, 2], devices)


def test_an_error_of_the_caller_stops_the_processes(tmp_path: Path) -> None:
    def finished(index: int, result: Any) -> None:
        raise EcglmError("no space left")

    with pytest.raises(EcglmError, match="no space left"):
        run_shards(shard_work.sleeper, {"folder": str(tmp_path)}, [0.0, 30.0, 30.0], ["cpu", "cpu"], finished)
    assert not alive(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(how: int, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import shard_work\n"
        "from ecglm.evaluation.shards import run_shards\n"
        f"job = {{'folder': {str(tmp_path)!r}}}\n"
        "run_shards(shard_work.sleeper, job, [60.0] * 4, ['cpu', 'cpu'], print)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert soon(lambda: len(alive(tmp_path)) == 2, 60)
        os.kill(parent.pid, how)  # the parent alone, as a scheduler would
        parent.wait(20)
        assert soon(lambda: not alive(tmp_path))
    finally:
        parent.kill()


def test_names_of_devices() -> None:
    count = torch.cuda.device_count()
    assert find_devices() == ([f"cuda:{i}" for i in range(count)] or ["cpu"])
    assert find_devices(["cpu", "cpu"]) == ["cpu", "cpu"]
    for given, told in (
        (["gpu"], "no device 'gpu'"),
        (["cuda:x"], "no device 'cuda:x'"),
        (["cpu:1"], "no device 'cpu:1'"),
        ([f"cuda:{count}"], f"no cuda:{count} here"),
        (["auto", "cpu"], "auto stands alone"),
        ([], "names none"),
    ):
        with pytest.raises(EcglmError, match=told):
            find_devices(given)
