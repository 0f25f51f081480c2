"""What every representation offers, how one is rebuilt from its config, and the two steps several share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.types import LEADS, EcgInput


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """A recipe's section of a representation: subclass it, one field per option. The docstring is the help."""

    def files(self) -> dict[str, str]:
        """Option → the file it names. A run is told apart by what such a file holds, not by where it lies."""
        return {}


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What a run knows when it makes its representation.

    rate: Hz of the stores. seg_len: samples of a segment. seed: of the run. records: ids of the training ECGs, sorted.
    segment: record id → float32 ``(12, seg_len)`` in mV. image_size: (height, width) that an image encoder reads;
    image_tokens: the tokens it gives for one picture; both None where the encoder reads a signal.
    """

    rate: int
    seg_len: int
    seed: int
    records: tuple[str, ...]
    segment: Callable[[str], np.ndarray]
    image_size: tuple[int, int] | None = None
    image_tokens: int | None = None


class Representation(ABC):
    """Turns a segment into what the model reads: input ids, a tensor where an encoder reads it, or words.

    name: as registered, and the name of its section in a recipe. gives: what ``EcgInput.tensor`` holds, ``"signal"``
    (leads, samples), ``"image"`` (3, height, width), or None without a tensor; an encoder that reads the same can be
    fed with it. Options: its section in a recipe. added_tokens: the texts the LLM's tokenizer gets, in the order
    ``EcgInput.token_ids`` counts them. placeholder: the added token whose embedding the encoder's output replaces, or
    None. num_tokens: ids per ECG, or None where it varies. input_shape: shape of ``EcgInput.tensor``, or None.
    """

    name: ClassVar[str]
    gives: ClassVar[str | None] = None
    Options: ClassVar[type[RecipeOptions]] = RecipeOptions
    added_tokens: tuple[str, ...]
    placeholder: str | None
    num_tokens: int | None

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the tensor of one ECG, or None."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able; with the files of ``save`` it is all that ``build_representation`` needs."""

    @abstractmethod
    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: float32 ``(12, num_samples)`` in mV, canonical leads, at ``rate`` Hz. EcglmError if unusable."""

    @classmethod
    def words_only(cls) -> bool:
        """Whether it gives words and nothing else: such a one may stand beside another in a recipe."""
        return cls.gives is None and getattr(cls, "added_tokens", None) == ()

    def spread(self, weights: np.ndarray, segment: np.ndarray, rate: int) -> np.ndarray | None:
        """Weights ``(…, num_ids)`` of the ids of a segment's ``token_ids``, laid over what each of them stands for:
        ``(…, 12, num_samples)``, sums kept as far as an id stands for samples. None where that cannot be said.
        """
        return None

    def in_training(self, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> EcgInput:
        """What training shows; as it stands here, the same as in use. row_id: of the row and the epoch."""
        return self(segment, rate)

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write what does not fit into the config to ``folder``; returns the names of the files."""
        return []

    @classmethod
    def from_recipe(cls, options: Any, context: BuildContext) -> Representation:
        """Make it for a run. options: an ``Options``. As it stands here, they are the keywords of the constructor."""
        return cls(**{f.name: getattr(options, f.name) for f in fields(options)})

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None) -> Representation:
        """Rebuild from ``config()`` and the folder that ``save`` wrote to."""


