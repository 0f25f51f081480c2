"""``ecglm ecgbench predict``: any model's answers to ECGBench, in its own file format, killed and taken up at will."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.base import Reply
from ecglm.evaluation.answerers.elm import ElmAnswerer
from ecglm.evaluation.answerers.make import ModelSpec, reads_pictures, step_of
from ecglm.evaluation.answerers.pictures import PICTURE_CONTROLS
from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.ecgbench.answer_rows import AnswerFile
from ecglm.evaluation.ecgbench.arena import TEMPLATES, PulseBug, Talk, hold
from ecglm.evaluation.ecgbench.asking import Asking, baseline_texts, shows_records
from ecglm.evaluation.ecgbench.gold import GoldItem, gold_file, read_gold
from ecglm.evaluation.ecgbench.subsets import SUBSETS, Subset, predictions_file, subsets_named
from ecglm.evaluation.predict_checks import (
    ModelFacts,
    check_controls,
    check_modalities,
    check_numbers,
    check_unseen,
    try_perturbations,
)
from ecglm.evaluation.shards import find_devices, run_shards
from ecglm.files import append_jsonl, bare_file_name, folder_lock
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation

IMAGES = "images"
#: Talks at a time, where the user does not say.
BATCH_SIZES = {"elm": 8, "vlm": 4, "endpoint": 32, "baseline": 512}


@dataclass(frozen=True)
class FileResult:
    """One file of answers, and how many failures (answers to be asked again) are among its rows."""

    path: Path
    subset: str
    control: str
    num_rows: int
    num_failed: int


@dataclass(frozen=True)
class _Job:
    """What a process needs to know before its first batch."""

    spec: ModelSpec
    arena_template: str


@dataclass(frozen=True)
class _Batch:
    file: int
    talks: tuple[Talk, ...]


def predict_ecgbench(
    spec: ModelSpec,
    data: str | Path,
    out: str | Path,
    *,
    name: str,
    subsets: Sequence[str] = (),
    controls: Sequence[str] = (),
    seed: int = 0,
    batch_size: int | None = None,
    limit: int | None = None,
    devices: Sequence[str] = ("auto",),
    arena_template: str = "correct",
    allow_seen: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> list[FileResult]:
    """Answer the items of ``data`` (a folder that ``ecgbench prepare`` made) into
    ``<out>/<name>/<subset>/step-final.jsonl`` (``step-<N>.jsonl`` for the folder ``checkpoint-<N>``), and under each
    control into ``<out>/<name>@<control>/…``. ``spec``: from ``find_model``.

    Rows are added batch by batch, each on disk before the next is asked for; a killed run goes on where it was and ends
    with the same bytes, whatever the batch size and the number of processes. An item that cannot be answered gives a
    row with an empty text and ``metadata.error``; the next run asks it again. controls: ``blank``, ``noise``, ``swap``,
    ``no-ecg``; with stores also the perturbations. limit: the first so many items of each subset. Raises EcglmError for
    settings that do not go together, files made by another model or with other settings, and, unless ``allow_seen``,
    items about patients that the model was trained on.
    """
    folder = Path(data)
    stores = [SegmentStore(s) for s in spec.stores]
    check_numbers(batch_size=batch_size, limit=limit, max_new_tokens=spec.max_new_tokens)
    _check(spec, name, controls, stores, arena_template)
    on = ["cpu"] if spec.kind in ("endpoint", "baseline") else find_devices(devices)
    gold = _read(spec, folder, subsets, say)
    if not allow_seen:
        _check_unseen(spec, gold, stores, folder)
    if spec.kind == "baseline":
        spec = replace(spec, texts=baseline_texts(spec.source, gold, seed))
    step = step_of(spec)
    model_id = name if step == "final" else f"{name}_checkpoint-{step}"
    files: list[AnswerFile] = []
    asking: list[Asking] = []
    for control in (REAL, *controls):
        for subset, items in ((SUBSETS[n], found) for n, found in gold.items()):
            if is_perturbation(control) and not shows_records(spec, subset):
                say(f"{subset.name} ({control}): left out, it shows photographs")
                continue
            shown = _settings(spec, subset, stores, control, seed, arena_template)
            path = predictions_file(out, name, subset.name, control, step)
            files.append(AnswerFile(path, subset, control, model_id, tuple(items), shown))
            asking.append(Asking(spec, subset, items, folder / IMAGES, stores, control, seed))
    with folder_lock(Path(out) / name):
        batches: list[_Batch] = []
        for number, (file, asked) in enumerate(zip(files, asking, strict=True)):
            if overwrite:
                file.path.unlink(missing_ok=True)
                file.settings_file.unlink(missing_ok=True)
            first = {item.id for item in file.items[:limit]}
            talks = [asked.talk(item) for item in file.start(say) if item.id in first]
            size = batch_size or BATCH_SIZES[spec.kind]
            batches += [_Batch(number, tuple(talks[n : n + size])) for n in range(0, len(talks), size)]
        _answer(_Job(spec, arena_template), batches, files, asking, on, say)
        return [FileResult(f.path, f.subset.name, f.control, *f.finish()) for f in files]


def _answer(
    job: _Job,
    batches: Sequence[_Batch],
    files: Sequence[AnswerFile],
    asking: Sequence[Asking],
    devices: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Every batch, on whatever device is free; its rows go to disk at once."""
    total = sum(len(b.talks) for b in batches)
    started = said = time.monotonic()
    ready = failed = 0
    tokens: Counter[str] = Counter()

    def keep(number: int, told: list[list[dict[str, Any]]]) -> None:
        nonlocal ready, failed, said
        batch = batches[number]
        file, asked = files[batch.file], asking[batch.file]
        rows = []
        for talk, replies in zip(batch.talks, told, strict=True):
            item = asked.items_by_id[talk.request.id.removeprefix(f"{file.subset.name}/")]
            extra = dict(asked.extra(item))
            if file.subset.kind == "arena":
                extra["arena_template"] = job.arena_template
            rows.append(file.row(item, [Reply(**r) for r in replies], extra))
        append_jsonl(file.path, rows)
        for row in rows:
            tokens.update(row["metadata"].get("usage", {}))
        ready, failed = ready + len(rows), failed + sum("error" in r["metadata"] for r in rows)
        now = time.monotonic()
        if now - said > 3 or ready == total:
            said = now
            left = (now - started) / ready * (total - ready)
            told_failed = f", {failed} failed" if failed else ""
            say(f"answers {ready}/{total}{told_failed}  {now - started:.0f} s, {left:.0f} s left")

    try:
        run_shards(_start, job, batches, devices, keep)
    finally:
        if job.spec.kind == "endpoint" and ready:
            asked, said_back = tokens["prompt_tokens"], tokens["completion_tokens"]
            say(f"{ready} items took {asked} prompt tokens and {said_back} answer tokens")


