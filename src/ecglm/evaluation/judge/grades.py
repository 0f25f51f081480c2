"""Grades of people and of judges, side by side: read, matched by item and criterion, their agreement as one table."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.judge.agreement import agreement
from ecglm.evaluation.judge.items import REAL
from ecglm.evaluation.judge.judgements import read_run
from ecglm.evaluation.judge.rubric import norm

ALL = "all"


@dataclass(frozen=True)
class Grades:
    """One grader. scores: criterion (as compared) → item → score; names: criterion as compared → as written; rubric:
    of a judge, None for people.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]
    names: Mapping[str, str]
    rubric: Mapping[str, Any] | None = None


def read_grades(path: str | Path) -> Grades:
    """Grades of a finished judge run (folder or ``judge.json``), or of a CSV or JSONL file with id, criterion, score.

    EcglmError, one line, for a missing column, a score that is no number, and a grade that stands twice.
    """
    given = Path(path)
    if given.is_dir() or given.suffix == ".json":
        return _of_judge(given)
    if not given.is_file():
        raise EcglmError(
            f"{given}: no such grades; a judge's folder, or CSV or JSONL with id, criterion, score is needed"
        )
    rows = _csv_rows(given) if given.suffix.lower() == ".csv" else files.read_jsonl(given)
    scores: dict[str, dict[str, float]] = {}
    names: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        where = f"{given}, row {number}"
        for field in ("id", "criterion", "score"):
            if row.get(field) is None or not str(row[field]).strip():
                raise EcglmError(f"{where}: field {field} is missing; id, criterion and score are needed")
        item, name = str(row["id"]).strip(), str(row["criterion"]).strip()
        names.setdefault(norm(name), name)
        listed = scores.setdefault(norm(name), {})
        if item in listed:
            raise EcglmError(f"{where}: id '{item}' is graded twice on {name}; one file per grader is needed")
        listed[item] = _number(row["score"], where)
    if not scores:
        raise EcglmError(f"{given}: holds no grades")
    return Grades(str(path), scores, names)


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return list(csv.DictReader(handle, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise EcglmError(f"{path}: not a CSV file ({error})") from error


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise EcglmError(f"{where}: score must be a number, found {value!r:.60}")
    return number


def _of_judge(path: Path) -> Grades:
    summary, items = read_run(path)
    scores: dict[str, dict[str, float]] = {}
    names: dict[str, str] = {}
    for item in items:
        item_id, turn, seed, control = item.key
        if control != REAL or item.values is None or item.state != "judged":
            continue
        told = item_id + (f"#turn={turn}" if turn else "") + (f"#seed={seed}" if seed else "")
        for name, value in item.values.items():
            names.setdefault(norm(name), name)
            scores.setdefault(norm(name), {})[told] = value
    if not scores:
        raise EcglmError(f"{path}: no item was judged; there is nothing to agree on")
    return Grades(str(path), scores, names, summary["rubric"])


def agreements(graders: Sequence[Grades], *, num_resamples: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """One entry per criterion and pair of graders, and for more than two graders one of all of them.

    Each has ``criterion``, ``graders``, ``n`` items that all of these graded, ``left_out`` that only some did, and the
    measures of ``agreement``. Raises EcglmError where judges used different rubrics or versions, graders share no
    criterion, or fewer than two items of one.
    """
    _check(graders)
    shared = [c for c in graders[0].scores if all(c in g.scores for g in graders)]
    if not shared:
        listed = "; ".join(f"{g.name}: {', '.join(g.names.values())}" for g in graders)
        raise EcglmError(f"agree: the graders share no criterion ({listed})")
    groups = [*combinations(graders, 2)] + ([tuple(graders)] if len(graders) > 2 else [])
    found = []
    for criterion in shared:
        for group in groups:
            tables = [grader.scores[criterion] for grader in group]
            items = sorted(set(tables[0]).intersection(*tables[1:]))
            if len(items) < 2:
                raise EcglmError(
                    f"agree: {' and '.join(g.name for g in group)} share {len(items)} items on "
                    f"{graders[0].names[criterion]}; at least 2 are needed, and the same ids"
                )
            ratings = [[table[item] for table in tables] for item in items]
            found.append(
                {
                    "criterion": graders[0].names[criterion],
                    "graders": [grader.name for grader in group],
                    "n": len(items),
                    "left_out": len(set().union(*tables)) - len(items),
                    **agreement(ratings, num_resamples=num_resamples, seed=seed),
                }
            )
    return found


def _check(graders: Sequence[Grades]) -> None:
    if len(graders) < 2:
        raise EcglmError("agree: two graders or more are needed")
    if len({g.name for g in graders}) != len(graders):
        raise EcglmError("agree: the same grades are given twice")
    judges = [g for g in graders if g.rubric is not None]
    for judge in judges[1:]:
        if judge.rubric != judges[0].rubric:
            told = [
                f"{j.name}: {(j.rubric or {}).get('name')} version {(j.rubric or {}).get('version')}" for j in judges
            ]
            raise EcglmError(f"agree: the judges were asked different rubrics or versions ({'; '.join(told)})")
