"""What representations that feed an image encoder share: the encoder's size, one placeholder per token, fitting."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import cv2
import numpy as np

from ecglm.config import from_dict
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.representations.base import BuildContext, Representation
from ecglm.types import LEADS, EcgInput

#: How a picture comes to the size an encoder reads.
FITS = ("pad", "squash", "crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureRepresentation(Representation):
    """An ECG as uint8 ``(3, height, width)`` RGB, exactly as large as the encoder reads it: nothing is resized later.

    image_size: (height, width). num_tokens: placeholders per ECG, one for each vector the connector gives.
    """

    gives: ClassVar[str] = "image"
    placeholder = "<ecg_token>"
    added_tokens = ("<ecg_token>",)
    leads: ClassVar[tuple[str, ...]] = LEADS
    rate: ClassVar[int | None] = None

    num_tokens: int | None = 49
    image_size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        if self.num_tokens is not None and self.num_tokens < 1:
            raise EcglmError(f"num_tokens: must be at least 1, not {self.num_tokens}")
        if len(self.image_size) != 2 or min(self.image_size) < len(LEADS):
            raise EcglmError(f"image_size: (height, width) of {len(LEADS)} pixels or more, not {self.image_size}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(3, height, width)``."""
        return (3, *self.image_size)

    def picture(self, segment: np.ndarray, rate: int) -> np.ndarray:
        """uint8 ``(height, width, 3)`` of a segment ``(12, num_samples)`` in mV."""
        raise NotImplementedError

    def points(self, segment: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """Where each sample stands in the picture: lead (canonical number), sample, and pixel x and y, all
        ``(num_points,)``; a sample may stand in several places, or in none. None where that cannot be said.
        """
        return None

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: ``(12, num_samples)`` in mV at ``rate`` Hz, canonical leads. EcglmError where it cannot be shown."""
        return self._input(self.picture(segment, rate))

    def _input(self, picture: np.ndarray) -> EcgInput:
        assert self.num_tokens is not None
        return EcgInput(np.zeros(self.num_tokens, np.int64), np.ascontiguousarray(picture.transpose(2, 0, 1)))

    def config(self) -> dict[str, Any]:
        """Every option, and the name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None
    ) -> PictureRepresentation:
        """Rebuild from ``config()``; ConfigError for an unknown key or a wrong type."""
        return from_dict(cls, {k: v for k, v in config.items() if k != "name"}, f"representation '{cls.name}'")


def check_picture(picture: np.ndarray) -> np.ndarray:
    """A picture as it is; EcglmError unless it is uint8 ``(height, width, 3)`` with pixels in it."""
    found = np.asarray(picture)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or 0 in found.shape:
        raise EcglmError(f"a picture is uint8 (height, width, 3) RGB, found {found.dtype} {found.shape}")
    return found


def encoder_fit(name: str, num_tokens: int | None, context: BuildContext) -> dict[str, Any]:
    """``image_size`` and ``num_tokens`` of a run; None: every token the encoder gives. ConfigError where it gives less.

    name: the recipe's section, for the error.
    """
    if context.image_size is None or context.image_tokens is None:
        raise ConfigError(f"representation '{name}' needs an encoder that reads a picture; see ecglm ls encoders")
    wanted = context.image_tokens if num_tokens is None else num_tokens
    if wanted > context.image_tokens:
        raise ConfigError(f"{name}.num_tokens: the encoder gives {context.image_tokens} tokens, not {wanted}; lower it")
    try:
        Pooling.of(context.image_size, context.image_tokens, wanted)
    except ConfigError as error:
        raise ConfigError(f"{name}.num_tokens: {error}") from error
    return {"image_size": context.image_size, "num_tokens": wanted}


