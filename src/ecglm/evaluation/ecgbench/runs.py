"""Which files of predictions there are: models, their steps, and the conditions they were shown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecglm.errors import EcglmError
from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench.subsets import SUBSETS, Subset, subset_named

#: So begins what ``score --explain`` writes beside the subsets; never read as predictions.
DIFFERENCES = "differences"
_FINAL = "step-final"
_JUDGES = ("judge", "judge-cache")


@dataclass(frozen=True)
class BenchRun:
    """One model (or one step of it). files: condition → subset → file; ``real`` is there unless only controls are.

    folder: where its scores are written. label: its step, empty for the final one. explicit: the files were named one
    by one, none was looked for.
    """

    name: str
    folder: Path
    files: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    label: str = ""
    explicit: bool = False


def find_runs(given: Sequence[str | Path], subsets: Sequence[Subset]) -> tuple[list[BenchRun], list[str]]:
    """(runs by name, warnings). given: folders of predictions, files, or ``SUBSET=FILE``; only ``subsets`` count.

    In a folder every ``<model>/<subset>/<step>.jsonl`` is found, at any depth, and ``<model>_<subset>.jsonl``; a tag of
    the original scorer (``csn-test``) stands for the subset. The
    folder ``<model>@<control>`` beside ``<model>`` holds the same model under a control, as do files whose rows say so
    (``metadata.control``). Raises EcglmError for a path
    that is not there, a file that names no subset, and two files for one subset, condition and model.
    """
    if not given:
        raise EcglmError("ecgbench: say where the predictions are: a folder, a file, or SUBSET=FILE")
    wanted = {subset.name for subset in subsets}
    found: dict[tuple[Path, str], dict[str, dict[str, Path]]] = {}
    spelled: dict[Path, Path] = {}  # a folder → as the user wrote it
    explicit: set[tuple[Path, str]] = set()
    warnings: list[str] = []
    for source in given:
        named, path = _split(source)
        files = [path] if path.is_file() else _below(path)
        for file in files:
            subset = named or subset_of(file)
            if subset is None:
                if path.is_file():
                    raise EcglmError(
                        f"{file}: names no subset; say which with SUBSET={file}, e.g. ptb-test={file.name}"
                    )
                warnings.append(f"{file}: names no subset, not read")
                continue
            if subset not in wanted:
                continue
            folder, control, label = _place(file, subset)
            key = (folder.resolve(), label)
            if control == REAL:
                spelled.setdefault(key[0], folder)
            table = found.setdefault(key, {}).setdefault(control, {})
            if subset in table and table[subset].resolve() != file.resolve():
                raise EcglmError(f"{file}: {subset} of '{folder.name}' stands in {table[subset].name} too; name one")
            table[subset] = file
            if path.is_file():
                explicit.add(key)
    if not found:
        asked = ", ".join(map(str, given))
        raise EcglmError(f"{asked}: no predictions here; files lie in <model>/<subset>/step-final.jsonl")
    names = _names(list(found))
    runs = [
        BenchRun(names[key], spelled.get(key[0], key[0]), tables, key[1], key in explicit)
        for key, tables in found.items()
    ]
    return sorted(runs, key=lambda run: run.name), warnings


def subset_of(file: Path) -> str | None:
    """The subset a file belongs to: the longest subset's name, or original's tag, in its folder's name or its own."""
    return _named(file.parent.name) or _named(file.stem)


def model_folder(file: Path, subset: str) -> Path:
    """The folder of the model whose answers to a subset a file holds."""
    return file.parent.parent if _named(file.parent.name) == subset else file.parent


def _named(text: str) -> str | None:
    known = {word: subset.name for subset in SUBSETS.values() for word in (subset.name, subset.tag) if word}
    hits = [word for word in known if word in text]
    return known[max(hits, key=len)] if hits else None


def _split(source: str | Path) -> tuple[str | None, Path]:
    text = str(source)
    name, equals, rest = text.partition("=")
    if equals and not os.path.exists(text):
        path = Path(rest)
        if not path.is_file():
            raise EcglmError(f"{text}: SUBSET=FILE is meant, and {rest or 'the file'} is no file")
        return subset_named(name).name, path
    if not os.path.exists(text):
        raise EcglmError(f"{text}: no such predictions; make them with ecglm ecgbench predict --out {text}")
    return None, Path(source)


def _below(folder: Path) -> list[Path]:
    """Prediction files of a folder, and of its controls where it is one model's."""
    beside, name = [folder], folder.resolve().name
    if "@" not in name and any(_named(p.name) and p.is_dir() for p in folder.iterdir()):
        above = folder.parent if folder.name else folder.resolve().parent
        beside += sorted(p for p in above.iterdir() if p.name.startswith(f"{name}@") and p.is_dir())
    return [
        path
        for place in beside
        for path in sorted(place.rglob("*.jsonl"))
        if not path.name.startswith(DIFFERENCES) and not _is_aside(path.relative_to(place))
    ]


def _is_aside(path: Path) -> bool:
    """Hidden files, and what judges wrote beside the predictions."""
    return any(part.startswith(".") for part in path.parts) or any(part in _JUDGES for part in path.parts[:-1])


def _place(file: Path, subset: str) -> tuple[Path, str, str]:
    """(the model's folder, the condition, what tells files of one folder apart) of a prediction file."""
    folder = model_folder(file, subset)
    label = file.stem if folder != file.parent else file.stem.replace(subset, "").strip("_-. ")
    label = "" if label == _FINAL else label
    told = _condition(file)
    base, at, control = folder.resolve().name.rpartition("@")
    if at and base:
        return folder.resolve().parent / base, control, label
    if told != REAL:  # beside the real answers, in a file of another name
        label = label.replace(told, "").strip("_-. ")
        return folder, told, "" if label == _FINAL else label
    return folder, REAL, label


def _condition(file: Path) -> str:
    """What the first row says it was shown; a file that cannot be read is told of where it is read."""
    try:
        with open(file, "rb") as handle:
            row = json.loads(next((line for line in handle if line.strip()), b"{}"))
        return str(row["metadata"]["control"] or REAL)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return REAL


def _names(keys: Sequence[tuple[Path, str]]) -> dict[tuple[Path, str], str]:
    """A name for each run: its folder's, with the folders above it where two are called the same, and its label."""
    resolved = {key: key[0].parts for key in keys}
    depth = 1
    while depth < 8 and len({(parts[-depth:], key[1]) for key, parts in resolved.items()}) < len(keys):
        depth += 1
    return {key: " ".join(filter(None, ("/".join(parts[-depth:]), key[1]))) for key, parts in resolved.items()}