def _start(job: _Job, device: str) -> Callable[[_Batch], list[list[dict[str, Any]]]]:
    """Runs once in each process: the model on its device, and how it answers a batch."""
    answerer = job.spec.open(device)
    arena = answerer
    if job.arena_template == "pulse_bug":
        assert isinstance(answerer, ElmAnswerer)
        arena = answerer.written_by(PulseBug.of(answerer.bundle.prompter.chat))

    def work(batch: _Batch) -> list[list[dict[str, Any]]]:
        several = any(talk.later for talk in batch.talks)
        try:
            found = hold(arena if several else answerer, batch.talks)
        except torch.OutOfMemoryError as error:
            raise EcglmError(
                f"{device}: no memory left for {len(batch.talks)} items at a time; what was answered is kept, give a "
                "smaller --batch-size"
            ) from error
        return [[{**asdict(r), "usage": dict(r.usage)} for r in replies] for replies in found]

    return work


def _check(spec: ModelSpec, name: str, controls: Sequence[str], stores: Sequence[SegmentStore], template: str) -> None:
    check_controls(controls)
    bare_file_name(name, "--name")
    tags = [s.name for s in SUBSETS.values()] + ["report", "@"]
    if bad := next((t for t in tags if t in name), None):
        raise EcglmError(f"model name '{name}' holds '{bad}', by which files are told apart; choose another --name")
    for control in controls:
        if is_perturbation(control) and not spec.stores:
            raise EcglmError(
                f"control '{control}' changes a recording: give --store; for pictures: "
                f"{', '.join((*PICTURE_CONTROLS[1:], 'swap', 'no-ecg'))}"
            )
    if spec.stores:
        facts = ModelFacts.of(spec.source)
        check_modalities(facts.settings()[0], controls)
        facts.check_stores(stores)
        try_perturbations(controls, stores)
    if template not in TEMPLATES:
        raise EcglmError(f"--arena-template: no '{template}'; {', '.join(TEMPLATES)}")
    if template == "pulse_bug" and spec.kind != "elm":
        raise EcglmError("--arena-template pulse_bug is for imported PULSE models alone; use correct")
    if spec.kind == "baseline" and controls:
        raise EcglmError("--controls: a baseline looks at no ECG; leave them out")


