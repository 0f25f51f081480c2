"""Baselines that answer like a model: majority, per-question prior, nearest training ECG, text-only language model.

Their folders are those of ``ecglm predict``, so they are scored, compared and reported like any model. What a baseline
reaches, a model has not shown to know from the ECG.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ecglm import registry
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import EcglmError, nearest
from ecglm.evaluation.baselines import MAJORITY, majority_answers, majority_prediction, most_frequent
from ecglm.evaluation.controls import REAL, remove_marks
from ecglm.evaluation.metrics.base import Row, about_turn, normalise
from ecglm.evaluation.predict import FILE, KIND, PredictResult
from ecglm.files import (
    MANIFEST,
    append_jsonl,
    file_sha256,
    folder_lock,
    output_state,
    plan_fingerprint,
    read_jsonl,
    read_manifest,
    write_bytes,
    write_json,
    write_manifest,
)
from ecglm.randomness import generator_for
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation

#: Name → what it answers.
BASELINES: dict[str, str] = {
    "majority": "the most frequent training answer of the task (of the template, where the corpus names one)",
    "prior": "the most frequent training answer to the same question",
    "random-prior": "a drawn training answer to the same question",
    "nearest": "what was answered to the same question about the nearest training ECG by 288 measurements",
    "text-llm": "a language model that reads the question alone: text-llm:FOLDER",
}
#: Where an answer was taken from, the most specific first.
LEVELS = ("question", "template", "question_type", "task")
NO_ANSWER = "no_training_answer"

_TRAIN = "train"
_BATCH = 4096


@dataclass(frozen=True)
class Asked:
    """One question to a baseline: a turn of a conversation under a control and a seed."""

    control: str
    seed: int
    conversation: Conversation
    turn: int

    def row(self) -> dict[str, Any]:
        """The row of predictions.jsonl but for its answer."""
        users = [t.text for t in self.conversation.turns if t.role == "user"]
        answers = [t.text for t in self.conversation.turns if t.role == "assistant"]
        patients = self.conversation.patients
        return {
            "id": self.conversation.id,
            "ecgs": list(self.conversation.ecgs),
            "task": self.conversation.task,
            "turn": self.turn,
            "prompt": users[min(self.turn, len(users) - 1)] if users else "",
            "reference": answers[self.turn],
            "control": self.control,
            "seed": self.seed,
            "patient_id": patients[0] if patients else "",
            "truncated": False,
            "metadata": dict(self.conversation.metadata),
        }


class Answers(Protocol):
    """A baseline: rows without an answer in, the fields of each one's answer out (``prediction`` or ``error``)."""

    batch: int

    def recall(self, rows: Sequence[Row]) -> None:
        """Take up the rows that an earlier, killed run has answered."""

    def __call__(self, asked: Sequence[Asked], rows: Sequence[Row]) -> list[dict[str, Any]]: ...


