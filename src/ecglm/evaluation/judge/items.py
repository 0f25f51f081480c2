"""What is to be judged: rows of predictions, and ECGBench's own files beside their gold answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.gold import GoldItem, read_gold
from ecglm.evaluation.ecgbench.subsets import SUBSETS
from ecglm.evaluation.judge.prompts import MAX_TURNS, Exchange
from ecglm.evaluation.judge.rubric import Rubric
from ecglm.evaluation.predictions import prediction_files

REAL = "real"
#: What an item can be before it is judged. The last three are not sent: their scores are the lowest.
STATES = ("answered", "empty", "failed", "missing")


@dataclass(frozen=True)
class Item:
    """One thing to judge. state: ``answered``, or why there is no answer: ``empty`` text, ``failed``, ``missing``."""

    id: str
    turns: tuple[Exchange, ...]
    patient_id: str | None = None
    turn: int = 0
    seed: int = 0
    control: str = REAL
    state: str = "answered"

    @property
    def key(self) -> str:
        """The full identity, as text: no two items of a run share it."""
        return files.canonical_json([self.id, self.turn, self.seed, self.control])

    @property
    def file_name(self) -> str:
        """A safe name of its own for any id: some readable letters, and a hash of the whole identity."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", self.id)[:48].strip("._-") or "item"
        return f"{readable}-{hashlib.sha256(self.key.encode(errors='surrogatepass')).hexdigest()[:16]}.json"


def read_items(path: str | Path, rubric: Rubric, *, controls: Sequence[str] = (REAL,)) -> list[Item]:
    """Items of a JSONL file with ``id``, ``reference`` and ``prediction`` (``predictions.jsonl`` of ours is one).

    Read too where present: ``prompt``, ``patient_id``, ``turn``, ``seed``, ``control``, ``error``. For a rubric of
    conversations, the turns of one id are one item. Raises EcglmError naming the row that cannot be used, rows that
    stand twice, and a control that no row has.
    """
    found: dict[str, Item] = {}
    rows = [(f"{f}, row {n}", row) for f in prediction_paths(path) for n, row in enumerate(files.read_jsonl(f), 1)]
    for where, row in rows:
        item = _item(row, where)
        if item.control not in controls:
            continue
        if item.key in found:
            raise EcglmError(f"{where}: id '{item.id}' stands twice; every row needs its own")
        found[item.key] = item
    absent = [c for c in controls if not any(item.control == c for item in found.values())]
    if absent:
        raise EcglmError(f"{path}: no rows with control '{absent[0]}'; predict them first")
    return _talks(list(found.values()), str(path)) if rubric.layout == "turns" else list(found.values())


def prediction_paths(path: str | Path) -> list[Path]:
    """The file itself, or the prediction files of a folder; EcglmError where there is none."""
    if not Path(path).exists():
        raise EcglmError(f"{path}: no such predictions; a JSONL file with id, reference and prediction is needed")
    return prediction_files(path)


def _item(row: Mapping[str, Any], where: str) -> Item:
    item_id = row.get("id", row.get("question_id"))
    if isinstance(item_id, bool) or not isinstance(item_id, str | int) or not str(item_id).strip():
        raise EcglmError(f"{where}: field id must be text or a number, found {item_id!r:.60}")
    for name in ("id", "question_id", "patient_id", "control"):
        _check_savable(row.get(name), f"{where}: field {name}")
    reference = row.get("reference")
    if not isinstance(reference, str) or not reference.strip():
        raise EcglmError(f"{where}: id '{item_id}' has no reference (text); there is nothing to judge against")
    prediction = row.get("prediction")
    if prediction is None and not row.get("error"):
        raise EcglmError(f"{where}: id '{item_id}' has neither prediction nor error")
    if prediction is not None and not isinstance(prediction, str):
        raise EcglmError(f"{where}: id '{item_id}': prediction must be text, found {type(prediction).__name__}")
    patient = row.get("patient_id")
    return Item(
        id=str(item_id),
        turns=(Exchange(_question(row.get("prompt")), reference, prediction or ""),),
        patient_id=str(patient) if isinstance(patient, str | int) and str(patient) else None,
        turn=_whole(row, "turn", where),
        seed=_whole(row, "seed", where),
        control=str(row.get("control") or REAL),
        state="failed" if row.get("error") else "answered" if (prediction or "").strip() else "empty",
    )


def _check_savable(value: Any, what: str) -> None:
    """EcglmError for a text with half a character in it (a lone surrogate), which no file can hold."""
    if isinstance(value, str) and value.encode(errors="replace").decode() != value:
        raise EcglmError(f"{what} holds a broken character: {value!a:.80}")


def _whole(row: Mapping[str, Any], name: str, where: str) -> int:
    value = row.get(name) or 0
    if not isinstance(value, int):
        raise EcglmError(f"{where}: field {name} must be a whole number, found {value!r:.60}")
    return int(value)


def _question(prompt: Any) -> str:
    return re.sub(r"<(?:ecg|image)>\n?", "", prompt).strip() if isinstance(prompt, str) else ""


