"""Judgements on disk: one file per item, and a cache by the content of what was asked: nothing is paid twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError, StaleOutputError
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.reply import BadReply, Grading, parse_reply
from ecglm.evaluation.judge.rubric import Rubric
from ecglm.evaluation.judge.values import values_of

FORMAT = "ecglm-judgement"
SUMMARY_FORMAT = "ecglm-judge"
VERSION = 1
ITEMS, PLAN, SUMMARY = "items", "judge-plan.json", "judge.json"


@dataclass(frozen=True)
class Judged:
    """What was paid for: a reply, or why there is none, and the tokens of all attempts.

    state: ``judged`` or ``failed``; for items that are not sent ``empty``, ``failed_answer``, ``missing``. reason: of a
    failure, stable; detail: of it, for people.
    """

    state: str
    reply: str | None = None
    reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    attempts: int = 0
    served_model: str | None = None
    detail: str | None = None


def ask_key(judge: Mapping[str, Any], prompt: str) -> str:
    """sha256 of everything that shapes an answer: the judge, its settings, the prompt."""
    return files.fingerprint({"judge": dict(judge), "prompt": prompt})


class Cache:
    """Valid replies by ``ask_key``, one small file each. It may be shared by any number of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Judged | None:
        """None where nothing, or nothing usable, is kept."""
        try:
            found = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        return as_judged(found) if isinstance(found, dict) and found.get("key") == key else None

    def check(self) -> None:
        """EcglmError where nothing can be kept: said before anything is paid for."""
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            files.write_text(probe, "")
            probe.unlink(missing_ok=True)
        except EcglmError as error:
            raise EcglmError(f"--cache {self.folder}: paid replies cannot be kept here ({error})") from error

    def put(self, key: str, judged: Judged) -> None:
        files.write_json(self._path(key), {"key": key, **as_facts(judged)})


def as_facts(judged: Judged) -> dict[str, Any]:
    """As it stands in a file."""
    return {
        "state": judged.state,
        "reply": judged.reply,
        "reason": judged.reason,
        "usage": dict(judged.usage),
        "attempts": judged.attempts,
        "served_model": judged.served_model,
        "detail": judged.detail,
    }


def as_judged(found: Mapping[str, Any]) -> Judged | None:
    """The reverse of ``as_facts``; None where it cannot be."""
    reply, usage = found.get("reply"), found.get("usage")
    if not isinstance(found.get("state"), str) or not isinstance(usage, dict):
        return None
    if not all(isinstance(v, int) for v in usage.values()):
        return None
    texts = [t if isinstance(t := found.get(n), str) else None for n in ("reason", "served_model", "detail")]
    attempts = found.get("attempts")
    return Judged(
        found["state"],
        reply if isinstance(reply, str) else None,
        texts[0],
        usage,
        attempts if isinstance(attempts, int) else 0,
        texts[1],
        texts[2],
    )


def write_item(out: Path, item: Item, key: str, rubric: Rubric, judge: Mapping[str, Any], judged: Judged) -> None:
    """One item's file: whose it is, what was asked (by hash), what came back, and the scores in it."""
    scores = values = None
    if judged.state == "judged" and judged.reply is not None:
        grading = parse_reply(judged.reply, rubric)
        values = values_of(rubric, grading)
        scores = {
            name: [{"score": e.score, "explanation": e.explanation} for e in entries]
            for name, entries in grading.items()
        }
    elif judged.state != "failed":  # no answer, which scores lowest
        values = values_of(rubric, None)
    files.write_json(
        out / ITEMS / item.file_name,
        {
            "format": FORMAT,
            "version": VERSION,
            "id": item.id,
            "turn": item.turn,
            "seed": item.seed,
            "control": item.control,
            "patient_id": item.patient_id,
            "rubric": rubric.facts(),
            "judge": dict(judge),
            "prompt_sha256": key,
            "scores": scores,
            "values": values,
            **as_facts(judged),
        },
    )


def read_item(out: Path, item: Item, key: str) -> Judged | None:
    """What an item's file holds, if it is of this very item, prompt and judge; else None."""
    try:
        found = json.loads((out / ITEMS / item.file_name).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        return None
    if found.get("prompt_sha256") != key or found.get("id") != item.id:
        return None
    return as_judged(found)


def graded(judged: Judged, rubric: Rubric, *, arithmetic: bool = False) -> Grading | None:
    """The grading in a reply, or None where it holds none."""
    if judged.reply is None:
        return None
    try:
        return parse_reply(judged.reply, rubric, arithmetic=arithmetic)
    except BadReply:
        return None


def bind(
    out: Path, rubric: Mapping[str, Any], judge: Mapping[str, Any], inputs: Mapping[str, Any] | None, overwrite: bool
) -> None:
    """Make ``out`` the place of this rubric, judge and predictions; a summary there is removed until it is made anew.

    Raises StaleOutputError where it is another's, or where the judgements of other predictions are finished there.
    """
    plan = {"rubric": dict(rubric), "judge": dict(judge)}
    path = out / PLAN
    if out.exists() and not out.is_dir():
        raise EcglmError(f"{out}: is a file, a folder is made here; choose another --out")
    if out.exists() and any(out.iterdir()) and not path.exists():
        raise EcglmError(f"{out}: exists and holds no judgements; choose another --out")
    if path.exists() and not overwrite and files.read_json(path) != plan and _has_judgements(out):
        raise StaleOutputError(
            f"{out}: judged with another rubric, rubric version or judge; "
            "use --overwrite to replace it, or another --out"
        )
    if (out / SUMMARY).exists():
        if inputs and not overwrite and files.read_json(out / SUMMARY).get("inputs") != inputs:
            raise StaleOutputError(
                f"{out}: holds the judgements of other predictions; use --overwrite to replace them "
                "(what is paid stays in the cache), or another --out"
            )
        (out / SUMMARY).unlink()
    files.write_json(path, plan)


def _has_judgements(out: Path) -> bool:
    """Whether anything was judged here: a run that never got an answer (a wrong address) binds nobody."""
    items = (out / ITEMS).glob("*.json")
    return (out / SUMMARY).exists() or any(b'"state": "judged"' in path.read_bytes() for path in items)


@dataclass(frozen=True)
class ItemValues:
    """An item's file as later steps read it. key: of the item; values: criterion → value, None without a judgement."""

    key: tuple[str, int, int, str]
    patient_id: str | None
    state: str
    values: Mapping[str, float] | None


def read_run(folder: str | Path) -> tuple[dict[str, Any], list[ItemValues]]:
    """``judge.json`` of a finished run and the values of its items. EcglmError, one line, for anything else."""
    path = Path(folder) / SUMMARY if Path(folder).is_dir() else Path(folder)
    if not path.is_file():
        raise EcglmError(f"{folder}: no {SUMMARY} here; the judging is not finished, run it again")
    summary = files.read_json(path)
    if not isinstance(summary, dict) or summary.get("format") != SUMMARY_FORMAT:
        raise EcglmError(f"{path}: is no summary of a judge's scores")
    try:
        return summary, [
            _item_values(path.parent / ITEMS / files.bare_file_name(n, str(path))) for n in summary["items"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise EcglmError(f"{path}: or a file of its items is damaged ({error}); judge again") from error


def _item_values(path: Path) -> ItemValues:
    found = files.read_json(path)
    values = found["values"]
    return ItemValues(
        (str(found["id"]), int(found["turn"]), int(found["seed"]), str(found["control"])),
        found["patient_id"],
        str(found["state"]),
        None if values is None else {str(name): float(value) for name, value in values.items()},
    )