class WithWords(Representation):
    """A representation and, behind its tokens, the words of another: what a recipe with two sections makes.

    main: whatever shows the ECG by tokens, a tensor or both. words: one that gives words alone (``words_only``). All
    that is asked of ``main`` by name is answered by ``main``: where a pixel or a token lies, leads, rate, tokenizer.
    """

    name: ClassVar[str] = "with_words"

    def __init__(self, main: Representation, words: Representation) -> None:
        if not words.words_only() or isinstance(main, WithWords) or main.words_only():
            raise ConfigError(
                f"'{words.name}' cannot stand beside '{main.name}': one gives tokens or a tensor, one words alone"
            )
        self.main, self.words = main, words
        self.gives = main.gives  # type: ignore[misc]
        self.added_tokens, self.placeholder, self.num_tokens = main.added_tokens, main.placeholder, main.num_tokens

    def __getattr__(self, name: str) -> Any:
        if name == "main" or name.startswith("__"):  # while a copy is made
            raise AttributeError(name)
        return getattr(self.main, name)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """That of ``main``."""
        return self.main.input_shape

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """As ``main`` gives it, with the line of ``words``. EcglmError where one of them cannot use the segment."""
        return self._joined(self.main(segment, rate), self.words(segment, rate))

    def in_training(self, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> EcgInput:
        """Both as training shows them, of the same samples."""
        parts = [part.in_training(segment, rate, seed=seed, row_id=row_id) for part in (self.main, self.words)]
        return self._joined(*parts)

    def _joined(self, shown: EcgInput, told: EcgInput) -> EcgInput:
        return replace(shown, text=f"{shown.text} {told.text}".strip())

    def spread(self, weights: np.ndarray, segment: np.ndarray, rate: int) -> np.ndarray | None:
        """That of ``main``, whose tokens they are."""
        return self.main.spread(weights, segment, rate)

    def config(self) -> dict[str, Any]:
        """Both configs."""
        return {"name": self.name, "main": self.main.config(), "words": self.words.config()}

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """The files of ``main`` in ``folder``, those of ``words`` in a folder ``words`` below it, if there are any."""
        below = Path(folder) / "words"
        below.mkdir(exist_ok=True)
        files = [*self.main.save(folder), *(f"words/{name}" for name in self.words.save(below))]
        if not any(below.iterdir()):
            below.rmdir()
        return files

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> WithWords:
        """Rebuild both."""
        if set(config) != {"name", "main", "words"} or not all(isinstance(config[k], dict) for k in ("main", "words")):
            raise ConfigError(f"representation '{cls.name}': main and words are needed, and nothing else")
        below = None if folder is None else Path(folder) / "words"
        return cls(build_representation(config["main"], folder), build_representation(config["words"], below))


def build_representation(config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> Representation:
    """The representation a ``config()`` describes; ``folder`` is where its ``save`` put side files, if any.

    Raises ConfigError for an unknown name or key, EcglmError for a missing or other side file.
    """
    if not isinstance(config.get("name"), str):
        raise ConfigError("representation: key 'name' is missing")
    from ecglm.representations.dual import Dual  # it builds on this file

    joined: dict[str, type[Representation]] = {WithWords.name: WithWords, Dual.name: Dual}
    kind = joined.get(config["name"]) or registry.get("representations", config["name"])
    return kind.from_config(config, Path(folder) if folder is not None else None)


def check_leads(leads: Sequence[str]) -> tuple[str, ...]:
    """Lead names as a tuple; EcglmError when there is none, one is unknown, or one stands twice."""
    if not leads:
        raise EcglmError("leads: at least one lead is needed")
    for lead in leads:
        if lead not in LEADS:
            raise EcglmError(f"leads: no lead '{lead}'{nearest(lead, LEADS)}; known: {', '.join(LEADS)}")
    if len(set(leads)) != len(leads):
        raise EcglmError(f"leads: a lead stands twice in {', '.join(leads)}")
    return tuple(leads)


def select_leads(segment: np.ndarray, leads: Sequence[str]) -> np.ndarray:
    """The named rows of a canonical segment ``(12, num_samples)``; EcglmError for another shape."""
    segment = np.asarray(segment)
    if segment.ndim != 2 or segment.shape[0] != len(LEADS) or segment.shape[1] == 0:
        raise EcglmError(
            f"a segment of shape (12, num_samples) in canonical lead order is needed, found {segment.shape}; "
            "ecglm.preprocess makes one from a record"
        )
    if tuple(leads) == LEADS:
        return segment
    return segment[[LEADS.index(lead) for lead in leads]]


def reduce_rate(segment: np.ndarray, rate: int, target: int | None) -> np.ndarray:
    """``(num_leads, num_samples)`` at ``rate`` Hz → float32 at ``target`` Hz, by a whole factor, zero-phase,
    anti-aliased.

    Raises EcglmError when ``target`` is not a divisor of ``rate`` (``None`` keeps the rate) or a sample is not finite.
    """
    if target is None or target == rate:
        return np.asarray(segment, np.float32)
    if target < 1 or rate % target:
        raise EcglmError(f"rate: cannot reduce {rate} Hz to {target} Hz; the target must divide {rate}")
    if not np.isfinite(segment).all():
        raise EcglmError("ECG signal holds NaN or infinity; choose a NaN policy in the pipeline that made it")
    from scipy.signal import resample_poly  # slow to import, and a rate is rarely reduced

    # the ends of a lead continue at their own level, so that an offset makes no step there
    reduced = resample_poly(np.asarray(segment, np.float64), 1, rate // target, axis=-1, padtype="line")
    return reduced.astype(np.float32)


def spread_evenly(weights: np.ndarray, edges: np.ndarray, num_samples: int) -> np.ndarray:
    """Weights ``(…, num_spans)`` of spans of time, each spread evenly over its own: ``(…, num_samples)``, sums kept.

    edges: ``(num_spans + 1,)`` rising from 0 to ``num_samples``; they may lie between samples.
    """
    total = np.concatenate([np.zeros((*weights.shape[:-1], 1)), np.cumsum(weights, axis=-1)], axis=-1)
    at = np.arange(num_samples + 1)
    span = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
    share = (at - edges[span]) / np.maximum(edges[span + 1] - edges[span], 1e-12)
    return np.diff(total[..., span] + weights[..., span] * np.clip(share, 0, 1), axis=-1)