def _talks(rows: list[Item], name: str) -> list[Item]:
    """The turns of each conversation as one item."""
    groups: dict[tuple[str, int, str], list[Item]] = {}
    for row in rows:
        groups.setdefault((row.id, row.seed, row.control), []).append(row)
    items = []
    for (item_id, seed, control), turns in groups.items():
        turns = sorted(turns, key=lambda r: r.turn)[:MAX_TURNS]
        if any(not turn.turns[0].question for turn in turns):
            raise EcglmError(f"{name}: id '{item_id}' has no prompt (the question), which this rubric needs")
        exchanges = tuple(turn.turns[0] for turn in turns)
        items.append(_conversation(item_id, exchanges, turns[0].patient_id, seed=seed, control=control))
    return items


def _conversation(item_id: str, turns: tuple[Exchange, ...], patient: str | None, **fields: Any) -> Item:
    state = "answered" if any(turn.prediction.strip() for turn in turns) else "empty"
    return Item(item_id, turns, patient, state=state, **fields)


# --- ECGBench


def subset_for(rubric: Rubric) -> str:
    """The subset of ECGBench that a rubric is for; EcglmError where it is for none."""
    kind = {"report": "report", "turns": "arena"}.get(rubric.layout)
    if kind is None:
        raise EcglmError(
            f"rubric '{rubric.name}' is for no subset of ECGBench; judge the file itself: ecglm judge FILE"
        )
    return next(s.name for s in SUBSETS.values() if s.kind == kind)


def ecgbench_files(root: str | Path, subset: str) -> list[Path]:
    """Files ``<model>/<subset>/*.jsonl`` below a folder, sorted; EcglmError where there is none."""
    given = Path(root)
    if given.is_file():
        return [given]
    found = sorted(p for p in given.rglob("*.jsonl") if p.parent.name == subset and p.is_file())
    if not found:
        raise EcglmError(f"{given}: no MODEL/{subset}/*.jsonl here; make it with ecglm ecgbench predict")
    return found


def ecgbench_items(path: Path, data: str | Path, subset: str) -> list[Item]:
    """Items of one file of predictions beside the gold answers, in gold's order; ids without a row are ``missing``.

    Raises EcglmError for a row without id, an id twice, and an id that gold does not have.
    """
    gold = {item.id: item for item in read_gold(data, subset)}
    for item in gold.values():
        _check_savable(item.id, f"{data}, {subset}: id")
        _check_savable(item.patient_id, f"{data}, {subset}: patient")
    rows: dict[str, Mapping[str, Any]] = {}
    for number, row in enumerate(files.read_jsonl(path), 1):
        where, item_id = f"{path}, row {number}", row.get("question_id", row.get("id"))
        if isinstance(item_id, bool) or not isinstance(item_id, str | int):
            raise EcglmError(f"{where}: field question_id is missing")
        if str(item_id) not in gold:
            raise EcglmError(f"{where}: id '{str(item_id)[:80]}' is none of {subset}; is it another subset's file?")
        if str(item_id) in rows:
            raise EcglmError(f"{where}: id '{str(item_id)[:80]}' stands twice; predict into a new folder")
        rows[str(item_id)] = row
    return [_gold_item(item, rows.get(item.id), subset, str(path)) for item in gold.values()]


def _gold_item(item: GoldItem, row: Mapping[str, Any] | None, subset: str, where: str) -> Item:
    spoken = [turn for turn in item.turns if turn.role != "system"]
    questions = [_question(turn.text) for turn in spoken if turn.role == "user"]
    patient = item.patient_id if item.patient_known else None
    if SUBSETS[subset].kind == "arena":
        references = [turn.text for turn in spoken if turn.role == "assistant"]
        answers = _arena_answers(row, where) if row is not None else []
        answers += [""] * (len(questions) - len(answers))
        turns = tuple(Exchange(*each) for each in zip(questions, references, answers, strict=False))[:MAX_TURNS]
        found = _conversation(item.id, turns, patient)
        if row is None:
            return replace(found, state="missing")
        return replace(found, state="failed") if found.state == "empty" and _error(row) else found
    answer = None if row is None else row.get("text", row.get("response"))
    if answer is not None and not isinstance(answer, str):
        raise EcglmError(f"{where}: id '{item.id}': text must be text, found {type(answer).__name__}")
    state = "answered" if (answer or "").strip() else "empty"
    if row is None:
        state = "missing"
    elif answer is None or _error(row):
        state = "failed"
    return Item(item.id, (Exchange(questions[0], ", ".join(item.answers), answer or ""),), patient, state=state)


def _error(row: Mapping[str, Any]) -> bool:
    """Whether whoever wrote the row says that there is no answer."""
    metadata = row.get("metadata")
    return isinstance(metadata, Mapping) and bool(metadata.get("error"))


def _arena_answers(row: Mapping[str, Any], where: str) -> list[str]:
    """A conversation's answers: ``predict_convs`` of question and answer, or ``response`` of responses."""
    listed, field = row.get("predict_convs"), "answer"
    if listed is None:
        listed, field = row.get("response"), "response"
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise EcglmError(f"{where}: id '{row.get('question_id', row.get('id'))}' has no predict_convs (a list)")
    answers: Iterable[Any] = (each.get(field) for each in listed)
    return [answer if isinstance(answer, str) else "" for answer in answers]
