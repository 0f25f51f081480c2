"""Handwriting as curves: a small alphabet of single strokes, made unsteady, and the pen that draws it."""

from __future__ import annotations

import numpy as np

from ecglm.representations.pen import stroke

#: Letter → strokes of points "xy": x 1 to 6 to the right, y 3 the base line, 7 the height of an x, 9 tall, 0 deep.
ALPHABET = {
    "a": "47 27 15 14 23 33 45 47 44 53",
    "b": "29 13 15 27 37 46 44 33 13",
    "c": "46 37 27 15 14 23 33 44",
    "d": "47 27 15 14 23 33 45 49 44 53",
    "e": "15 45 46 37 27 15 14 23 33 44",
    "f": "49 39 28 22 11,17 37",
    "g": "47 27 15 14 24 35 47 42 31 11",
    "h": "29 13 15 27 37 45 43 53",
    "i": "27 24 33 43,29 29",
    "j": "37 32 21 11,39 39",
    "k": "19 13,37 15 43",
    "l": "29 18 14 23 33",
    "m": "17 13 15 27 36 33 35 47 56 53 63",
    "n": "17 13 15 27 37 45 43 53",
    "o": "37 15 14 23 33 45 46 37",
    "p": "17 10,16 27 37 45 44 33 14",
    "q": "47 27 15 14 24 45 47 40 51",
    "r": "17 13 15 27 37 46",
    "s": "46 37 27 16 35 44 33 23 14",
    "t": "28 24 23 33 44,17 37",
    "u": "17 14 23 33 45 47 44 53",
    "v": "17 23 47",
    "w": "17 23 36 43 57",
    "x": "17 43,47 13",
    "y": "17 14 24 35 47 42 31 11",
    "z": "17 47 13 43",
    "0": "39 27 14 23 33 44 57 48 39",
    "1": "17 39 33",
    "2": "18 29 39 48 36 13 43",
    "3": "18 39 48 36 26 36 45 33 14",
    "4": "39 15 55,47 43",
    "5": "49 19 16 36 45 34 13",
    "6": "49 26 14 23 33 45 36 15",
    "7": "19 49 23",
    "8": "36 18 39 48 14 23 44 36",
    "9": "48 29 17 26 46 48 43",
    "/": "13 49",
    ":": "26 26,24 24",
    ".": "23 23",
    "-": "16 46",
}
#: Pen → its colour on white paper.
INKS = {"black": (38, 38, 44), "blue": (38, 62, 150), "red": (180, 40, 48), "pencil": (105, 105, 110)}


def word_strokes(word: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The strokes of a word, float64 ``(points, 2)``, y downwards; an x is 1 high, the first letter begins at 0."""
    strokes, pen_x = [], 0.0
    slant, narrow = rng.uniform(0.05, 0.4), rng.uniform(0.75, 1.05)
    drift = rng.uniform(-0.04, 0.04)
    for letter in word:
        if letter not in ALPHABET:
            pen_x += 0.7
            continue
        grow = rng.uniform(0.88, 1.12)
        right = 0.0
        for text in ALPHABET[letter].split(","):
            points = np.array([[int(p[0]) - 1, int(p[1]) - 3] for p in text.split()], np.float64)
            right = max(right, points[:, 0].max())
            points += rng.normal(0, 0.16, points.shape)
            points *= grow / 4
            x = pen_x + narrow * points[:, 0] + slant * points[:, 1]
            y = points[:, 1] + drift * x + rng.normal(0, 0.03)
            strokes.append(smooth(np.stack([x, -y], axis=1)))
        pen_x += narrow * (right / 4 * grow + rng.uniform(0.12, 0.3))
    return strokes


def smooth(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """A curve through points ``(n, 2)``: Catmull-Rom, ``steps`` per stretch."""
    ends = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    before, here, there, after = ends[:-3, None], ends[1:-2, None], ends[2:-1, None], ends[3:, None]
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (
        2 * here
        + (there - before) * t
        + (2 * before - 5 * here + 4 * there - after) * t**2
        + (3 * here - before - 3 * there + after) * t**3
    )
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def draw_strokes(image: np.ndarray, strokes: list[np.ndarray], ink: str, pen_px: float, pressure: float) -> None:
    """Draw strokes, in pixels, into a picture: the ink filters what lies beneath, as a pen's does.

    pen_px: width of the line. pressure: 0 (nothing) to 1.
    """
    height, width = image.shape[:2]
    everything = np.concatenate(strokes)
    reach = int(np.ceil(pen_px)) + 2
    left, top = np.clip(np.floor(everything.min(axis=0)).astype(int) - reach, 0, (width, height))
    right, bottom = np.clip(np.ceil(everything.max(axis=0)).astype(int) + reach, 0, (width, height))
    if right <= left or bottom <= top:
        return
    cover = np.zeros((bottom - top, right - left), np.uint8)
    for points in strokes:
        x, y = np.ascontiguousarray((points - (left, top)).T)
        stroke(cover, x, y, pen_px, 0, len(cover))
    strength = pressure * cover[..., None].astype(np.float32) / 255
    gain = 1 - strength * (1 - np.array(INKS[ink], np.float32) / 255)
    part = image[top:bottom, left:right]
    part[:] = np.round(part * gain).astype(np.uint8)
