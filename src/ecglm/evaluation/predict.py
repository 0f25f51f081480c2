"""``ecglm predict``: a model's answers on the true ECG and on the controls, into predictions.jsonl."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.baselines import majority_answers
from ecglm.evaluation.controls import REAL, Control, apply_control, is_perturbation, remove_marks, swap_partners
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
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.generate import generate
from ecglm.prompts.data import EcgSource
from ecglm.prompts.people import seen
from ecglm.store.reader import SegmentStore
from ecglm.types import ECG_MARK, Conversation, EcgInput, Turn

KIND = "predictions"
FILE = "predictions.jsonl"


@dataclass(frozen=True)
class PredictResult:
    """Where the predictions lie, and how many answers, failures among them, were written."""

    path: Path
    num_answers: int
    num_failed: int
    reused: bool


@dataclass(frozen=True)
class _Job:
    control: str
    conversation: Conversation


def predict(
    model: str | Path,
    data: str | Path,
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    controls: Sequence[str] = (),
    split: str = "test",
    tasks: Sequence[str] = (),
    seed: int = 0,
    history: str = "own",
    batch_size: int = 32,
    max_new_tokens: int = 128,
    limit: int | None = None,
    allow_seen: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> PredictResult:
    """Answer every question of ``split`` with greedy decoding; ``controls`` asks each again on another ECG.

    history: in later turns the model sees its own earlier answers (``own``) or the reference ones (``gold``). A killed
    run goes on at the last whole batch and ends with the same bytes. An ECG that cannot be used gives a row with
    ``error`` and no prediction: it is counted, not dropped. Raises EcglmError for an empty split, and for questions
    about patients the model was trained on (another fold, say), unless ``allow_seen``.
    """
    folder, checkpoint = Path(out), read_manifest(model, "checkpoint")
    for control in controls:
        registry.get("controls", control)  # a name nobody knows is told before anything is made
        if list(controls).count(control) > 1:
            raise EcglmError(f"control '{control}' stands twice; name it once")
    for name, number in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens), ("limit", limit)):
        if number is not None and number < 1:
            raise EcglmError(f"{name} must be 1 or more, found {number}")
    if history not in ("own", "gold"):
        raise EcglmError(f"history is 'own' or 'gold', found '{history}'")
    opened = [SegmentStore(p) for p in stores]
    _try_perturbations(controls, opened)
    settings = {
        "controls": [REAL, *controls],
        "split": split,
        "tasks": list(tasks),
        "seed": seed,
        "history": history,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "limit": limit,
    }
    inputs = {"model": checkpoint["outputs"], "data": conversations_fingerprint(data)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(opened)}
    plan = plan_fingerprint(KIND, settings, inputs)
    with folder_lock(folder):
        reused = output_state(folder, KIND, plan, overwrite) == "finished"
        if not reused:
            conversations = read_conversations(data, split=split, task=list(tasks) or None)
            if not conversations:
                of_tasks = f" for tasks {', '.join(tasks)}" if tasks else ""
                raise EcglmError(f"{data}: no questions in split '{split}'{of_tasks}")
            chosen = _limit(conversations, limit)
            bundle = from_pretrained(model)
            _check_pipeline(bundle, opened)
            _check_modalities(bundle, controls)
            if not allow_seen:
                _check_unseen(bundle, chosen, data)
            partners: dict[str, str] = {}
            if any(registry.get("controls", c).swaps for c in controls):
                shown = {pair for c in chosen for pair in zip(c.ecgs, c.patients, strict=True)}
                partners = swap_partners(sorted(shown), seed)
            answerer = _Answerer(bundle, opened, partners, seed, history, max_new_tokens)
            ordered = sorted(chosen, key=lambda c: (c.task, c.id))
            _answer_all(answerer, [_Job(k, c) for k in (REAL, *controls) for c in ordered], folder, batch_size, say)
            write_json(folder / "baselines.json", {"majority": _majority(data, tasks)})
            rows = read_jsonl(folder / FILE)
            outputs = {name: file_sha256(folder / name) for name in (FILE, "baselines.json")}
            counts = {"num_answers": len(rows), "num_failed": sum("error" in r for r in rows)}
            counts["num_ecg_cut"] = sum("ecg_shown" in r for r in rows)
            if counts["num_ecg_cut"]:
                say(
                    f"{counts['num_ecg_cut']} of {len(rows)} answers are about an ECG longer than max_ecg_tokens, of "
                    "which a part was shown: ecg_shown in their rows"
                )
            write_manifest(folder / MANIFEST, KIND, settings, inputs, outputs, **counts)
    manifest = read_manifest(folder, KIND)
    return PredictResult(folder, manifest["num_answers"], manifest["num_failed"], reused)


def _answer_all(
    answerer: _Answerer, jobs: Sequence[_Job], folder: Path, batch_size: int, say: Callable[[str], None]
) -> None:
    """Answer the jobs whose rows are not on disk yet, batch by batch."""
    done = _whole_batches(folder / FILE, jobs, batch_size)
    started = said = time.monotonic()
    for start in range(done, len(jobs), batch_size):
        append_jsonl(folder / FILE, answerer.answer(jobs[start : start + batch_size]))
        now, ready = time.monotonic(), min(start + batch_size, len(jobs))
        if now - said > 3 or ready == len(jobs):
            said = now
            left = (now - started) / (ready - done) * (len(jobs) - ready)
            say(f"answers {ready}/{len(jobs)}  {now - started:.0f} s, {left:.0f} s left")


def _check_pipeline(bundle: Bundle, stores: Sequence[SegmentStore]) -> None:
    """The model must see segments made as those it learned from."""
    for store in stores:
        made = store.manifest["settings"]["pipeline"]
        differs = sorted(k for k in made.keys() | bundle.pipeline.keys() if made.get(k) != bundle.pipeline.get(k))
        if differs:
            told = ", ".join(f"{k} {made.get(k)} (model: {bundle.pipeline.get(k)})" for k in differs)
            raise EcglmError(f"{store.path}: prepared otherwise than the model's data: {told}; prepare it alike")


def _try_perturbations(controls: Sequence[str], stores: Sequence[SegmentStore]) -> None:
    """On an empty segment, so that hum which a rate cannot show, say, is told before the first answer."""
    for control in filter(is_perturbation, controls):
        for store in stores:
            apply_control(control, np.zeros((12, store.seg_len)), store.rate, seed=0, row_id="")


def _check_modalities(bundle: Bundle, controls: Sequence[str]) -> None:
    """What a control hides must be one of two."""
    for control in controls:
        if registry.get("controls", control).hides and not hasattr(bundle.representation, "image_placeholder"):
            raise EcglmError(f"control '{control}' hides one of two inputs, but this model reads one; leave it out")


def _check_unseen(bundle: Bundle, conversations: Sequence[Conversation], data: str | Path) -> None:
    """No question may be about somebody the model has learned from: its answer would be remembered, not read."""
    known = seen(conversations, bundle.trained_on)
    if known:
        raise EcglmError(
            f"{data}: {len(known)} of {len(conversations)} questions are about patients this model was trained on "
            f"(first: {known[0].id}); predict its own test split or fold, or say --allow-seen"
        )


def _limit(conversations: Sequence[Conversation], limit: int | None) -> list[Conversation]:
    """All questions of the first ``limit`` ECG groups, so that a trial run still asks every task."""
    groups = sorted({c.ecgs for c in conversations})[:limit]
    return [c for c in conversations if c.ecgs in set(groups)]


def _majority(data: str | Path, tasks: Sequence[str]) -> dict[str, Any]:
    """Most frequent answers of the training split: what no model at all would score."""
    rows = [
        {"task": c.task, "reference": t.text, "metadata": dict(c.metadata)}
        for c in read_conversations(data, split="train", task=list(tasks) or None)
        for t in c.turns
        if t.role == "assistant"
    ]
    return majority_answers(rows)


def _whole_batches(file: Path, jobs: Sequence[_Job], batch_size: int) -> int:
    """Number of jobs whose batch is complete on disk; what stands behind them (a torn batch) is cut off."""
    if not file.exists():
        return 0
    rows = read_jsonl(file, allow_torn=True)
    done = kept = 0
    while done < len(jobs):
        batch = jobs[done : done + batch_size]
        num_rows = sum(_num_answers(j.conversation) for j in batch)
        if kept + num_rows > len(rows):
            break
        done, kept = done + len(batch), kept + num_rows
    lines = file.read_bytes().split(b"\n")[:kept]
    write_bytes(file, b"".join(line + b"\n" for line in lines))
    return done


def _num_answers(conversation: Conversation) -> int:
    return sum(t.role == "assistant" for t in conversation.turns)


class _Answerer:
    """Answers batches of jobs; knows what each control shows in place of the ECG."""

    def __init__(
        self,
        bundle: Bundle,
        stores: Sequence[SegmentStore],
        partners: dict[str, str],
        seed: int,
        history: str,
        max_new: int,
    ) -> None:
        self.bundle, self.seed, self.history, self.max_new = bundle, seed, history, max_new
        self.ecgs = EcgSource(stores, bundle.representation)
        self.partners = partners

    def answer(self, jobs: Sequence[_Job]) -> list[dict[str, Any]]:
        """Rows of one batch: jobs in order, each with its turns in order."""
        rows: list[list[dict[str, Any]]] = [[] for _ in jobs]
        talks: list[list[Turn]] = [[] for _ in jobs]
        shown = [self._show(job) for job in jobs]
        for turn in range(max(_num_answers(j.conversation) for j in jobs)):
            asked = [i for i, j in enumerate(jobs) if turn < _num_answers(j.conversation)]
            examples, failures = {}, {}
            for i in asked:
                talks[i].extend(_question(jobs[i], turn))
                try:
                    examples[i] = self._prompt(jobs[i], talks[i], shown[i])
                except RejectedRecord as error:
                    failures[i] = str(error)
            texts = self._generate(examples)
            for i in asked:
                rows[i].append(self._row(jobs[i], turn, talks[i][-1].text, texts.get(i), failures.get(i)))
                ecgs = shown[i]
                if not isinstance(ecgs, str) and any(e.shown for e in ecgs):
                    rows[i][-1]["ecg_shown"] = [dict(e.shown) for e in ecgs]  # lead → share, {} where all of it
                gold = _answers(jobs[i].conversation)[turn]
                own = (texts.get(i) or {}).get("text") or ""
                talks[i].append(Turn("assistant", gold if self.history == "gold" else own))
        return [row for talk in rows for row in talk]

    def _generate(self, examples: dict[int, Any]) -> dict[int, dict[str, Any]]:
        if not examples:
            return {}
        answers = generate(self.bundle.elm, self.bundle.prompter, list(examples.values()), max_new_tokens=self.max_new)
        return dict(zip(examples, answers, strict=True))

    def _show(self, job: _Job) -> list[EcgInput] | str:
        """The ECGs of a job as the model reads them under its control, or why that cannot be."""
        control: Control | None = None if job.control == REAL else registry.get("controls", job.control)
        if control is not None and control.removes_ecg:
            return []
        shown = []
        for number, record in enumerate(job.conversation.ecgs):
            source = self.partners[record] if control is not None and control.swaps else record
            try:
                segment, rate = self.ecgs.segment(source), self.ecgs.rate(source)
                if control is not None:
                    row_id = f"{job.conversation.id}/{number}"
                    segment = apply_control(job.control, segment, rate, seed=self.seed, row_id=row_id)
                ecg = self.bundle.representation(segment, rate)
                hidden = "" if control is None else control.hides
                shown.append(self.bundle.representation.without(ecg, hidden) if hidden else ecg)
            except RejectedRecord as error:
                return str(error)
        return shown

    def _prompt(self, job: _Job, talk: Sequence[Turn], shown: list[EcgInput] | str) -> Any:
        if isinstance(shown, str):
            raise RejectedRecord("ecg_unusable", shown)
        marks = sum(t.text.count(ECG_MARK) for t in talk if t.role != "assistant")  # some may stand in a later turn
        return self.bundle.prompter.build(job.conversation.id, talk, shown[:marks], generate=True)

    def _row(
        self, job: _Job, turn: int, question: str, answer: dict[str, Any] | None, failure: str | None
    ) -> dict[str, Any]:
        conversation = job.conversation
        row: dict[str, Any] = {
            "id": conversation.id,
            "ecgs": list(conversation.ecgs),
            "task": conversation.task,
            "turn": turn,
            "prompt": question,
            "reference": _answers(conversation)[turn],
            "prediction": answer["text"] if answer else None,
            "control": job.control,
            "seed": self.seed,
            "patient_id": conversation.patients[0] if conversation.patients else "",
            "truncated": bool(answer and answer["truncated"]),
            "metadata": dict(conversation.metadata),
        }
        if job.control != REAL and self.partners and registry.get("controls", job.control).swaps:
            row["shown"] = [self.partners[e] for e in conversation.ecgs]
        if failure is not None:
            row["error"] = failure
        return row


def _answers(conversation: Conversation) -> list[str]:
    return [t.text for t in conversation.turns if t.role == "assistant"]


def _question(job: _Job, turn: int) -> list[Turn]:
    """The turns between the previous answer and answer number ``turn``, without ECG marks where none is shown."""
    turns = job.conversation.turns
    at = [i for i, t in enumerate(turns) if t.role == "assistant"]
    between = turns[at[turn - 1] + 1 if turn else 0 : at[turn]]
    if job.control != REAL and registry.get("controls", job.control).removes_ecg:
        return [Turn(t.role, remove_marks(t.text)) for t in between]
    return list(between)
