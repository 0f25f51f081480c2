"""A recipe: everything that decides what a training run gives, as one dataclass that YAML files are read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ecglm.models.checkpoint import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """files: conversation tables (``ecglm map``). stores: segment stores (``ecglm prepare``). tasks: all, or these."""

    files: tuple[str, ...]
    stores: tuple[str, ...]
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SignalConfig:
    """Show the ECG as a signal through an encoder. leads: all twelve, or these. rate: Hz, None keeps the store's."""

    leads: tuple[str, ...] = ()
    rate: int | None = None
    num_tokens: int = 25
    normalise: str = "none"


@dataclass(frozen=True, kw_only=True)
class SymbolsConfig:
    """Show the ECG as ECG-Byte symbols (arXiv 2412.14373). The tokenizer is trained on ``train_segments`` training
    segments of the run's stores, or read from ``tokenizer``. max_ecg_tokens: None never cuts.
    """

    leads: tuple[str, ...] = ()
    rate: int | None = None
    num_merges: int = 500
    boundary: Literal["none", "segment", "lead"] = "lead"
    normalise: str = "instance"
    train_segments: int = 500
    tokenizer: str | None = None
    max_ecg_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. lr is the peak of the schedule. parts: which parts learn; the others stay as they are.

    share_ecg: join the questions about one ECG into one sequence (same loss, the ECG is read once). eval_every: steps
    between validations, each also a point to resume from. patience: stop after so many validations without progress.
    """

    objective: str = "sft"
    seed: int = 0
    max_steps: int = 1000
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-3
    warmup_steps: int = 20
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    parts: tuple[str, ...] = ()
    share_ecg: bool = True
    log_every: int = 10
    eval_every: int = 100
    patience: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: bool = False

    def __post_init__(self) -> None:
        positive = ("max_steps", "batch_size", "accumulation", "log_every", "eval_every")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be 1 or more, found {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name} must be above 0, found {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"train.seed must lie between 0 and 2^32 - 1, found {self.seed}")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(
                f"train.warmup_steps must be below max_steps ({self.max_steps}), found {self.warmup_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. Exactly one of ``signal`` and ``symbols`` says how the model is shown the ECG."""

    name: str
    data: DataConfig
    signal: SignalConfig | None = None
    symbols: SymbolsConfig | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        given = [n for n in ("signal", "symbols") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one representation, signal or symbols (found: {', '.join(given) or 'none'})"
            )

    @property
    def representation(self) -> str:
        """Name of the representation in use."""
        return "signal" if self.signal is not None else "symbols"

    def representation_config(self) -> Any:
        return self.signal if self.signal is not None else self.symbols