@dataclasses.dataclass(frozen=True)
class Pooling:
    """How an image encoder's tokens become fewer: a grid of means over its grid of patches, both (rows, columns).

    extra: tokens before the patches (a class token); they stay as they are.
    """

    patches: tuple[int, int]
    grid: tuple[int, int]
    extra: int = 0

    @classmethod
    def of(cls, size: tuple[int, int], encoder_tokens: int, num_tokens: int) -> Pooling | None:
        """From ``encoder_tokens`` of a picture of ``size`` (height, width) to ``num_tokens``; None where the patches
        make no grid, or there are more tokens asked for than there are.

        The grid is the one of ``num_tokens`` means whose shape is nearest to that of the patches, wider rather than
        higher. ConfigError, with the nearest numbers that can be, where it would be stretched by more than two.
        """
        patches = patch_grid(size, encoder_tokens)
        if patches is None or num_tokens > encoder_tokens:
            return None
        extra = encoder_tokens - patches[0] * patches[1]
        grid = _grid_of(num_tokens - extra, patches)
        if grid is not None:
            return cls(patches, grid, extra)
        possible = [n for n in range(1, encoder_tokens + 1) if _grid_of(n - extra, patches) is not None]
        below = max((n for n in possible if n < num_tokens), default=possible[0])
        above = min(n for n in possible if n > num_tokens)
        raise ConfigError(
            f"{num_tokens} tokens make no grid over the encoder's {patches[0]} x {patches[1]} patches; nearest numbers "
            f"that do: {' and '.join(str(n) for n in sorted({below, above}))}"
        )

    @classmethod
    def of_leads(cls, tokens: tuple[int, int], num_tokens: int) -> Pooling | None:
        """From tokens that stand lead after lead, (leads, stretches of time), to ``num_tokens``: means over all leads
        where that many stretches are there, else as many of each lead. None where nothing is to be pooled; ConfigError
        for a number that is neither.
        """
        leads, stretches = tokens
        if num_tokens >= leads * stretches:
            return None
        if num_tokens <= stretches:
            return cls(tokens, (1, num_tokens))
        if num_tokens % leads == 0:
            return cls(tokens, (leads, num_tokens // leads))
        raise ConfigError(
            f"{num_tokens} tokens cannot be made of {leads} leads x {stretches}; ask for at most {stretches}, or for a "
            f"multiple of {leads}"
        )

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """``(grid rows, patch rows)`` and ``(grid columns, patch columns)``: the share each patch has in a mean."""
        return _windows(self.patches[0], self.grid[0]), _windows(self.patches[1], self.grid[1])


def _grid_of(number: int, patches: tuple[int, int]) -> tuple[int, int] | None:
    """(rows, columns) of ``number`` means of all patches, at most twice as long in one direction as in the other."""
    found = []
    for rows in range(1, min(number, patches[0]) + 1):
        columns = number // rows
        if rows * columns == number and columns <= patches[1]:
            stretch = Fraction(patches[0] * columns, rows * patches[1])
            if max(stretch, 1 / stretch) <= 2:
                found.append((max(stretch, 1 / stretch), -columns, rows))
    return (min(found)[2], -min(found)[1]) if found else None


def _windows(length: int, number: int) -> np.ndarray:
    """``(number, length)``: mean k is over the patches that its equal share of ``length`` touches (as torch does)."""
    out = np.zeros((number, length))
    for k in range(number):
        first, end = k * length // number, -(-(k + 1) * length // number)
        out[k, first:end] = 1 / (end - first)
    return out


def patch_grid(size: tuple[int, int], num_tokens: int) -> tuple[int, int] | None:
    """(rows, columns) of the patches of an encoder that gives ``num_tokens`` for a picture of ``size`` (height, width):
    square ones, with or without a class token before them. None where no such grid is possible.
    """
    for number in (num_tokens, num_tokens - 1):
        for patch in range(min(size), 0, -1):  # what is left of the picture behind the last patch is not read
            if (size[0] // patch) * (size[1] // patch) == number:
                return size[0] // patch, size[1] // patch
    return None


def scales(size: tuple[int, int], wanted: tuple[int, int], how: str) -> tuple[float, float]:
    """By how much ``fit`` scales the height and the width of a picture of ``size`` (height, width)."""
    down, across = wanted[0] / size[0], wanted[1] / size[1]
    if how == "squash":
        return down, across
    if how not in FITS:
        raise EcglmError(f"fit: no '{how}'{nearest(how, FITS)}; known: {', '.join(FITS)}")
    scale = min(down, across) if how == "pad" else max(down, across)
    return scale, scale


def fitted_point(
    x: np.ndarray, y: np.ndarray, size: tuple[int, int], wanted: tuple[int, int], how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels x, y of a picture of ``size`` (height, width) lie after ``fit``."""
    out = []
    for at, old, new_size, scale in zip((y, x), size, wanted, scales(size, wanted, how), strict=True):
        new = max(1, round(old * scale))
        offset = -((new - new_size) // 2) if how == "crop" else (new_size - new) // 2
        out.append((at + 0.5) * new / old - 0.5 + offset)
    return out[1], out[0]


def fit(picture: np.ndarray, wanted: tuple[int, int], how: str = "pad") -> np.ndarray:
    """A picture uint8 ``(h, w, 3)`` as ``(*wanted, 3)``, ``wanted`` being (height, width).

    pad: the whole picture, its aspect kept, between white margins. squash: the whole picture, stretched. crop: the
    shorter side fills the encoder's, the longer one loses both ends, as CLIP's own processor does it. Smaller means
    the mean over the area of each new pixel; larger means bicubic.
    """
    height, width = picture.shape[:2]
    down, across = scales((height, width), wanted, how)
    new = (max(1, round(height * down)), max(1, round(width * across)))
    if new != (height, width):
        method = cv2.INTER_AREA if down <= 1 and across <= 1 else cv2.INTER_CUBIC
        picture = cv2.resize(picture, (new[1], new[0]), interpolation=method)
    if how == "crop":
        top, left = (new[0] - wanted[0]) // 2, (new[1] - wanted[1]) // 2
        return np.ascontiguousarray(picture[top : top + wanted[0], left : left + wanted[1]])
    if new == wanted:
        return picture
    page = np.full((*wanted, 3), 255, np.uint8)
    top, left = (wanted[0] - new[0]) // 2, (wanted[1] - new[1]) // 2
    page[top : top + new[0], left : left + new[1]] = picture
    return page
