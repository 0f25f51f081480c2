"""Effects of light: exposure, light that falls off across the sheet, shadows. Strengths are in stops."""

from __future__ import annotations

import cv2
import numpy as np

from ecglm.representations.effects.base import Choice, Number, effect, field_shape, gain_of, shade


@effect("exposure", "light", stops=Number(-3, 2, "stops"))
def exposure(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, stops: float = -0.5) -> np.ndarray:
    """The whole picture brighter or darker; what would be beyond white is white."""
    table = np.clip(np.round(np.arange(256) * gain_of(stops)), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


@effect("uneven_light", "light", stops=Number(0, 4, "stops"), shape=Choice(("gradient", "spot")))
def uneven_light(
    image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, stops: float = 1.0, shape: str = "gradient"
) -> np.ndarray:
    """Light that falls off by ``stops`` over the picture: along a random direction, or away from a random spot."""
    height, width = field_shape(image, px_per_mm, 0.25)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    x *= image.shape[1] / max(image.shape[:2])
    y *= image.shape[0] / max(image.shape[:2])
    if shape == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        dark = x * np.cos(angle) + y * np.sin(angle)
        dark += 0.35 * dark * np.abs(dark)  # a window's light is not a straight ramp
    else:
        spot_x, spot_y = rng.uniform(-0.3, 0.3, 2)
        dark = np.square(x - spot_x) + np.square(y - spot_y)
    dark = (dark - dark.min()) / (dark.max() - dark.min())
    return shade(image, gain_of(-stops * dark))


@effect(
    "shadow",
    "light",
    stops=Number(0, 4, "stops"),
    softness_mm=Number(0.5, 40, "mm"),
    shape=Choice(("edge", "telephone")),
)
def shadow(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    px_per_mm: float,
    stops: float = 0.8,
    softness_mm: float = 8.0,
    shape: str = "edge",
) -> np.ndarray:
    """A shadow from one side: the straight edge of something large, or a telephone held over it, and the
    arm that holds it.

    softness_mm: the standard deviation of its border.
    """
    height, width = field_shape(image, px_per_mm, 0.5)
    scale = height / (image.shape[0] / px_per_mm)  # field points per mm
    mask = np.zeros((height, width), np.float32)
    size = float(np.hypot(height, width))
    angle = rng.uniform(0, 2 * np.pi)
    out = np.array([np.cos(angle), np.sin(angle)])
    along = np.array([-out[1], out[0]])
    centre = np.array([width / 2, height / 2])
    reach = 0.5 * (abs(out[0]) * width + abs(out[1]) * height)
    if shape == "edge":
        start = centre + out * reach * rng.uniform(0.1, 0.8)
        corners = [start - along * size, start + along * size, start + along * size + out * size]
        corners.append(start - along * size + out * size)
        cv2.fillPoly(mask, [np.round(np.stack(corners)).astype(np.int32)], 1.0)
    else:
        lean = out + along * rng.uniform(-0.5, 0.5)
        lean /= np.hypot(*lean)
        aside = np.array([-lean[1], lean[0]])
        tip = centre + out * reach * rng.uniform(0.2, 0.6) + along * rng.uniform(-0.3, 0.3) * size
        parts = ((0.0, 0.45, 0.11), (0.3, 2.0, 0.07))  # from, to, half the breadth, in diagonals: telephone, then arm
        for start, stop, half in parts:
            ends = [tip + lean * size * where + aside * size * side for where, side in _corners(start, stop, half)]
            cv2.fillPoly(mask, [np.round(np.stack(ends)).astype(np.int32)], 1.0)
    sigma = max(softness_mm * scale, 0.6)
    soft = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return shade(image, gain_of(-stops * soft))


def _corners(start: float, stop: float, half: float) -> list[tuple[float, float]]:
    """A rectangle as (along, across)."""
    return [(start, -half), (start, half), (stop, half), (stop, -half)]
