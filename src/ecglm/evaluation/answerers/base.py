"""What every kind of model is to a benchmark: requests with pictures in, replies out; one dead item stops nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ecglm.types import Turn


@dataclass(frozen=True)
class PictureRef:
    """A picture that is read when it is needed.

    path: the file. control: ``real``, ``blank`` (empty ECG paper of the same size) or ``noise`` (pixels of the same
    mean and spread); another patient's picture is another path. seed, row: of the noise.
    """

    path: Path
    control: str = "real"
    seed: int = 0
    row: str = ""


@dataclass(frozen=True)
class Request:
    """One question to answer.

    id: of the item. turns: user and assistant by turns, the last one the user's; ``<ecg>`` stands in the first user
    turn where a picture or an ECG is shown. pictures: those shown. record: id of the recording in a store, for models
    that read signals, or are to draw the picture themselves; then control and seed say how it is shown.
    """

    id: str
    turns: tuple[Turn, ...]
    pictures: tuple[PictureRef, ...] = ()
    record: str | None = None
    control: str = "real"
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none.

    text: None with an error. error: ``reason: detail`` (``image_missing``, ``image_corrupt``, ``image_too_large``,
    ``ecg_not_in_store``, ``sequence_too_long``, ``endpoint_failed`` …). truncated: the length limit cut the answer.
    usage: tokens counted, where known.
    """

    text: str | None
    error: str | None = None
    truncated: bool = False
    usage: Mapping[str, int] = field(default_factory=dict)


class Answerer(Protocol):
    """name: as shown to the user. answer: one reply per request, in order, the same alone as in company; what is wrong
    with one request is in its reply's ``error``, and only what stops all of them is raised (EcglmError).
    """

    @property
    def name(self) -> str: ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]: ...
