"""``ecglm align`` with ``method: grpo``: a checkpoint → the one that learned from the rewards of its own answers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as hf_logging

from ecglm import config as strict
from ecglm.conversations.table import conversations_fingerprint, read_conversations
from ecglm.errors import ConfigError, EcglmError, RejectedRecord
from ecglm.files import (
    append_jsonl,
    file_sha256,
    folder_lock,
    plan_fingerprint,
    read_jsonl,
    read_manifest,
    write_manifest,
    write_text,
)
from ecglm.models.checkpoint import Bundle, save_pretrained
from ecglm.models.elm import Learning, usual_parts
from ecglm.prompts.data import EcgSource, EpochSampler
from ecglm.prompts.loader import make_loader
from ecglm.prompts.people import people
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.training.align import KIND, AlignResult, align_result, align_settings, load_to_align
from ecglm.training.align_check import check_pipeline, model_pipeline
from ecglm.training.align_recipe import AlignRecipe
from ecglm.training.check import check_machine
from ecglm.training.distributed import ranks, together
from ecglm.training.grpo_data import InnerSampler, QuestionDataset, collate_prompts
from ecglm.training.grpo_policy import Policy, Score
from ecglm.training.logs import METRICS, final_files, summary
from ecglm.training.pairs import Splits
from ecglm.training.preferences import PreferenceEcg, PreferenceRow
from ecglm.training.resume import begin_output
from ecglm.training.stateful import STATES, StatefulTrainer, is_over, resume_point
from ecglm.training.trainer import load_weights_of, save_weights_of
from ecglm.types import Conversation


def align_grpo(
    recipe: AlignRecipe,
    out: str | Path,
    score: Score,
    *,
    rewards: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> AlignResult:
    """Teach a checkpoint by the rewards of answers it draws itself; ``out/best`` is a checkpoint like any other.

    score: see ``grpo_policy.Score``. rewards: facts that tell this score from others, for the manifest. limit: at most
    so many training questions (a trial run). Questions are the last ones of the conversations of split ``train``; the
    best step is that whose greedy answers to those of ``val`` have the highest mean reward (``val_loss`` is minus
    that). The same recipe and inputs again: a finished run is reused, a killed one goes on from its last state and ends
    with the same bytes. Raises EcglmError where no question can be asked or rewarded, ConfigError under ``torchrun``.
    """
    if recipe.method != "grpo" or recipe.grpo is None:
        raise ConfigError(f"method {recipe.method} does not learn from rewards")
    if ranks().size > 1:
        raise ConfigError("method grpo runs in one process; start it without torchrun")
    check_machine(recipe.train)
    with together(recipe.train.device, recipe.train.timeout):
        return _align(recipe, Path(out), score, dict(rewards or {}), overwrite, limit, say)


def _align(
    recipe: AlignRecipe,
    folder: Path,
    score: Score,
    rewards: dict[str, Any],
    overwrite: bool,
    limit: int | None,
    say: Callable[[str], None],
) -> AlignResult:
    stores = [SegmentStore(path) for path in recipe.data.stores]
    check_pipeline(model_pipeline(recipe.model), stores)
    settings = {**align_settings(recipe, limit), "rewards": rewards}
    settings["data"] = {"tasks": list(recipe.data.tasks)}
    inputs = {"model": file_sha256(Path(recipe.model) / "manifest.json")}
    inputs |= {f"data{i or ''}": conversations_fingerprint(f) for i, f in enumerate(recipe.data.files)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(stores)}
    with contextlib.ExitStack() as held:
        held.enter_context(folder_lock(folder))
        if begin_output(folder, KIND, plan_fingerprint(KIND, settings, inputs), overwrite) == "finished":
            return align_result(folder, reused=True)
        questions, refused = read_questions(recipe, stores)
        questions["train"] = questions["train"][:limit]
        bundle = load_to_align(recipe)
        ecgs = EcgSource(stores, bundle.representation)
        train, val = (QuestionDataset(questions[split], ecgs, bundle.prompter) for split in ("train", "val"))
        counts = _report(folder, refused, train, val, say)
        _check_rewards(score, train, val)
        bundle.trained_on = np.union1d(bundle.trained_on, people(train.items))
        learning = _fit(recipe, bundle, train, val, score, folder, say)
        best = read_manifest(folder / "best", "checkpoint")
        counts["training"] = summary(folder)
        for what, number in counts["training"].items():
            say(f"{what}: {number}")
        write_text(folder / "recipe.yaml", strict.dumps(recipe))
        reward_curve(folder)
        outputs = {p.relative_to(folder).as_posix(): file_sha256(p) for p in final_files(folder, STATES)}
        facts = {"val_loss": best["val_loss"], "best_step": best["step"], "learning": asdict(learning)}
        facts["told"] = {k: v for k, v in best.items() if k.startswith("val_") and k != "val_loss"}
        write_manifest(folder / "manifest.json", KIND, settings, inputs, outputs, counts=counts, **facts)
        shutil.rmtree(folder / STATES, ignore_errors=True)
        return align_result(folder, reused=False)


def read_questions(
    recipe: AlignRecipe, stores: Sequence[SegmentStore]
) -> tuple[dict[str, list[Conversation]], list[dict[str, str]]]:
    """``(train and val conversations, refused training ones)``: refused is who is of a validation or test split
    anywhere (``split_val``, ``split_test``), by its records, its patients or its store.
    """
    rows = [c for f in recipe.data.files for c in read_conversations(f, task=recipe.data.tasks or None)]
    splits = Splits(stores, recipe.data.files)
    found: dict[str, list[Conversation]] = {"train": [], "val": [c for c in rows if c.split == "val"]}
    refused = []
    for c in rows:
        if c.split != "train":
            continue
        named = tuple(PreferenceEcg(record=e) for e in c.ecgs)
        try:
            splits.check(
                PreferenceRow(c.id, c.id, "", (), named, "train", tuple(map(digest, filter(None, c.patients))))
            )
        except RejectedRecord as error:
            refused.append({"id": c.id, "reason": error.reason, "detail": error.detail})
            continue
        found["train"].append(c)
    return found, refused


def _report(
    folder: Path,
    refused: list[dict[str, str]],
    train: QuestionDataset,
    val: QuestionDataset,
    say: Callable[[str], None],
) -> dict[str, Any]:
    reasons = [r["reason"] for r in refused]
    counts: dict[str, Any] = {"refused": {r: reasons.count(r) for r in sorted(set(reasons))}}
    rejects = [{"split": "train", **row} for row in refused]
    (folder / "rejects.jsonl").unlink(missing_ok=True)
    for split, data in (("train", train), ("val", val)):
        counts[split] = {**data.counts(), **{f"truncated:{k}": v for k, v in data.truncated.items()}}
        rejects += [{"split": split, **row} for row in data.rejected]
    if rejects:
        append_jsonl(folder / "rejects.jsonl", rejects)
        say(f"{len(rejects)} conversations refused or rejected, see {folder / 'rejects.jsonl'}")
    for split, data in (("train", train), ("val", val)):
        if not len(data):
            raise EcglmError(f"no question of split '{split}' can be asked; see {folder / 'rejects.jsonl'}")
    say(f"train {len(train)} questions, val {len(val)}; longest prompt {max(*train.lengths, *val.lengths)} tokens")
    return counts


def _check_rewards(score: Score, *datasets: QuestionDataset) -> None:
    """EcglmError where no question of a split can be rewarded, whatever the answer: told before anything is drawn."""
    for data, split in zip(datasets, ("train", "val"), strict=True):
        if all(np.isnan(score([c], [""], 1)[0]).all() for c in data.items):
            raise EcglmError(
                f"none of the {len(data)} questions of split '{split}' can be rewarded; choose other grpo.rewards or "
                "data.tasks (docs/rewards.md says what each needs)"
            )


def _fit(
    recipe: AlignRecipe,
    bundle: Bundle,
    train: QuestionDataset,
    val: QuestionDataset,
    score: Score,
    folder: Path,
    say: Callable[[str], None],
) -> Learning:
    hf_logging.set_verbosity_error()
    torch.manual_seed(recipe.train.seed)
    elm, options = bundle.elm, recipe.grpo
    assert options is not None
    learning = elm.set_trainable(recipe.train.parts or usual_parts(elm))
    told = ", ".join(f"{weight:g} {name}" for name, weight in options.rewards.items())
    say(f"begins with {recipe.model}; grpo, {options.num_samples} answers a question, rewards {told}")
    say("learns: " + ", ".join(f"{part} {number:,}" for part, number in learning.counts.items() if number))
    trainer = GrpoTrainer(bundle, train, val, recipe, score, folder, say)
    if point := resume_point(folder / STATES):
        say(f"goes on from {Path(point).name}")
        if is_over(Path(point), recipe.train):
            return learning
    trainer.train(resume_from_checkpoint=point)
    return learning


class GrpoTrainer(StatefulTrainer):
    """Trains ``bundle.elm`` into ``out``, with ``best/`` by the mean reward of greedy answers to validation questions.
    Rows of ``metrics.jsonl`` have what ``Policy.take`` tells; rows of validations the same as ``eval_…``.
    """

    def __init__(
        self,
        bundle: Bundle,
        train: QuestionDataset,
        val: QuestionDataset,
        recipe: AlignRecipe,
        score: Score,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        assert recipe.grpo is not None
        self.learner = policy = Policy(bundle, recipe, train, val, score)
        self.told: dict[str, float] = {}
        config = recipe.train
        rows = config.batch_size * config.accumulation
        order = EpochSampler(train.lengths, rows, config.seed)

        def save_weights(folder: Path) -> None:
            save_weights_of(bundle, folder)
            policy.save(folder)

        def load_weights(folder: Path) -> None:
            load_weights_of(bundle, folder)
            policy.load(folder)

        super().__init__(
            bundle.elm,
            policy.loss,
            train,
            val,
            config,
            out,
            say,
            collate=collate_prompts,
            sampler=InnerSampler(order, rows, recipe.grpo.inner_steps),
            save_weights=save_weights,
            load_weights=load_weights,
            save_best=lambda facts: save_pretrained(bundle, out / "best", {**facts, **self.told}),
            measure=policy.measure,
            width=bundle.elm.llm.get_input_embeddings().weight.shape[1],
            compiled=bundle.elm.llm,
            needs_ecg=bundle.elm.encoder is not None,
        )
        policy.keep_reference()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Validation questions, as many at a time as answers are drawn at a time in training."""
        if self.val_loader is None:
            data: Any = self.eval_dataset
            made = make_loader(
                data,
                self.data_collator,
                batch_size=self.config.batch_size * self.learner.options.num_samples,
                sampler=None,
                num_workers=self.config.num_workers,
                pin_memory=False,
            )
            self.val_loader = self.accelerator.prepare(made)
            self.loaders.append(self.val_loader)
        return self.val_loader

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.step_row |= self.learner.take()
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "eval_loss" not in logs:
            super().log(logs, start_time)
            return
        self.told = self.learner.take("val_")
        logs |= {name.replace("val_", "eval_", 1): value for name, value in self.told.items()}
        super().log(logs, start_time)
        self.steps.pending[METRICS][-1] |= {k: v for k, v in logs.items() if k.startswith("eval_")}


def reward_curve(out: Path) -> None:
    """``reward.png``: mean reward of drawn answers to training questions and of greedy ones to validation questions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = read_jsonl(out / METRICS)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("reward", "training, drawn"), ("eval_reward", "validation, greedy")):
        points = [(r["step"], r[key]) for r in rows if key in r]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if key == "eval_reward" else None)
    axes.set(xlabel="step", ylabel="mean reward")
    axes.legend()
    figure.savefig(out / "reward.png", dpi=120, metadata={"Software": None})
