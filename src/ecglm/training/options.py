"""How to train: the ``train`` section of every recipe, checked when it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from ecglm.errors import ConfigError
from ecglm.representations.augment import Augmentation

MAX_STEPS, WARMUP_STEPS, NOAM_WARMUP_STEPS = 1000, 20, 500
TRACKERS = ("tensorboard", "trackio", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. lr is the peak of the schedule. parts: which parts learn; the others stay as they are.

    How long: ``max_steps`` (1000 where neither is given) or ``max_epochs``; an epoch that ``accumulation`` does not
    divide ends with a shorter step. Warm-up: ``warmup_steps`` (20; 500 for noam_compat) or ``warmup_share`` of all.
    schedule ``noam_compat`` is ECG-Bench's: its peak follows from the model's width and the warm-up, not from lr.
    optimizer ``adam`` decays in the gradient (L2, as ECG-Bench), ``adamw`` beside it (arXiv 1711.05101).

    share_ecg: join the questions about one ECG into one sequence (same loss, the ECG is read once). packing: lay
    sequences one after another in rows of up to ``pack_len`` tokens (``model.max_len`` unless given), of which
    ``batch_size`` are a batch: no padding, the same loss per answer token (docs/speed.md). num_workers: processes that
    make the batches beside the training, 0 for none; they change nothing but the speed. eval_every: steps
    between validations; save_every: between points to resume from, eval_every unless given. patience: stop after so
    many validations without progress of more than min_delta. max_bad_steps: so many steps in a row may be left out
    because their loss or gradient is no number. gradient_checkpointing: compute activations twice, keep them not.
    Several processes (torchrun, docs/scaling.md) share each step of ``batch_size`` × ``accumulation`` sequences, and
    nothing else changes. sharding ``fsdp``: each keeps a share of the weights, not all. deepspeed: a file of its
    settings, instead. timeout: seconds a process waits for the others before it stops.
    augment: effect → ``{p, options …}``, how training changes its ECGs, anew in every epoch; empty shows them as they
    are (docs/augmentation.md). report_to: trackers to tell, beside metrics.jsonl. See docs/training.md.
    """

    objective: str = "sft"
    seed: int = 0
    max_steps: int | None = None
    max_epochs: int | None = None
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-3
    warmup_steps: int | None = None
    warmup_share: float | None = None
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "noam_compat"] = "cosine"
    optimizer: Literal["adamw", "adam"] = "adamw"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    clip: float = 1.0
    parts: tuple[str, ...] = ()
    share_ecg: bool = True
    packing: bool = False
    pack_len: int | None = None
    num_workers: int = 0
    augment: dict[str, Any] = field(default_factory=dict)
    log_every: int = 10
    eval_every: int = 100
    save_every: int | None = None
    patience: int | None = None
    min_delta: float = 0.0
    max_bad_steps: int = 5
    device: str = "auto"
    bf16: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    deepspeed: str | None = None
    timeout: float = 1800.0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_epochs is not None:
            raise ValueError(
                f"give train.max_steps or train.max_epochs, found {self.max_steps} and {self.max_epochs}; "
                "set the other to null (on the command line: None)"
            )
        if self.max_epochs is None and self.max_steps is None:
            object.__setattr__(self, "max_steps", MAX_STEPS)
        for name in ("max_steps", "max_epochs", "batch_size", "accumulation", "log_every", "eval_every", "save_every"):
            self._at_least(name, 1)
        self._at_least("pack_len", 1)
        self._at_least("num_workers", 0)
        if self.pack_len is not None and not self.packing:
            raise ValueError(f"train.pack_len is {self.pack_len}, but train.packing is off; set it to true")
        for name in ("patience", "max_bad_steps"):
            self._at_least(name, 1 if name == "patience" else 0)
        for name in ("lr", "clip", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name} must be above 0, found {getattr(self, name)}")
        if not self.timeout > 0:
            raise ValueError(f"train.timeout must be above 0 seconds, found {self.timeout}")
        if self.deepspeed is not None and self.sharding != "none":
            raise ValueError("give train.sharding or train.deepspeed, not both: each shards the model in its own way")
        if self.torch_compile and self.sharding != "none":
            raise ValueError("train.torch_compile does not go with train.sharding; switch one of them off")
        for name in ("weight_decay", "min_delta"):
            self._at_least(name, 0)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 0 and below 1, found {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"train.seed must lie between 0 and 2^32 - 1, found {self.seed}")
        self._check_warmup()
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"train.device must be auto, cpu, cuda or cuda:N, found {self.device!r}")
        for name in self.report_to:
            if name not in TRACKERS:
                raise ValueError(f"train.report_to: no tracker '{name}'; trackers: {', '.join(TRACKERS)}")
        try:
            self.augmentation()
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def _at_least(self, name: str, least: int) -> None:
        found = getattr(self, name)
        if found is not None and found < least:  # what is no number, reading a recipe refuses by itself
            raise ValueError(f"train.{name} must be {least} or more, found {found}")

    def _check_warmup(self) -> None:
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise ValueError(
                f"give train.warmup_steps or train.warmup_share, found {self.warmup_steps} and {self.warmup_share}"
            )
        self._at_least("warmup_steps", 0)
        if self.warmup_share is not None and not 0 <= self.warmup_share < 1:
            raise ValueError(f"train.warmup_share must be at least 0 and below 1, found {self.warmup_share}")
        if self.max_steps is not None:
            self.warmup(self.max_steps)

    def warmup(self, num_steps: int) -> int:
        """Steps of warm-up in a training of ``num_steps``; ValueError when it would be longer than the training."""
        if self.warmup_share is not None:
            steps = round(self.warmup_share * num_steps)
        elif self.warmup_steps is not None:
            steps = self.warmup_steps
        else:
            steps = NOAM_WARMUP_STEPS if self.schedule == "noam_compat" else WARMUP_STEPS
        if self.schedule == "noam_compat" and steps < 1:
            raise ValueError("train.schedule noam_compat needs a warm-up of 1 step or more")
        if steps >= num_steps:
            raise ValueError(f"train.warmup_steps must be below max_steps ({num_steps}), found {steps}")
        return steps

    @property
    def length(self) -> str:
        """How long the training is, for people: ``"1000 steps"``, ``"3 epochs"``."""
        return f"{self.max_steps} steps" if self.max_epochs is None else f"{self.max_epochs} epochs"

    def augmentation(self) -> Augmentation:
        """The checked effects of ``augment``; ConfigError for an unknown effect or option."""
        return Augmentation.from_plain(self.augment, "train.augment")
