"""``ecglm predict``: a model's answers on the true ECG and on the controls, into predictions.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm import registry
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import EcglmError
from ecglm.evaluation import predict_checks as checks
from ecglm.evaluation.baselines import majority_answers
from ecglm.evaluation.controls import REAL, swap_partners
from ecglm.evaluation.predict_answers import Orders, start
from ecglm.evaluation.predict_jobs import WORK_FILE, Work, answers_of, lengths, make_batches, make_jobs, progress
from ecglm.evaluation.predict_rag import FOLDER, RagOrders, find_for_jobs, rag_options, read_index, settings_of
from ecglm.evaluation.shards import find_devices, run_shards
from ecglm.files import (
    MANIFEST,
    atomic_path,
    file_sha256,
    folder_lock,
    output_state,
    plan_fingerprint,
    read_manifest,
    write_json,
    write_manifest,
)
from ecglm.models.generate import Sampling
from ecglm.prompts.data import EcgSource
from ecglm.prompts.pictures import PictureFiles, picture_id
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation

KIND = "predictions"
FILE = "predictions.jsonl"
#: A ``model`` that begins so is no checkpoint but a baseline (``evaluation/baseline_models.py``).
BASELINE = "baseline:"


@dataclass(frozen=True)
class PredictResult:
    """Where the predictions lie, and how many answers, failures among them, were written."""

    path: Path
    num_answers: int
    num_failed: int
    reused: bool


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
    batch_size: int = 128,
    max_new_tokens: int = 128,
    limit: int | None = None,
    allow_seen: bool = False,
    seeds: Sequence[int] = (),
    temperature: float | None = None,
    top_p: float = 1.0,
    devices: Sequence[str] = ("auto",),
    images: Sequence[str | Path] = (),
    rag: str | Path | None = None,
    rag_k: int | None = None,
    rag_location: str | None = None,
    rag_content: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> PredictResult:
    """Answer every question of ``split``; ``controls`` asks each again on another ECG.

    model: a checkpoint, folder or hub id; ``baseline:NAME`` is answered by ``predict_baseline``. history: in later
    turns the model sees its own earlier answers (``own``) or the reference ones (``gold``). Decoding is greedy; with a
    ``temperature`` answers are drawn (``models.generate``), once per seed of ``seeds`` (``seed`` unless given), which
    the rows tell. devices: ``shards.find_devices``, one process each. images: folders of the picture files that
    conversations name. rag: an index whose nearest ECGs the prompts tell of (docs/retrieval.md), as the model learned
    or as ``rag_k``, ``rag_location`` and ``rag_content`` say; under a control they are those of the ECG that is shown.

    A killed run goes on behind the last batches that were finished, at most one per device is lost, and ends with the
    same bytes, whatever the devices. An ECG that cannot be used gives a row with ``error`` and no prediction: it is
    counted, not dropped. Raises EcglmError for an empty split, and for questions about patients the model was trained
    on (another fold, say), unless ``allow_seen``.
    """
    folder = Path(out)
    checks.check_controls(controls)
    checks.check_numbers(batch_size=batch_size, max_new_tokens=max_new_tokens, limit=limit)
    if str(model).startswith(BASELINE):
        if temperature is not None or top_p != 1.0 or images or rag is not None:
            raise EcglmError(f"{model}: a baseline takes no --temperature, --top-p, --images or --rag; leave them out")
        from ecglm.evaluation.baseline_models import predict_baseline

        return predict_baseline(
            str(model).removeprefix(BASELINE),
            data,
            stores,
            out,
            split=split,
            tasks=tasks,
            seed=seed,
            limit=limit,
            overwrite=overwrite,
            say=say,
            controls=controls,
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
    checks.check_decoding(seeds, temperature, top_p)
    if temperature is not None:
        Sampling(temperature, top_p)
    if history not in ("own", "gold"):
        raise EcglmError(f"history is 'own' or 'gold', found '{history}'")
    used = find_devices(devices)
    facts = checks.ModelFacts.of(model)
    index = None if rag is None else read_index(rag)
    given = {"k": rag_k, "location": rag_location, "content": rag_content}
    told = rag_options(facts.rag(), index, given, images, say)
    opened = [SegmentStore(p) for p in stores]
    checks.try_perturbations(controls, opened)
    settings: dict[str, Any] = {
        "controls": [REAL, *controls],
        "split": split,
        "tasks": list(tasks),
        "seed": seed,
        "history": history,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "limit": limit,
    }
    if temperature is not None:
        settings |= {"seeds": list(seeds or (seed,)), "temperature": temperature, "top_p": top_p}
    if told is not None:
        settings["rag"] = settings_of(told)
    inputs = {"model": facts.outputs, "data": conversations_fingerprint(data)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(opened)}
    if index is not None:
        inputs["index"] = index.fingerprint
    if images:
        named = filter(None, map(picture_id, read_conversations(data, split=split, task=list(tasks) or None)))
        inputs["images"] = PictureFiles(images).fingerprint(named)
    plan = plan_fingerprint(KIND, settings, inputs)
    with folder_lock(folder):
        reused = output_state(folder, KIND, plan, overwrite) == "finished"
        if not reused:
            conversations = read_conversations(data, split=split, task=list(tasks) or None)
            if not conversations:
                of_tasks = f" for tasks {', '.join(tasks)}" if tasks else ""
                raise EcglmError(f"{data}: no questions in split '{split}'{of_tasks}")
            chosen = _limit(conversations, limit)
            facts.verify()
            representation, _ = facts.settings()
            facts.check_stores(opened)
            checks.check_modalities(representation, controls)
            if not allow_seen:
                checks.check_unseen(facts.trained_on(), chosen, data)
            ecgs = EcgSource(opened, representation, images)
            partners: dict[str, str] = {}
            if any(registry.get("controls", c).swaps for c in controls):
                shown = {pair for c in chosen for pair in zip(ecgs.shown(c), c.patients, strict=True)}
                partners = swap_partners(sorted(shown), seed)
            jobs = make_jobs(chosen, (REAL, *controls), seeds or (seed,))
            retrieval = None
            if index is not None and told is not None:
                patients = {ecg: patient for c in chosen for ecg, patient in zip(c.ecgs, c.patients, strict=True)}
                retrieval = RagOrders(told, str(folder / FOLDER), patients, seed)
                find_for_jobs(jobs, index, retrieval, partners, ecgs, split, say)
            size = lengths(chosen, ecgs, 0 if told is None else told.max_tokens)
            work = Work(folder, jobs, make_batches(jobs, size, batch_size, max_new_tokens))
            orders = Orders(
                model=str(facts.folder),
                stores=tuple(map(str, stores)),
                images=tuple(map(str, images)),
                partners=partners,
                seed=seed,
                history=history,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                rag=retrieval,
            )
            _answer_all(orders, work, used, say)
            counts = _write_rows(folder / FILE, work)
            write_json(folder / "baselines.json", {"majority": _majority(data, tasks)})
            outputs = {name: file_sha256(folder / name) for name in (FILE, "baselines.json")}
            if counts["num_ecg_cut"]:
                say(
                    f"{counts['num_ecg_cut']} of {counts['num_answers']} answers are about an ECG longer than "
                    "max_ecg_tokens, of which a part was shown: ecg_shown in their rows"
                )
            if told is not None:
                say(f"{counts['num_without_neighbours']} of {counts['num_answers']} answers without retrieved ECGs")
            write_manifest(folder / MANIFEST, KIND, settings, inputs, outputs, **counts)
        (folder / WORK_FILE).unlink(missing_ok=True)
    manifest = read_manifest(folder, KIND)
    return PredictResult(folder, manifest["num_answers"], manifest["num_failed"], reused)


def _answer_all(orders: Orders, work: Work, devices: Sequence[str], say: Callable[[str], None]) -> None:
    """Answer the batches that are not on disk yet."""
    left = work.left
    ready = len(work.jobs) - sum(len(work.batches[b]) for b in left)
    tell = progress(len(work.jobs), ready, say, time.monotonic)

    def finished(index: int, rows: list[list[dict[str, Any]]]) -> None:
        nonlocal ready
        work.add(left[index], rows)
        ready += len(rows)
        tell(ready)

    items = [[work.jobs[number] for number in work.batches[b]] for b in left]
    run_shards(start, orders, items, devices, finished)


def _write_rows(file: Path, work: Work) -> dict[str, int]:
    """All rows in their order, into a whole file; what is counted of them."""
    counts = {"num_answers": 0, "num_failed": 0, "num_ecg_cut": 0}
    with atomic_path(file) as temporary, open(temporary, "wb") as handle:
        for row in work.rows():
            text = json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
            handle.write(text.encode())
            counts["num_answers"] += 1
            counts["num_failed"] += "error" in row
            counts["num_ecg_cut"] += "ecg_shown" in row
            if "retrieved" in row:
                counts["num_without_neighbours"] = counts.get("num_without_neighbours", 0) + (not row["retrieved"])
    return counts


def _limit(conversations: Sequence[Conversation], limit: int | None) -> list[Conversation]:
    """All questions of the first ``limit`` ECG groups, so that a trial run still asks every task."""
    groups = sorted({c.ecgs for c in conversations})[:limit]
    return [c for c in conversations if c.ecgs in set(groups)]


def _majority(data: str | Path, tasks: Sequence[str]) -> dict[str, Any]:
    """Most frequent answers of the training split: what no model at all would score."""
    rows = [
        {"task": c.task, "reference": answer, "metadata": dict(c.metadata)}
        for c in read_conversations(data, split="train", task=list(tasks) or None)
        for answer in answers_of(c)
    ]
    return majority_answers(rows)
