"""ECG paper: a segment as the picture a cardiologist reads. 25 mm/s, 10 mm/mV, drawn by OpenCV on a cached grid."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ecglm.errors import EcglmError, nearest
from ecglm.files import write_bytes
from ecglm.types import LEADS

MM_PER_S = 25.0
MM_PER_MV = 10.0

#: Layout → rows of leads; every row spans the whole segment, its leads share the time among them.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "3x4+1": (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"), ("II",)),
    "3x4": (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6")),
    "6x2": (("I", "V1"), ("II", "V2"), ("III", "V3"), ("aVR", "V4"), ("aVL", "V5"), ("aVF", "V6")),
    "12x1": tuple((lead,) for lead in LEADS),
}
#: Least height of a row in mm; what the picture has beyond that is shared among the rows.
_ROW_MM = {"3x4+1": 24.0, "3x4": 24.0, "6x2": 20.0, "12x1": 14.0}
_MARGIN_MM, _PULSE_MM, _HEADER_MM = 3.0, 8.0, 8.0
_SHIFT = 4  # OpenCV draws at sixteenths of a pixel

_COLOURS = {
    "paper": (255, 252, 250),
    "minor": (252, 222, 220),
    "major": (240, 170, 168),
    "ink": (20, 20, 20),
}


@dataclass(frozen=True)
class Panel:
    """Where one lead is drawn: samples ``[start, stop)``.

    x, y: pixel of sample ``start`` and of 0 mV. name_y: base line of the lead's name, which begins at x.
    """

    lead: str
    x: float
    y: float
    name_y: float
    start: int
    stop: int


@dataclass(frozen=True)
class Geometry:
    """The paper of one picture, ``width`` by ``height`` pixels, and the panels on it."""

    width: int
    height: int
    px_per_mm: float
    rate: int
    panels: tuple[Panel, ...]
    has_header: bool


@lru_cache(maxsize=64)
def paper_geometry(
    num_samples: int, rate: int, layout: str = "3x4+1", size: tuple[int, int] = (1100, 850), has_header: bool = False
) -> Geometry:
    """Where everything lies for segments of ``num_samples`` at ``rate`` Hz on ``size`` = (width, height) pixels.

    The scale is the largest at which the whole segment fits. Raises EcglmError for an unknown layout, or when the
    picture is too small for the grid to be seen.
    """
    if layout not in LAYOUTS:
        raise EcglmError(f"render: no layout '{layout}'{nearest(layout, LAYOUTS)}; known: {', '.join(LAYOUTS)}")
    rows, (width, height) = LAYOUTS[layout], size
    long_mm = 2 * _MARGIN_MM + _PULSE_MM + num_samples / rate * MM_PER_S
    high_mm = 2 * _MARGIN_MM + len(rows) * _ROW_MM[layout] + (_HEADER_MM if has_header else 0)
    scale = min(width / long_mm, height / high_mm)
    if scale < 1.5:
        needed = (int(np.ceil(1.5 * long_mm)), int(np.ceil(1.5 * high_mm)))
        raise EcglmError(f"render: size {width}x{height} is too small; at least {needed[0]}x{needed[1]} is needed here")
    left = (width - long_mm * scale) / 2 + (_MARGIN_MM + _PULSE_MM) * scale
    top = (_MARGIN_MM + (_HEADER_MM if has_header else 0)) * scale
    row_height = (height - top - _MARGIN_MM * scale) / len(rows)
    panels = []
    for row, leads in enumerate(rows):
        edges = [round(num_samples * i / len(leads)) for i in range(len(leads) + 1)]
        for lead, start, stop in zip(leads, edges[:-1], edges[1:], strict=True):
            x = left + start / rate * MM_PER_S * scale
            y = top + (row + 0.55) * row_height
            panels.append(Panel(lead, x, y, max(y - 10.5 * scale, y - 0.55 * row_height + 3.2 * scale), start, stop))
    return Geometry(width, height, scale, rate, tuple(panels), has_header)


def signal_to_pixel(geometry: Geometry, panel: Panel, sample: float, millivolts: float) -> tuple[float, float]:
    """The point (x, y) in pixels where a panel draws a value; sample counts from the segment's start."""
    x = panel.x + (sample - panel.start) / geometry.rate * MM_PER_S * geometry.px_per_mm
    return x, panel.y - millivolts * MM_PER_MV * geometry.px_per_mm


