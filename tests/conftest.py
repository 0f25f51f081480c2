"""Fixtures every test may use, and the rule about real recordings."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # tiny_world, also for the subprocesses that tests kill

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it starts in the background; children would inherit it, and tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def settle() -> None:
    """Libraries and tests are there for good; every training ends with a collection, which need not walk them."""
    gc.collect()
    gc.freeze()


gc.disable()  # what is read now stays


def pytest_collection_finish() -> None:
    settle()
    gc.enable()


def shared_data() -> Path:
    return Path(os.environ.get("ECGLM_SHARED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings; the test is skipped, by name, where it is absent."""
    folder = shared_data()
    if not folder.is_dir():
        if os.environ.get("ECGLM_REQUIRE_SHARED_DATA"):
            pytest.fail(f"ECGLM_REQUIRE_SHARED_DATA is set, and {folder} is not a folder")
        pytest.skip("real recordings absent (set ECGLM_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def ptb_xl(shared: Path) -> Path:
    return shared / "ptb-xl"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store of twelve synthetic patients and questions about it (``tiny_world.World``)."""
    import torch

    from tiny_world import make_world

    torch.set_num_threads(1)  # tiny tensors; and killed subprocesses must sum in the same order
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def signal_run(world: Any) -> Path:
    """A run of the tiny signal model, trained long enough that its answers differ from ECG to ECG."""
    from ecglm.training.run import train

    run = train(world.recipe(max_steps=80, eval_every=20), world.folder / "signal", say=_quiet).path
    settle()  # with what training imports
    return run


@pytest.fixture(scope="session")
def symbols_run(world: Any) -> Path:
    """A run of the tiny ECG-Byte model."""
    from ecglm.training.run import train

    return train(world.recipe(symbols=True, max_steps=40, eval_every=20), world.folder / "symbols", say=_quiet).path


def _quiet(text: str) -> None:
    """No progress lines."""
