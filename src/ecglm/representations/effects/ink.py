"""Effects of print and pen: the recorder's own line of text, handwritten words, circles, arrows and lines of a pen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ecglm.representations.effects.base import Choice, Number, effect
from ecglm.representations.effects.strokes import INKS, draw_strokes, smooth, word_strokes
from ecglm.representations.lettering import text_width, write

Places = Sequence[tuple[float, float]]

#: Words of the office. None says anything about the ECG, so that no picture teaches a wrong diagnosis.
_WORDS = (
    *("seen", "filed", "copy", "noted", "sent", "to file", "see notes", "checked", "page 1", "page 2", "pls call"),
    *("ward 3", "ward 7", "bed 12", "bed 4", "room 9", "for records", "signed", "by hand", "scan", "archive"),
)
_UNITS = ("UNIT", "CART", "LOC", "DEV", "STN")


@effect("machine_text", "ink", height_mm=Number(1, 5, "mm"), edge=Choice(("bottom", "top")))
def machine_text(
    image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, height_mm: float = 1.8, edge: str = "bottom"
) -> np.ndarray:
    """The line that recorders print along an edge, right of its middle: invented numbers of device and program."""
    out = image.copy()
    unit = f"{_UNITS[int(rng.integers(len(_UNITS)))]} {int(rng.integers(1, 100)):02d}"
    parts = [unit, f"TEST-{int(rng.integers(10**5)):05d}", f"V{int(rng.integers(1, 9))}.{int(rng.integers(10))}"]
    text = ("     " if rng.random() < 0.5 else "   ").join(parts[: int(rng.integers(1, 4))])
    capital = max(5.0, height_mm * px_per_mm)
    most = image.shape[1] - text_width(text, capital) - 3 * px_per_mm
    x = rng.uniform(min(0.4 * image.shape[1], most), most)
    y = image.shape[0] - 2 * px_per_mm if edge == "bottom" else capital + 1.2 * px_per_mm
    write(out, text, (x, y), capital, (45, 45, 45))
    return out


@effect(
    "handwriting",
    "ink",
    words=Number(0, 12, whole=True),
    height_mm=Number(1, 12, "mm"),
    pen_mm=Number(0.1, 2, "mm"),
    ink=Choice(tuple(INKS)),
)
def handwriting(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    px_per_mm: float,
    words: int = 3,
    height_mm: float = 2.5,
    pen_mm: float = 0.4,
    ink: str = "blue",
    places: Places = (),
) -> np.ndarray:
    """Handwritten words, dates and initials near the names of leads, where there is most room.

    height_mm: of a small letter. They say nothing about the ECG. places: points (x, y) in pixels to write near;
    without any, the words stand anywhere.
    """
    out = image.copy()
    in_mm = (max(1, round(image.shape[1] / px_per_mm)), max(1, round(image.shape[0] / px_per_mm)))
    dark = cv2.resize(255 - cv2.split(image)[1], in_mm, interpolation=cv2.INTER_AREA)
    dark = np.maximum(dark, 60) - 60  # what is darker than the grid
    x_px = height_mm * px_per_mm
    pressure = rng.uniform(0.75, 0.95)
    for _ in range(words):
        strokes = word_strokes(_word(rng), rng)
        size = x_px * rng.uniform(0.85, 1.2)
        box = np.concatenate(strokes)
        low, high = box.min(axis=0) * size, box.max(axis=0) * size
        room = np.maximum(np.array(image.shape[1::-1]) - (high - low), 1)
        candidates = []
        filled = cv2.integral(dark)
        for _ in range(6):
            if places and rng.random() < 0.7:
                near = np.array(places[int(rng.integers(len(places)))]) + rng.uniform((2, -8), (22, 4)) * px_per_mm
            else:
                near = rng.uniform(0.02, 0.98, 2) * room
            corner = np.clip(near, 0, room)
            candidates.append((_sum(filled, corner / px_per_mm, (corner + high - low) / px_per_mm), tuple(corner)))
        corner = np.array(min(candidates)[1])
        turn = rng.normal(0, 0.05)
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        placed = [(s * size - low) @ spin + corner for s in strokes]
        draw_strokes(out, placed, ink, pen_mm * px_per_mm, pressure)
        left, top = np.floor(corner / px_per_mm).astype(int)
        right, bottom = np.ceil((corner + high - low) / px_per_mm).astype(int)
        dark[top:bottom, left:right] = 255  # the next word goes elsewhere
    return out


@effect("pen_strokes", "ink", count=Number(0, 12, whole=True), pen_mm=Number(0.1, 2, "mm"), ink=Choice(tuple(INKS)))
def pen_strokes(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    px_per_mm: float,
    count: int = 2,
    pen_mm: float = 0.4,
    ink: str = "blue",
    places: Places = (),
) -> np.ndarray:
    """A reader's pen: rings, underlines, arrows, ticks and pairs of measuring marks, near the names of leads."""
    out = image.copy()
    pressure = rng.uniform(0.7, 0.95)
    for _ in range(count):
        if places:
            at = np.array(places[int(rng.integers(len(places)))]) + rng.uniform((0, -5), (40, 8)) * px_per_mm
        else:
            at = rng.uniform(0.1, 0.9, 2) * image.shape[1::-1]
        kind = int(rng.integers(len(_STROKES)))
        strokes = [smooth(s * px_per_mm) + at for s in _STROKES[kind](rng)]
        draw_strokes(out, strokes, ink, pen_mm * px_per_mm, pressure)
    return out


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    """A ring that does not quite close, in mm."""
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi * rng.uniform(0.95, 1.12), 14)
    radius = np.array([rng.uniform(4, 9), rng.uniform(3.5, 6)])
    grow = 1 + rng.uniform(-0.1, 0.12) * np.linspace(0, 1, 14)
    return [np.stack([np.cos(angle), np.sin(angle)], 1) * radius * grow[:, None] + rng.normal(0, 0.12, (14, 2))]


