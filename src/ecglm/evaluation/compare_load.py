"""What is compared: named models with their prediction folders, checked to have answered the same questions alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.controls import REAL
from ecglm.evaluation.measured_rows import FILE as MEASURED_FILE
from ecglm.evaluation.measured_rows import with_measurements
from ecglm.evaluation.metrics.base import Row
from ecglm.evaluation.predictions import by_control, read_predictions
from ecglm.evaluation.resampling import Question, by_seed
from ecglm.evaluation.score import FORMAT, SCORES_FILE

#: Settings of ``predict`` that change what is asked of a model; they must agree.
_ASKED_ALIKE = ("split", "history")


@dataclass(frozen=True)
class Entrant:
    """A model to compare. folders: one per training seed."""

    name: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Answered:
    """One folder: condition → decoding seed → question → row; scores: its scores.json; settings of its manifest."""

    folder: Path
    conditions: Mapping[str, Mapping[int, Mapping[Question, Row]]]
    scores: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: str

    def asked(self, tasks: Sequence[str]) -> dict[Question, Row]:
        """Every question (of these tasks, or of all) that any condition has, with a row that asks it."""
        found: dict[Question, Row] = {}
        for per_seed in self.conditions.values():
            for table in per_seed.values():
                for question, row in table.items():
                    if not tasks or row["task"] in tasks:
                        found.setdefault(question, row)
        return found


def parse_entrants(given: Sequence[str]) -> list[Entrant]:
    """``NAME=DIR``, ``NAME=DIR,DIR`` (training seeds) or plain ``DIR`` → entrants; EcglmError for two of one name."""
    if not given:
        raise EcglmError("name the scored folders to compare: NAME=DIR, NAME=DIR,DIR for training seeds, or DIR")
    found: list[tuple[str, tuple[Path, ...]]] = []
    for text in given:
        name, sign, rest = text.partition("=")
        if not sign or Path(text).exists():
            name, rest = "", text
        folders = tuple(Path(part) for part in ([rest] if Path(rest).exists() else rest.split(",")))
        if not rest or any(not str(part) or part == Path() for part in folders):
            raise EcglmError(f"'{text}' names no folder; write NAME=DIR or NAME=DIR,DIR")
        if len(set(folders)) < len(folders):
            raise EcglmError(f"'{text}' names one folder twice; every training seed has a folder of its own")
        found.append((name, folders))
    plain = [folders[0].name for name, folders in found if not name]
    named = [
        Entrant(name or (folders[0].name if plain.count(folders[0].name) == 1 else str(folders[0])), folders)
        for name, folders in found
    ]
    names = [entrant.name for entrant in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EcglmError(f"two models are called '{twice}'; give each a name of its own (NAME=DIR)")
    return named


def read_scores(folder: Path) -> tuple[Path, dict[str, Any]]:
    """(folder, scores.json) of predictions, a folder or a file.

    EcglmError where they are missing, not scored, or have changed since they were scored.
    """
    if not folder.exists():
        raise EcglmError(f"{folder}: no such predictions; make them with ecglm predict --out {folder}")
    home = folder if folder.is_dir() else folder.parent
    if not (home / SCORES_FILE).exists():
        raise EcglmError(f"{home}: not scored yet; run ecglm score {home}")
    scores = files.read_json(home / SCORES_FILE)
    if not isinstance(scores, dict) or scores.get("format") != FORMAT:
        raise EcglmError(f"{home / SCORES_FILE}: 'format' is not '{FORMAT}'; run ecglm score {home} again")
    for name, digest in scores["inputs"].items():
        if name != MEASURED_FILE and (home / name).is_file() and files.file_sha256(home / name) != digest:
            raise EcglmError(f"{home}: {name} has changed since it was scored; run ecglm score {home} again")
    return home, scores


def load(folder: Path, stores: Sequence[str | Path] = ()) -> Answered:
    """A folder of predictions that has been scored (``read_scores``); stores: see ``measured_rows``."""
    home, scores = read_scores(folder)
    rows: Sequence[Row] = read_predictions(folder)
    if stores:
        rows = with_measurements(rows, stores, home)
    manifest = files.read_json(home / files.MANIFEST) if (home / files.MANIFEST).is_file() else {}
    settings, inputs = (
        manifest.get(part) or {} if isinstance(manifest, dict) else None for part in ("settings", "inputs")
    )
    if not isinstance(settings, dict) or not isinstance(inputs, dict):
        raise EcglmError(f"{home / files.MANIFEST}: 'settings' and 'inputs' must be objects; run ecglm predict again")
    tables = {condition: by_seed(table) for condition, table in by_control(rows, str(home)).items()}
    return Answered(home, tables, scores, settings, str(inputs.get("data") or ""))


def check_alike(entrants: Mapping[str, Sequence[Answered]], tasks: Sequence[str], *, shared: bool) -> None:
    """EcglmError, one line, where folders cannot be compared.

    Always: another mode of scoring, other settings of what is asked, the same question with another reference or
    patient. Unless ``shared``: another version of the data, or a question that not all were asked.
    """
    folders = [(name, one) for name, group in entrants.items() for one in group]
    first_name, first = folders[0]
    known = first.asked(tasks)
    for name, one in folders[1:]:
        pair = f"'{name}' ({one.folder}) and '{first_name}' ({first.folder})"
        if one.scores.get("mode") != first.scores.get("mode"):
            raise EcglmError(
                f"{pair} were scored in different modes ({one.scores.get('mode')}, {first.scores.get('mode')}); "
                "score both in one"
            )
        for setting in _ASKED_ALIKE:
            theirs, ours = one.settings.get(setting), first.settings.get(setting)
            if theirs is not None and ours is not None and theirs != ours:
                raise EcglmError(f"{pair} were asked with different {setting} ({theirs}, {ours}); predict both alike")
        found = one.asked(tasks)
        for question in sorted(found.keys() & known.keys()):
            for field in ("task", "reference", "patient_id"):
                if found[question].get(field) != known[question].get(field):
                    raise EcglmError(
                        f"{pair}: question '{question[0]}' (turn {question[1]}) has another {field}; they were asked "
                        "from different versions of the data"
                    )
        if shared:
            continue
        if found.keys() != known.keys():
            only = sorted(found.keys() ^ known.keys())
            raise EcglmError(
                f"{pair} were not asked the same: {len(only)} questions stand in one alone (first: '{only[0][0]}'); "
                "predict both on the same questions, or compare what they share with --shared"
            )
        if one.data and first.data and one.data != first.data:
            raise EcglmError(
                f"{pair} come from different versions of the data file; predict again, or use --shared to compare "
                "the questions that agree"
            )


def asked_of(entrants: Mapping[str, Sequence[Answered]], tasks: Sequence[str]) -> dict[Question, Row]:
    """The questions that every folder was asked on the true ECG or a control, with the first's rows."""
    folders = [one for group in entrants.values() for one in group]
    tables = [one.asked(tasks) for one in folders]
    kept = set(tables[0]).intersection(*tables[1:])
    if not kept:
        raise EcglmError("the folders share no question; nothing can be compared")
    return {question: row for question, row in sorted(tables[0].items()) if question in kept}


def conditions_of(group: Sequence[Answered]) -> list[str]:
    """The conditions that every folder of a model has, ``real`` first."""
    shared = set(group[0].conditions).intersection(*(one.conditions for one in group[1:]))
    return sorted(shared, key=lambda c: (c != REAL, c))
