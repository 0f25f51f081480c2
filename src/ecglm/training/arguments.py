"""What the Hugging Face Trainer is told, and on which device it runs."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import TrainingArguments

from ecglm.errors import EcglmError
from ecglm.training.deepspeed import check_deepspeed
from ecglm.training.distributed import check_device, ranks, shares
from ecglm.training.options import TrainConfig


class Arguments(TrainingArguments):
    """TrainingArguments that stay on one device per process: several GPUs in sight are no reason to use them all."""

    chosen_device: torch.device | None = None

    @functools.cached_property
    def _setup_devices(self) -> torch.device:
        device: torch.device = vars(TrainingArguments)["_setup_devices"].func(self)
        self._n_gpu = min(self._n_gpu, 1)
        chosen = type(self).chosen_device
        if chosen is not None and device.type == "cuda":
            if self.distributed_state is not None and self.distributed_state.num_processes > 1:
                raise EcglmError(f"train.device {chosen} is for one process; use cuda: each process takes its own")
            torch.cuda.set_device(chosen)
            self.distributed_state.device = device = chosen
        return device


def arguments(config: TrainConfig, states: Path) -> TrainingArguments:
    """The arguments of a run that keeps its states in ``states``; EcglmError for a device that is not there."""
    check_device(config.device)
    if config.deepspeed is not None:
        check_deepspeed(config.deepspeed)
    own, passes = shares(config.batch_size, config.accumulation, ranks().size)
    index = config.device.partition(":")[2]
    kind = type("Arguments", (Arguments,), {"chosen_device": torch.device("cuda", int(index)) if index else None})
    return kind(  # type: ignore[no-any-return]
        output_dir=str(states),
        max_steps=config.max_steps if config.max_steps is not None else -1,
        num_train_epochs=config.max_epochs or 1,
        per_device_train_batch_size=own,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=passes,
        deepspeed=config.deepspeed,
        ddp_timeout=int(config.timeout),
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        logging_strategy="no",
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_strategy="steps",
        save_steps=config.save_every or config.eval_every,
        save_total_limit=None,
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
