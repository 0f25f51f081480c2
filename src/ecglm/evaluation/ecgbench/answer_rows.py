"""Rows of ECGBench's prediction files: made from replies, read again when a run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError, StaleOutputError
from ecglm.evaluation.answerers.base import Reply
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.subsets import Subset
from ecglm.files import fingerprint, read_json, read_jsonl, write_bytes, write_json
from ecglm.types import ECG_MARK

#: Length of a settings fingerprint in a row.
_SHORT = 16


@dataclass(frozen=True)
class AnswerFile:
    """One file of predictions: a subset under one condition. settings: all that its answers depend on."""

    path: Path
    subset: Subset
    control: str
    model_id: str
    items: tuple[GoldItem, ...]
    settings: Mapping[str, Any]

    @property
    def settings_id(self) -> str:
        return fingerprint(dict(self.settings))[:_SHORT]

    @property
    def settings_file(self) -> Path:
        return self.path.with_suffix(".settings.json")

    def start(self, say: Callable[[str], None]) -> list[GoldItem]:
        """Items without an answer yet, in gold's order. A torn last line and rows with an error are cut off the file.

        Raises StaleOutputError for rows of another model or other settings, EcglmError for a row of another subset.
        """
        rows = read_jsonl(self.path, allow_torn=True) if self.path.exists() else []
        self._refuse_foreign(rows)
        kept: dict[str, dict[str, Any]] = {}
        for row in rows:
            if not error_of(row):
                kept.setdefault(row["question_id"], row)
        twice = sum(not error_of(row) for row in rows) - len(kept)
        if twice:
            say(f"{self.path}: {twice} answers stood twice, the first of each is kept")
        if self.path.exists():
            self._write(list(kept.values()))
        told = {"fingerprint": self.settings_id, **self.settings}
        if not self.settings_file.exists() or read_json(self.settings_file) != told:
            write_json(self.settings_file, told)
        return [item for item in self.items if item.id not in kept]

    def finish(self) -> tuple[int, int]:
        """Put the rows in gold's order; numbers of rows, and of failures among them."""
        order = {item.id: number for number, item in enumerate(self.items)}
        rows = read_jsonl(self.path) if self.path.exists() else []
        rows.sort(key=lambda row: order[row["question_id"]])
        if rows:
            self._write(rows)
        return len(rows), sum(bool(error_of(row)) for row in rows)

    def row(self, item: GoldItem, replies: Sequence[Reply], extra: Mapping[str, Any]) -> dict[str, Any]:
        """A row in the original's form; what it has no field for stands in ``metadata``."""
        error = next((r.error for r in replies if r.error is not None), None)
        metadata = {
            "control": self.control,
            "patient_id": item.patient_id,
            "settings": self.settings_id,
            "truncated": any(r.truncated for r in replies),
            **extra,
        }
        usage = {k: sum(r.usage.get(k, 0) for r in replies) for r in replies for k in r.usage}
        if usage:
            metadata["usage"] = usage
        if error is not None:
            metadata["error"] = error
        row = {
            "question_id": item.id,
            "answer_id": fingerprint([self.model_id, self.subset.name, self.control, item.id])[:22],
            "model_id": self.model_id,
            "metadata": metadata,
        }
        if self.subset.kind != "arena":
            return {**row, "prompt": item.question, "text": "" if error else _clean(replies[-1].text)}
        questions = _questions(item)
        said = [_clean(r.text) for r in replies] + [""] * len(questions)
        return row | {
            "golden_convs": self._golden(item),
            "predict_convs": [{"question": q, "answer": a} for q, a in zip(questions, said, strict=False)],
        }

    def _refuse_foreign(self, rows: Sequence[Mapping[str, Any]]) -> None:
        known = {item.id: item for item in self.items}
        for number, row in enumerate(rows, 1):
            found, where = row.get("question_id"), f"{self.path}, line {number}"
            if found not in known:
                raise EcglmError(
                    f"{where}: question_id {found!r} is not in {self.subset.name}; the file is of another subset or "
                    "data, choose another --out"
                )
            if error_of(row):
                continue  # it is asked again, maybe of an endpoint that was named rightly
            if row.get("model_id") != self.model_id:
                raise StaleOutputError(
                    f"{where}: answered by '{row.get('model_id')}', not by '{self.model_id}'; choose another --out or "
                    "--name, or --overwrite"
                )
            if not self._asks(row, known[found]):
                raise StaleOutputError(
                    f"{where}: question_id '{found}' was another question; the data have changed, choose another --out "
                    "or --overwrite"
                )
            metadata = row.get("metadata")
            made = metadata.get("settings") if isinstance(metadata, Mapping) else None
            if made != self.settings_id:
                raise StaleOutputError(
                    f"{where}: answered with other settings{self._difference()}; use the same, another --out or "
                    "--name, or --overwrite"
                )

    def _asks(self, row: Mapping[str, Any], item: GoldItem) -> bool:
        """Whether a row is about the item's question."""
        if self.subset.kind != "arena":
            return row.get("prompt") == item.question
        return row.get("golden_convs") == self._golden(item)

    def _golden(self, item: GoldItem) -> list[dict[str, str]]:
        """The arena's questions with their reference answers."""
        gold = [t.text for t in item.turns if t.role == "assistant"]
        return [{"question": q, "answer": a} for q, a in zip(_questions(item), gold, strict=True)]

    def _difference(self) -> str:
        """Which settings differ from those of the file, where it says so."""
        if not self.settings_file.exists():
            return ""
        made, now = read_json(self.settings_file), dict(self.settings)
        names = sorted(k for k in (made.keys() | now.keys()) - {"fingerprint"} if made.get(k) != now.get(k))
        return f" ({', '.join(names)})" if names else ""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The whole file, atomically, where it is not so already."""
        data = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()
        if self.path.read_bytes() != data:
            write_bytes(self.path, data)


def _questions(item: GoldItem) -> list[str]:
    """What the user asks, without the ECG's mark."""
    return [t.text.replace(ECG_MARK, "").strip() for t in item.turns if t.role == "user"]


def _clean(text: str | None) -> str:
    """A text that can be written: half characters, which some endpoints send, become question marks."""
    return (text or "").encode("utf-8", "replace").decode()


def error_of(row: Mapping[str, Any]) -> str:
    """Why a row has no answer; empty where it has one."""
    metadata = row.get("metadata")
    return str(metadata.get("error") or "") if isinstance(metadata, Mapping) else ""
