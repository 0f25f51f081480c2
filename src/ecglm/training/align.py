"""``ecglm align`` on preference pairs: a checkpoint → a folder with the one that learned from them; resumes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.conversations.table import conversations_fingerprint
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import (
    append_jsonl,
    file_sha256,
    folder_lock,
    plan_fingerprint,
    read_manifest,
    write_manifest,
    write_text,
)
from ecglm.models.adapters import add_lora
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.elm import Learning, usual_parts
from ecglm.prompts.data import EcgSource
from ecglm.training.align_check import Aligned, align_plan
from ecglm.training.align_recipe import AlignRecipe
from ecglm.training.align_trainer import AlignTrainer
from ecglm.training.check import check_machine
from ecglm.training.distributed import agree, from_main, quiet, ranks, together
from ecglm.training.logs import final_files, loss_curve, summary
from ecglm.training.pairs_data import PairDataset
from ecglm.training.resume import begin_output
from ecglm.training.stateful import STATES, is_over, resume_point

KIND = "alignment-run"


@dataclass(frozen=True)
class AlignResult:
    """Where a run lies and what it came to. told: margin, accuracy, KL … of the best step, on validation pairs."""

    path: Path
    best: Path
    val_loss: float
    best_step: int
    told: dict[str, float]
    reused: bool


def align(
    recipe: AlignRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> AlignResult:
    """Teach a checkpoint by preference pairs (``method: dpo`` or ``ipo``); ``out/best`` is a checkpoint like any other.

    limit: at most so many training pairs (a trial run). The same recipe and inputs again: a finished run is reused, a
    killed one goes on from its last state and ends with the same bytes. Raises EcglmError where no pair can be used,
    StaleOutputError for an output of other settings. Under ``torchrun`` every process calls this: one writes and
    speaks, and all of them return the same.
    """
    if recipe.method not in ("dpo", "ipo"):
        raise ConfigError(f"method {recipe.method} is not one of preference pairs")
    check_machine(recipe.train)
    with together(recipe.train.device, recipe.train.timeout) as here:
        return _align(recipe, Path(out), overwrite, limit, say if here.main else quiet)


def _align(
    recipe: AlignRecipe, folder: Path, overwrite: bool, limit: int | None, say: Callable[[str], None]
) -> AlignResult:
    plan = align_plan(recipe)
    settings = align_settings(recipe, limit)
    inputs = {"model": file_sha256(Path(recipe.model) / "manifest.json")}
    inputs |= {f"pairs{i or ''}": sha for i, sha in enumerate(plan.preferences.sha256)}
    inputs |= {f"data{i or ''}": conversations_fingerprint(f) for i, f in enumerate(recipe.data.files)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(plan.stores)}
    with contextlib.ExitStack() as held:

        def begin() -> str:
            held.enter_context(folder_lock(folder))
            return begin_output(folder, KIND, plan_fingerprint(KIND, settings, inputs), overwrite)

        if from_main(begin) == "finished":
            return align_result(folder, reused=True)
        bundle = load_to_align(recipe)
        train, val = _datasets(plan, bundle, limit, recipe.train.share_ecg)
        counts = _report(folder, plan, bundle, (train, val), say)
        agree("what is learned from", [[d.rows, d.lengths] for d in (train, val)])
        learned = {h for pair, _ in train.items for h in plan.splits.people(pair)}
        bundle.trained_on = np.union1d(bundle.trained_on, np.array(sorted(learned), np.uint64))
        learning = _fit(recipe, bundle, train, val, folder, say)

        def finish() -> None:
            best = read_manifest(folder / "best", "checkpoint")
            counts["training"] = summary(folder)
            for what, number in counts["training"].items():
                say(f"{what}: {number}")
            write_text(folder / "recipe.yaml", strict.dumps(recipe))
            loss_curve(folder, "loss per pair")
            outputs = {p.relative_to(folder).as_posix(): file_sha256(p) for p in final_files(folder, STATES)}
            facts = {"val_loss": best["val_loss"], "best_step": best["step"], "learning": asdict(learning)}
            facts["told"] = {k: v for k, v in best.items() if k.startswith("val_") and k != "val_loss"}
            write_manifest(folder / "manifest.json", KIND, settings, inputs, outputs, counts=counts, **facts)
            shutil.rmtree(folder / STATES, ignore_errors=True)

        from_main(finish)
        return align_result(folder, reused=False)


def load_to_align(recipe: AlignRecipe) -> Bundle:
    """The checkpoint of a recipe with the adapters that ``lora`` asks for, its parts set to learn."""
    bundle = from_pretrained(recipe.model)
    old = bundle.model.lora
    if old is not None and old.where == "ecg":
        raise ConfigError(
            f"model: {recipe.model} has adapters beside its LLM (lora.where: ecg), which an alignment cannot go on "
            "with; begin with a checkpoint without"
        )
    if (lora := recipe.lora) is not None:
        if lora.where == "ecg":
            raise ConfigError("lora.where: ecg adapts how an ECG is read, and not what is said of it; drop it")
        symbols = [i for i in bundle.prompter.ecg_ids if i not in bundle.elm.placeholder_ids]
        add_lora(bundle.elm.llm, lora, symbols, recipe.train.seed)
    bundle.elm.set_trainable(recipe.train.parts or usual_parts(bundle.elm))
    if recipe.train.share_ecg and bundle.elm.llm.config._attn_implementation == "flash_attention_2":
        raise ConfigError("train.share_ecg needs a mask, which flash_attention_2 does not take; set it to false")
    return bundle


def _datasets(plan: Aligned, bundle: Bundle, limit: int | None, shared: bool) -> tuple[PairDataset, PairDataset]:
    stores: list[Any] = [*plan.stores, *([plan.ecgs.kept] if len(plan.ecgs.kept) else [])]
    source = EcgSource(stores, bundle.representation)
    made = []
    for side, most in ((False, limit), (True, None)):
        at = [i for i, val in enumerate(plan.val) if val == side][:most]
        pairs, ecgs = ([known[i] for i in at] for known in (plan.pairs, plan.ecg_ids))
        made.append(PairDataset(pairs, ecgs, source, bundle.prompter, shared=shared))  # type: ignore[arg-type]
    return made[0], made[1]


def _report(
    folder: Path, plan: Aligned, bundle: Bundle, datasets: Sequence[PairDataset], say: Callable[[str], None]
) -> dict[str, Any]:
    counts: dict[str, Any] = {"rows": plan.preferences.counts()}
    refused = [{"of": "rows", **row} for row in plan.preferences.refused]
    for line in plan.lines():
        say(line)
    for split, data in zip(("train", "val"), datasets, strict=True):
        counts[split] = {**data.counts(), **{f"truncated:{k}": v for k, v in data.truncated.items()}}
        refused += [{"of": split, **row} for row in data.refused]
        if not len(data):
            told = ", ".join(f"{name} {number}" for name, number in data.counts().items())
            raise EcglmError(f"no usable pair for {split} ({told}); give more pairs, or raise the model's max_len")
    if ranks().main:
        (folder / "rejects.jsonl").unlink(missing_ok=True)
        if refused:
            append_jsonl(folder / "rejects.jsonl", refused)
            say(f"{len(refused)} rows or pairs rejected, see {folder / 'rejects.jsonl'}")
    longest = max(max(d.lengths) for d in datasets)
    window = getattr(bundle.elm.llm.config, "sliding_window", None)
    if datasets[0].shared and window is not None and longest > window:
        raise ConfigError(
            f"the language model looks back over {window} tokens in some layers, and pairs make {longest}; set "
            "train.share_ecg: false"
        )
    if bundle.rag is not None:
        say("the model learned with retrieved ECGs; the pairs are shown without, as their rows do not hold any")
    say(f"train {len(datasets[0])} pairs, val {len(datasets[1])}; longest sequence {longest} tokens")
    return counts


def _fit(
    recipe: AlignRecipe,
    bundle: Bundle,
    train: PairDataset,
    val: PairDataset,
    folder: Path,
    say: Callable[[str], None],
) -> Learning:
    hf_logging.set_verbosity_error()
    torch.manual_seed(recipe.train.seed)
    elm = bundle.elm
    learning = elm.set_trainable(recipe.train.parts or usual_parts(elm))
    say(f"begins with {recipe.model}; {recipe.method}, beta {recipe.beta:g}")
    say("learns: " + ", ".join(f"{part} {number:,}" for part, number in learning.counts.items() if number))
    trainer = AlignTrainer(bundle, train, val, recipe, folder, say)
    if trainer.remember():
        say(f"reference: log-probabilities of {2 * (len(train) + len(val))} answers")
    point = from_main(lambda: resume_point(folder / STATES))
    if point:
        say(f"goes on from {Path(point).name}")
        if is_over(Path(point), recipe.train):
            return learning
    trainer.train(resume_from_checkpoint=point)
    return learning


def align_settings(recipe: AlignRecipe, limit: int | None) -> dict[str, Any]:
    """The recipe without its paths: what the inputs are is told by their fingerprints, not by where they lie."""
    settings = strict.to_dict(replace(recipe, model=""))
    settings["data"] = {"val_share": recipe.data.val_share}
    settings["train"].pop("num_workers")  # a run may go on with more or fewer
    return {**settings, "limit": limit}


def align_result(folder: Path, reused: bool) -> AlignResult:
    """What the manifest of a finished run says."""
    found = read_manifest(folder, KIND)
    return AlignResult(folder, folder / "best", found["val_loss"], found["best_step"], found["told"], reused=reused)