def render(
    segment: np.ndarray,
    rate: float = 250,
    *,
    layout: str = "3x4+1",
    size: tuple[int, int] = (1100, 850),
    header: str = "",
    color: bool = True,
    grid: bool = True,
) -> np.ndarray:
    """Draw a segment as ECG paper: uint8 ``(height, width, 3)``, RGB; the same input gives the same pixels.

    segment: ``(12, samples)`` in millivolts, canonical leads; missing samples (NaN) leave a gap. rate: Hz. layout: one
    of ``LAYOUTS``, time running on from column to column. size: (width, height) in pixels. header: a line of text.
    color: pink paper, or grey. Raises EcglmError for another shape, layout or too small a size.
    """
    signal = np.asarray(segment)
    if signal.ndim != 2 or signal.shape[0] != len(LEADS) or signal.shape[1] < 2 or signal.dtype.kind not in "fiu":
        raise EcglmError(f"render: a segment is (12, samples) numbers in mV, found {signal.shape} {signal.dtype}")
    if not rate > 0 or rate != int(rate):
        raise EcglmError(f"render: rate must be a whole number of Hz, found {rate!r}")
    geometry = paper_geometry(signal.shape[1], int(rate), layout, (int(size[0]), int(size[1])), bool(header))
    image = _paper(geometry, color, grid).copy()
    if header:
        _text(image, header, (_MARGIN_MM * geometry.px_per_mm, 0.72 * _HEADER_MM * geometry.px_per_mm), geometry, 3.4)
    step = MM_PER_S / geometry.rate * geometry.px_per_mm
    for panel in geometry.panels:
        # A lead's last sample is joined to the first of its neighbour's time, as a recorder does.
        values = signal[LEADS.index(panel.lead), panel.start : panel.stop].astype(np.float64)
        points = np.empty((len(values), 2))
        points[:, 0] = panel.x + step * np.arange(len(values))
        points[:, 1] = panel.y - values * (MM_PER_MV * geometry.px_per_mm)
        present = np.isfinite(values)
        runs = [points] if present.all() else _runs(points, present)
        limit = 4 * geometry.height  # far outside, and well inside OpenCV's fixed-point range
        lines = [np.round(np.clip(r, -limit, limit) * (1 << _SHIFT)).astype(np.int32) for r in runs]
        cv2.polylines(image, lines, False, _COLOURS["ink"], _pen(geometry), cv2.LINE_AA, _SHIFT)
    return image


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an RGB picture as PNG, atomically."""
    write_bytes(path, png_bytes(image))


def png_bytes(image: np.ndarray) -> bytes:
    """An RGB picture ``(height, width, 3)`` uint8 as the bytes of a PNG file."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise EcglmError(f"render: a picture is (height, width, 3) uint8, found {image.shape} {image.dtype}")
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _runs(points: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
    """The stretches of points without missing ones between them."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], present.astype(np.int8), [0]])))
    return [points[a:b] for a, b in edges.reshape(-1, 2)]


def _pen(geometry: Geometry) -> int:
    """Width of the trace in pixels: a quarter of a millimetre."""
    return max(1, round(0.25 * geometry.px_per_mm))


@lru_cache(maxsize=16)
def _paper(geometry: Geometry, color: bool, grid: bool) -> np.ndarray:
    """The picture before the traces: grid, lead names, calibration pulses."""
    shade = {name: value if color else (int(np.mean(value)),) * 3 for name, value in _COLOURS.items()}
    image = np.full((geometry.height, geometry.width, 3), shade["paper"] if grid else (255, 255, 255), np.uint8)
    scale = geometry.px_per_mm
    if grid:
        for major in (False, True):
            _grid(image, geometry, 5 if major else 1, shade["major" if major else "minor"], scale)
    first_rows = {p.y: p for p in reversed(geometry.panels)}
    for y, panel in first_rows.items():
        left = panel.x - (_PULSE_MM - 1) * scale
        mm = np.array([(0, 0), (1, 0), (1, -10), (6, -10), (6, 0), (7, 0)]) * scale + (left, y)
        line = np.round(mm * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(image, [line], False, _COLOURS["ink"], _pen(geometry), cv2.LINE_AA, _SHIFT)
    for panel in geometry.panels:
        _text(image, panel.lead, (panel.x + 0.8 * scale, panel.name_y), geometry, 3.0)
    image.setflags(write=False)
    return image


def _grid(image: np.ndarray, geometry: Geometry, every_mm: int, colour: tuple[int, ...], scale: float) -> None:
    """Lines every 1 or 5 mm through the point where the first panel begins."""
    origin = geometry.panels[0]
    step, top = every_mm * scale, 1 << _SHIFT
    for start, length, across, vertical in (
        (origin.x % step, geometry.width, geometry.height, True),
        (origin.y % step, geometry.height, geometry.width, False),
    ):
        for at in np.round(np.arange(start, length, step) * top).astype(int).tolist():
            first, last = ((at, 0), (at, across * top)) if vertical else ((0, at), (across * top, at))
            cv2.line(image, first, last, colour, 1, cv2.LINE_AA, _SHIFT)


def _text(image: np.ndarray, text: str, at: tuple[float, float], geometry: Geometry, height_mm: float) -> None:
    """Text whose capitals are ``height_mm`` high, its baseline beginning at ``at``; smaller where it would not fit."""
    size = height_mm * geometry.px_per_mm / 22  # a capital of Hershey Simplex is 22 pixels high at size 1
    wide = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
    size = max(0.3, size * min(1.0, (geometry.width - 2 * at[0]) / wide if at[0] < geometry.width / 4 else 1.0))
    where, pen = (round(at[0]), round(at[1])), max(1, round(size * 1.4))
    cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, _COLOURS["ink"], pen, cv2.LINE_AA)
