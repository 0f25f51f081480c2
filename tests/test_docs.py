"""The documents say what is there: commands, options, links, files, components, and code that runs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecglm import registry
from ecglm.cli import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
#: The recipe whose options stand for those of any, and others for what a signal recipe does not have.
HELP_RECIPES = tuple(ROOT / "recipes" / f"synthetic-{name}.yaml" for name in ("signal", "ecg-byte", "features"))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*")


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in _BLOCK.findall(text) if found == language]


def commands(path: Path) -> list[str]:
    """Every ``ecglm …`` command line of a page's shell blocks, or of a recipe's comments."""
    text = path.read_text()
    if path.suffix == ".yaml":
        said = "\n".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        lines = said.replace("\\\n", " ").splitlines()
    else:
        lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("ecglm ")]


@functools.cache
def help_of(verb: str) -> str:
    """What ``ecglm VERB --help`` prints."""
    recipes = [[str(r)] for r in HELP_RECIPES] if verb in ("train", "validate") else [[]]
    if verb == "pretrain":
        recipes = [[str(ROOT / "recipes" / f"pretrain-{name}.yaml")] for name in ("st-mem", "merl", "captioning")]
    said = io.StringIO()
    if verb == "align":
        recipes = [[str(file)] for file in sorted((ROOT / "recipes" / "align").glob("*.yaml"))]
    for recipe in recipes:
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
            main([*verb.split(), *recipe, "--help"])
        assert ended.value.code in (0, None), verb
    return said.getvalue()


def options_of(verb: str) -> set[str]:
    return set(_OPTION.findall(help_of(verb))) - {"--help"}


def verb_of(words: list[str]) -> str:
    two = " ".join(words[:2])
    return two if two in VERBS else words[0]


@pytest.mark.parametrize("path", [*PAGES, *RECIPES], ids=lambda p: p.name)
def test_every_command_names_a_verb_and_options_that_exist(path):
    for command in commands(path):
        words = shlex.split(command, comments=True)[1:]
        verb = verb_of(words)
        assert verb in VERBS, f"{path.name}: {command}: no such verb"
        used = {word.split("=")[0] for word in words if word.startswith("--")} - {"--debug", "--help"}
        assert used <= options_of(verb), f"{path.name}: {command}: {used - options_of(verb)} unknown"


def test_the_pages_hold_commands():
    counted = {path.name: len(commands(path)) for path in PAGES}
    assert counted["README.md"] >= 5
    assert counted["cli.md"] >= len(VERBS)


def test_every_recipe_named_in_a_command_is_there():
    for path in [*PAGES, *RECIPES]:
        for name in re.findall(r"recipes/[\w-]+\.yaml", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_page_lists_exactly_the_options_of_a_verb(verb):
    page = (ROOT / "docs" / "cli.md").read_text()
    section = page.split(f"\n## {verb}\n", 1)[1].split("\n## ", 1)[0]
    listed = {
        option for line in section.splitlines() if line.startswith("| `--") for option in _OPTION.findall(line)[:1]
    }
    said = options_of(verb)
    switches = {option for option in said if f"--no-{option[2:]}" in said}
    expected = said - {f"--no-{option[2:]}" for option in switches}
    if verb in ("train", "validate", "pretrain", "align"):  # the recipe's own fields are listed by --help
        expected = {option for option in expected if "." not in option and option != "--name"}
    assert listed == (expected if verb != "validate" else set())


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists() and found.is_relative_to(ROOT), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{path.name}: {target}"


def test_every_page_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme, page.name


def tree_paths() -> set[str]:
    """The paths that the README's file tree names, from its indentation."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("<!-- tree:start -->")[1].split("<!-- tree:end -->")[0]
    stack: list[str] = []
    found = set()
    for line in tree.strip().splitlines()[1:-1]:
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        stack[depth:] = [name.rstrip("/")]
        found.add("/".join(stack) + ("/" if name.endswith("/") else ""))
        assert len(line.split(None, 1)) == 2 or name == "src/ecglm/", f"{name} has no description"
    return found


def test_the_file_tree_names_every_file_and_no_other():
    package = ROOT / "src" / "ecglm"
    there = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.suffix in (".py", ".css", ".js", ".html", ".json", ".yaml") and "__pycache__" not in path.parts
    }
    rooms = {f"{Path(file).parent.as_posix()}/" for file in there}
    expected = {file for file in there if not file.endswith("/__init__.py")} | {"src/ecglm/__init__.py"} | rooms
    named = {path for path in tree_paths() if path.startswith("src/")}
    assert named == expected
    assert {path for path in tree_paths() if not path.startswith("src/")} <= {
        f"{p.name}/" if p.is_dir() else p.name for p in ROOT.iterdir()
    }


@pytest.mark.parametrize("kind", registry.HOMES)
def test_every_component_has_a_row_in_the_docs(kind):
    page = (ROOT / "docs" / "components.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", page, flags=re.MULTILINE))
    for name in registry.names(kind):
        assert name in rows, f"{kind} '{name}' has no row in docs/components.md"
        assert (ROOT / "src" / "ecglm" / rows[name]).exists(), f"{name}: {rows[name]}"


def test_parity_names_every_defect_and_tests_that_exist():
    page = (ROOT / "docs" / "parity.md").read_text()
    rows = {int(n): line for n, line in re.findall(r"^\| D(\d+) (\|.*)$", page, flags=re.MULTILINE)}
    assert sorted(rows) == list(range(1, 40))
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)
    }
    for name in re.findall(r"`(test_\w+)`", page):
        assert name in written, f"docs/parity.md names {name}, which is not there"
    for name in written:
        number = re.match(r"test_d0*(\d+)_", name)
        if number and int(number[1]) in rows:
            assert name in rows[int(number[1])], f"docs/parity.md, row D{number[1]} lacks {name}"
    for number, line in rows.items():
        assert ("| tested" in line) == ("`test_" in line), f"D{number}"


def test_benchmarks_have_a_section_each():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert f"benchmarks/{script.name}" in page, script.name


def run_python(code: str, folder: Path) -> None:
    (folder / "page.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_code_of_the_page_on_adding_things_runs(tmp_path):
    run_python("\n".join(blocks((ROOT / "docs" / "adding.md").read_text(), "python")), tmp_path)


def test_the_code_of_the_readme_runs_after_a_quickstart(tmp_path):
    code = "\n".join(blocks((ROOT / "README.md").read_text(), "python"))
    first = "from ecglm.quickstart import quickstart\n\nquickstart(dev=True, say=lambda line: None)\n"
    run_python(first + code, tmp_path)


def test_yaml_files_of_the_project_are_yaml():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "hooks need nothing from elsewhere"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_name_no_place_of_one_machine(path):
    text = path.read_text()
    assert not re.search(r"(?<![\w.$/])/(home|work|tmp|root|usr|mnt)/", text)
    assert not re.search(r"[A-Z]:\\\\", text)