def _read(spec: ModelSpec, data: Path, names: Sequence[str], say: Callable[[str], None]) -> dict[str, list[GoldItem]]:
    """Items of the subsets this model can be asked about; what is left out is said, or refused where it was named."""
    if not data.is_dir():
        raise EcglmError(f"{data}: no such folder; make it with ecglm ecgbench prepare")
    if spec.kind == "elm" and not spec.stores and not reads_pictures(spec):
        raise EcglmError(f"{spec.source}: this model reads signals; say where they are with --store")
    asked = subsets_named(names)
    there = [s for s in asked if names or (data / f"{s.name}.json").is_file()]
    gold: dict[str, list[GoldItem]] = {}
    for subset in there:
        why = _cannot(spec, subset)
        if why and names:
            raise EcglmError(f"{subset.name}: {why}")
        if why:
            say(f"{subset.name}: left out, {why}")
        else:
            gold[subset.name] = read_gold(gold_file(data, subset.name), subset.name)
    if not gold:
        raise EcglmError(f"{data}: nothing to ask; no {{subset}}.json here that this model can answer")
    return gold


def _cannot(spec: ModelSpec, subset: Subset) -> str:
    """Why a model cannot be asked about a subset, or nothing."""
    if spec.kind == "elm" and not subset.source and not reads_pictures(spec):
        return "it shows photographs, and this model reads signals"
    if spec.kind == "baseline" and (subset.kind == "arena" or (subset.kind == "report" and spec.source == "random")):
        return f"there is no {spec.source} answer to it"
    return ""


def _check_unseen(
    spec: ModelSpec, gold: Mapping[str, Sequence[GoldItem]], stores: Sequence[SegmentStore], data: Path
) -> None:
    """No question may be about somebody the model has learned from: its answer would be remembered, not read."""
    hashes = ModelFacts.of(spec.source).trained_on() if spec.kind == "elm" else np.empty(0)
    if not len(hashes):
        return
    patients = {r: p for s in stores for r, p in _patients_of(s)}
    about = [
        Conversation(i.id, "", name, "test", (i.record,), (patients.get(i.record, ""), i.patient_id), ())
        for name, items in gold.items()
        for i in items
        if i.record is not None
    ]
    check_unseen(hashes, about, data)


def _patients_of(store: SegmentStore) -> Iterator[tuple[str, str]]:
    index = store.index
    yield from zip(index["record_id"].to_pylist(), index["patient_id"].to_pylist(), strict=True)


def _settings(
    spec: ModelSpec, subset: Subset, stores: Sequence[SegmentStore], control: str, seed: int, arena_template: str
) -> dict[str, Any]:
    """Everything a file's answers depend on; not how fast they were made, nor how many."""
    found = {**spec.facts, "subset": subset.name, "control": control}
    if shows_records(spec, subset):
        found["stores"] = sorted(s.fingerprint for s in stores)
    if subset.kind == "arena":
        found["arena_template"] = arena_template
    if control not in (REAL, "blank", "no-ecg") or spec.source == "random":
        found["seed"] = seed
    return found
