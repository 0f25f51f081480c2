"""ECG paper: a segment as the picture a cardiologist reads, drawn on cached paper at exact sub-pixel places."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecglm.errors import EcglmError, nearest
from ecglm.files import write_bytes
from ecglm.representations.lettering import write
from ecglm.representations.paper import Geometry, paper_geometry
from ecglm.representations.pen import blank_cover, ink_over, line_cover, rule, stroke
from ecglm.types import LEADS

Rgb = tuple[int, int, int]
#: Colour scheme → paper, thin lines, thick lines.
COLORS: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "pink": ((255, 252, 250), (250, 214, 210), (238, 160, 155)),
    "blue": ((252, 253, 255), (208, 224, 246), (146, 178, 226)),
    "green": ((252, 255, 251), (206, 232, 208), (140, 196, 150)),
    "mono": ((255, 255, 255), (222, 222, 222), (168, 168, 168)),
}
_INK: Rgb = (16, 16, 20)
_THIN_MM, _THICK_MM = 0.12, 0.25
#: Heights of capitals in mm, and the least in pixels.
_NAME_MM, _SMALL_MM, _LEAST_CAPITAL = 3.0, 2.2, 5.0
#: Papers of up to so many pixels are kept; larger ones are drawn each time.
_KEPT_PIXELS = 4_000_000


def render(
    segment: np.ndarray,
    rate: float = 250,
    *,
    layout: str = "3x4+1",
    size: tuple[int, int] | None = None,
    dpi: float | None = None,
    header: str = "",
    color: str = "pink",
    grid: bool = True,
    speed: float = 25.0,
    gain: float = 10.0,
    pulse: str = "left",
    rhythm: Sequence[str] = (),
    simultaneous: bool = False,
    line_width: float = 0.35,
) -> np.ndarray:
    """Draw a segment as ECG paper: uint8 ``(height, width, 3)``, RGB; the same input gives the same pixels.

    segment: ``(12, samples)`` in millivolts, canonical leads; missing samples (NaN, infinity) leave a gap, and where a
    lead has none at all the paper says "no signal". rate: Hz. layout: one of ``LAYOUTS``. size: (width, height) in
    pixels, 1100x850 without ``dpi``. dpi: pixels per inch, so that 1 mm is dpi / 25.4 pixels; without ``size`` the
    paper is as large as the layout needs. header: text above the traces, in several lines if need be; it is wrapped
    and set smaller until it fits, and traces end below it. color: one of ``COLORS``. grid: 1 mm and 5 mm lines; below
    2 pixels per mm only the latter. speed: mm/s. gain: mm/mV. pulse: the calibration pulse of 1 mV and 0.2 s stands
    ``left`` or ``right`` of each row, or ``none``. rhythm: the leads of the rhythm strips (II; II, V1 and V5).
    simultaneous: every column shows the segment's beginning; otherwise time runs on from column to column.
    line_width: of the trace, in mm, at least one pixel. Raises EcglmError for another shape or option, and for too
    small or too large a size.
    """
    signal = np.asarray(segment)
    if signal.ndim != 2 or signal.shape[0] != len(LEADS) or signal.shape[1] < 2 or signal.dtype.kind not in "fiu":
        raise EcglmError(
            f"render: a segment is (12, samples) numbers in mV with 2 samples or more, found {signal.shape} "
            f"{signal.dtype}"
        )
    if color not in COLORS:
        raise EcglmError(f"render: no color {color!r}{nearest(str(color), COLORS)}; known: {', '.join(COLORS)}")
    if not 0 < line_width <= 5:
        raise EcglmError(f"render: line_width is in mm, above 0 and up to 5, found {line_width!r}")
    geometry = paper_geometry(
        signal.shape[1],
        rate,
        layout=layout,
        size=size,
        dpi=dpi,
        speed=speed,
        gain=gain,
        rhythm=rhythm,
        simultaneous=simultaneous,
        pulse=pulse,
        header=header,
    )
    scale, width = geometry.px_per_mm, max(1.0, line_width * geometry.px_per_mm)
    image = blank_paper(geometry, color, grid, line_width).copy()
    cover, memory = blank_cover(geometry.height, geometry.width)
    step = geometry.speed / geometry.rate * scale
    for panel in geometry.panels:
        values = signal[LEADS.index(panel.lead), panel.start : panel.stop].astype(np.float64)
        y = panel.y - values * (geometry.gain * scale)
        if not np.isfinite(y).all():
            y[~np.isfinite(y)] = np.nan
            if np.isnan(y).all():
                middle = (panel.x + 0.5 * len(y) * step, panel.y + 0.5 * _SMALL_MM * scale)
                write(image, "no signal", middle, _capital(_SMALL_MM, scale), _INK, anchor="m")
                continue
        stroke(cover, panel.x + step * np.arange(len(y)), y, width, geometry.top, geometry.bottom)
    ink_over(image, memory, _INK)
    for line, base in geometry.header:
        write(image, line, (geometry.margin, base), geometry.capital, _INK)
    return image


def blank_paper(geometry: Geometry, color: str, grid: bool, line_width: float) -> np.ndarray:
    """The picture before the traces: grid, lead names, calibration pulses, speed and gain. Read-only."""
    bare = replace(geometry, header=(), capital=0.0, top=0)  # the header's words are no part of the paper
    if geometry.width * geometry.height <= _KEPT_PIXELS:
        return _kept_paper(bare, color, grid, line_width)
    return _paper(bare, color, grid, line_width)


def _paper(geometry: Geometry, color: str, grid: bool, line_width: float) -> np.ndarray:
    height, width, scale = geometry.height, geometry.width, geometry.px_per_mm
    image = np.full((height, width, 3), 255, np.uint8)
    if grid:
        lines = []
        for every, thick, least in ((1.0, _THIN_MM, 0.6), (5.0, _THICK_MM, 1.0)):
            pen = max(thick * scale, least) if every * scale >= 2 else 0.0
            for length, origin in ((width, geometry.panels[0].x), (height, geometry.panels[0].y)):
                lines.append(line_cover(length, origin % (every * scale), every * scale, pen))
        rule(image, np.asarray(COLORS[color], np.float64), *lines)
    cover, memory = blank_cover(height, width)
    pen = max(1.0, line_width * scale)

    def draw(mm: list[tuple[float, float]], x: float, y: float) -> None:
        points = np.array(mm) * scale + (x, y)
        stroke(cover, points[:, 0].copy(), points[:, 1].copy(), pen, 0, geometry.bottom)

    tall, wide = -geometry.gain, 0.2 * geometry.speed
    for x, y in geometry.pulses:
        draw([(-1, 0), (0, 0), (0, tall), (wide, tall), (wide, 0), (wide + 1, 0)], x, y)
    for before, panel in pairwise(geometry.panels):
        if before.y == panel.y:  # two short ticks part a lead from the one before it in its row
            draw([(0, -6), (0, -3), (nan, nan), (0, 3), (0, 6)], panel.x, panel.y)
    ink_over(image, memory, _INK)
    for panel in geometry.panels:
        write(image, panel.lead, (panel.name_x, panel.name_y), _capital(_NAME_MM, scale), _INK)
    said = f"{geometry.speed:g} mm/s   {geometry.gain:g} mm/mV"
    write(image, said, (geometry.margin, height - 2.0 * scale), _capital(_SMALL_MM, scale), _INK)
    image.setflags(write=False)
    return image


_kept_paper = lru_cache(maxsize=8)(_paper)


def _capital(mm: float, scale: float) -> float:
    """Height of a capital in pixels: ``mm``, or more where that could not be read."""
    return max(_LEAST_CAPITAL, mm * scale)


def png_bytes(image: np.ndarray, dpi: float | None = None, colors: int | None = None) -> bytes:
    """An RGB picture ``(height, width, 3)`` uint8 as the bytes of a PNG file; ``dpi`` is written into it.

    colors: reduce the picture to so many (2 to 256), for a file of a third of the size; without it nothing is lost.
    """
    return _encoded(image, dpi, colors, format="PNG", compress_level=3 if colors is None else 9)


def jpeg_bytes(image: np.ndarray, dpi: float | None = None, quality: int = 92) -> bytes:
    """An RGB picture ``(height, width, 3)`` uint8 as the bytes of a JPEG file; ``dpi`` is written into it."""
    return _encoded(image, dpi, None, format="JPEG", quality=quality)


def save_picture(
    path: str | os.PathLike[str], image: np.ndarray, dpi: float | None = None, colors: int | None = None
) -> None:
    """Write an RGB picture as .png or .jpg, as the name says, atomically. EcglmError for another name."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise EcglmError(f"{path}: a picture's name ends in .png or .jpg")
    write_bytes(path, png_bytes(image, dpi, colors) if suffix == ".png" else jpeg_bytes(image, dpi))


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an RGB picture as PNG, atomically, whatever the name."""
    write_bytes(path, png_bytes(image))


def _encoded(image: np.ndarray, dpi: float | None, colors: int | None, **options: Any) -> bytes:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise EcglmError(f"render: a picture is (height, width, 3) uint8, found {image.shape} {image.dtype}")
    out = io.BytesIO()
    if dpi is not None:
        options["dpi"] = (dpi, dpi)
    picture = Image.fromarray(image)
    if colors is not None:
        picture = picture.quantize(colors, dither=Image.Dither.NONE)
    picture.save(out, **options)
    return out.getvalue()
