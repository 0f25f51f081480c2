"""``ecglm train``: a recipe → a folder with the best checkpoint, its curve and its manifest; resumes where it was."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import (
    MANIFEST,
    append_jsonl,
    file_sha256,
    fingerprint,
    folder_lock,
    plan_fingerprint,
    read_manifest,
    write_manifest,
    write_text,
)
from ecglm.models.access import read_system
from ecglm.models.checkpoint import Bundle, create
from ecglm.models.elm import Learning, usual_parts
from ecglm.models.encoder_files import read_encoder
from ecglm.models.start import changed_tiles
from ecglm.models.towers import resolved
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.people import people, seen
from ecglm.prompts.pictures import PictureFiles, is_picture_id, picture_id
from ecglm.randomness import generator_for
from ecglm.representations.base import Representation
from ecglm.store.reader import SegmentStore
from ecglm.training.check import check_machine, check_recipe, named_files, shown_by
from ecglm.training.distributed import agree, from_main, quiet, ranks, summed, together
from ecglm.training.logs import final_files, loss_curve, summary
from ecglm.training.rag import neighbours_of, people_of, read_index, texts_of
from ecglm.training.recipe import SECTIONS, Recipe
from ecglm.training.resume import begin_output
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
    StaleOutputError for an output of other settings. Under ``torchrun`` every process calls this: one writes and
    speaks, and all of them return the same.
    """
    check_recipe(recipe)
    check_machine(recipe.train)
    with together(recipe.train.device, recipe.train.timeout) as here:
        return _train(recipe, Path(out), overwrite, limit, say if here.main else quiet)


def _train(recipe: Recipe, folder: Path, overwrite: bool, limit: int | None, say: Callable[[str], None]) -> TrainResult:
    stores = [SegmentStore(p) for p in recipe.data.stores]
    settings = _settings(recipe, limit)
    inputs = {f"data{i or ''}": conversations_fingerprint(f) for i, f in enumerate(recipe.data.files)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(stores)}
    if recipe.data.images:
        inputs["images"] = _images(recipe)
    index = read_index(recipe, verify=True)
    if index is not None:
        inputs["index"] = index.fingerprint
    plan = plan_fingerprint(KIND, settings, inputs)
    with contextlib.ExitStack() as held:

        def begin() -> str:
            held.enter_context(folder_lock(folder))
            return begin_output(folder, KIND, plan, overwrite)

        if from_main(begin) == "finished":
            return _result(folder, reused=True)
        conversations = _conversations(recipe)
        train_rows, val_rows = conversations["train"][:limit], conversations["val"][:limit]
        asked = {**conversations, "train": train_rows, "val": val_rows}
        found = None if index is None else neighbours_of(recipe, index, asked, stores, folder, say)
        bundle = _bundle(recipe, stores, train_rows, texts_of(recipe, found))
        bundle.trained_on = _trained_on(bundle, train_rows, conversations["test"], say)
        if found is not None and recipe.rag is not None:
            bundle = bundle.with_rag(recipe.rag.options)
            bundle.trained_on = np.union1d(bundle.trained_on, people_of(found))
        ecgs = EcgSource(stores, bundle.representation, recipe.data.images)
        if recipe.data.images:
            named = (ecg for c in (*train_rows, *val_rows) for ecg in ecgs.shown(c) if is_picture_id(ecg))
            ecgs.pictures.check(named, ranks().rank, ranks().size, summed)
        share, seed, augmentation = recipe.train.share_ecg, recipe.train.seed, recipe.train.augmentation()
        alike: dict[str, Any] = {"share_ecg": share, "neighbours": found.of_conversation if found else None}
        datasets = [
            ElmDataset(train_rows, ecgs, bundle.prompter, augmentation=augmentation, seed=seed, **alike),
            ElmDataset(val_rows, ecgs, bundle.prompter, **alike),
        ]
        counts = _report_datasets(folder, datasets, say)
        _check_window(recipe, bundle, datasets)
        words = fingerprint(bundle.prompter.tokenizer.get_vocab())
        agree("what is trained on", [[d.rows for d in datasets], [d.lengths for d in datasets], words])
        learning = _fit(recipe, bundle, datasets, folder, say)

        def finish() -> None:
            best = read_manifest(folder / "best", "checkpoint")
            counts["training"] = summary(folder)
            for what, number in counts["training"].items():
                say(f"{what}: {number}")
            write_text(folder / "recipe.yaml", strict.dumps(_written(recipe)))
            loss_curve(folder, "loss per answer token")
            outputs = {p.relative_to(folder).as_posix(): file_sha256(p) for p in final_files(folder, STATES)}
            facts = {"val_loss": best["val_loss"], "best_step": best["step"], "num_parameters": bundle.num_parameters}
            facts["learning"] = asdict(learning)
            write_manifest(folder / "manifest.json", KIND, settings, inputs, outputs, counts=counts, **facts)
            shutil.rmtree(folder / STATES, ignore_errors=True)

        from_main(finish)
        return _result(folder, reused=False)


