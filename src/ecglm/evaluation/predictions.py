"""Reading predictions.jsonl: checked rows, one list per control, the same questions in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.controls import REAL
from ecglm.evaluation.metrics.base import Row, answer_kind, number_in

#: What makes a row one and the same question under every control.
Key = tuple[str, int, int]


def prediction_files(path: str | Path) -> list[Path]:
    """The prediction files of a folder (``predictions*.jsonl``), or the file itself. EcglmError when there is none."""
    given = Path(path)
    found = sorted(given.glob("predictions*.jsonl")) if given.is_dir() else [given] if given.is_file() else []
    if not found:
        raise EcglmError(f"{given}: no predictions.jsonl here; make it with `ecglm predict --out {given}`")
    return found


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Every row of a predictions file or folder. EcglmError for a broken line (a torn last line too) or no row."""
    rows = [row for file in prediction_files(path) for row in files.read_jsonl(file)]
    if not rows:
        raise EcglmError(f"{path}: holds no predictions; run `ecglm predict` again")
    return rows


def key_of(row: Row) -> Key:
    """(id, turn, decoding seed) of a row."""
    return str(row["id"]), int(row.get("turn") or 0), int(row.get("seed") or 0)


def by_control(rows: Sequence[Row], name: str = "predictions") -> dict[str, dict[Key, Row]]:
    """Rows per control and key, ``real`` first, then by name.

    Raises EcglmError for a row without its fields, an empty or unusable reference, the same row twice under one
    control, no ``real`` rows, and a row whose question differs between controls.
    """
    found: dict[str, dict[Key, Row]] = {}
    truth: dict[tuple[str, int], Row] = {}  # of a question, whatever the control and the decoding seed
    for row in rows:
        _check(row, name)
        key = key_of(row)
        control = found.setdefault(str(row.get("control") or REAL), {})
        if key in control:
            raise EcglmError(f"{name}: row {_say(key)} stands twice under control '{row.get('control') or REAL}'")
        control[key] = row
        first = truth.setdefault(key[:2], row)
        for field in ("task", "reference", "patient_id"):
            if row.get(field) != first.get(field):
                here, there = (f"'{r.get('control') or REAL}', seed {key_of(r)[2]}" for r in (row, first))
                raise EcglmError(
                    f"{name}: row {_say(key)} has another {field} under control {here}, than under {there}; "
                    "make all of them from the same data file"
                )
    if REAL not in found:
        raise EcglmError(f"{name}: no rows with control '{REAL}', only {', '.join(sorted(found))}; predict those first")
    return {control: found[control] for control in sorted(found, key=lambda c: (c != REAL, c))}


def _say(key: Key) -> str:
    return f"'{key[0]}' (turn {key[1]}, seed {key[2]})"


def _check(row: Row, name: str) -> None:
    for field in ("id", "task", "reference"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise EcglmError(f"{name}: row '{row.get('id', '?')}' has no '{field}' (text); a score would mean nothing")
    if not isinstance(row.get("prediction"), str) and not row.get("error"):
        raise EcglmError(f"{name}: row '{row['id']}' has neither 'prediction' nor 'error'")
    if row.get("metadata") is not None and not isinstance(row["metadata"], Mapping):
        raise EcglmError(f"{name}: row '{row['id']}': 'metadata' must be an object")
    if answer_kind(row) == "number" and number_in(row["reference"]) is None:
        raise EcglmError(f"{name}: row '{row['id']}' asks for a number, its reference {row['reference']!r} states none")