def predict_baseline(
    name: str,
    data: str | Path,
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    split: str = "test",
    tasks: Sequence[str] = (),
    seed: int = 0,
    limit: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    controls: Sequence[str] = (),
    seeds: Sequence[int] = (),
    max_new_tokens: int = 128,
    batch_size: int = 32,
) -> PredictResult:
    """Answer every question of ``split`` by a baseline (a name of ``BASELINES``; ``text-llm:FOLDER`` names its model).

    Writes the folder that ``predict`` writes: predictions.jsonl, baselines.json, manifest. It learns from the split
    ``train`` of the same file. Baselines that never see an ECG answer alike under every control; ``nearest`` measures
    the ECG that the control shows. seeds: several draws of ``random-prior``. limit: questions about at most so many
    ECGs. Each row says from where it was answered (``answered_from``); the manifest counts it.

    Raises EcglmError for a train split (D38), an unknown name, an empty split, seeds that would change nothing.
    """
    kind, _, model = name.partition(":")
    _check(name, kind, model, split, seeds, data)
    for control in controls:
        registry.get("controls", control)
        if list(controls).count(control) > 1:
            raise EcglmError(f"control '{control}' stands twice; name it once")
    opened = [SegmentStore(p) for p in stores]
    settings = {
        "baseline": kind,
        "controls": [REAL, *controls],
        "split": split,
        "tasks": list(tasks),
        "seed": seed,
        "seeds": list(seeds) or [seed],
        "limit": limit,
    }
    if kind == "text-llm":
        settings |= {"model": Path(model).name, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    inputs: dict[str, Any] = {"data": conversations_fingerprint(data)}
    if kind == "text-llm" and Path(model).is_dir():
        weights = (f for f in sorted(Path(model).iterdir()) if f.suffix in (".safetensors", ".json"))
        inputs["model"] = {file.name: file_sha256(file) for file in weights}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(opened)}
    folder = Path(out)
    plan = plan_fingerprint(KIND, settings, inputs)
    with folder_lock(folder):
        reused = output_state(folder, KIND, plan, overwrite) == "finished"
        if not reused:
            tests = read_conversations(data, split=split, task=list(tasks) or None)
            if not tests:
                of_tasks = f" for tasks {', '.join(tasks)}" if tasks else ""
                raise EcglmError(f"{data}: no questions in split '{split}'{of_tasks}")
            training = read_conversations(data, split=_TRAIN, task=list(tasks) or None)
            if not training and kind != "text-llm":
                raise EcglmError(f"{data}: no questions in split '{_TRAIN}', so a baseline has nothing to learn from")
            groups = set(sorted({c.ecgs for c in tests})[:limit])
            tests = sorted((c for c in tests if c.ecgs in groups), key=lambda c: (c.task, c.id))
            learned = [Asked(REAL, seed, c, turn) for c in training for turn in range(_num_answers(c))]
            learned.sort(key=lambda a: (a.conversation.id, a.turn))
            asked = [
                Asked(control, number, c, turn)
                for number in (list(seeds) or [seed])
                for control in (REAL, *controls)
                for c in tests
                for turn in range(_num_answers(c))
            ]
            baseline = _make(kind, model, learned, asked, opened, seed, max_new_tokens, batch_size)
            _answer_all(baseline, asked, folder / FILE, say)
            write_json(folder / "baselines.json", {MAJORITY: majority_answers([a.row() for a in learned])})
            rows = read_jsonl(folder / FILE)
            outputs = {file: file_sha256(folder / file) for file in (FILE, "baselines.json")}
            counts = {"num_answers": len(rows), "num_failed": sum("error" in row for row in rows)}
            levels = Counter(row["answered_from"] for row in rows if row.get("answered_from"))
            if levels:
                say("answered from: " + ", ".join(f"{level} {levels[level]}" for level in sorted(levels)))
            write_manifest(folder / MANIFEST, KIND, settings, inputs, outputs, **counts, answered_from=dict(levels))
    manifest = read_manifest(folder, KIND)
    return PredictResult(folder, manifest["num_answers"], manifest["num_failed"], reused)


def _check(name: str, kind: str, model: str, split: str, seeds: Sequence[int], data: str | Path) -> None:
    if kind not in BASELINES:
        raise EcglmError(f"no baseline '{kind}'{nearest(kind, BASELINES)}; baselines: {', '.join(BASELINES)}")
    if (kind == "text-llm") != bool(model):
        wanted = "name its model: baseline:text-llm:FOLDER" if kind == "text-llm" else f"write baseline:{kind}"
        raise EcglmError(f"baseline '{name}': {wanted}")
    if split == _TRAIN:
        raise EcglmError(
            f"{data}: a baseline learns from the split '{_TRAIN}' and is not tested on it; name another --split"
        )
    if seeds and kind != "random-prior":
        raise EcglmError(f"baseline '{kind}' answers alike for every seed; leave --seeds out")
    if len(set(seeds)) < len(seeds):
        raise EcglmError("--seeds names a seed twice")


def _num_answers(conversation: Conversation) -> int:
    return sum(turn.role == "assistant" for turn in conversation.turns)


def _make(
    kind: str,
    model: str,
    learned: Sequence[Asked],
    asked: Sequence[Asked],
    stores: Sequence[SegmentStore],
    seed: int,
    max_new_tokens: int,
    batch_size: int,
) -> Answers:
    if kind == "majority":
        return _Majority(learned)
    if kind in ("prior", "random-prior"):
        return Prior(learned, drawn=kind == "random-prior")
    if kind == "nearest":
        from ecglm.evaluation.baseline_nearest import Nearest

        return Nearest(learned, asked, stores, seed)
    from ecglm.evaluation.baseline_text import TextLlm

    return TextLlm(model, max_new_tokens, batch_size)


