"""Augmentation of pictures while training: brightness, rotation, blur, hue and saturation, seeded per row and epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ecglm.errors import ConfigError
from ecglm.randomness import generator_for
from ecglm.representations.effects.base import check_picture

#: Range → the limits of its two ends.
_LIMITS = {"brightness": (0.0, 4.0), "rotation": (-180.0, 180.0), "blur": (0.0, 20.0), "shift": (-180.0, 180.0)}


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """How pictures are varied in training; the defaults are those of ECG-Bench.

    p: share of pictures that are varied at all. each: how likely each of the four changes is then. brightness: factor.
    rotation: degrees. blur: standard deviation in pixels. shift: of hue and of saturation, each drawn for itself, in
    OpenCV's 8-bit units (hue 180 to the circle, saturation up to 255). Raises ConfigError for what is out of range.
    """

    p: float = 0.6
    each: float = 0.5
    brightness: tuple[float, float] = (0.8, 1.2)
    rotation: tuple[float, float] = (-5.0, 5.0)
    blur: tuple[float, float] = (0.0, 1.5)
    shift: tuple[float, float] = (-30.0, 30.0)

    def __post_init__(self) -> None:
        for name in ("p", "each"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f"image augmentation: {name} must be between 0 and 1, found {value!r}")
        for name, (low, high) in _LIMITS.items():
            pair = getattr(self, name)
            good = isinstance(pair, list | tuple) and len(pair) == 2 and all(_is_number(v) for v in pair)
            if not good or not low <= pair[0] <= pair[1] <= high:
                raise ConfigError(
                    f"image augmentation: {name} must be [least, most] between {low:g} and {high:g}, found {pair!r}"
                )


def augment_image(
    image: np.ndarray, config: ImageAugmentation, *, seed: int, row_id: str, epoch: int = 0
) -> np.ndarray:
    """A picture as this row sees it in this epoch: uint8 ``(height, width, 3)`` RGB, the input itself is never changed.

    The draw depends on seed, row and epoch alone. What a rotation uncovers gets the colour of the picture's border.
    Raises ConfigError for something else than a picture.
    """
    check_picture(image, "augment_image")
    rng = generator_for(seed, "augment-image", row_id, str(epoch))
    chances = rng.random(5)
    ranges = (config.brightness, config.rotation, config.blur, config.shift, config.shift)
    factor, degrees, sigma, hue, saturation = (float(rng.uniform(*pair)) for pair in ranges)
    out = image.copy()
    if chances[0] >= config.p:
        return out
    if chances[1] < config.each:
        out = cv2.LUT(out, np.clip(np.round(np.arange(256) * factor), 0, 255).astype(np.uint8))
    if chances[2] < config.each:
        out = _rotated(out, degrees)
    if chances[3] < config.each and sigma > 0.05:
        out = cv2.GaussianBlur(out, (0, 0), sigma)
    if chances[4] < config.each and (round(hue) or round(saturation)):
        out = _shifted(out, hue, saturation)
    return out


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned about the centre, counter-clockwise for positive angles."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colour = tuple(float(v) for v in np.median(border, axis=0))
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=colour)


def _shifted(image: np.ndarray, hue: float, saturation: float) -> np.ndarray:
    """Hue turned round its circle, saturation moved and cut off at its ends."""
    values = np.arange(256)
    table = np.stack([(values + round(hue)) % 180, np.clip(values + round(saturation), 0, 255), values], axis=1)
    shifted = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table.astype(np.uint8)[None])
    return cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB)
