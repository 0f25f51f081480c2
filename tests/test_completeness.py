"""Adding a thing touches one file, and then this file fails until the thing has a test and a row in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ecglm import cli, registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS, DOCS = ROOT / "src" / "ecglm", ROOT / "tests", ROOT / "docs"
ROOMS = (
    *("records", "signals", "store", "conversations", "representations", "representations/effects"),
    *("prompts", "training", "analysis"),
    *("training/objectives", "models", "models/encoders", "evaluation", "evaluation/metrics"),
    *("evaluation/answerers", "evaluation/ecgbench", "evaluation/judge", "evaluation/rewards"),
    *("retrieval", "demo"),
)
MODULES = [
    p.relative_to(PACKAGE).with_suffix("").as_posix()
    for room in ROOMS
    for p in sorted((PACKAGE / room).glob("*.py"))
    if p.stem != "__init__"
]
TEST_TEXT = {p: p.read_text() for p in sorted(TESTS.rglob("*.py"))}


def names_module(text: str, module: str) -> bool:
    """Whether a test imports from the module, by either spelling, or names its file."""
    dotted = "ecglm." + module.replace("/", ".")
    package, _, name = dotted.rpartition(".")
    imports = re.findall(rf"from {re.escape(package)} import ([^\n(]+|\([^)]*\))", text)
    among = any(re.search(rf"\b{re.escape(name)}\b", names) for names in imports)
    return bool(re.search(rf"{re.escape(dotted)}\b", text)) or among or f"{name}.py" in text


def package_text(room: str) -> str:
    """What a package's own file says: where it imports its modules, they are its parts."""
    return (PACKAGE / room / "__init__.py").read_text()


def wholes_of(module: str) -> set[str]:
    """The module and those of its room that it is a part of: a part is tested through the whole."""
    room, _, name = module.rpartition("/")
    wholes, fresh = {module}, {module}
    if re.search(rf"^from ecglm\.{room.replace('/', '.')}.*\b{name}\b", package_text(room), re.MULTILINE):
        wholes.add(room)
    while fresh:
        dotted = ["ecglm." + m.replace("/", ".") + " " for m in fresh]
        texts = {m: (PACKAGE / f"{m}.py").read_text() for m in MODULES if m.rpartition("/")[0] == room}
        fresh = {m for m, text in texts.items() if m not in wholes and any(d in text for d in dotted)}
        wholes |= fresh
    return wholes


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_test_that_names_it(module):
    tested = {m for m in wholes_of(module) if any(names_module(t, m) for t in TEST_TEXT.values())}
    registered = re.findall(r'register\("\w+", "([^"]+)"\)|\bname="(\w+)"', (PACKAGE / f"{module}.py").read_text())
    names = {name for pair in registered for name in pair if name}
    by_name = any(f'"{name}"' in text for name in names for text in TEST_TEXT.values())
    assert tested or by_name, f"no test names src/ecglm/{module}.py"


def test_the_check_sees_a_module_without_a_test():
    assert not any(names_module(t, "records/" + "no_such_thing") for t in TEST_TEXT.values())
    assert names_module("from ecglm.store.writer import KIND", "store/writer")
    assert names_module("from ecglm.store import prepare, writer", "store/writer")
    assert not names_module("from ecglm.store import prepare, rewriter", "store/writer")


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in registry.HOMES for n in registry.names(k)])
def test_every_registered_thing_is_tested_and_documented(kind, name):
    assert any(re.search(rf"['\"]{re.escape(name)}['\"]", text) for text in TEST_TEXT.values()), "no test names it"
    rows = [line for line in (DOCS / "components.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert rows, f"docs/components.md has no row for {kind} `{name}`"
    files = [re.findall(r"`([\w/]+\.py)`", row) for row in rows]
    assert all((PACKAGE / f).exists() for found in files for f in found)


def test_no_row_of_the_docs_names_a_thing_that_is_not_there():
    known = {name for kind in registry.HOMES for name in registry.names(kind)}
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "components.md").read_text(), re.MULTILINE)
    assert set(rows) - known == set()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_documented(verb):
    pages = [*DOCS.glob("*.md"), ROOT / "README.md"]
    assert any(re.search(rf"^(\$ )?ecglm {verb}\b", page.read_text(), re.MULTILINE) for page in pages), verb


def test_the_docs_name_no_verb_that_is_not_there():
    """The plan (design.md) names more; whatever else a user reads can be typed."""
    for page in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        if page.name == "design.md":
            continue
        for line in re.findall(r"^(?:\$ )?ecglm ([a-z][^\n]*)$", page.read_text(), re.MULTILINE):
            words = line.split()
            assert words[0] in cli.VERBS or " ".join(words[:2]) in cli.VERBS, f"{page.name}: ecglm {line}"


def test_every_recipe_has_its_commands_in_its_first_lines():
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        head = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
        assert head and len(head[0]) > 20, recipe.name


def test_the_design_page_names_every_room():
    page = (DOCS / "design.md").read_text()
    for room in sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"):
        assert f"      {room}/" in page, room


def test_the_package_ships_what_it_reads():
    data = {p.suffix for p in PACKAGE.rglob("*") if p.is_file()} - {".py", ".pyc", ".nbc", ".nbi", ".typed"}
    shipped = set(re.findall(r"\*\*/\*(\.\w+)", (ROOT / "pyproject.toml").read_text()))
    assert data <= shipped
