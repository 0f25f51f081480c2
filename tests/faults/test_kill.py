"""kill -9 in the middle, then the same command again: the same files as a run that nobody disturbed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_tools import done, ecglm
from ecglm.store.reader import SegmentStore
from tiny_world import tree

QUICKSTART = ("quickstart", "--dev", "--limit", "20")
PREPARE = ("prepare", "synthetic", "--rate", "100", "--seg-len", "1000", "--set", "num_patients=60", "--workers", "2")


def start(*args: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ecglm", *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def kill_when(process: subprocess.Popen, ready) -> None:
    """SIGKILL to the process and all its workers as soon as ``ready()``."""
    end = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, f"ended before it could be killed: {process.stderr.read()}"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def same(one: Path, other: Path) -> None:
    """Equal trees; only recipes name the place where they lie."""
    left, right = tree(one), tree(other)
    assert set(left) == set(right)
    for name in left:
        a, b = left[name], right[name]
        if name.endswith("recipe.yaml"):
            a, b = (re.sub(re.escape(str(p)).encode(), b"", t) for p, t in ((one, a), (other, b)))
        assert a == b, name


def test_quickstart_killed_while_preparing_training_and_predicting(tmp_path):
    whole, out = tmp_path / "undisturbed", tmp_path / "killed"
    finish(start(*QUICKSTART, "--out", whole))
    moments = [
        lambda: any(out.glob("store/shards/*")),
        lambda: any(out.glob("signal/states/checkpoint-3*/state.json")),
        lambda: any((out / "ecg-byte-predictions").glob("*.jsonl")),  # answers so far, or all of them
    ]
    for moment in moments:
        kill_when(start(*QUICKSTART, "--out", out), moment)
        assert not (out / "report.html").exists()
    finish(start(*QUICKSTART, "--out", out))
    same(whole, out)


def test_prepare_killed_twice(tmp_path):
    whole, out = tmp_path / "undisturbed", tmp_path / "killed"
    done(*PREPARE[:-2], "--out", whole)
    for num_parts in (1, 3):
        kill_when(start(*PREPARE, "--out", out), lambda n=num_parts: len(list(out.glob("parts/*.json"))) >= n)
        assert "unfinished" in ecglm("store", "info", out).error
    done(*PREPARE, "--out", out)
    same(whole, out)
    assert "whole" in done("store", "verify", out)
    assert len(SegmentStore(out)) > 60


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.35, 0.5, 0.65, 0.8, 0.95])
def test_quickstart_killed_at_any_moment(tmp_path, share):
    whole, out = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    finish(start(*QUICKSTART, "--out", whole))
    length = time.monotonic() - started
    process = start(*QUICKSTART, "--out", out)
    time.sleep(share * length)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finish(start(*QUICKSTART, "--out", out))
    same(whole, out)
