"""The package as it is imported: the public names of docs/design.md §6, lazily."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

import ecglm
from ecglm.errors import EcglmError

PUBLIC = ("read", "preprocess", "EcgByte", "render", "SegmentStore", "load", "score")
HEAVY = ("torch", "numpy", "pyarrow", "pandas", "scipy", "transformers", "matplotlib", "cv2", "numba", "yaml", "tyro")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_there(name):
    assert callable(getattr(ecglm, name)) and name in ecglm.__all__ and name in dir(ecglm)


def test_the_design_page_names_no_other(request):
    page = (request.config.rootpath / "docs" / "design.md").read_text()
    section = page.split("## 6. What a user touches")[1].split("Command line")[0]
    used = set(re.findall(r"\becglm\.([A-Za-z_]\w*)", section)) - {"__init__"}
    assert set(PUBLIC) == used


def test_every_exported_name_resolves():
    for name in ecglm.__all__:
        assert getattr(ecglm, name) is not None
    assert ecglm.EcglmError is EcglmError


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ecglm.nonsense  # noqa: B018


def test_importing_loads_nothing_heavy():
    assert run(f"import sys, ecglm; print([m for m in {HEAVY!r} if m in sys.modules])").strip() == "[]"


def test_the_overview_loads_nothing_heavy():
    code = f"import sys; from ecglm import cli; cli.main(['--help']); print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run(code).splitlines()[-1] == "[]"


def test_reading_and_cleaning_needs_no_torch():
    code = (
        "import sys, ecglm; ecglm.read, ecglm.preprocess, ecglm.SegmentStore, ecglm.EcgByte, ecglm.render, ecglm.score;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_one_version():
    assert ecglm.__version__ == version("ecglm")
    assert run("from ecglm import cli; cli.main(['--version'])").strip() == f"ecglm {ecglm.__version__}"


def test_the_command_is_installed():
    (script,) = [e for e in entry_points(group="console_scripts") if e.name == "ecglm"]
    assert script.value == "ecglm.cli:main"
