"""The Hugging Face Trainer with our loss, our batch order, and a state on disk without pickle."""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from ecglm import registry
from ecglm.errors import EcglmError, TornOutputError
from ecglm.files import append_jsonl, read_manifest, write_manifest
from ecglm.models.adapters import is_adapted, load_adapter, save_adapter
from ecglm.models.checkpoint import (
    Bundle,
    load_ecg_weights,
    save_ecg_weights,
    save_pretrained,
    write_checkpoint,
    writing_weights,
)
from ecglm.models.llm import load_llm
from ecglm.prompts.collate import collate
from ecglm.prompts.data import ElmDataset, EpochSampler
from ecglm.training.objectives.sft import answer_loss
from ecglm.training.recipe import TrainConfig
from ecglm.training.state import load_optimizer, load_rng, save_optimizer, save_rng

STATE_KIND = "training-state"
STATES = "states"


class ElmTrainer(Trainer):
    """Trains ``bundle.elm`` into ``out``: ``best/`` by validation loss, ``metrics.jsonl``, states to resume from."""

    def __init__(
        self,
        bundle: Bundle,
        train: ElmDataset,
        val: ElmDataset,
        config: TrainConfig,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        self.bundle, self.val, self.config, self.out = bundle, val, config, out
        self.objective: Callable[..., torch.Tensor] = registry.get("objectives", config.objective)
        pad = bundle.prompter.tokenizer.pad_token_id
        super().__init__(
            model=bundle.elm,
            args=_arguments(config, out),
            train_dataset=train,
            eval_dataset=val,
            data_collator=functools.partial(collate, pad_id=pad),
            callbacks=[_Log(out, say, config)],
        )
        self.model_accepts_loss_kwargs = True  # makes the Trainer count answer tokens over the accumulated batch
        self.sampler = EpochSampler(train.lengths, config.batch_size, config.seed)
        self.add_callback(_Epoch(self.sampler))
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The objective's loss; nothing else happens here."""
        return self.objective(model, inputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        _refuse_nan(float(loss), "training", self.state.global_step + 1)
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss per answer token over the whole validation set, the same on every rank."""
        self.bundle.elm.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.inference_mode():
            for batch in self.get_eval_dataloader():
                loss, count = answer_loss(self.model, self._prepare_inputs(batch))
                total += torch.tensor([float(loss), count], dtype=torch.float64, device=self.args.device)
        total = self.accelerator.reduce(total, reduction="sum")
        metrics = {"eval_loss": float(total[0] / total[1])}
        _refuse_nan(metrics["eval_loss"], "validation", self.state.global_step)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        if best and self.args.should_save:
            facts = {"step": self.state.global_step, "val_loss": metrics["eval_loss"]}
            save_pretrained(self.bundle, self.out / "best", facts)
        if _out_of_patience(self.state, self.config):
            self.control.should_training_stop = True
        return best

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.out)
            folder.mkdir(parents=True, exist_ok=True)
            if is_adapted(self.bundle.elm.llm):  # merged, they could not be taken apart again to the last bit
                save_adapter(self.bundle.elm.llm, folder)
                save_ecg_weights(self.bundle.elm, folder)
            else:
                write_checkpoint(self.bundle, folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with writing_weights(self.out / STATES):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = self.out / STATES / f"checkpoint-{self.state.global_step}"
            write_manifest(folder / "state.json", STATE_KIND, {"step": self.state.global_step}, {}, {})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            save_optimizer(self.optimizer, self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        os.makedirs(output_dir, exist_ok=True)
        save_rng(Path(output_dir), self.args.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_rng(Path(checkpoint), self.args.process_index)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if is_adapted(self.bundle.elm.llm):
            load_adapter(self.bundle.elm.llm, folder)
        else:
            saved, _ = load_llm(str(folder / "llm"))
            self.bundle.elm.llm.load_state_dict(saved.state_dict())
        load_ecg_weights(self.bundle.elm, folder)


def resume_point(states: Path) -> str | None:
    """The newest complete state in ``states``; torn ones (a run killed while saving) are removed."""
    found: list[tuple[int, Path]] = []
    for folder in states.glob("checkpoint-*"):
        try:
            manifest = read_manifest(folder / "state.json", STATE_KIND)
        except TornOutputError:
            shutil.rmtree(folder)
            continue
        found.append((int(manifest["settings"]["step"]), folder))
    return str(max(found)[1]) if found else None


def is_over(state: Path, config: TrainConfig) -> bool:
    """Whether a state is that of the last step: nothing is left to train, and one step more would be one too many."""
    saved = TrainerState.load_from_json(str(state / "trainer_state.json"))
    return saved.global_step >= config.max_steps or _out_of_patience(saved, config)


def _out_of_patience(state: TrainerState, config: TrainConfig) -> bool:
    if config.patience is None or state.best_global_step is None:
        return False
    return state.global_step - state.best_global_step >= config.patience * config.eval_every


def _refuse_nan(loss: float, what: str, step: int) -> None:
    if not math.isfinite(loss):
        raise EcglmError(
            f"the {what} loss is {loss} at step {step}; lower train.lr or train.clip, then train again with --overwrite"
        )


def _arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise EcglmError("train.device is cuda, but no CUDA device is to be seen; use --train.device cpu")
    return TrainingArguments(
        output_dir=str(out / STATES),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.lr,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.schedule,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        logging_strategy="steps",
        logging_steps=config.log_every,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_strategy="steps",
        save_steps=config.eval_every,
        save_total_limit=2,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.bf16,
        use_cpu=config.device == "cpu" or not torch.cuda.is_available(),
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )


class _Epoch(TrainerCallback):
    """Tells the sampler its epoch; a dataloader that skips to a resume point does not pass it on."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))


class _Log(TrainerCallback):
    """``metrics.jsonl`` (no clock in it, so that two runs are equal), progress lines."""

    KEYS = ("loss", "eval_loss", "learning_rate", "grad_norm")

    def __init__(self, out: Path, say: Callable[[str], None], config: TrainConfig) -> None:
        self.file, self.say, self.eval_every = out / "metrics.jsonl", say, config.eval_every
        self.started, self.first_step, self.last_said = 0.0, 0, 0.0
        self.val = float("nan")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.file.unlink(missing_ok=True)
        self.started, self.first_step = time.monotonic(), state.global_step
        if state.log_history:
            append_jsonl(self.file, [self._row(h) for h in state.log_history])

    def _row(self, logs: dict[str, Any]) -> dict[str, Any]:
        return {"step": logs["step"], **{k: logs[k] for k in self.KEYS if k in logs}}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The running mean of the loss is not part of a state: it must be written out where one is saved.
        if state.global_step % self.eval_every == 0:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        row = self._row(state.log_history[-1])
        if len(row) == 1:  # the closing summary of run times
            return
        append_jsonl(self.file, [row])
        self.val = row.get("eval_loss", self.val)
        done, now = state.global_step, time.monotonic()
        if "loss" in row and (now - self.last_said > 3 or done == state.max_steps):
            self.last_said = now
            spent = now - self.started
            left = spent / max(done - self.first_step, 1) * (state.max_steps - done)
            val = "" if self.val != self.val else f"  val {self.val:.4f}"
            self.say(f"step {done}/{state.max_steps}  loss {row['loss']:.4f}{val}  {spent:.0f} s, {left:.0f} s left")
