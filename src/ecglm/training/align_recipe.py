"""A recipe of ``ecglm align``: which model, what it is preferred to say or rewarded for, by which loss, how long."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from ecglm.errors import ConfigError
from ecglm.models.config import LoraConfig
from ecglm.models.elm import check_parts
from ecglm.training.options import TrainConfig

#: Fields of ``train`` that an alignment does not have: it has losses of its own, and ECGs are shown as they are.
NOT_FOR_ALIGNING = ("objective", "packing", "pack_len", "augment", "sharding", "deepspeed")


@dataclass(frozen=True, kw_only=True)
class AlignData:
    """pairs: preference files, JSONL or Parquet (docs/alignment.md). stores: segment stores with the ECGs they name.
    files: conversations (``ecglm map``), which say whose ECGs are of the validation and the test split; with
    ``method: grpo`` their training questions are asked. tasks: of these, all or those named. val_share: of the
    patients of the pairs, kept back to validate.
    """

    pairs: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    val_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise ValueError(f"data.val_share must be above 0 and below 1, found {self.val_share}")


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """GRPO (arXiv 2402.03300). num_samples: answers to each question, compared with one another. temperature,
    max_new_tokens: how they are drawn. rewards: name → weight (``ecglm ls rewards``). inner_steps: so many steps learn
    from the same answers; clip: how far the ratio of new to old probability may move a token in them. divide_by_std,
    length: off and ``constant`` (the loss of an answer is the sum of its tokens' over max_new_tokens) as in arXiv
    2503.20783; on and ``sample`` (their mean) as in the first paper. The weight of the KL is ``beta`` of the recipe.
    """

    num_samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 128
    rewards: dict[str, float] = field(default_factory=dict)
    inner_steps: int = 1
    clip: float = 0.2
    divide_by_std: bool = False
    length: Literal["constant", "sample"] = "constant"

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ValueError(f"grpo.num_samples must be 2 or more, found {self.num_samples}")
        for name in ("max_new_tokens", "inner_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"grpo.{name} must be 1 or more, found {getattr(self, name)}")
        for name in ("temperature", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"grpo.{name} must be above 0, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AlignTrainConfig(TrainConfig):
    """How long and how fast, as in ``ecglm train``; lr is 1e-5 unless given: a model is moved, not made. share_ecg:
    read the two answers of a pair behind one prompt, whose ECG is then read once (same loss).
    """

    lr: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class AlignRecipe:
    """One alignment. model: checkpoint folder (``best/`` of a run) that it begins with, and whose answers are the
    reference. method: ``dpo`` (arXiv 2305.18290), ``ipo`` (arXiv 2310.12036) or ``grpo`` (arXiv 2402.03300). beta: how
    dear it is to leave the reference. label_smoothing: share of the pairs taken to be the wrong way round, dpo alone.
    mean: log-probabilities per token and not of the whole answer; unless given, as the method's authors do: the whole
    answer for dpo, per token for ipo. lora: adapt the LLM instead of training all of it.
    """

    name: str
    model: str
    data: AlignData
    method: Literal["dpo", "ipo", "grpo"] = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    mean: bool | None = None
    lora: LoraConfig | None = None
    grpo: GrpoConfig | None = None
    train: AlignTrainConfig = field(default_factory=AlignTrainConfig)

    def __post_init__(self) -> None:
        try:
            self._check()
        except ConfigError as error:  # a recipe file names its line
            raise ValueError(str(error)) from error

    def _check(self) -> None:
        if not self.beta > 0 and not (self.method == "grpo" and self.beta == 0):
            raise ConfigError(f"beta must be above 0, found {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing must be at least 0 and below 0.5, found {self.label_smoothing}")
        if self.label_smoothing and self.method != "dpo":
            raise ConfigError(f"label_smoothing is of method dpo, not of {self.method}; remove it")
        if self.method == "grpo":
            if self.mean is not None:
                raise ConfigError("mean is of the methods dpo and ipo; remove it")
            if self.data.pairs:
                raise ConfigError("data.pairs are of the methods dpo and ipo; grpo asks the questions of data.files")
            if self.grpo is None or not self.grpo.rewards:
                raise ConfigError("grpo.rewards names no reward (ecglm ls rewards); name one with its weight")
            if self.train.gradient_checkpointing:
                raise ConfigError("train.gradient_checkpointing is not for method grpo; lower train.batch_size instead")
            if not self.data.files or not self.data.stores:
                raise ConfigError("method grpo asks the questions of data.files about ECGs of data.stores: name them")
        else:
            if self.grpo is not None:
                raise ConfigError(f"section grpo is of method grpo, not of {self.method}; remove it")
            if self.data.tasks:
                raise ConfigError("data.tasks are of method grpo; every pair of data.pairs is learned from")
            if not self.data.pairs:
                raise ConfigError("data.pairs names no preference file; name one (docs/alignment.md)")
        check_parts(self.train.parts)
        usual = AlignTrainConfig()
        for name in NOT_FOR_ALIGNING:
            if getattr(self.train, name) != getattr(usual, name):
                raise ConfigError(f"train.{name} is not for ecglm align; remove it")

    @property
    def per_token(self) -> bool:
        """Whether log-probabilities are means over an answer's tokens."""
        return self.method == "ipo" if self.mean is None else self.mean


def short(recipe: AlignRecipe) -> AlignRecipe:
    """The recipe of a trial run (``--dev``): six steps."""
    steps = {"max_steps": 6, "max_epochs": None, "warmup_steps": 2, "warmup_share": None}
    train = dataclasses.replace(recipe.train, **steps, log_every=1, eval_every=3)  # type: ignore[arg-type]
    return dataclasses.replace(recipe, train=train)