def _underline(rng: np.random.Generator) -> list[np.ndarray]:
    """One or two level lines."""
    x = np.linspace(0, rng.uniform(8, 20), 5)
    lines = [np.stack([x, rng.uniform(-0.04, 0.04) * x + rng.normal(0, 0.15, 5)], 1)]
    return [*lines, lines[0] + (rng.uniform(-1, 1), 1.3)] if rng.random() < 0.3 else lines


def _arrow(rng: np.random.Generator) -> list[np.ndarray]:
    """A bent line with a head of two strokes."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(6, 14)
    way = np.array([np.cos(angle), np.sin(angle)])
    aside = np.array([-way[1], way[0]])
    shaft = np.array([way * t + aside * rng.normal(0, 0.04) * length for t in np.linspace(-length, 0, 4)])
    head = [np.stack([shaft[-1] - 2.2 * way + aside * s * 1.2, shaft[-1]]) for s in (-1, 1)]
    return [shaft, *head]


def _tick(rng: np.random.Generator) -> list[np.ndarray]:
    """A tick."""
    size = rng.uniform(2, 4)
    return [np.array([(0, 0), (0.45, 0.9), (1.6, -1.3)]) * size + rng.normal(0, 0.1, (3, 2))]


def _measure(rng: np.random.Generator) -> list[np.ndarray]:
    """Two upright marks, and sometimes the line between them."""
    gap, high = rng.uniform(6, 25), rng.uniform(2, 5)
    marks = [np.array([(x, 0), (x + rng.normal(0, 0.2), high)]) for x in (0, gap)]
    between = [np.array([(0, high / 2), (gap / 2, high / 2 + rng.normal(0, 0.2)), (gap, high / 2)])]
    return marks + between if rng.random() < 0.6 else marks


_STROKES = (_ring, _underline, _arrow, _tick, _measure)


def _word(rng: np.random.Generator) -> str:
    """A word of the office, a date, a time, or initials."""
    kind = rng.random()
    if kind < 0.45:
        return _WORDS[int(rng.integers(len(_WORDS)))]
    if kind < 0.65:
        return f"{int(rng.integers(1, 29))}/{int(rng.integers(1, 13))}"
    if kind < 0.8:
        return f"{int(rng.integers(24))}:{int(rng.integers(60)):02d}"
    return ".".join(rng.choice(list("abcdefghjkmnprstw"), 2))


def _sum(integral: np.ndarray, first: np.ndarray, last: np.ndarray) -> int:
    """What stands in a rectangle (x, y) to (x, y)."""
    limit = np.array(integral.shape[::-1]) - 1
    (a, b), (c, d) = (np.clip(np.floor(p).astype(int), 0, limit) for p in (first, last + 1))
    return int(integral[d, c] - integral[b, c] - integral[d, a] + integral[b, a])