def _trained_on(
    bundle: Bundle, train_rows: Sequence[Conversation], test: Sequence[Conversation], say: Callable[[str], None]
) -> np.ndarray:
    """Whom the model will have learned from: also those of its pretrained encoder, which may be of its test split."""
    if known := seen(test, bundle.trained_on):
        say(
            f"warning: {len(known)} of {len(test)} test questions are about patients the weights it begins with have "
            f"learned from (first: {known[0].id}); ecglm predict will refuse them"
        )
    return np.union1d(bundle.trained_on, people(train_rows))


def _settings(recipe: Recipe, limit: int | None) -> dict[str, Any]:
    """The recipe without its paths: what the inputs are is told by their fingerprints, not by where they lie."""
    settings = _written(recipe)
    if recipe.rag is not None:
        settings["rag"] = strict.to_dict(recipe.rag.options)
    settings["data"] = {"tasks": list(recipe.data.tasks)}  # the pictures are among the inputs
    for name in SECTIONS:  # a representation that is not used decides nothing
        settings.pop(name)
    for name, options in recipe.used.items():
        settings[name] = {**strict.to_dict(options), **named_files(name, options)}
    for section in (settings["model"], settings["model"]["image"] or {}):
        if section.get("encoder_from"):
            section["encoder_from"] = file_sha256(read_encoder(section["encoder_from"], verify=False).folder / MANIFEST)
    if recipe.model.start_from is not None:
        settings["model"]["start_from"] = file_sha256(Path(recipe.model.start_from) / MANIFEST)
    settings["model"].pop("system_file")  # what it says counts, not where it lies
    settings["model"]["system"] = read_system(recipe.model).system
    settings["train"].pop("num_workers")  # a run may go on with more or fewer
    if recipe.train.deepspeed is not None:
        settings["train"]["deepspeed"] = file_sha256(recipe.train.deepspeed)
    return {**settings, "limit": limit}


