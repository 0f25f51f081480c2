"""Where the real recordings are promised, a test that lacks them fails; elsewhere it is skipped by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEST = "tests/records/test_ptb_xl.py"


@pytest.mark.parametrize(("promised", "word", "status"), [("1", "is not a folder", 1), ("", "skipped", 0)])
def test_absent_recordings(tmp_path, promised, word, status):
    environment = {k: v for k, v in os.environ.items() if k != "ECGLM_REQUIRE_SHARED_DATA"}
    environment |= {"ECGLM_SHARED_DATA": str(tmp_path / "gone")}
    if promised:
        environment["ECGLM_REQUIRE_SHARED_DATA"] = promised
    command = [sys.executable, "-m", "pytest", TEST, "-m", "realdata", "-x", "-q", "-n", "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == status and word in done.stdout, done.stdout[-2000:]


def test_ci_promises_them_where_they_are():
    script = (ROOT / ".ci" / "run").read_text()
    assert "ECGLM_REQUIRE_SHARED_DATA=1" in script and "make lint" in script and "make test" in script
