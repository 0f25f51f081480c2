"""Effects of lens, sensor and file: blur, vignetting, white balance, noise, resolution, grid removal, JPEG."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import cv2
import numpy as np

from ecglm.representations.effects.base import Number, effect, field_shape, shade


@effect("vignette", "sensor", stops=Number(0, 4, "stops"))
def vignette(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, stops: float = 1.0) -> np.ndarray:
    """A lens that is darker towards the corners, there by ``stops``, as the fourth power of the cosine."""
    height, width = field_shape(image, px_per_mm, 0.25)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    y *= image.shape[0] / image.shape[1]
    squared = x * x + y * y
    corner = np.exp2(stops / 4)  # 1 / cosine at the corner
    tangent = squared / squared.max() * (corner * corner - 1)
    return shade(image, (1 + tangent) ** (-2 / 2.2))


@effect("white_balance", "sensor", kelvin=Number(2000, 20000, "K"))
def white_balance(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, kelvin: float = 4500) -> np.ndarray:
    """White paper under a lamp of another colour temperature than the 6500 K the camera expects (Planck's law)."""
    wavelength = np.array([600e-9, 540e-9, 450e-9])  # red, green, blue
    light = np.expm1(0.014388 / (wavelength * 6500)) / np.expm1(0.014388 / (wavelength * kelvin))
    gain = (light / light.max()) ** (1 / 2.2)
    table = np.round(np.arange(256)[:, None] * gain).astype(np.uint8)
    return cv2.LUT(image, table[None])


@effect("defocus", "sensor", sigma_mm=Number(0, 2, "mm"))
def defocus(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, sigma_mm: float = 0.15) -> np.ndarray:
    """Gaussian blur with a standard deviation in millimetres of the sheet."""
    sigma = sigma_mm * px_per_mm
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.2 else image.copy()


@effect("motion_blur", "sensor", length_mm=Number(0, 5, "mm"))
def motion_blur(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, length_mm: float = 0.6) -> np.ndarray:
    """A camera that moved by ``length_mm`` along a straight line of random direction."""
    angle = rng.uniform(0, np.pi)
    length = length_mm * px_per_mm
    half = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    steps = np.linspace(-length / 2, length / 2, 8 * half + 1)
    x, y = half + steps * np.cos(angle), half + steps * np.sin(angle)
    for dx in (0, 1):  # each step spread over the four pixels around it
        for dy in (0, 1):
            column, row = np.floor(x).astype(int) + dx, np.floor(y).astype(int) + dy
            np.add.at(kernel, (row, column), (1 - np.abs(x - column)) * (1 - np.abs(y - row)))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


@effect("resolution", "sensor", dots_per_mm=Number(1, 40, "a mm"))
def resolution(
    image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, dots_per_mm: float = 3.0
) -> np.ndarray:
    """Taken at fewer dots a millimetre of the sheet (100 dpi are 3.9) and enlarged again; with more nothing changes."""
    ratio = dots_per_mm / px_per_mm
    if ratio >= 1:
        return image.copy()
    height, width = image.shape[:2]
    small = (max(2, round(width * ratio)), max(2, round(height * ratio)))
    return cv2.resize(
        cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC
    )


@lru_cache(maxsize=64)
def _normal_table(sd: float) -> np.ndarray:
    """A random byte → a whole number around 128 with a normal distribution of that standard deviation."""
    values = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
    return np.clip(np.round(128 + sd * values / values.std()), 0, 255).astype(np.uint8)


@effect("noise", "sensor", sd=Number(0, 40, "grey levels"))
def noise(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, sd: float = 8.0) -> np.ndarray:
    """Normal noise, each pixel and colour its own, with a standard deviation in grey levels of 256."""
    drawn = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.addWeighted(image, 1.0, cv2.LUT(drawn, _normal_table(round(float(sd), 2))), 1.0, -128.0)


@effect("salt_pepper", "sensor", share=Number(0, 0.2))
def salt_pepper(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, share: float = 0.002) -> np.ndarray:
    """Dead and hot pixels, dust of a scanner: this share of all pixels is black or white, half and half."""
    out = image.copy()
    count = round(share * image.shape[0] * image.shape[1])
    where = rng.integers(0, image.shape[0] * image.shape[1], count)
    out.reshape(-1, 3)[where] = rng.integers(0, 2, (count, 1), dtype=np.uint8) * 255
    return out


@effect("grid_removal", "file", strength=Number(0, 1))
def grid_removal(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, strength: float = 1.0) -> np.ndarray:
    """A scanner's text mode: the strongest colour of each pixel as grey, in which a coloured grid is as light as the
    paper, then paper to white and ink to black. strength: 0 leaves the picture, 1 is the whole way."""
    red, green, blue = cv2.split(image)
    grey = cv2.max(cv2.max(red, green), blue)
    levels = np.flatnonzero(np.cumsum(np.bincount(grey[::4, ::4].ravel(), minlength=256)) >= grey[::4, ::4].size * 0.4)
    paper = max(int(levels[0]), 60)
    ramp = np.clip((np.arange(256) - 0.15 * paper) / (0.8 * paper), 0, 1) * 255
    flat = cv2.cvtColor(cv2.LUT(grey, np.round(ramp).astype(np.uint8)), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(flat, strength, image, 1 - strength, 0.0)


@effect("jpeg", "file", quality=Number(5, 100, whole=True))
def jpeg(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, quality: int = 60) -> np.ndarray:
    """Saved as JPEG of that quality, and read again."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    assert done
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert read is not None
    return cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
