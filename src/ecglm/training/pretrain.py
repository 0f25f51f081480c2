"""``ecglm pretrain``: a recipe → a folder with the best encoder, its curve and its manifest; resumes where it was."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.conversations.table import conversations_fingerprint
from ecglm.errors import EcglmError
from ecglm.files import (
    append_jsonl,
    file_sha256,
    folder_lock,
    plan_fingerprint,
    read_manifest,
    write_manifest,
    write_text,
)
from ecglm.models.encoder_files import differences, read_encoder, save_encoder
from ecglm.prompts.data import EpochSampler
from ecglm.training.check import check_machine, named_files
from ecglm.training.distributed import agree, from_main, quiet, ranks, together
from ecglm.training.logs import final_files, loss_curve, summary
from ecglm.training.objectives.base import Pretraining
from ecglm.training.pretrain_data import PretrainDataset, Row, people_of, read_rows
from ecglm.training.pretrain_plan import Plan, make_encoder, make_objective, plan_of
from ecglm.training.pretrain_recipe import OBJECTIVES, REPRESENTATIONS, PretrainRecipe
from ecglm.training.resume import begin_output
from ecglm.training.stateful import STATES, StatefulTrainer, is_over, resume_point

KIND = "pretraining-run"
WEIGHTS = "model.safetensors"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class PretrainResult:
    """Where a run lies and what it came to. best: encoder folder. judged: what the objective says beside the loss."""

    path: Path
    best: Path
    val_loss: float
    best_step: int
    judged: dict[str, float]
    reused: bool


def pretrain(
    recipe: PretrainRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> PretrainResult:
    """Pretrain an encoder into ``out``; ``out/best`` is the encoder folder of the least validation loss.

    Learns from the training patients alone and chooses by the validation patients; whom it learned from is kept in the
    encoder folder. limit: at most so many segments of each split (a trial run). The same recipe and inputs again: a
    finished run is reused, a killed one goes on from its last state and ends with the same bytes. Raises EcglmError for
    a split without ECGs, StaleOutputError for an output of other settings. Under ``torchrun`` every process calls this:
    one writes and speaks, and all of them return the same.
    """
    plan = plan_of(recipe)
    check_machine(recipe.train)
    with together(recipe.train.device, recipe.train.timeout) as here:
        return _pretrain(plan, Path(out), overwrite, limit, say if here.main else quiet)


def _pretrain(
    plan: Plan, folder: Path, overwrite: bool, limit: int | None, say: Callable[[str], None]
) -> PretrainResult:
    recipe, settings = plan.recipe, _settings(plan, limit)
    inputs = {f"data{i or ''}": conversations_fingerprint(f) for i, f in enumerate(recipe.data.files)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(plan.stores)}
    fingerprint = plan_fingerprint(KIND, settings, inputs)
    with contextlib.ExitStack() as held:

        def begin() -> str:
            held.enter_context(folder_lock(folder))
            return begin_output(folder, KIND, fingerprint, overwrite)

        if from_main(begin) == "finished":
            return _result(folder, reused=True)
        reads_text, data = OBJECTIVES[recipe.objective].reads_text, recipe.data
        left_out: Counter[str] = Counter()
        rows = read_rows(plan.stores, data.files, split_seed=data.split_seed, texts=reads_text, left_out=left_out)
        rows = {split: found[:limit] for split, found in rows.items()}
        encoder = make_encoder(plan)
        objective = make_objective(plan, encoder, rows["train"], say)
        datasets = _datasets(plan, objective, rows)
        counts = _report(folder, datasets, left_out, say)
        agree("what is learned from", [[r.segment_id, r.text] for d in datasets.values() for r in d.rows])
        trained_on = people_of(datasets["train"].rows)
        if plan.start is not None:
            trained_on = np.union1d(plan.start.trained_on, trained_on)
        _fit(plan, encoder, objective, datasets, trained_on, folder, say)

        def finish() -> None:
            judged = _judge(folder / "best", encoder, objective, datasets["val"], recipe.train.batch_size)
            counts["training"] = summary(folder)
            for what, number in counts["training"].items():
                say(f"{what}: {number}")
            write_text(folder / "recipe.yaml", strict.dumps(recipe))
            loss_curve(folder)
            best = read_encoder(folder / "best").facts
            facts = {"val_loss": best["val_loss"], "best_step": best["step"], "judged": judged}
            outputs = {p.relative_to(folder).as_posix(): file_sha256(p) for p in final_files(folder, STATES, "probe")}
            write_manifest(folder / "manifest.json", KIND, settings, inputs, outputs, counts=counts, **facts)
            shutil.rmtree(folder / STATES, ignore_errors=True)

        from_main(finish)
        return _result(folder, reused=False)


def _datasets(plan: Plan, objective: Pretraining, rows: dict[str, list[Row]]) -> dict[str, PretrainDataset]:
    seed, changes = plan.recipe.train.seed, plan.recipe.train.augmentation()
    make = functools.partial(PretrainDataset, stores=plan.stores, representation=plan.representation, seed=seed)
    return {
        "train": make(rows["train"], objective=objective, augmentation=changes),
        "val": make(rows["val"], objective=objective),
    }


def _report(
    folder: Path, datasets: dict[str, PretrainDataset], left_out: Counter[str], say: Callable[[str], None]
) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    if left_out:
        counts["left_out"] = dict(sorted(left_out.items()))
        for what, number in counts["left_out"].items():
            say(f"not read of data.files: {what} {number}")
    if ranks().main:
        (folder / "rejects.jsonl").unlink(missing_ok=True)
    for split, data in datasets.items():
        counts[split] = data.counts()
        if data.rejected and ranks().main:
            append_jsonl(folder / "rejects.jsonl", [{"split": split, **row} for row in data.rejected])
            say(f"{split}: {len(data.rejected)} segments rejected, see {folder / 'rejects.jsonl'}")
        if not len(data):
            raise EcglmError(f"no usable ECG in split '{split}'; see {folder / 'rejects.jsonl'}")
        texts = f" with {counts[split]['texts']} different reports" if "texts" in counts[split] else ""
        say(f"{split}: {len(data)} segments{texts}")
    return counts


def _fit(
    plan: Plan,
    encoder: nn.Module,
    objective: Pretraining,
    datasets: dict[str, PretrainDataset],
    trained_on: np.ndarray,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    hf_logging.set_verbosity_error()
    train, model = plan.recipe.train, objective.model
    torch.manual_seed(train.seed)
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    own = sum(p.numel() for p in encoder.parameters())
    say(f"{plan.recipe.objective}: {learns:,} weights learn, {own:,} of the encoder {plan.name}")

    def save_best(facts: dict[str, Any]) -> None:
        told = {**facts, "objective": plan.recipe.objective, **objective.facts()}
        save_encoder(
            folder / "best",
            encoder,
            name=plan.name,
            options=plan.options,
            input_shape=plan.representation.input_shape or (),
            pipeline=plan.pipeline,
            representation=plan.representation.config(),
            trained_on=trained_on,
            extra=objective.extra(),
            facts=told,
        )

    trainer = StatefulTrainer(
        model,
        objective,
        datasets["train"],
        datasets["val"],
        train,
        folder,
        say,
        collate=objective.collate,
        sampler=EpochSampler(datasets["train"].lengths, train.batch_size, train.seed),
        save_weights=functools.partial(_save_weights, model),
        load_weights=functools.partial(_load_weights, model),
        save_best=save_best,
        measure=objective.measure,
        width=int(encoder.dim),  # type: ignore[arg-type]
    )
    point = from_main(lambda: resume_point(folder / STATES))
    if point:
        say(f"goes on from {Path(point).name}")
        if is_over(Path(point), train):
            return
    trainer.train(resume_from_checkpoint=point)


def _changing(model: nn.Module) -> dict[str, torch.Tensor]:
    """All that training changes: what learns, and the running statistics."""
    still = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {k: v for k, v in model.state_dict().items() if k not in still}


def _save_weights(model: nn.Module, folder: Path) -> None:
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in _changing(model).items()}, folder / WEIGHTS)


def _load_weights(model: nn.Module, folder: Path) -> None:
    found = load_file(folder / WEIGHTS)
    if told := differences(_changing(model), found):
        raise EcglmError(f"{folder / WEIGHTS}: not the weights of this model: {told}; begin anew with --overwrite")
    model.load_state_dict(found, strict=False)


def _judge(
    best: Path, encoder: nn.Module, objective: Pretraining, val: PretrainDataset, batch_size: int
) -> dict[str, float]:
    """What the objective says of its best weights, on the validation split."""
    file = read_encoder(best)
    encoder.load_state_dict(file.weights())
    objective.model.load_state_dict(file.extra(), strict=False)
    objective.model.eval()
    device = next(objective.model.parameters()).device

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, len(val), batch_size):
            batch = objective.collate([val[i] for i in range(start, min(start + batch_size, len(val)))])
            yield {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    return {name: round(value, 9) for name, value in objective.judge(batches()).items()}


def _settings(plan: Plan, limit: int | None) -> dict[str, Any]:
    """The recipe without its paths: what the inputs are is told by their fingerprints, not by where they lie."""
    recipe = plan.recipe
    settings = strict.to_dict(replace(recipe, probe=None))
    settings["data"] = {"split_seed": recipe.data.split_seed}
    for name in (*REPRESENTATIONS, *OBJECTIVES, "probe"):
        settings.pop(name)
    shown = recipe.representation_for(plan.name)
    options = recipe.representation_options(plan.name)
    settings[shown] = {**strict.to_dict(options), **named_files(shown, options)}
    settings[recipe.objective] = strict.to_dict(getattr(recipe, recipe.objective))
    settings["encoder"] = {"name": plan.name, "options": plan.options}
    settings["train"].pop("num_workers")  # a run may go on with more or fewer
    if recipe.train.deepspeed is not None:
        settings["train"]["deepspeed"] = file_sha256(recipe.train.deepspeed)
    if plan.start is not None:
        settings["encoder"]["start_from"] = file_sha256(plan.start.folder / "manifest.json")
    return {**settings, "limit": limit}


def _result(folder: Path, reused: bool) -> PretrainResult:
    manifest = read_manifest(folder, KIND)
    facts = (manifest["val_loss"], manifest["best_step"], manifest["judged"])
    return PretrainResult(folder, folder / "best", *facts, reused=reused)
