"""The Hugging Face Trainer for any model and loss: exact resume without pickle, logs, skipped steps, schedules."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from ecglm.errors import EcglmError
from ecglm.models.checkpoint import writing_weights
from ecglm.prompts.loader import end_workers, make_loader
from ecglm.training.activations import checkpoint_layers
from ecglm.training.arguments import arguments
from ecglm.training.deepspeed import NO_STATES
from ecglm.training.distributed import quiet, ranks, share_loader
from ecglm.training.fsdp import gather_into, shard, whole_tensor
from ecglm.training.logs import COUNTS, METRICS, SPEED, Clock, CollateWithFacts, StepLog, metrics_row, shapes
from ecglm.training.nonfinite import SkipPolicy, drop_gradients, why_skipped
from ecglm.training.options import TrainConfig
from ecglm.training.progress import Progress, plan_line
from ecglm.training.resume import STATES, finish_state, is_over, out_of_patience, resume_point
from ecglm.training.schedules import make_adam, make_adamw, make_schedule
from ecglm.training.state import load_optimizer, load_rng, save_optimizer, save_rng
from ecglm.training.trackers import trackers

__all__ = ["STATES", "Batch", "Loss", "Measure", "StatefulTrainer", "is_over", "resume_point"]
Batch = dict[str, Any]
Loss = Callable[[Any, Batch, "torch.Tensor | int | None"], torch.Tensor]
Measure = Callable[[Any, Batch], tuple[torch.Tensor, int]]


class StatefulTrainer(Trainer):
    """Trains ``model`` on ``loss`` into ``out``: ``metrics.jsonl``, ``speed.jsonl``, ``skipped.jsonl``, ``states/``.

    loss: ``(model, batch, num_items) → loss``; num_items are the answer tokens of the whole step over all processes,
    None for batches without ``labels``. measure: ``(model, batch) → (summed loss, count)`` for validation; without one
    the loss of a batch counts as often as it has rows. collate: rows → batch of tensors; sampler: their order.
    save_weights and load_weights put everything that learns into a folder and take it from there; save_best is called
    with ``{"step", "val_loss"}`` whenever validation was never better. width: of the model, for ``noam_compat``.
    compiled: the module that ``torch_compile`` compiles, the whole model unless given. units: what of a model is
    sharded by itself, for ``train.sharding``; it may change the model it is given, a copy of ``model``. needs_ecg: rows
    (``Example``) without an ECG are worth counting.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        train: Dataset[Any],
        val: Dataset[Any],
        config: TrainConfig,
        out: Path,
        say: Callable[[str], None],
        *,
        collate: Callable[[Any], Batch],
        sampler: Sampler[Any],
        save_weights: Callable[[Path], None],
        load_weights: Callable[[Path], None],
        save_best: Callable[[dict[str, Any]], object],
        measure: Measure | None = None,
        width: int | None = None,
        compiled: nn.Module | None = None,
        units: Callable[[Any], Sequence[nn.Module]] | None = None,
        needs_ecg: bool = False,
    ) -> None:
        self.config, self.out, self.sampler, self.width = config, out, sampler, width
        self.trained, self.loss, self.measure = model, loss, measure
        self.save_weights, self.load_weights, self.save_best = save_weights, load_weights, save_best
        self.sharded, self.units = config.sharding == "fsdp" and ranks().size > 1, units
        if self.sharded and units is None:
            raise EcglmError("train.sharding: this training does not shard its model; set it to none")
        if config.gradient_checkpointing:
            checkpoint_layers(model)
        if config.torch_compile:
            (model if compiled is None else compiled).compile()
        super().__init__(
            model=model,
            args=arguments(config, out / STATES),
            train_dataset=train,
            eval_dataset=val,
            data_collator=CollateWithFacts(collate, needs_ecg=needs_ecg),
        )
        self.model_accepts_loss_kwargs = True  # makes the Trainer count answer tokens over the accumulated batch
        self.steps = StepLog(out, writes=self.args.should_save)
        self.policy = SkipPolicy(self.steps, config.max_bad_steps)
        self.clock = Clock()
        self.loaders: list[Any] = []
        self.val_loader: Any = None
        self.facts: list[dict[str, Any]] = []  # of the batches of the step that is being made
        self.step_loss: torch.Tensor | float = 0.0
        self.step_row: dict[str, Any] = {}
        self.step_counts: dict[str, int] = {}
        self.last_shape = ""
        self.progress = Progress(say if self.args.should_save else quiet, config.log_every)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Steps(self))
        for tracker in trackers(config.report_to, out, say) if self.args.should_save else []:
            self.add_callback(tracker)

    # Steps

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The batches of one step, and the answer tokens in them over all processes."""
        self.clock.begin()
        batches = []
        for _ in range(num_batches):
            if (batch := next(epoch_iterator, None)) is None:
                break
            batches.append(batch)
        self.clock.batches_are_there()
        self.facts = [b.pop("facts") for b in batches]
        self.step_loss = 0.0
        if not all(f["counts_labels"] for f in self.facts):
            return batches, None
        labels = sum(f["labels"] for f in self.facts)
        if self.args.world_size > 1:
            labels = int(self._sum_over_ranks([float(labels)])[0])
        return batches, max(labels, 1)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of a batch, such that the gradient is that of the whole step over all processes."""
        loss = self.loss(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None and self.args.world_size > 1:
            loss = loss * self.args.world_size  # gradients are averaged over processes, and ours must be summed
        if not loss.requires_grad:  # nothing of this batch passes through a part that learns: say, no ECG in it
            learned = [p for p in model.parameters() if p.requires_grad]
            loss = loss + 0.0 * torch.stack([whole_tensor(p.sum()).to(loss) for p in learned]).sum()
        return loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        self.last_shape = shapes(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_loss = self.step_loss + loss
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip; then decide, on values that are the same on every process, whether the step counts."""
        norm = super()._clip_grad_norm(model)
        counts = [sum(f[name] for f in self.facts) for name in COUNTS]
        loss, grad_norm, totals = self._global(norm, counts)
        self.step_counts = dict(zip(COUNTS, totals, strict=True))
        labels = self.step_counts["labels"] if all(f["counts_labels"] for f in self.facts) else None
        step = self.state.global_step + 1
        reason = why_skipped(loss, grad_norm, labels)
        self.step_row = metrics_row(step, loss, grad_norm, self._get_learning_rate(), self.step_counts, reason)
        if reason is not None:
            drop_gradients(model)
        ids = [i for f in self.facts for i in f["ids"]]
        self.policy.step(step, reason, ids if reason is None else self._of_all_ranks(ids))
        return norm

    def _of_all_ranks(self, ids: list[str]) -> list[str]:
        if self.args.world_size == 1:
            return ids
        found: list[list[str]] = [[] for _ in range(self.args.world_size)]
        torch.distributed.all_gather_object(found, ids)
        return [i for one in found for i in one]

    def _global(self, norm: Any, counts: list[int]) -> tuple[float, float | None, list[int]]:
        """Loss, gradient norm and counts of the step over all processes; waits for the device once."""
        known = [] if norm is None else [torch.as_tensor(getattr(norm, "full_tensor", lambda: norm)())]
        values = [torch.as_tensor(self.step_loss), *known]
        found = torch.stack([v.detach().double().to(self.args.device) for v in values]).tolist()
        loss, grad_norm = found[0], found[1] if known else None
        if self.args.world_size > 1:
            loss, *totals = self._sum_over_ranks([loss, *map(float, counts)])
            return loss / self.args.world_size, grad_norm, [int(t) for t in totals]
        return loss, grad_norm, counts

    def _sum_over_ranks(self, values: list[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        return list(self.accelerator.reduce(total, reduction="sum").tolist())

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Train, from a state where one is given. EcglmError when the memory does not suffice."""
        try:
            return super().train(resume_from_checkpoint, *args, **options)
        except torch.OutOfMemoryError as error:
            raise EcglmError(
                f"{self.args.device}: out of memory at step {self.state.global_step + 1} with a batch of "
                f"{self.last_shape}; halve train.batch_size and double train.accumulation (the same training), "
                "switch on train.gradient_checkpointing or train.bf16, or lower model.max_len"
            ) from error
        finally:
            for loader in self.loaders:
                end_workers(loader)

    def begin(self) -> None:
        """Training begins, or goes on after ``state.global_step``: what the log holds beyond that happens anew."""
        step = self.state.global_step
        self.steps.begin(step)
        self.policy.begin(step)
        self.progress.begin(step)
        if self.config.deepspeed is not None:
            self.progress.say(NO_STATES)
        self.progress.say(plan_line(self.config, self.state.max_steps, self.width, self.args))

    def end_step(self) -> None:
        """Log the step that has just been made."""
        row, counts = self.step_row, self.step_counts
        speed = self.clock.row(counts)
        self.steps.add(METRICS, row)
        self.steps.add(SPEED, {"step": row["step"], **speed})
        if row["step"] % self.config.log_every == 0 or row["step"] == self.state.max_steps:
            self.steps.flush()
            self.log({**row, **speed})
        self.progress.step(row, counts, self.state.max_steps)

    # Optimiser, schedule, order

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            fused = self.args.device.type in ("cpu", "cuda")
            if self.config.optimizer == "adam":
                self.optimizer = make_adam(model, self.config, fused=fused)
            else:
                decayed = set(self.get_decay_parameter_names(model))
                self.optimizer = make_adamw(model, self.config, decayed, fused=fused)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            made = make_schedule(optimizer or self.optimizer, self.config, num_training_steps, self.width)
            self.lr_scheduler = made  # type: ignore[assignment]
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        return self._loader(self.train_dataset, self.sampler, self.config.accumulation)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        if self.val_loader is None:  # its workers live on from one validation to the next
            self.val_loader = self._loader(self.eval_dataset, None, self.args.world_size)
        return self.val_loader

    def _loader(self, data: Any, sampler: Any, accumulation: int) -> Any:
        """This process's part of the batches, ``accumulation`` of which are shared out together."""
        made = make_loader(
            data,
            self.data_collator,
            batch_size=self.config.batch_size,
            sampler=sampler,
            num_workers=self.config.num_workers,
            pin_memory=self.args.device.type == "cuda",
        )
        several = self.args.world_size > 1
        self.loaders.append(share_loader(made, accumulation, ranks()) if several else self.accelerator.prepare(made))
        return self.loaders[-1]

    # Validation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss per counted item over the whole validation set, the same on every process."""
        model: Any = self.model
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.no_grad() if self.sharded else torch.inference_mode(), self.compute_loss_context_manager():
            for batch in self.get_eval_dataloader():
                facts = batch.pop("facts")
                self.last_shape = shapes(batch)
                batch = self._prepare_inputs(batch)
                if self.measure is not None:
                    loss, count = self.measure(model, batch)
                else:
                    loss, count = self.loss(model, batch, None) * facts["examples"], facts["examples"]
                total[0] += loss.double()
                total[1] += count
        total = self.accelerator.reduce(total, reduction="sum")
        metrics = {"eval_loss": float(total[0] / total[1])}
        step = self.state.global_step
        if not math.isfinite(metrics["eval_loss"]):
            self.steps.flush()
            raise EcglmError(
                f"the validation loss is {metrics['eval_loss']} at step {step}; lower train.lr or train.clip, then "
                "train again with --overwrite"
            )
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        if best:
            self._gather()
        if best and self.args.should_save:
            self.save_best({"step": self.state.global_step, "val_loss": metrics["eval_loss"]})
        if out_of_patience(self.state, self.config):
            self.control.should_training_stop = self.control.should_save = True
        return best

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Validation losses into the state (patience counts them) and the log; everything to the trackers."""
        if "eval_loss" in logs:
            row = {"step": self.state.global_step, "eval_loss": logs["eval_loss"]}
            self.state.log_history.append(dict(row))
            self.steps.add(METRICS, row)
            self.progress.val = logs["eval_loss"]
        elif "train_runtime" in logs:  # the closing summary of run times
            return
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    # States

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.out)
            folder.mkdir(parents=True, exist_ok=True)
            self.save_weights(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.config.deepspeed is not None:  # its states are pickled
            return
        states = self.out / STATES
        self.steps.flush()  # the log ends where the state does, so that a run which goes on finds all of it
        self._gather()
        with writing_weights(states):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes the state of its own random numbers
            if self.args.should_save:
                finish_state(states, self.state.global_step, self.args.world_size)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_optimizer(self.optimizer, self.lr_scheduler, Path(output_dir), writes=self.args.should_save)

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
        self.load_weights(Path(resume_from_checkpoint))

    # Several processes

    def _prepare_for_training(self, *args: Any, **options: Any) -> Any:
        if self.sharded and self.units is not None:
            # What is saved is always the model that was given; where nothing is saved, it need not be kept.
            model = copy.deepcopy(self.trained) if self.args.should_save else self.trained
            self.model = self.model_wrapped = shard(model, self.units(model), self.args.device, bf16=self.config.bf16)
            prepare = self.accelerator.prepare_model  # without wrapping it once more, in DDP
            self.accelerator.prepare_model = lambda model, *_, **__: prepare(  # type: ignore[method-assign]
                model, device_placement=False, evaluation_mode=True
            )
        return super()._prepare_for_training(*args, **options)

    def _gather(self) -> None:
        """Bring the weights of a sharded model together, where they are about to be written."""
        if self.sharded and self.model is not None:
            gather_into(self.model, self.trained, keep=self.args.should_save)


class _Steps(TrainerCallback):
    """Carries the Trainer's events to ``StatefulTrainer``, and the epoch to the sampler: a dataloader that skips to a
    resume point does not pass it on.
    """

    def __init__(self, trainer: StatefulTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if hasattr(self.trainer.sampler, "set_epoch"):
            self.trainer.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.steps.flush()
