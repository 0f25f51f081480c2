"""The plan of the house (docs/design.md §2, §4, §5), checked in the source itself."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "ecglm"
FILES = sorted(PACKAGE.rglob("*.py"))

#: From the ground up; rooms of one floor do not import each other.
FLOORS = [
    ("types", "errors"),
    ("files", "config", "registry", "randomness", "interrupts"),
    ("downloads",),
    ("records", "signals"),
    ("store",),
    ("conversations", "representations"),
    ("prompts",),
    ("models",),
    ("retrieval",),
    ("training", "evaluation", "analysis"),
    ("demo", "quickstart"),
    ("verbs",),
    ("cli",),
    ("__main__",),
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
#: The ground floors are single files, whose order among themselves is free of cycles (tested below).
SINGLE_FILES = {"types", "errors", "files", "config", "registry", "randomness", "interrupts"}
MAX_LINES = 450


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str, path: Path) -> set[str]:
    """Rooms that a module imports, wherever in it the import stands."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms.update(name.split(".")[1] for name in names if name.startswith("ecglm."))
    return {room for room in rooms if not room.startswith("_")}


def violations(room: str, imported: set[str]) -> list[str]:
    return [
        other
        for other in sorted(imported - {room})
        if FLOOR_OF[other] > FLOOR_OF[room] or (FLOOR_OF[other] == FLOOR_OF[room] and not {room, other} <= SINGLE_FILES)
    ]


def test_every_room_has_a_floor():
    assert {room_of(f) for f in FILES} - {"__init__"} <= set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_floors_below(path):
    if room_of(path) == "__init__":
        return  # the lazy table of public names
    wrong = violations(room_of(path), imported_rooms(path.read_text(), path))
    assert not wrong, f"{path.relative_to(ROOT)} imports from {', '.join(wrong)}, which is no floor below"


def test_ground_floor_files_have_no_cycle():
    needs = {
        room: imported_rooms((PACKAGE / f"{room}.py").read_text(), PACKAGE) & SINGLE_FILES for room in SINGLE_FILES
    }
    placed: set[str] = set()
    while len(placed) < len(needs):
        free = {room for room, others in needs.items() if room not in placed and others - {room} <= placed}
        assert free, f"a cycle among {sorted(set(needs) - placed)}"
        placed |= free


@pytest.mark.parametrize(
    ("room", "line", "wrong"),
    [
        ("records", "from ecglm.store.reader import SegmentStore", ["store"]),
        ("records", "import ecglm.signals.pipeline", ["signals"]),
        ("signals", "def f():\n    from ecglm import records", ["records"]),
        ("training", "from ecglm.evaluation.score import score", ["evaluation"]),
        ("evaluation", "from ecglm.analysis import x", ["analysis"]),
        ("conversations", "from ecglm.representations.base import x", ["representations"]),
        ("store", "from ecglm.conversations.table import x", ["conversations"]),
        ("models", "from ecglm.cli import main", ["cli"]),
        ("types", "from ecglm.files import x", ["files"]),
        ("quickstart", "from ecglm.training.run import train\nfrom ecglm.evaluation.predict import predict", []),
    ],
)
def test_the_check_itself_sees_what_it_must(room, line, wrong):
    assert violations(room, imported_rooms(line, Path("x"))) == wrong


# --- what the source must not hold

FORBIDDEN = {
    "pickle": re.compile(r"^\s*(import|from)\s+(c?[pP]ickle|dill|cloudpickle|joblib|shelve|marshal)\b"),
    "allow_pickle=True": re.compile(r"allow_pickle\s*=\s*True"),
    "weights_only=False": re.compile(r"weights_only\s*=\s*False"),
    "trust_remote_code": re.compile(r"trust_remote_code\s*=\s*True"),
    "yaml.load(": re.compile(r"\byaml\.(unsafe_|full_)?load(_all)?\("),
    "eval(": re.compile(r"(?<![\w.])eval\("),
    "exec(": re.compile(r"(?<![\w.])exec\("),
    "shell=True": re.compile(r"shell\s*=\s*True"),
    "os.system": re.compile(r"\bos\.(system|popen)\("),
    "except Exception": re.compile(r"except\s+\(?.*\b(Base)?Exception\b"),
    "bare except": re.compile(r"except\s*:"),
    "a path of one machine": re.compile(r"['\"](/home/|/Users/|/root/|/work/|/tmp/|/mnt/|/data/|[A-Z]:\\\\)"),
    "TODO": re.compile(r"\b(TODO|FIXME|XXX)\b"),
}
BAD_LINES = {
    "pickle": "    import pickle",
    "allow_pickle=True": "np.load(f, allow_pickle=True)",
    "weights_only=False": "torch.load(f, weights_only=False)",
    "trust_remote_code": "f(trust_remote_code=True)",
    "yaml.load(": "yaml.load(text)",
    "eval(": "x = eval(text)",
    "exec(": "exec(text)",
    "shell=True": "run(c, shell=True)",
    "os.system": "os.system('x')",
    "except Exception": "except (ValueError, Exception):",
    "bare except": "    except:",
    "a path of one machine": "p = '/home/me/x'",
    "TODO": "# TODO later",
}


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Lines without docstrings: what runs, and comments."""
    text = path.read_text()
    dark: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and token.string.lstrip("rRbBuUfF").startswith('"""'):
            dark.update(range(token.start[0], token.end[0] + 1))
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if n not in dark]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_source_holds_no(what):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in code_lines(path)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}: " + "; ".join(found)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_scan_itself_sees_what_it_must(what):
    assert FORBIDDEN[what].search(BAD_LINES[what])


def test_np_load_always_says_so():
    """numpy's own default is a promise of today; ours stands in the line."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("allow_pickle") == "False", f"{path}:{node.lineno}"


def test_torch_load_stands_in_one_file_and_always_says_weights_only():
    """Weights that others released come as .pt files; whatever this package writes is safetensors."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
                assert path.relative_to(PACKAGE).as_posix() == "models/released.py", path


@pytest.mark.parametrize("word", ["torchvision", "timm", "imgaug", "albumentations"])
def test_not_used(word):
    assert not [p for p in FILES if re.search(rf"^\s*(import|from)\s+{word}\b", p.read_text(), re.MULTILINE)]
    assert word not in (ROOT / "pyproject.toml").read_text()


# --- manners


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_the_first_line_says_what_a_file_is_for(path):
    first = path.read_text().split("\n", 1)[0]
    assert first.startswith('"""') and len(first) > 15, first
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_file_grows_into_a_heap():
    assert not {p.name: n for p in FILES if (n := p.read_text().count("\n")) > MAX_LINES}


def test_files_are_small_on_the_whole():
    lengths = sorted(p.read_text().count("\n") for p in FILES)
    assert lengths[int(0.9 * len(lengths))] <= 310


def test_public_functions_say_what_they_do():
    silent = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}")
    assert not silent


def test_the_registry_is_the_only_one_and_small():
    assert (PACKAGE / "registry.py").read_text().count("\n") < 100
    others = [p.name for p in FILES if p.name != "registry.py" and re.search(r"def register\(", p.read_text())]
    assert others == []
