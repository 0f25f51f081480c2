"""Effects of the sheet itself: its colour and grain, folds and crumpling. Depths are in stops of light."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from ecglm.representations.effects.base import Choice, Number, effect, field_shape, gain_of, shade, smooth_noise

#: What each colour leaves of white at full strength.
_TINTS = {
    "yellow": (1.0, 0.94, 0.74),
    "cream": (1.0, 0.97, 0.90),
    "grey": (0.86, 0.86, 0.86),
    "blue": (0.86, 0.93, 1.0),
    "green": (0.90, 1.0, 0.90),
    "pink": (1.0, 0.90, 0.90),
}
_GRAIN_PER_MM, _CELL = 4, 32


@effect("tint", "paper", colour=Choice(tuple(_TINTS)), strength=Number(0, 1.5))
def tint(
    image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, colour: str = "yellow", strength: float = 0.7
) -> np.ndarray:
    """Coloured or aged paper: all light that comes back is filtered, evenly."""
    gain = np.power(_TINTS[colour], strength)
    return cv2.LUT(image, np.round(np.arange(256)[:, None] * gain).astype(np.uint8)[None])


@lru_cache(maxsize=1)
def _grain_texture() -> np.ndarray:
    """Fibres and clouds of paper, float32 ``(1024, 1024)`` with a standard deviation of 1; its ends fit each other."""
    rng = np.random.default_rng(20_240_131)
    size = 1024
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * _GRAIN_PER_MM  # per mm
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    fine = np.exp(-0.5 * (frequency / 0.9) ** 2)
    clouds = 5 * np.exp(-0.5 * (frequency / 0.12) ** 2)
    spectrum *= fine + clouds
    spectrum[0, 0] = 0
    texture = np.fft.irfft2(spectrum, (size, size))
    return (texture / texture.std()).astype(np.float32)


@effect("grain", "paper", depth=Number(0, 0.5, "stops"))
def grain(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, depth: float = 0.05) -> np.ndarray:
    """Rough paper: fibres of about a millimetre and clouds of a centimetre; depth: their standard deviation,
    below white paper as its mean."""
    texture = _grain_texture()
    height, width = field_shape(image, px_per_mm, _GRAIN_PER_MM)
    rows = (np.arange(height) + rng.integers(len(texture))) % len(texture)
    columns = (np.arange(width) + rng.integers(len(texture))) % len(texture)
    return shade(image, 1 + np.float32(depth / 2.2 * np.log(2)) * (texture[np.ix_(rows, columns)] - 1))


@effect(
    "creases",
    "paper",
    spacing_mm=Number(10, 300, "mm"),
    width_mm=Number(0.2, 6, "mm"),
    depth=Number(0, 2, "stops"),
    angle=Number(0, 180, "degrees"),
    directions=Number(1, 2, whole=True),
)
def creases(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    px_per_mm: float,
    spacing_mm: float = 90.0,
    width_mm: float = 1.5,
    depth: float = 0.4,
    angle: float = 90.0,
    directions: int = 1,
) -> np.ndarray:
    """A sheet that was folded and laid flat again: straight folds, one flank bright and the other dark.

    spacing_mm: between parallel folds, give or take a tenth. width_mm: of a fold. angle: of the folds, 0 level, 90
    upright. directions: 2 adds folds at right angles.
    """
    shape = height, width = field_shape(image, px_per_mm, 2.0)
    scale = height / (image.shape[0] / px_per_mm)
    stops = np.zeros(shape, np.float32)
    for turn in range(directions):
        theta = np.deg2rad(angle + 90 * turn)
        across = np.array([np.sin(theta), -np.cos(theta)])  # (x, y), unit length
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) / scale @ across
        low, high = corners.min(), corners.max()
        at = np.arange(low + rng.uniform(0.2, 1.0) * spacing_mm, high, spacing_mm)
        at = at + rng.uniform(-0.1, 0.1, len(at)) * spacing_mm
        fine = 8  # steps a millimetre of the profile across the folds
        where = np.arange(int((high - low) * fine) + 2) / fine + low
        profile = np.zeros(len(where))
        for fold in at:
            u = (where - fold) / (width_mm / 2)
            side = rng.choice([-1.0, 1.0])
            strength = rng.uniform(0.6, 1.0)
            flanks = side * u * np.exp(0.5 - 0.5 * u * u)  # at most 1
            broad = side * np.tanh(u) * np.exp(-np.abs(where - fold) / 7)  # the sheet does not lie quite flat again
            worn = np.exp(-0.5 * (u / 0.3) ** 2)  # paper breaks at the fold itself
            profile += strength * depth * (0.6 * flanks + 0.2 * broad - 0.5 * worn)
        x = (np.arange(width, dtype=np.float32) / scale * across[0] - low) * fine
        y = (np.arange(height, dtype=np.float32) / scale * across[1]) * fine
        stops += profile.astype(np.float32)[np.clip((y[:, None] + x[None]).astype(np.int32), 0, len(profile) - 1)]
    varied = 0.8 + 0.3 * smooth_noise(rng, shape, (height / scale / 25, width / scale / 25))
    return shade(image, gain_of(stops * varied))


@lru_cache(maxsize=1)
def _crumple_texture() -> np.ndarray:
    """Facets of crumpled paper, lit from one side: float32 ``(768, 768)``, about -1 to 1; its ends fit each other.

    Random heights over jittered grids of three sizes, each cell two flat triangles whose slope is its brightness.
    """
    rng = np.random.default_rng(20_240_202)
    size, total = 24 * _CELL, np.zeros((24 * _CELL, 24 * _CELL), np.float32)
    for cell, share in ((_CELL, 1.0), (_CELL // 2, 0.45), (_CELL // 4, 0.2)):
        count = size // cell
        jitter = rng.uniform(-0.38, 0.38, (count, count, 2))
        heights = rng.uniform(-1, 1, (count, count))
        slanted = rng.random((count, count)) < 0.5
        row, column = np.mgrid[-1 : count + 2, -1 : count + 2]
        where = np.stack([column, row], axis=-1) + jitter[row % count, column % count]  # in cells
        z = heights[row % count, column % count]
        around = [(slice(a, a + count + 2), slice(b, b + count + 2)) for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))]
        turned = slanted[row % count, column % count][around[0]][..., None]
        layer = np.zeros((size, size), np.float32)
        for three, other in (((0, 1, 2), (1, 2, 3)), ((0, 2, 3), (1, 3, 0))):
            corners = [np.where(turned, where[around[j]], where[around[i]]) for i, j in zip(three, other, strict=True)]
            high = [np.where(turned[..., 0], z[around[j]], z[around[i]]) for i, j in zip(three, other, strict=True)]
            (x1, y1), (x2, y2) = (np.moveaxis(c - corners[0], -1, 0) for c in corners[1:])
            area = x1 * y2 - x2 * y1
            slope = ((high[1] - high[0]) * y2 - (high[2] - high[0]) * y1) / np.where(np.abs(area) > 0.05, area, np.inf)
            points = np.round(np.stack(corners, axis=2) * (cell * 16)).astype(np.int32).reshape(-1, 3, 2)
            for triangle, shade_of in zip(points, np.tanh(0.6 * slope).ravel().tolist(), strict=True):
                cv2.fillConvexPoly(layer, triangle, shade_of, cv2.LINE_8, 4)
        total += share * layer
    wrapped = cv2.copyMakeBorder(total, 8, 8, 8, 8, cv2.BORDER_WRAP)
    soft = cv2.GaussianBlur(wrapped, (0, 0), 0.7) + 0.4 * cv2.GaussianBlur(wrapped, (0, 0), 3.0)
    return np.ascontiguousarray(soft[8:-8, 8:-8] / np.abs(soft).max())


@effect("wrinkles", "paper", spacing_mm=Number(4, 80, "mm"), depth=Number(0, 2, "stops"))
def wrinkles(
    image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, spacing_mm: float = 18.0, depth: float = 0.5
) -> np.ndarray:
    """A sheet that was crumpled and smoothed: facets of about ``spacing_mm`` in side light, deeper in some places.

    depth: between the brightest and the middle facet.
    """
    texture = _crumple_texture()
    shape = height, width = field_shape(image, px_per_mm, 2.0)
    per_mm = height / (image.shape[0] / px_per_mm)
    angle, scale = rng.uniform(0, 2 * np.pi), _CELL / (spacing_mm * per_mm)  # texture points per field point
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    start_x, start_y = rng.uniform(0, len(texture), 2)
    where = np.array([[c, -s, start_x], [s, c, start_y]])  # field → texture
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    lit = cv2.warpAffine(texture, where, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    places = 0.65 + 0.55 * smooth_noise(rng, shape, (height / per_mm / 60, width / per_mm / 60))
    return shade(image, gain_of(depth * (2 * lit - 0.5) * np.clip(places, 0.1, None)))
