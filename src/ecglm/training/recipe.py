"""A recipe: everything that decides what a training run gives, as one dataclass that YAML files are read into."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.config import AUTO, ModelConfig
from ecglm.models.encoders.base import reads
from ecglm.models.start import shown_as
from ecglm.models.towers import known_name, reads_symbols
from ecglm.prompts.retrieved import RagOptions
from ecglm.representations.base import RecipeOptions, Representation
from ecglm.training.options import TrainConfig as TrainConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """files: conversation tables (``ecglm map``). stores: segment stores (``ecglm prepare``). tasks: all, or these.
    images: folders of picture files: a conversation whose metadata name an ``image`` is shown that file, from the first
    of them that holds it, and not a page drawn from the store.
    """

    files: tuple[str, ...]
    stores: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RagConfig(RagOptions):
    """Retrieved ECGs in every prompt. index: a folder of ``ecglm index build``, over the training split alone."""

    index: str

    @property
    def options(self) -> RagOptions:
        """How they are told: all but where they are found."""
        return RagOptions(**{f.name: getattr(self, f.name) for f in fields(RagOptions)})


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """One training run. At most one section of a representation says how the model is shown the ECG; without one it
    is what the encoder reads: ``signal`` for signal encoders, ``image`` for image encoders. A section that gives words
    alone (``features``) may stand beside it: its line follows the ECG's tokens. By itself it is all there is. With
    ``model.image`` there are two: one that gives a signal, and one that gives a picture (``image`` unless named). rag:
    the prompts tell of similar ECGs (docs/retrieval.md).
    """

    name: str
    data: DataConfig

    if TYPE_CHECKING:  # the sections of the registered representations, and what follows them
        model: ModelConfig = field(default_factory=ModelConfig)
        train: TrainConfig = field(default_factory=TrainConfig)
        rag: RagConfig | None = None

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        words, tensors = self._given()
        if len(words) > 1:
            raise ValueError(f"give at most one representation of words alone, found {' and '.join(words)}")
        try:
            if self.model.image is None:
                if len(tensors) > 1:
                    raise ConfigError(f"give at most one representation, found {' and '.join(tensors)}")
            else:
                self._check_two(tensors)
            self._check()
        except ConfigError as error:  # an unknown encoder, say; a recipe file names its line
            raise ValueError(str(error)) from error

    def _given(self) -> tuple[list[str], list[str]]:
        """Sections the recipe has: of words alone, and all others."""
        given = [name for name in SECTIONS if getattr(self, name) is not None]
        words = [name for name in given if SECTIONS[name].words_only()]
        return words, [name for name in given if name not in words]

    def _check_two(self, tensors: list[str]) -> None:
        """Refuse sections that do not give one signal and one picture, and encoders that read something else."""
        for gives in ("signal", "image"):
            found = [name for name in tensors if SECTIONS[name].gives == gives]
            if len(found) > 1:
                raise ConfigError(f"give at most one representation of {_a(gives)}, found {' and '.join(found)}")
        if other := [name for name in tensors if SECTIONS[name].gives not in ("signal", "image")]:
            raise ConfigError(
                f"model.image reads {_a('image')} beside a signal; representation '{other[0]}' gives neither"
            )
        assert self.model.image is not None
        name = known_name(self.model.image)
        if name is not None and reads(name) != "image":
            mend = ", ".join(n for n in registry.names("encoders") if reads(n) == "image")
            raise ConfigError(f"model.image.encoder '{name}' reads {_a(reads(name))}; choose one of {mend}")

    def _check(self) -> None:
        """Refuse pairs of representation and encoder, or of representation and augmentation, that cannot work."""
        name, gives = self.representation, SECTIONS[self.representation].gives
        if "image" in self.train.augment and gives != "image" and self.picture is None:
            raise ConfigError(f"train.augment.image varies pictures, but representation '{name}' gives none; remove it")
        if gives is None and name == "symbols" and reads_symbols(self.model):
            return
        if gives is None:
            for option in ("encoder_options", "encoder_from"):
                if getattr(self.model, option):
                    are = "are" if option.endswith("s") else "is"
                    raise ConfigError(
                        f"representation '{name}' feeds no encoder, but model.{option} {are} given; remove it, or "
                        "choose a representation that feeds an encoder"
                    )
            if (named := self.model.encoder) not in (None, AUTO):
                raise ConfigError(
                    f"representation '{name}' feeds no encoder, but model.encoder '{named}' is given; remove it, or "
                    "choose a representation that feeds an encoder"
                )
            return
        if self.model.encoder is None:
            raise ConfigError(f"representation '{name}' feeds an encoder, but model.encoder is empty; name one")
        encoder = known_name(self.model)
        if encoder is not None and reads(encoder) != gives:
            mend = ", ".join(n for n in registry.names("encoders") if reads(n) == gives)
            fits = ", ".join(n for n, kind in SECTIONS.items() if reads(encoder) in (kind.gives, n))
            raise ConfigError(
                f"representation '{name}' gives {_a(gives)}, but encoder '{encoder}' reads {_a(reads(encoder))}; "
                f"choose another representation ({fits}) or another encoder ({mend})"
            )

    @property
    def representation(self) -> str:
        """Name of the representation in use: of the one with tokens, where words stand beside it; of the signal, where
        a picture does.
        """
        words, tensors = self._given()
        if self.model.image is not None:
            return next((n for n in tensors if SECTIONS[n].gives == "signal"), "signal")
        if tensors or words:
            return (tensors or words)[0]
        start = self.model.start_from
        if start is not None and (shown := shown_as(start)) is not None:
            return shown
        if self.model.encoder is None:
            raise ConfigError("neither a representation nor model.encoder is given; name one, say symbols: {}")
        encoder = known_name(self.model)
        if encoder is None and start is not None:
            raise ConfigError(f"model.start_from: no checkpoint {start}; name best/ of a run, or import one")
        if encoder is None:
            raise ConfigError(
                f"model.encoder_from {self.model.encoder_from} is not here to say what it reads; name the "
                "representation, say signal: {}"
            )
        if (name := reads(encoder)) not in SECTIONS:
            raise ConfigError(f"encoder '{encoder}' reads {name}; name a representation that gives it")
        return name

    @property
    def picture(self) -> str | None:
        """Name of the representation that ``model.image`` reads beside the signal; None without it."""
        if self.model.image is None:
            return None
        return next((n for n in self._given()[1] if SECTIONS[n].gives == "image"), "image")

    @property
    def words(self) -> str | None:
        """Name of the representation whose words stand behind the tokens of the one in use, if there is one."""
        words = [name for name in self._given()[0] if name != self.representation]
        return words[0] if words else None

    @property
    def shown(self) -> str:
        """What shows the ECG, for people: ``"signal"``, ``"symbols + features"``, ``"signal + image"``."""
        return " + ".join(self.used)

    @property
    def representation_options(self) -> RecipeOptions:
        """The options of the representation in use."""
        return self.used[self.representation]

    @property
    def used(self) -> dict[str, RecipeOptions]:
        """Name → options of the representation in use, of the picture beside it, and of the words behind."""
        names = [n for n in (self.representation, self.picture, self.words) if n is not None]
        return {n: SECTIONS[n].Options() if getattr(self, n) is None else getattr(self, n) for n in names}


def _a(kind: str) -> str:
    """What a tensor holds, as a sentence says it; a plugin may have a kind of its own."""
    return {"signal": "a signal", "image": "a picture", "symbols": "symbols"}.get(kind, kind)


_OWN = ("name", "data", "model", "train", "rag")


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
            ("rag", RagConfig | None, None),
        ],
        bases=(_Recipe,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": _Recipe.__doc__, "__module__": __name__},
    )
