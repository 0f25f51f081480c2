"""A pretraining recipe: which ECGs and reports, which encoder, which objective, how long, and how it is then judged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.encoders.base import reads
from ecglm.representations.base import RecipeOptions
from ecglm.training.objectives.base import Pretraining
from ecglm.training.options import TrainConfig
from ecglm.training.recipe import SECTIONS

#: Representations that give one tensor an ECG; the others feed no encoder, or several tiles.
REPRESENTATIONS = {
    name: kind
    for name, kind in SECTIONS.items()
    if kind.gives in ("signal", "image") and not getattr(kind, "tiled", False)
}
#: Fields of ``train`` that are about language models, or that the objective's own section decides.
NOT_FOR_ENCODERS = ("objective", "parts", "share_ecg", "packing")


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """stores: segment stores (``ecglm prepare``). files: conversations, one with a text for each ECG; none: the stores'
    own English reports. split_seed: of the split of patients without official folds, the seed of ``ecglm map``.
    """

    stores: tuple[str, ...]
    files: tuple[str, ...] = ()
    split_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder. name, options: as ``model.encoder`` and ``encoder_options`` of a training recipe. start_from: folder
    or hub id of an encoder to go on from, whose name and options are then taken; without, it begins with random
    weights, or with the published ones that ``options.weights`` names.
    """

    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    start_from: str | None = None

    def __post_init__(self) -> None:
        if (self.name is None) == (self.start_from is None):
            raise ValueError("encoder: give a name or start_from, one of them")
        if self.start_from is not None and self.options:
            raise ValueError("encoder: start_from brings its own options; leave encoder.options out")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """The linear probe and zero-shot classification that follow pretraining, each beside random weights.

    stores: labelled ECGs, those of ``data`` unless given. groups: of labels (superclass, rhythm, …), all unless given.
    shares: of the training patients. solver: ``logistic`` or ``adam``. zero_shot: from class prompts too, where the
    objective read text. See docs/pretraining.md.
    """

    stores: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    solver: Literal["logistic", "adam"] = "logistic"
    zero_shot: bool = True
    num_resamples: int = 2000

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 < share <= 1:
                raise ValueError(f"probe.shares must be above 0 and at most 1, found {share}")
        if self.num_resamples < 1:
            raise ValueError(f"probe.num_resamples must be 1 or more, found {self.num_resamples}")


@dataclass(frozen=True, kw_only=True)
class _PretrainRecipe:
    """One pretraining run: one section of an objective, and at most one of a representation that gives a tensor;
    without one it is what the encoder reads, ``signal`` or ``image``.
    """

    name: str
    data: PretrainData
    encoder: EncoderConfig

    if TYPE_CHECKING:  # the sections of the registered representations and objectives, and what follows them
        train: TrainConfig = field(default_factory=TrainConfig)
        probe: ProbeConfig | None = None

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        try:
            self._check()
        except ConfigError as error:  # a recipe file names its line
            raise ValueError(str(error)) from error

    def _check(self) -> None:
        given = [name for name in OBJECTIVES if getattr(self, name) is not None]
        if len(given) != 1:
            known = ", ".join(OBJECTIVES)
            raise ConfigError(f"one objective is needed ({known}), found {' and '.join(given) or 'none'}")
        usual = TrainConfig()
        for field_ in dataclasses.fields(TrainConfig):
            if field_.name in NOT_FOR_ENCODERS and getattr(self.train, field_.name) != getattr(usual, field_.name):
                raise ConfigError(f"train.{field_.name} is not for pretraining an encoder; remove it")
        shown = [name for name in REPRESENTATIONS if getattr(self, name) is not None]
        if len(shown) > 1:
            raise ConfigError(f"give at most one representation, found {' and '.join(shown)}")
        if self.encoder.name is not None:
            self.check_encoder(self.encoder.name)

    def check_encoder(self, name: str) -> None:
        """ConfigError where the representation does not give what the encoder ``name`` reads, or it cannot learn."""
        kind, shown = registry.get("encoders", name), self.representation_for(name)
        if REPRESENTATIONS[shown].gives != reads(name):
            raise ConfigError(f"encoder '{name}' reads a {reads(name)}, which representation '{shown}' does not give")
        if getattr(kind, "frozen", False):
            raise ConfigError(f"encoder '{name}' never learns; choose another to pretrain")
        if "image" in self.train.augment and REPRESENTATIONS[shown].gives != "image":
            raise ConfigError(
                f"train.augment.image varies pictures, and representation '{shown}' gives none; remove it"
            )

    @property
    def objective(self) -> str:
        """Name of the objective in use."""
        return next(name for name in OBJECTIVES if getattr(self, name) is not None)

    def representation_for(self, encoder: str) -> str:
        """Name of the representation that shows ECGs to the encoder called so."""
        given = [name for name in REPRESENTATIONS if getattr(self, name) is not None]
        found = given[0] if given else reads(encoder)
        if found not in REPRESENTATIONS:
            raise ConfigError(f"encoder '{encoder}' reads {found}; name a representation that gives it")
        return found

    def representation_options(self, encoder: str) -> RecipeOptions:
        """The options of the representation in use."""
        name = self.representation_for(encoder)
        found: RecipeOptions = getattr(self, name) or REPRESENTATIONS[name].Options()
        return found


def _objectives() -> dict[str, type[Pretraining]]:
    """The registered objectives that pretrain an encoder, each a section of the recipe."""
    taken = {*REPRESENTATIONS, "name", "data", "encoder", "train", "probe"}
    found = {}
    for name in registry.names("objectives"):
        thing = registry.get("objectives", name)
        if isinstance(thing, type) and issubclass(thing, Pretraining):
            if not name.isidentifier() or name in taken:
                raise ConfigError(f"objective '{name}': a recipe cannot have a section of that name; choose another")
            found[name] = thing
    return found


OBJECTIVES = _objectives()

if TYPE_CHECKING:

    class PretrainRecipe(_PretrainRecipe):
        """A pretraining recipe with a section for every registered representation and objective."""

        def __init__(self, *, name: str, data: PretrainData, encoder: EncoderConfig, **sections: Any) -> None: ...

else:
    PretrainRecipe = make_dataclass(
        "PretrainRecipe",
        [
            *((name, kind.Options | None, None) for name, kind in REPRESENTATIONS.items()),
            *((name, kind.Options | None, None) for name, kind in OBJECTIVES.items()),
            ("train", TrainConfig, field(default_factory=TrainConfig)),
            ("probe", ProbeConfig | None, None),
        ],
        bases=(_PretrainRecipe,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": _PretrainRecipe.__doc__, "__module__": __name__},
    )
