"""``ecglm train``: a recipe → a folder with the best checkpoint, its curve and its manifest; resumes where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import ConfigError, EcglmError
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
from ecglm.models.encoders.base import picture
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.people import people
from ecglm.representations.base import BuildContext, RecipeOptions, Representation, WithWords
from ecglm.store.reader import SegmentStore
from ecglm.training.recipe import SECTIONS, Recipe
from ecglm.training.trainer import STATES, ElmTrainer, is_over, resume_point
from ecglm.types import SPLITS, Conversation

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
        share, seed, augmentation = recipe.train.share_ecg, recipe.train.seed, recipe.train.augmentation()
        datasets = [
            ElmDataset(train_rows, ecgs, bundle.prompter, share_ecg=share, augmentation=augmentation, seed=seed),
            ElmDataset(val_rows, ecgs, bundle.prompter, share_ecg=share),
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
    for name in SECTIONS:  # a representation that is not used decides nothing
        settings.pop(name)
    for name, options in recipe.used.items():
        settings[name] = {**strict.to_dict(options), **named_files(name, options)}
    return {**settings, "limit": limit}


def named_files(name: str, options: RecipeOptions) -> dict[str, str]:
    """Option → sha256 of the file it names, of the section ``name``; ConfigError where that cannot be read."""
    found = {}
    for option, path in options.files().items():
        try:
            found[option] = file_sha256(path)
        except OSError as error:
            raise ConfigError(f"{name}.{option}: {path} cannot be read ({error.strerror})") from error
    return found


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
    representation = representation_of(recipe, stores, train_rows)
    texts = sorted({t.text for c in train_rows for t in c.turns})
    return create(recipe.model, representation, pipelines[0], texts, recipe.train.seed)


def representation_of(
    recipe: Recipe, stores: Sequence[SegmentStore], train_rows: Sequence[Conversation]
) -> Representation:
    """The representation of a run, made of its options, its training ECGs and what its encoder reads.

    Raises ConfigError or EcglmError for options that fit neither.
    """
    size, tokens = picture(recipe.model.encoder, recipe.model.encoder_options)
    context = BuildContext(
        rate=stores[0].rate,
        seg_len=stores[0].seg_len,
        seed=recipe.train.seed,
        records=tuple(sorted({e for c in train_rows for e in c.ecgs})),
        segment=EcgSource(stores, None).segment,
        image_size=size,
        image_tokens=tokens,
    )
    made = [SECTIONS[name].from_recipe(options, context) for name, options in recipe.used.items()]
    return made[0] if len(made) == 1 else WithWords(*made)


def _report_datasets(folder: Path, datasets: Sequence[ElmDataset], say: Callable[[str], None]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    (folder / "rejects.jsonl").unlink(missing_ok=True)
    for name, data in zip(("train", "val"), datasets, strict=True):
        counts[name] = {
            **data.counts(),
            "sequences": len(data),
            **{f"truncated:{k}": v for k, v in data.truncated.items()},
            **data.cuts(),
        }
        if cuts := data.cuts():
            shares = ", ".join(f"{lead} {share:.0%}" for lead, share in cuts["ecg_shown"].items())
            say(
                f"{name}: {cuts['ecgs_cut']} of {cuts['ecgs']} ECGs are longer than max_ecg_tokens and cut; "
                f"shown of those: {shares}"
            )
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
    learning = bundle.elm.set_trainable(parts)
    if recipe.model.lora is not None:
        total = sum(p.numel() for p in bundle.elm.llm.parameters())
        say(f"LoRA: {learning['llm']:,} of the LLM's {total:,} weights learn")
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
