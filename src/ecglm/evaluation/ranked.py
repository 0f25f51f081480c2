"""``ecglm pairs``: several answers to each training question, ranked, as preference pairs for ``ecglm align``."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.conversations.messages import clean_text
from ecglm.conversations.table import conversations_fingerprint, manifest_path, read_conversations
from ecglm.errors import EcglmError, RejectedRecord, StaleOutputError
from ecglm.evaluation.judge.ask import Paid
from ecglm.evaluation.predict import FILE, predict
from ecglm.evaluation.predict_checks import ModelFacts
from ecglm.evaluation.ranked_choice import Asked, Choice, Judge, by_rewards
from ecglm.evaluation.rewards.rows import Rewarder
from ecglm.files import (
    atomic_path,
    exclusive_lock,
    file_sha256,
    plan_fingerprint,
    read_jsonl,
    read_manifest,
    write_manifest,
)
from ecglm.prompts.people import people
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split
from ecglm.types import ECG_MARK, Conversation

KIND = "preferences"
VERSION = 1


@dataclass(frozen=True)
class RankedResult:
    """Where the pairs lie, how many, and how many questions gave none, by reason."""

    path: Path
    num_pairs: int
    left_out: dict[str, int]
    reused: bool


def rank_answers(
    model: str | Path,
    data: str | Path,
    stores: Sequence[str | Path],
    out: str | Path,
    ranking: Rewarder | Judge,
    *,
    split: str = "train",
    tasks: Sequence[str] = (),
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 128,
    seed: int = 0,
    limit: int | None = None,
    devices: Sequence[str] = ("auto",),
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> RankedResult | None:
    """Draw ``samples`` answers to every training question, rank them, and write one pair for each question to ``out``
    (JSONL, the rows that ``training/preferences.py`` reads), the better answer against the worse.

    ranking: rewards with ground truth, or a judge, who compares each answer with each in both orders. In later turns of
    a talk the model sees the reference answers. Equal texts count once; empty answers and failures not at all.
    dry_run: draw the answers, tell what judging them would cost, and return None. A question without a pair is counted:
    ``all_equal``, ``tie``, ``no_answer``, ``all_cut`` (by the length limit), ``no_reward``, ``judge_failed``. The
    answers stay in ``out.samples``, a judge's verdicts in ``out.judge``: a killed run goes on with them, and ends with
    the same bytes.

    Raises EcglmError for another split than ``train``, and where a patient or record of the questions is held out
    elsewhere: answers to validation or test questions must teach nobody.
    """
    target = Path(out)
    if split != "train":
        raise EcglmError(f"--split {split}: pairs are for training, and made of the split train alone; leave it out")
    if samples < 2:
        raise EcglmError(f"--samples {samples}: 2 or more are needed to prefer one to another")
    if target.suffix.lower() != ".jsonl":
        raise EcglmError(f"--out {target}: a JSONL file is made; its name ends in .jsonl")
    facts = ModelFacts.of(model)
    opened = [SegmentStore(p) for p in stores]
    how = {"rank": "judge" if isinstance(ranking, Judge) else "rules", **ranking.facts()}
    drawing = {"samples": samples, "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    settings = {**drawing, "tasks": list(tasks), "limit": limit, "ranking": how}
    inputs = {"model": facts.outputs, "data": conversations_fingerprint(data)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(opened)}
    plan = plan_fingerprint(KIND, settings, inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(Path(f"{target}.lock")):
        if not dry_run and _is_made(target, plan, overwrite):
            return _result(target, reused=True)
        conversations = _questions(data, tasks)
        check_training(conversations, opened, data)
        answers = _draw(model, data, stores, target, tasks, drawing, batch_size, limit, devices, overwrite, say)
        asked, counts = _asked(answers)
        if dry_run:
            if isinstance(ranking, Judge):
                for line in ranking.plan(asked).lines(ranking.asking):
                    say(line)
            return None
        by_id = {c.id: c for c in conversations if c.split == "train"}
        paid = Paid()
        lacking: Counter[str] = Counter()
        choices = _choose(asked, by_id, ranking, paid, overwrite, lacking, say)
        left_out = Counter(choice.reason for choice in choices if choice.reason)
        pairs = [(a, choice) for a, choice in zip(asked, choices, strict=True) if not choice.reason]
        who = {"name": Path(facts.folder).resolve().name, "fingerprint": plan_fingerprint("model", {}, facts.outputs)}
        with atomic_path(target) as temporary, open(temporary, "wb") as handle:
            for question, choice in pairs:
                row = preference_row(by_id[question.id], question, choice, opened, who)
                handle.write((json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n").encode())
        counts["not_computed"] = dict(sorted(lacking.items()))
        counts |= {"questions": len(asked), "pairs": len(pairs), "left_out": dict(sorted(left_out.items()))}
        write_manifest(manifest_path(target), KIND, settings, inputs, {target.name: file_sha256(target)}, counts=counts)
        return _result(target, reused=False)


def _questions(data: str | Path, tasks: Sequence[str]) -> list[Conversation]:
    """Those of all splits, to see who is held out; EcglmError where none is for training."""
    found = read_conversations(data)
    if not any(c.split == "train" and (not tasks or c.task in tasks) for c in found):
        raise EcglmError(f"{data}: no questions in split 'train'" + (f" for tasks {', '.join(tasks)}" if tasks else ""))
    return found


def check_training(conversations: Sequence[Conversation], stores: Sequence[SegmentStore], data: str | Path) -> None:
    """EcglmError where a training conversation is about somebody who is held out, by the conversations or a store."""
    held: dict[str, str] = {}
    for c in conversations:
        if c.split in ("val", "test"):
            held |= dict.fromkeys(filter(None, (*c.ecgs, *c.patients)), f"split {c.split} of {data}")
    for store in stores:
        names = ("record_id", "patient_id", "split", "fold")
        for record, patient, split, fold in zip(*(store.index.column(n).to_pylist() for n in names), strict=True):
            found = split or ("" if fold is None else fold_split(int(fold)))
            if found in ("val", "test"):
                held |= dict.fromkeys(filter(None, (record, patient)), f"split {found} of {store.path}")
    for c in conversations:
        if c.split == "train" and (known := [n for n in (*c.ecgs, *c.patients) if n in held]):
            raise EcglmError(f"{data}: training question {c.id} is about {known[0]}, which is in {held[known[0]]}")


def _draw(
    model: str | Path,
    data: str | Path,
    stores: Sequence[str | Path],
    target: Path,
    tasks: Sequence[str],
    drawing: Mapping[str, Any],
    batch_size: int,
    limit: int | None,
    devices: Sequence[str],
    overwrite: bool,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The rows of all answers, by question and number of the sample. With ``overwrite`` answers that were drawn
    otherwise are drawn anew; those that were drawn so are kept.
    """
    folder, first = Path(f"{target}.samples"), drawing["seed"]

    def run(anew: bool) -> None:
        predict(
            model,
            data,
            stores,
            folder,
            split="train",
            tasks=tasks,
            history="gold",
            batch_size=batch_size,
            max_new_tokens=drawing["max_new_tokens"],
            limit=limit,
            allow_seen=True,
            seeds=range(first, first + drawing["samples"]),
            temperature=drawing["temperature"],
            devices=devices,
            overwrite=anew,
            say=say,
        )

    try:
        run(False)
    except StaleOutputError:
        if not overwrite:
            raise
        run(True)
    return read_jsonl(folder / FILE)


