"""``ecglm train``: a recipe → a folder with the best checkpoint, its curve and its manifest; resumes where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import EcglmError
from ecglm.files import (
    append_jsonl,
    file_sha256,
    folder_lock,
    output_state,
    plan_fingerprint,
    read_jsonl,
    read_manifest,
    write_manifest,
    write_text,
)
from ecglm.models.checkpoint import Bundle, create
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.people import people
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.signal import SignalRepresentation
from ecglm.representations.symbols import SymbolsRepresentation, train_symbols
from ecglm.store.reader import SegmentStore
from ecglm.training.recipe import Recipe, SymbolsConfig
from ecglm.training.trainer import STATES, ElmTrainer, is_over, resume_point
from ecglm.types import LEADS, SPLITS, Conversation

KIND = "training-run"


@dataclass(frozen=True)
class TrainResult:
    """Where a run lies and what it came to."""

    path: Path
    best: Path
    val_loss: float
    best_step: int
    num_parameters: int
    reused: bool


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> TrainResult:
    """Train a recipe into ``out``. limit: at most so many training conversations (a trial run).

    The same recipe and inputs again: a finished run is reused, a killed one goes on from its last state and ends with
    the same bytes. Raises EcglmError for a split without conversations or a patient in both training and validation,
    StaleOutputError for an output of other settings.
    """
    folder = Path(out)
    stores = [SegmentStore(p) for p in recipe.data.stores]
    settings = _settings(recipe, limit)
    inputs = {f"data{i or ''}": conversations_fingerprint(f) for i, f in enumerate(recipe.data.files)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(stores)}
    plan = plan_fingerprint(KIND, settings, inputs)
    with folder_lock(folder):
        if output_state(folder, KIND, plan, overwrite) == "finished":
            shutil.rmtree(folder / STATES, ignore_errors=True)  # a kill between the manifest and this left them behind
            return _result(folder, reused=True)
        for leftover in [*folder.glob(".tmp-*"), *folder.glob(".old-*")]:  # of a run killed while saving
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        conversations = _conversations(recipe)
        train_rows, val_rows = conversations["train"][:limit], conversations["val"][:limit]
        bundle = _bundle(recipe, stores, train_rows)
        bundle.trained_on = people(train_rows)
        ecgs = EcgSource(stores, bundle.representation)
        datasets = [
            ElmDataset(rows, ecgs, bundle.prompter, share_ecg=recipe.train.share_ecg) for rows in (train_rows, val_rows)
        ]
        counts = _report_datasets(folder, datasets, say)
        _fit(recipe, bundle, datasets, folder, say)
        best = read_manifest(folder / "best", "checkpoint")
        write_text(folder / "recipe.yaml", strict.dumps(recipe))
        _loss_curve(folder)
        outputs = {p.relative_to(folder).as_posix(): file_sha256(p) for p in _final_files(folder)}
        facts = {"val_loss": best["val_loss"], "best_step": best["step"], "num_parameters": bundle.num_parameters}
        write_manifest(folder / "manifest.json", KIND, settings, inputs, outputs, counts=counts, **facts)
        shutil.rmtree(folder / STATES, ignore_errors=True)
    return _result(folder, reused=False)


def _final_files(folder: Path) -> list[Path]:
    """What a run leaves, without the states it resumes from and without paths of this machine (recipe.yaml)."""
    kept = (p for p in folder.rglob("*") if p.is_file() and STATES not in p.relative_to(folder).parts)
    return sorted(p for p in kept if p.name not in ("plan.json", "recipe.yaml"))


def _settings(recipe: Recipe, limit: int | None) -> dict[str, Any]:
    """The recipe without its paths: what the inputs are is told by their fingerprints, not by where they lie."""
    settings = strict.to_dict(recipe)
    settings["data"] = {"tasks": list(recipe.data.tasks)}
    if recipe.symbols is not None and recipe.symbols.tokenizer:
        settings["symbols"]["tokenizer"] = file_sha256(recipe.symbols.tokenizer)
    return {**settings, "limit": limit}


def _result(folder: Path, reused: bool) -> TrainResult:
    manifest = read_manifest(folder, KIND)
    facts = (manifest["val_loss"], manifest["best_step"], manifest["num_parameters"])
    return TrainResult(folder, folder / "best", *facts, reused=reused)


def _conversations(recipe: Recipe) -> dict[str, list[Conversation]]:
    rows = [c for f in recipe.data.files for c in read_conversations(f, task=recipe.data.tasks or None)]
    by_split = {split: [c for c in rows if c.split == split] for split in SPLITS}
    files = ", ".join(recipe.data.files)
    for split in ("train", "val"):
        if not by_split[split]:
            raise EcglmError(f"{files}: no conversations in split '{split}' for the tasks asked for")
    patients = {split: {p for c in found for p in c.patients} for split, found in by_split.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(patients[one] & patients[other])
        if shared:
            raise EcglmError(
                f"{files}: {len(shared)} patients are in {one} and {other} (first: {shared[0]}); run ecglm audit"
            )
    return by_split


def _bundle(recipe: Recipe, stores: Sequence[SegmentStore], train_rows: Sequence[Conversation]) -> Bundle:
    pipelines = [s.manifest["settings"]["pipeline"] for s in stores]
    if any(p != pipelines[0] for p in pipelines[1:]):
        raise EcglmError(
            "the stores were prepared by different pipelines; prepare them alike to train on them together"
        )
    representation = _representation(recipe, stores, train_rows)
    texts = sorted({t.text for c in train_rows for t in c.turns})
    return create(recipe.model, representation, pipelines[0], texts, recipe.train.seed)


def _representation(recipe: Recipe, stores: Sequence[SegmentStore], train_rows: Sequence[Conversation]) -> Any:
    store = stores[0]
    if recipe.signal is not None:
        rate = recipe.signal.rate or store.rate
        return SignalRepresentation(
            num_tokens=recipe.signal.num_tokens,
            num_samples=round(store.seg_len * rate / store.rate),
            rate=recipe.signal.rate,
            leads=recipe.signal.leads or LEADS,
            normalise=recipe.signal.normalise,
        )
    assert recipe.symbols is not None
    return _symbols(recipe.symbols, stores, train_rows, recipe.train.seed)


def _symbols(
    options: SymbolsConfig, stores: Sequence[SegmentStore], rows: Sequence[Conversation], seed: int
) -> SymbolsRepresentation:
    leads = options.leads or LEADS
    if options.tokenizer:
        tokenizer = EcgByte.load(options.tokenizer)
        return SymbolsRepresentation(tokenizer, leads=leads, rate=options.rate, max_ecg_tokens=options.max_ecg_tokens)
    records = sorted({e for c in rows for e in c.ecgs})
    if not records:
        raise EcglmError("no training conversation shows an ECG to learn symbols from; name symbols.tokenizer")
    chosen = np.random.default_rng(seed).permutation(len(records))[: options.train_segments]
    source = EcgSource(stores, None)
    segments = np.stack([source.segment(records[i]) for i in sorted(chosen)])
    return train_symbols(
        segments,
        stores[0].rate,
        leads=leads,
        target_rate=options.rate,
        num_merges=options.num_merges,
        boundary=options.boundary,
        normalise=options.normalise,
        max_ecg_tokens=options.max_ecg_tokens,
        seed=seed,
    )


def _report_datasets(folder: Path, datasets: Sequence[ElmDataset], say: Callable[[str], None]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    (folder / "rejects.jsonl").unlink(missing_ok=True)
    for name, data in zip(("train", "val"), datasets, strict=True):
        counts[name] = {
            **data.counts(),
            "sequences": len(data),
            **{f"truncated:{k}": v for k, v in data.truncated.items()},
        }
        if data.rejected:
            append_jsonl(folder / "rejects.jsonl", [{"split": name, **row} for row in data.rejected])
            say(f"{name}: {len(data.rejected)} conversations rejected, see {folder / 'rejects.jsonl'}")
        if not len(data):
            raise EcglmError(f"no usable conversation in split '{name}'; see {folder / 'rejects.jsonl'}")
    longest = max(max(d.lengths) for d in datasets)
    say(f"train {counts['train']['used']} questions, val {counts['val']['used']}; longest sequence {longest} tokens")
    return counts


def _fit(
    recipe: Recipe, bundle: Bundle, datasets: Sequence[ElmDataset], folder: Path, say: Callable[[str], None]
) -> None:
    hf_logging.set_verbosity_error()
    torch.manual_seed(recipe.train.seed)
    parts = recipe.train.parts or [p for p in ("encoder", "connector", "llm") if getattr(bundle.elm, p) is not None]
    bundle.elm.set_trainable(parts)
    trainer = ElmTrainer(bundle, datasets[0], datasets[1], recipe.train, folder, say)
    point = resume_point(folder / STATES)
    if point:
        say(f"goes on from {Path(point).name}")
        if is_over(Path(point), recipe.train):
            return
    trainer.train(resume_from_checkpoint=point)


def _loss_curve(folder: Path) -> None:
    """``loss.png``: training and validation loss per answer token over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = read_jsonl(folder / "metrics.jsonl")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(r["step"], r[key]) for r in rows if key in r]
        axes.plot(*zip(*points, strict=True), label=label, marker="o" if key == "eval_loss" else None)
    axes.set(xlabel="step", ylabel="loss per answer token", yscale="log")
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120, metadata={"Software": None})
