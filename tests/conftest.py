"""Fixtures every test may use, and the rule about real recordings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
