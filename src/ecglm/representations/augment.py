"""Augmentation and perturbation of a segment: which effects there are, how they are chosen, checked and seeded."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ecglm import registry
from ecglm.config import coerce, describe
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.randomness import generator_for
from ecglm.types import LEADS

if TYPE_CHECKING:
    from ecglm.representations.image_augment import ImageAugmentation

#: Where on the way from the heart to the file an effect acts: effects are applied in this order, then by name.
STAGES: tuple[str, ...] = ("electrodes", "time", "gain", "disturbance", "loss")
#: What others call an effect of ours.
ALSO_CALLED: dict[str, str] = {
    "powerline": "mains",
    "baseline-wander": "wander",
    "lead-mask": "lead-dropout",
    "emg": "muscle",
    "gaussian": "noise",
}
DEFAULT_P = 0.5
#: The key of ``train.augment`` that is no effect on the signal but on the picture made of it.
IMAGE = "image"

#: ``(12, num_samples)`` float32 mV (its own copy, it may be changed), Hz, generator, options → the same shape.
Function = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Between:
    """Bounds of an option, in its own unit; of both ends where the option is a range ``(low, high)``."""

    low: float
    high: float

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        ends = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(v) and self.low <= v <= self.high for v in ends):
            return f"must lie between {self.low:g} and {self.high:g}, found {_shown(value)}"
        return None if list(ends) == sorted(ends) else f"must be [low, high], found {_shown(value)}"


@dataclass(frozen=True)
class Among:
    """The known values of an option that is a list of names; at least one must be given."""

    known: tuple[Any, ...]

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        told = ", ".join(map(str, self.known))
        if not value:
            return f"must name at least one of {told}"
        strange = next((v for v in value if v not in self.known), None)
        return None if strange is None else f"knows no {strange!r}{nearest(str(strange), self.known)}; known: {told}"


@dataclass(frozen=True)
class Effect:
    """One way to disturb a segment. severity: the options of its fixed test condition ``perturb-<name>``, in which it
    is always applied. title: what the report calls that condition."""

    name: str
    stage: str
    title: str
    function: Function
    severity: Mapping[str, Any]

    def options(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Checked keyword arguments of ``function``; ConfigError in one line for an unknown, wrong or odd one."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        known = [p.name for p in inspect.signature(self.function).parameters.values() if p.kind == p.KEYWORD_ONLY]
        options = {}
        for name, value in given.items():
            if name not in known:
                valid = ", ".join(["p", *known])
                raise ConfigError(f"{where}: unknown option '{name}'{nearest(name, known)}; valid options: {valid}")
            kind, *bounds = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
            try:
                options[name] = coerce(value, kind)
            except TypeError:
                raise ConfigError(f"{where}.{name} must be {describe(kind)}, found {value!r}") from None
            for bound in bounds:
                if problem := bound.problem(options[name]):
                    raise ConfigError(f"{where}.{name} {problem}")
        return options


def effect(
    name: str, *, stage: str, title: str, severity: Mapping[str, Any] | None = None
) -> Callable[[Function], Function]:
    """Decorator: make a function known as an effect of training and as the test condition ``perturb-<name>``.

    The keyword-only parameters are its options, checked by their annotations: ``Annotated[float, Between(0, 1)]``.
    """
    if stage not in STAGES or name == IMAGE:
        raise ConfigError(f"effect '{name}': stage is one of {', '.join(STAGES)}, and '{IMAGE}' is no name for one")

    def wrap(function: Function) -> Function:
        made = Effect(name, stage, title, function, {})
        made = dataclasses.replace(made, severity=made.options(severity or {}, f"perturb-{name}"))
        registry.register("augmentations", name)(made)
        return function

    return wrap


@dataclass(frozen=True)
class Chosen:
    """An effect with its probability and checked options."""

    effect: Effect
    p: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Augmentation:
    """The effects of a training run, in the order in which they are applied; empty leaves every ECG as it is. image:
    how the pictures of an image representation are varied, or None."""

    effects: tuple[Chosen, ...] = ()
    image: ImageAugmentation | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], where: str = "augment") -> Augmentation:
        """Effect → ``{p, options …}`` (None: all defaults), as a recipe's ``train.augment`` holds it; ``image``: the
        fields of ``ImageAugmentation``.

        The order of keys does not matter. Raises ConfigError, in one line, for an unknown effect or option.
        """
        chosen, image = [], None
        for name, given in plain.items():
            thing = None if name == IMAGE else find_effect(name, where)
            if given is not None and not isinstance(given, Mapping):
                raise ConfigError(f"{where}.{name} must be {{p: …, option: …}}, found {given!r}")
            options = dict(given or {})
            if thing is None:
                image = _image(options, f"{where}.{IMAGE}")
                continue
            p = options.pop("p", DEFAULT_P)
            if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
                raise ConfigError(f"{where}.{name}.p must lie between 0 and 1, found {p!r}")
            chosen.append(Chosen(thing, float(p), thing.options(options, f"{where}.{name}")))
        return cls(tuple(sorted(chosen, key=lambda c: (STAGES.index(c.effect.stage), c.effect.name))), image)

    def check(self, rate: int, num_samples: int) -> None:
        """Try every effect once on a flat segment, so that what cannot work at this rate is told before training."""
        for one in self.effects:
            flat = np.zeros((len(LEADS), num_samples), np.float32)
            _apply(one.effect, flat, rate, np.random.default_rng(0), one.options)


def find_effect(name: str, where: str = "augment") -> Effect:
    """The effect called ``name``; ConfigError with the nearest known name, or with ours for a name others use."""
    known = registry.names("augmentations")
    if name in known:
        return registry.get("augmentations", name)
    ours = ALSO_CALLED.get(name)
    hint = f" (it is called '{ours}' here)" if ours else nearest(name, known)
    raise ConfigError(f"{where}: no effect '{name}'{hint}; known: {', '.join(known)}")


def _image(options: Mapping[str, Any], where: str) -> ImageAugmentation:
    from ecglm.representations.image_augment import ImageAugmentation  # OpenCV is not needed to score or report

    known = [f.name for f in dataclasses.fields(ImageAugmentation)]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{where}: unknown option '{name}'{nearest(name, known)}; valid options: {', '.join(known)}"
            )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return ImageAugmentation(**values)


def augment_signal(
    segment: np.ndarray, rate: int, config: Augmentation, *, seed: int, row_id: str, epoch: int = 0
) -> np.ndarray:
    """A segment as training shows it in one epoch: float32 ``(12, num_samples)`` mV, never the same object.

    segment: ``(12, num_samples)`` mV, canonical leads, ``rate`` Hz. The result is a function of the arguments alone.
    Each effect draws from a generator of its own, so that adding one changes nothing about the others. Raises
    EcglmError for another shape, NaN or infinity.
    """
    signal = _own(segment)
    for one in config.effects:
        rng = generator_for(seed, "augment", one.effect.name, str(epoch), row_id)
        if rng.random() < one.p:
            signal = _apply(one.effect, signal, rate, rng, one.options)
    return signal


def perturb(name: str, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> np.ndarray:
    """A segment under the test condition ``perturb-<name>``: the effect at its fixed severity, always applied.

    Shapes and errors as in ``augment_signal``; the same seed and row id give the same disturbance.
    """
    thing = find_effect(name, "perturb")
    rng = generator_for(seed, f"perturb-{name}", row_id)
    return _apply(thing, _own(segment), rate, rng, thing.severity)


def _apply(
    thing: Effect, signal: np.ndarray, rate: int, rng: np.random.Generator, options: Mapping[str, Any]
) -> np.ndarray:
    shown = np.ascontiguousarray(thing.function(signal, rate, rng, **options), np.float32)
    if shown.shape != signal.shape:
        raise EcglmError(f"effect '{thing.name}' turned shape {signal.shape} into {shown.shape}; it must keep it")
    return shown


def _own(segment: np.ndarray) -> np.ndarray:
    signal = np.array(segment, np.float32, order="C")
    if signal.ndim != 2 or len(signal) != len(LEADS) or signal.shape[1] == 0:
        raise EcglmError(
            f"a segment of shape (12, num_samples) in canonical lead order is needed, found {signal.shape}"
        )
    if not np.isfinite(signal).all():
        raise EcglmError("ECG signal holds NaN or infinity; choose a NaN policy in the pipeline that made it")
    return signal


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