def _written(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values; a run without retrieved text has no word about it."""
    plain: dict[str, Any] = strict.to_dict(recipe)
    if recipe.rag is None:
        plain.pop("rag")
    return plain


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


def _images(recipe: Recipe) -> str:
    """What tells the picture files of the training and validation questions from others."""
    rows = (c for split in _conversations(recipe).values() for c in split)
    return PictureFiles(recipe.data.images).fingerprint(ecg for c in rows if (ecg := picture_id(c)) is not None)


def _records(rows: Sequence[Conversation]) -> list[str]:
    """The recordings that conversations are about: pictures are none."""
    return sorted({e for c in rows for e in c.ecgs if not is_picture_id(e)})


def _bundle(
    recipe: Recipe, stores: Sequence[SegmentStore], train_rows: Sequence[Conversation], more_texts: Sequence[str] = ()
) -> Bundle:
    pipelines = [s.manifest["settings"]["pipeline"] for s in stores]
    if any(p != pipelines[0] for p in pipelines[1:]):
        raise EcglmError(
            "the stores were prepared by different pipelines; prepare them alike to train on them together"
        )
    representation = representation_of(recipe, stores, train_rows)
    texts = sorted({*more_texts, *(t.text for c in train_rows for t in c.turns)})
    records = _records(train_rows)
    source = EcgSource(stores, representation)

    def symbols(number: int) -> Iterator[np.ndarray]:
        chosen = generator_for(recipe.train.seed, "symbols").permutation(len(records))[:number]
        yield from (source.encode(records[i]).token_ids for i in sorted(chosen.tolist()))

    return create(
        recipe.model,
        representation,
        pipelines[0],
        texts,
        recipe.train.seed,
        symbols,
        device=recipe.train.device,
        own_masks=recipe.train.share_ecg,
    )


def representation_of(
    recipe: Recipe, stores: Sequence[SegmentStore], train_rows: Sequence[Conversation]
) -> Representation:
    """The representation of a run, made of its options, its training ECGs and what its encoder reads.

    Raises ConfigError or EcglmError for options that fit neither.
    """
    model, _ = resolved(recipe.model, verify=False)
    return shown_by(recipe, model, stores, tuple(_records(train_rows)), EcgSource(stores, None).segment)


def _report_datasets(folder: Path, datasets: Sequence[ElmDataset], say: Callable[[str], None]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    if ranks().main:
        (folder / "rejects.jsonl").unlink(missing_ok=True)
    for name, data in zip(("train", "val"), datasets, strict=True):
        counts[name] = {
            **data.counts(),
            "sequences": len(data),
            **{f"truncated:{k}": v for k, v in data.truncated.items()},
            **data.cuts(),
        }
        if data.retrieved:
            counts[name]["retrieved"] = dict(data.retrieved)
            say(
                f"{name}: {data.retrieved['without']} of {data.retrieved['conversations']} questions without neighbours"
            )
        if cuts := data.cuts():
            shares = ", ".join(f"{lead} {share:.0%}" for lead, share in cuts["ecg_shown"].items())
            say(
                f"{name}: {cuts['ecgs_cut']} of {cuts['ecgs']} ECGs are longer than max_ecg_tokens and cut; "
                f"shown of those: {shares}"
            )
        if data.rejected and ranks().main:
            append_jsonl(folder / "rejects.jsonl", [{"split": name, **row} for row in data.rejected])
            say(f"{name}: {len(data.rejected)} conversations rejected, see {folder / 'rejects.jsonl'}")
        if not len(data):
            raise EcglmError(f"no usable conversation in split '{name}'; see {folder / 'rejects.jsonl'}")
    longest = max(max(d.lengths) for d in datasets)
    say(f"train {counts['train']['used']} questions, val {counts['val']['used']}; longest sequence {longest} tokens")
    return counts


def _check_window(recipe: Recipe, bundle: Bundle, datasets: Sequence[ElmDataset]) -> None:
    """ConfigError where a layer looks back over fewer tokens than a shared sequence has: the mask of a padded batch of
    such sequences is one for all layers.
    """
    window = getattr(bundle.elm.llm.config, "sliding_window", None)
    longest = max(max(d.lengths) for d in datasets)
    if recipe.train.share_ecg and not recipe.train.packing and window is not None and longest > window:
        raise ConfigError(
            f"model.llm {recipe.model.llm} looks back over {window} tokens in some layers, and questions that share an "
            f"ECG make {longest}; set train.packing: true, or train.share_ecg: false"
        )


def _fit(
    recipe: Recipe, bundle: Bundle, datasets: Sequence[ElmDataset], folder: Path, say: Callable[[str], None]
) -> Learning:
    hf_logging.set_verbosity_error()
    torch.manual_seed(recipe.train.seed)
    attention = bundle.elm.llm.config._attn_implementation
    if (start := recipe.model.start_from) is not None:
        other = changed_tiles(start, bundle.representation)
        say(f"starts from the weights of {start}" + (f", but with {', '.join(other)}" if other else ""))
    named = start or recipe.model.llm
    say(f"language model {named}: {bundle.model.dtype}, attention {attention}, {bundle.prompter.chat.name}")
    learning = bundle.elm.set_trainable(recipe.train.parts or usual_parts(bundle.elm))
    _say_learning(learning, bundle, say)
    trainer = ElmTrainer(bundle, datasets[0], datasets[1], recipe.train, folder, say)
    point = from_main(lambda: resume_point(folder / STATES))
    if point:
        say(f"goes on from {Path(point).name}")
        if is_over(Path(point), recipe.train):
            return learning
    trainer.train(resume_from_checkpoint=point)
    return learning


def _say_learning(learning: Learning, bundle: Bundle, say: Callable[[str], None]) -> None:
    """The three lists: what learns, what adapters change, what stands still, with the weights that learn."""
    if learning.train:
        of = {part: sum(w.numel() for w in bundle.elm.part(part)) for part in learning.train}
        say("learns: " + ", ".join(f"{p} {learning.counts[p]:,} of {of[p]:,}" for p in learning.train))
    if learning.lora:
        total = sum(p.numel() for p in bundle.elm.llm.parameters())
        say(f"LoRA: {sum(learning.counts[p] for p in learning.lora):,} of the LLM's {total:,} weights learn")
    if learning.frozen:
        say(f"frozen: {', '.join(learning.frozen)}")
    say(f"{sum(learning.counts.values()):,} of {bundle.num_parameters:,} weights learn")