def _asked(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Asked], dict[str, Any]]:
    """The questions with their different answers, in the order of the rows, and what was left aside."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row["id"]), int(row["turn"])), []).append(row)
    counts = Counter({"answers": len(rows)})
    found = []
    for (name, turn), group in groups.items():
        texts: dict[str, bool] = {}
        for row in group:
            if row.get("error"):
                counts["failed"] += 1
                continue
            try:
                text = clean_text(str(row["prediction"] or ""))  # as whoever reads the pairs has it
            except RejectedRecord as error:
                counts[error.reason] += 1
                continue
            counts["empty"] += not text
            counts["repeated"] += text in texts
            if text:
                texts[text] = texts.get(text, True) and bool(row["truncated"])
        first = group[0]
        question = str(first["prompt"]).replace(ECG_MARK, "").strip()
        known = (question, str(first["reference"]), str(first["patient_id"]))
        found.append(Asked(name, turn, *known, tuple(texts), tuple(texts.values())))
    return found, dict(sorted(counts.items()))


def _choose(
    asked: Sequence[Asked],
    by_id: Mapping[str, Conversation],
    ranking: Rewarder | Judge,
    paid: Paid,
    overwrite: bool,
    lacking: Counter[str],
    say: Callable[[str], None],
) -> list[Choice]:
    """The choice of each question; lacking: counts the questions that a reward cannot be computed for, by its name."""
    if isinstance(ranking, Judge):
        found = ranking.choices(asked, overwrite=overwrite, paid=paid, say=say)
        say(f"asked by this command: {paid.calls} calls")
        return found
    choices = []
    for question in asked:
        talk = [by_id[question.id]] * len(question.texts)
        rewards, parts = ranking(talk, question.texts, len(talk), question.turn) if talk else (np.empty(0), {})
        lacking.update(name for name, values in parts.items() if np.isnan(values).any())
        choices.append(by_rewards(question, rewards.tolist()))
    return choices


def preference_row(
    conversation: Conversation, asked: Asked, choice: Choice, stores: Sequence[SegmentStore], model: Mapping[str, str]
) -> dict[str, Any]:
    """One pair as ``training/preferences.py`` reads it (version 1)."""
    places = [i for i, t in enumerate(conversation.turns) if t.role == "assistant"]
    turns = conversation.turns[: places[asked.turn]]
    marks = sum(t.text.count(ECG_MARK) for t in turns if t.role != "assistant")
    return {
        "version": VERSION,
        "id": asked.name,
        "source": "ranked",
        "turns": [{"role": t.role, "text": t.text} for t in turns],
        "ecgs": [_ecg(record, stores) for record in conversation.ecgs[:marks]],
        "split": conversation.split,
        "people": [str(p) for p in people([conversation])],
        "chosen": asked.texts[choice.chosen],
        "rejected": asked.texts[choice.rejected],
        "answer": None,
        "thumb": None,
        "model": dict(model),
        "other": None,
        "scores": [choice.scores[choice.chosen], choice.scores[choice.rejected]],
    }


def _ecg(record: str, stores: Sequence[SegmentStore]) -> dict[str, Any]:
    """How a row names an ECG: by its record, its store, and the bytes of what was shown."""
    for store in stores:
        if positions := store.segments_of(record):
            shown = np.ascontiguousarray(store.microvolts(positions[:1])[0], dtype="<i2")
            digest = hashlib.sha256(shown.tobytes()).hexdigest()
            return {"record": record, "store": store.fingerprint, "file": None, "sha256": digest, "rate": store.rate}
    raise EcglmError(f"{record}: no store given holds it")


def _is_made(target: Path, plan: str, overwrite: bool) -> bool:
    """Whether the pairs are there, whole, and made so; StaleOutputError where they were made otherwise."""
    file = manifest_path(target)
    if target.is_dir():
        raise EcglmError(f"{target}: is a folder, a file is made here; choose another --out")
    if not file.exists():
        if target.exists() and not Path(f"{target}.samples").is_dir():  # which a killed run leaves beside it
            raise StaleOutputError(f"{target}: exists and was not made by ecglm pairs; choose another --out")
        return False
    found = read_manifest(file, KIND)
    if found["fingerprint"] == plan and target.exists() and file_sha256(target) == found["outputs"][target.name]:
        return True
    if found["fingerprint"] != plan and not overwrite:
        raise StaleOutputError(
            f"{target}: made with other settings or from other inputs; use --overwrite, or another --out"
        )
    return False


def _result(target: Path, reused: bool) -> RankedResult:
    counts = read_manifest(manifest_path(target), KIND)["counts"]
    return RankedResult(target, counts["pairs"], counts["left_out"], reused)
