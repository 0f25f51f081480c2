"""Effects of where the sheet lies before the camera: each gives a 3 × 3 matrix, old pixels → new pixels."""

from __future__ import annotations

import numpy as np

from ecglm.representations.effects.base import Number, effect


def about_centre(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix with the picture's centre as its origin."""
    x, y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = (-x, -y), (x, y)
    return back @ matrix @ there


@effect("crop", "geometry", mm=Number(0, 40, "mm"))
def crop(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, mm: float = 4.0) -> np.ndarray:
    """Up to ``mm`` cut off every side, each side its own; what is left fills the picture at one scale."""
    height, width = image.shape[:2]
    left, right, top, bottom = np.minimum(rng.uniform(0, mm, 4) * px_per_mm, 0.24 * min(width, height))
    scale = max(width / (width - left - right), height / (height - top - bottom))
    middle_x, middle_y = (width + left - right - 1) / 2, (height + top - bottom - 1) / 2
    return np.array(
        [
            [scale, 0, (width - 1) / 2 - scale * middle_x],
            [0, scale, (height - 1) / 2 - scale * middle_y],
            [0, 0, 1.0],
        ]
    )


@effect("margins", "geometry", mm=Number(0, 60, "mm"))
def margins(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, mm: float = 8.0) -> np.ndarray:
    """The sheet made smaller, with up to ``mm`` around it, and pushed off the middle by up to half of that."""
    height, width = image.shape[:2]
    edge = min(mm * px_per_mm, 0.24 * min(width, height))
    scale = 1 - 2 * edge / max(width, height)
    matrix = about_centre(image, np.diag([scale, scale, 1.0]))
    matrix[:2, 2] += rng.uniform(-0.5, 0.5, 2) * edge
    return matrix


@effect("rotation", "geometry", degrees=Number(-45, 45, "degrees"))
def rotation(image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, degrees: float = 3.0) -> np.ndarray:
    """The sheet turned about its centre, counter-clockwise for positive angles."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return about_centre(image, np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]))


@effect("perspective", "geometry", tilt=Number(0, 45, "degrees"), distance_mm=Number(150, 2000, "mm"))
def perspective(
    image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, tilt: float = 10.0, distance_mm: float = 400.0
) -> np.ndarray:
    """The sheet tilted about an axis of random direction, seen by a pinhole camera ``distance_mm`` from its centre."""
    axis = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(axis), np.sin(axis)
    lean = np.deg2rad(tilt)
    # A point at signed distance v from the axis (through the centre) moves to v cos(lean), and v sin(lean) away.
    turn = np.array([[c, s], [-s, c]])
    plane = turn.T @ np.diag([1.0, np.cos(lean)]) @ turn
    distance = max(distance_mm * px_per_mm, 0.75 * np.hypot(*image.shape[:2]))  # no part comes near the camera
    matrix = np.eye(3)
    matrix[:2, :2] = plane
    matrix[2, :2] = np.sin(lean) / distance * turn[1]
    return about_centre(image, matrix)
