"""A recipe: everything that decides what a training run gives, as one dataclass that YAML files are read into."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.checkpoint import ModelConfig
from ecglm.models.encoders.base import reads
from ecglm.representations.augment import Augmentation
from ecglm.representations.base import RecipeOptions, Representation


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """files: conversation tables (``ecglm map``). stores: segment stores (``ecglm prepare``). tasks: all, or these."""

    files: tuple[str, ...]
    stores: tuple[str, ...]
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. lr is the peak of the schedule. parts: which parts learn; the others stay as they are.

    share_ecg: join the questions about one ECG into one sequence (same loss, the ECG is read once). eval_every: steps
    between validations, each also a point to resume from. patience: stop after so many validations without progress.
    augment: effect → ``{p, options …}``, how training changes its ECGs, anew in every epoch; empty shows them as they
    are (docs/augmentation.md).
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
    augment: dict[str, Any] = field(default_factory=dict)
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
        try:
            self.augmentation()
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def augmentation(self) -> Augmentation:
        """The checked effects of ``augment``; ConfigError for an unknown effect or option."""
        return Augmentation.from_plain(self.augment, "train.augment")


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """One training run. At most one section of a representation says how the model is shown the ECG; without one it
    is what the encoder reads: ``signal`` for signal encoders, ``image`` for image encoders. A section that gives words
    alone (``features``) may stand beside it: its line follows the ECG's tokens. By itself it is all there is.
    """

    name: str
    data: DataConfig

    if TYPE_CHECKING:  # the sections of the registered representations, and what follows them
        model: ModelConfig = field(default_factory=ModelConfig)
        train: TrainConfig = field(default_factory=TrainConfig)

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        given = [name for name in SECTIONS if getattr(self, name) is not None]
        words = [name for name in given if SECTIONS[name].words_only()]
        if len(words) > 1:
            raise ValueError(f"give at most one representation of words alone, found {' and '.join(words)}")
        if len(given) - len(words) > 1:
            found = " and ".join(name for name in given if name not in words)
            raise ValueError(f"give at most one representation, found {found}")
        try:
            self._check()
        except ConfigError as error:  # an unknown encoder, say; a recipe file names its line
            raise ValueError(str(error)) from error

    def _check(self) -> None:
        """Refuse pairs of representation and encoder, or of representation and augmentation, that cannot work."""
        encoder, name = self.model.encoder, self.representation
        gives = SECTIONS[name].gives
        if "image" in self.train.augment and gives != "image":
            raise ConfigError(f"train.augment.image varies pictures, but representation '{name}' gives none; remove it")
        if gives is None:
            if self.model.encoder_options:
                raise ConfigError(
                    f"representation '{name}' feeds no encoder, but model.encoder_options are given; remove them, or "
                    "choose a representation that feeds an encoder"
                )
        elif encoder is None:
            raise ConfigError(f"representation '{name}' feeds an encoder, but model.encoder is empty; name one")
        elif reads(encoder) != gives:
            mend = ", ".join(n for n in registry.names("encoders") if reads(n) == gives)
            fits = ", ".join(n for n, kind in SECTIONS.items() if kind.gives == reads(encoder))
            raise ConfigError(
                f"representation '{name}' gives {_a(gives)}, but encoder '{encoder}' reads {_a(reads(encoder))}; "
                f"choose another representation ({fits}) or another encoder ({mend})"
            )

    @property
    def representation(self) -> str:
        """Name of the representation in use: of the one with tokens, where words stand beside it."""
        given = [name for name in SECTIONS if getattr(self, name) is not None]
        if given:
            return min(given, key=lambda name: SECTIONS[name].words_only())
        if self.model.encoder is None:
            raise ConfigError("neither a representation nor model.encoder is given; name one, say symbols: {}")
        if (name := reads(self.model.encoder)) not in SECTIONS:
            raise ConfigError(f"encoder '{self.model.encoder}' reads {name}; name a representation that gives it")
        return name

    @property
    def words(self) -> str | None:
        """Name of the representation whose words stand behind the tokens of the one in use, if there is one."""
        beside = [n for n in SECTIONS if getattr(self, n) is not None and n != self.representation]
        return beside[0] if beside else None

    @property
    def shown(self) -> str:
        """The representation in use and the words beside it, for people: ``"signal"``, ``"symbols + features"``."""
        return self.representation if self.words is None else f"{self.representation} + {self.words}"

    @property
    def representation_options(self) -> RecipeOptions:
        """The options of the representation in use."""
        return self.used[self.representation]

    @property
    def used(self) -> dict[str, RecipeOptions]:
        """Name → options of the representation in use, and of the words beside it."""
        names = [self.representation, *([] if self.words is None else [self.words])]
        return {n: SECTIONS[n].Options() if getattr(self, n) is None else getattr(self, n) for n in names}


def _a(kind: str) -> str:
    """What a tensor holds, as a sentence says it; a plugin may have a kind of its own."""
    return {"signal": "a signal", "image": "a picture"}.get(kind, kind)


_OWN = ("name", "data", "model", "train")


def _sections() -> dict[str, type[Representation]]:
    """The registered representations, each a section of the recipe. ConfigError for a name that cannot be a key."""
    for name in registry.names("representations"):
        if not name.isidentifier() or keyword.iskeyword(name) or name in dir(_Recipe) or name in _OWN:
            raise ConfigError(f"representation '{name}': a recipe cannot have a section of that name; choose another")
    return {name: registry.get("representations", name) for name in registry.names("representations")}


SECTIONS = _sections()

if TYPE_CHECKING:

    class Recipe(_Recipe):
        """A recipe with a section for every registered representation."""

        def __init__(self, *, name: str, data: DataConfig, **sections: Any) -> None: ...

else:
    Recipe = make_dataclass(
        "Recipe",
        [
            *((name, kind.Options | None, None) for name, kind in SECTIONS.items()),
            ("model", ModelConfig, field(default_factory=ModelConfig)),
            ("train", TrainConfig, field(default_factory=TrainConfig)),
        ],
        bases=(_Recipe,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": _Recipe.__doc__, "__module__": __name__},
    )