def _answer_all(baseline: Answers, asked: Sequence[Asked], file: Path, say: Callable[[str], None]) -> None:
    """Answer what is not on disk yet, batch by batch; what a kill has left of a batch is cut off."""
    done = 0
    if file.exists():
        given = read_jsonl(file, allow_torn=True)
        done = len(given) // baseline.batch * baseline.batch
        baseline.recall(given[:done])
        lines = file.read_bytes().split(b"\n")[:done]
        write_bytes(file, b"".join(line + b"\n" for line in lines))
    for start in range(done, len(asked), baseline.batch):
        part = asked[start : start + baseline.batch]
        rows = [one.row() for one in part]
        answers = baseline(part, rows)
        append_jsonl(file, [{**row, "prediction": None, **answer} for row, answer in zip(rows, answers, strict=True)])
        if baseline.batch < _BATCH:
            say(f"answers {min(start + baseline.batch, len(asked))}/{len(asked)}")


class Alone:
    """A baseline that answers every row by itself."""

    batch = _BATCH

    def recall(self, rows: Sequence[Row]) -> None:
        """Nothing to take up."""


class _Majority(Alone):
    """The baseline that stands beside every score, as a model of its own."""

    def __init__(self, learned: Sequence[Asked]) -> None:
        self.known = majority_answers([one.row() for one in learned])

    def __call__(self, asked: Sequence[Asked], rows: Sequence[Row]) -> list[dict[str, Any]]:
        found = [majority_prediction(row, self.known) for row in rows]
        return [{"prediction": text} if text else {"error": NO_ANSWER} for text in found]


def same_question(row: Row) -> str:
    """What two rows of a task share that ask the same, in whatever words.

    Questions made from labels have a phrasing: the task is the question. ECG-QA's have a template and what it is filled
    with. Of other corpora the text itself counts, without marks, in the comparison form.
    """
    metadata = row.get("metadata") or {}
    if "phrasing" in metadata:
        return ""
    if metadata.get("template_id") is not None and "attribute" in metadata:
        return f"template {metadata['template_id']}: {metadata['attribute']}"
    return normalise(remove_marks(str(row.get("prompt") or "")))


def levels_of(row: Row) -> Iterator[tuple[str, tuple[str, str]]]:
    """(level, key) of a row, the most specific first: the same question, its template, its type, the task."""
    task, about = str(row["task"]), about_turn(row)
    yield "question", (task, same_question(row))
    if (template := (row.get("metadata") or {}).get("template_id")) is not None:
        yield "template", (task, str(template))
    if about.get("question_type"):
        yield "question_type", (task, str(about["question_type"]))
    yield "task", (task, "")


def by_level(learned: Sequence[Asked]) -> dict[tuple[str, tuple[str, str]], list[int]]:
    """(level, key) → places of the training answers that have it."""
    found: dict[tuple[str, tuple[str, str]], list[int]] = defaultdict(list)
    for place, one in enumerate(learned):
        for level in levels_of(one.row()):
            found[level].append(place)
    return dict(found)


class Prior(Alone):
    """The most frequent training answer to the same question (else template, type, task), or a drawn one."""

    def __init__(self, learned: Sequence[Asked], *, drawn: bool) -> None:
        self.rows, self.places, self.drawn = [one.row() for one in learned], by_level(learned), drawn
        self._best: dict[Any, str] = {}

    def __call__(self, asked: Sequence[Asked], rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [self.answer(row) for row in rows]

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """``prediction`` and the level it is ``answered_from``, or ``error`` where the task was never asked."""
        level = next((level for level in levels_of(row) if level in self.places), None)
        if level is None:
            return {"error": NO_ANSWER}
        places = self.places[level]
        if self.drawn:
            drawn = generator_for(int(row["seed"]), "random-prior", str(row["id"]), str(row["turn"]))
            text = str(self.rows[places[int(drawn.integers(len(places)))]]["reference"])
        else:
            if level not in self._best:
                self._best[level] = most_frequent([self.rows[place] for place in places])
            text = self._best[level]
        return {"prediction": text, "answered_from": level[0]}
