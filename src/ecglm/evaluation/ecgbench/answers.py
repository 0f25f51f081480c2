"""A file of predictions in strict reading: one row per item of the data, no more; what is missing or failed is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError
from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.subsets import control_of

MISSING, FAILED = "missing", "failed"


@dataclass(frozen=True)
class Answers:
    """Answers to one subset under one condition. texts: id → answer; failed: id → why there is none; missing: ids
    without a row. prompts: id → what the row says was asked. model_ids: as the rows name the model."""

    path: Path
    control: str
    texts: Mapping[str, str]
    failed: Mapping[str, str]
    missing: tuple[str, ...]
    prompts: Mapping[str, Any] = field(default_factory=dict)
    model_ids: tuple[str, ...] = ()


def read_answers(
    path: Path, subset: str, items: Sequence[GoldItem], home_of: Callable[[str], str | None] = lambda item_id: None
) -> Answers:
    """Read a file for ``items``; blank lines are skipped. home_of: id → the other subset it is an item of, if any.

    Raises EcglmError, one line naming the file and line: JSON that is broken or cut off, a row without id, an id that
    stands twice or is none of the subset's, rows of several conditions, and a file without rows.
    """
    known = {item.id for item in items}
    rows: dict[str, tuple[int, Mapping[str, Any]]] = {}
    controls: dict[str, int] = {}
    for number, row in _lines(path):
        place = f"{path}, line {number}"
        item_id = row.get("question_id", row.get("id"))
        if isinstance(item_id, bool) or not isinstance(item_id, str | int) or not str(item_id).strip():
            raise EcglmError(f"{place}: has no question_id (nor id); every row must say which item it answers")
        item_id = str(item_id)
        if item_id not in known:
            home = home_of(item_id)
            of = f"it is of {home}; one file holds one subset" if home else "check the subset and --data"
            raise EcglmError(f"{place}: id '{item_id}' is not in {subset}; {of}")
        if item_id in rows:
            raise EcglmError(
                f"{place}: id '{item_id}' stands twice, first in line {rows[item_id][0]}; keep one of them"
            )
        rows[item_id] = (number, row)
        controls.setdefault(_control(row, path), number)
    if not rows:
        raise EcglmError(f"{path}: holds no rows; predict again, or leave the file out")
    if len(controls) > 1:
        (first, _), (second, line) = sorted(controls.items(), key=lambda pair: pair[1])[:2]
        raise EcglmError(f"{path}, line {line}: under '{second}', the rows before under '{first}'; part them")
    texts: dict[str, str] = {}
    failed: dict[str, str] = {}
    for item_id, (_, given) in rows.items():
        text = given["text"] if "text" in given else given.get("response")
        error = _metadata(given).get("error")
        if error:
            failed[item_id] = str(error)
        elif isinstance(text, str):
            texts[item_id] = text
        else:
            failed[item_id] = "no_text: neither text nor response holds an answer"
    return Answers(
        path=path,
        control=next(iter(controls)),
        texts=texts,
        failed=failed,
        missing=tuple(item.id for item in items if item.id not in rows),
        prompts={item_id: row.get("prompt") for item_id, (_, row) in rows.items()},
        model_ids=tuple(sorted({str(row["model_id"]) for _, row in rows.values() if row.get("model_id")})),
    )


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EcglmError(f"{path}: cannot be read ({error.strerror})") from error
    lines = data.split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                raise EcglmError(
                    f"{place}: half-written, the last one; run ecglm ecgbench predict again, which goes on from there"
                ) from error
            said = "nested too deep" if isinstance(error, RecursionError) else str(error)
            raise EcglmError(f"{place}: not valid JSON ({said})") from error
        if not isinstance(row, dict):
            raise EcglmError(f"{place}: an object is needed, found {type(row).__name__}")
        found.append((number, row))
    return found


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found = row.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _control(row: Mapping[str, Any], path: Path) -> str:
    """The condition the row names, or that of its folder; older files say nothing and are real."""
    return str(_metadata(row).get("control") or control_of(path) or REAL)
