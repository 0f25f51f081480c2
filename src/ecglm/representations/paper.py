"""The geometry of ECG paper: which lead lies where, at which scale, for any layout, size, speed and gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ecglm.errors import EcglmError, nearest
from ecglm.representations.lettering import clean_lines, cut, wrap
from ecglm.types import LEADS

#: Layout (rows x columns + rhythm strips) → rows of leads; every row spans the whole segment, its leads share the time.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "3x4+1": (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"), ("II",)),
    "3x4+3": (
        *(("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6")),
        *(("II",), ("V1",), ("V5",)),
    ),
    "3x4": (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6")),
    "6x2": (("I", "V1"), ("II", "V2"), ("III", "V3"), ("aVR", "V4"), ("aVL", "V5"), ("aVF", "V6")),
    "2x6": (("I", "II", "III", "aVR", "aVL", "aVF"), ("V1", "V2", "V3", "V4", "V5", "V6")),
    "12x1": tuple((lead,) for lead in LEADS),
}
#: Paper speeds in mm/s and gains in mm/mV that recorders offer.
SPEEDS = (12.5, 25.0, 50.0)
GAINS = (2.5, 5.0, 10.0, 20.0)
PULSES = ("left", "right", "none")
#: Size in pixels where none is given.
DEFAULT_SIZE = (1100, 850)
#: The largest picture.
MAX_PIXELS = 100_000_000

#: Least distance of two rows in mm; where the picture has room for more, it is shared out in steps of 5 mm.
_ROW_MM = {"3x4+1": 25.0, "3x4+3": 20.0, "3x4": 25.0, "6x2": 20.0, "2x6": 25.0, "12x1": 15.0}
_MOST_ROW_MM = 50.0
#: Room above the first base line and below the last.
_HEAD_MM, _FOOT_MM = 18.0, 12.0
_MARGIN_MM, _FOOTER_MM = 3.0, 5.0
#: The pulse lasts 0.2 s and stands on two short feet; at least 3 mm lie between it and the trace.
_PULSE_S, _FOOT_LENGTH_MM, _PULSE_GAP_MM = 0.2, 1.0, 3.0
#: With twelve rows the names stand left of them, where no neighbour's trace runs through them.
_NAMES_MM = 9.0
_LEAST_SCALE = 0.75
#: Heights of the header's capitals in mm, tried from the largest; its lines' distance; the most it may take.
_CAPITALS_MM = (3.0, 2.6, 2.2, 1.9, 1.6)
_LINE_PITCH, _HEADER_PAD_MM, _MOST_HEADER_MM = 1.55, 2.0, 22.0


@dataclass(frozen=True)
class Panel:
    """Where one lead is drawn: samples ``[start, stop)``.

    x, y: pixel of sample ``start`` and of 0 mV. name_x, name_y: where the base line of the lead's name begins.
    """

    lead: str
    x: float
    y: float
    name_x: float
    name_y: float
    start: int
    stop: int


@dataclass(frozen=True)
class Geometry:
    """The paper of one picture, ``width`` by ``height`` pixels, and the panels on it, row by row from the top.

    rate: Hz of the segment. speed: mm/s. gain: mm/mV. pulses: pixel (x, y) where the calibration pulse of each row
    rises, y being 0 mV. top, bottom: the pixel rows between header and footer, where traces are drawn. header: its
    lines as they are set, each with its base line. capital: height of their capitals in pixels. A pixel's centre has
    whole coordinates.
    """

    width: int
    height: int
    px_per_mm: float
    rate: int
    speed: float
    gain: float
    panels: tuple[Panel, ...]
    pulses: tuple[tuple[float, float], ...]
    top: int
    bottom: int
    header: tuple[tuple[str, float], ...]
    capital: float

    @property
    def margin(self) -> float:
        """Where texts begin, in pixels from the left edge."""
        return _MARGIN_MM * self.px_per_mm

    @property
    def dpi(self) -> float:
        """Pixels per inch at which the paper has its true size."""
        return self.px_per_mm * 25.4


def signal_to_pixel(geometry: Geometry, panel: Panel, sample: float, millivolts: float) -> tuple[float, float]:
    """The point (x, y) in pixels where a panel draws a value; sample counts from the segment's start."""
    x = panel.x + (sample - panel.start) / geometry.rate * geometry.speed * geometry.px_per_mm
    return x, panel.y - millivolts * geometry.gain * geometry.px_per_mm


def rows_of(layout: str, rhythm: Sequence[str] = ()) -> tuple[tuple[str, ...], ...]:
    """The rows of a layout, its rhythm strips replaced by the leads ``rhythm``; EcglmError where they do not fit."""
    if layout not in LAYOUTS:
        raise EcglmError(f"render: no layout '{layout}'{nearest(layout, LAYOUTS)}; known: {', '.join(LAYOUTS)}")
    rows = LAYOUTS[layout]
    if not rhythm:
        return rows
    strips = int(layout.partition("+")[2] or 0)
    if isinstance(rhythm, str) or len(rhythm) != strips:
        known = "this layout has none" if not strips else f"{strips} lead{'s' if strips > 1 else ''}, one per strip"
        raise EcglmError(f"render: rhythm leads {rhythm!r} do not fit layout {layout}: {known}")
    for lead in rhythm:
        if lead not in LEADS:
            raise EcglmError(f"render: no lead '{lead}'{nearest(lead, LEADS)}; known: {', '.join(LEADS)}")
    return (*rows[:-strips], *((lead,) for lead in rhythm))


def paper_geometry(
    num_samples: int,
    rate: float,
    *,
    layout: str = "3x4+1",
    size: tuple[int, int] | None = None,
    dpi: float | None = None,
    speed: float = 25.0,
    gain: float = 10.0,
    rhythm: Sequence[str] = (),
    simultaneous: bool = False,
    pulse: str = "left",
    header: str = "",
) -> Geometry:
    """Where everything lies for segments of ``num_samples`` at ``rate`` Hz; the options are those of ``render``.

    With ``size`` alone the scale is the largest at which everything fits. With ``dpi`` alone the scale is dpi / 25.4
    pixels per mm and the paper is as large as the layout needs. With both, the paper is ``size`` / ``dpi`` inches.
    Base lines, pulses and the first sample lie on thick lines of the grid. Raises EcglmError for an unknown layout,
    speed, gain or pulse, for rhythm leads that do not fit, and for a picture that is too small or too large.
    """
    _check("speed", speed, SPEEDS, "mm/s")
    _check("gain", gain, GAINS, "mm/mV")
    if pulse not in PULSES:
        raise EcglmError(f"render: no pulse '{pulse}'{nearest(pulse, PULSES)}; known: {', '.join(PULSES)}")
    if not (rate > 0 and rate == int(rate)):
        raise EcglmError(f"render: rate must be a whole number of Hz, found {rate!r}")
    if dpi is not None and not 20 <= dpi <= 2400:
        raise EcglmError(f"render: dpi must be between 20 and 2400, found {dpi!r}")
    if size is not None:
        size = _whole(size)
    elif dpi is None:
        size = DEFAULT_SIZE
    rhythm = tuple(rhythm) if not isinstance(rhythm, str) else (rhythm,)
    rows = rows_of(layout, rhythm)
    sheet = _Sheet(layout, rows, num_samples / rate * float(speed), float(speed), float(gain), pulse)
    return _geometry(
        num_samples,
        int(rate),
        sheet,
        size,
        None if dpi is None else float(dpi),
        bool(simultaneous),
        "\n".join(clean_lines(header)),
    )


def _check(name: str, value: float, known: tuple[float, ...], unit: str) -> None:
    if value not in known:
        raise EcglmError(f"render: {name} must be one of {', '.join(f'{v:g}' for v in known)} {unit}, found {value!r}")


def _whole(size: Sequence[int]) -> tuple[int, int]:
    """``size`` as two positive whole numbers whose product is not absurd."""
    values = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(values) != 2 or not all(isinstance(v, (int, float, np.integer)) and v > 0 and v % 1 == 0 for v in values):
        raise EcglmError(f"render: size is (width, height) in pixels, found {size!r}")
    width, height = int(values[0]), int(values[1])
    if width * height > MAX_PIXELS:
        most = f"{MAX_PIXELS // 1_000_000} million"
        raise EcglmError(f"render: {width}x{height} pixels are more than {most}; give a smaller size or dpi")
    return width, height


@dataclass(frozen=True)
class _Sheet:
    """What a layout needs of the paper, in mm."""

    layout: str
    rows: tuple[tuple[str, ...], ...]
    trace: float
    speed: float
    gain: float
    pulse: str

    @property
    def pulse_width(self) -> float:
        return _PULSE_S * self.speed

    @property
    def rise(self) -> float:
        """Where the pulse rises, from the first sample on: on a thick line of the grid."""
        if self.pulse == "left":
            return -5 * math.ceil((self.pulse_width + _PULSE_GAP_MM) / 5)
        return math.ceil((self.trace + 2 * _FOOT_LENGTH_MM) / 5) * 5

    @property
    def before(self) -> float:
        """From the left edge of the drawing to the first sample: the names where they stand there, then the pulse."""
        names = _NAMES_MM if self.layout == "12x1" else 0.0
        return names + (_FOOT_LENGTH_MM - self.rise if self.pulse == "left" else 0.0)

    @property
    def long(self) -> float:
        after = self.rise + self.pulse_width + _FOOT_LENGTH_MM if self.pulse == "right" else self.trace
        return 2 * _MARGIN_MM + self.before + after

    @property
    def head(self) -> float:
        """Room above the first base line: for an R wave of 1.8 mV at 10 mm/mV, and for the pulse."""
        return max(_HEAD_MM, self.gain + 2.0)

    def high(self, header: float) -> float:
        rows = (len(self.rows) - 1) * _ROW_MM[self.layout]
        return 2 * _MARGIN_MM + header + self.head + rows + _FOOT_MM + _FOOTER_MM


@lru_cache(maxsize=256)
def _geometry(
    num_samples: int,
    rate: int,
    sheet: _Sheet,
    size: tuple[int, int] | None,
    dpi: float | None,
    simultaneous: bool,
    header: str,
) -> Geometry:
    lines, capital, band, scale = _fit_header(sheet, size, dpi, header)
    if size is None:
        size = _whole((math.ceil(sheet.long * scale), math.ceil(sheet.high(band) * scale)))
    width, height = size
    spare = height / scale - sheet.high(band)  # mm
    gaps = len(sheet.rows) - 1
    pitch = _ROW_MM[sheet.layout]
    if gaps:
        grown = min(_MOST_ROW_MM, pitch + 5 * math.floor((spare / gaps + 1e-9) / 5))
        spare -= gaps * (grown - pitch)
        pitch = grown
    head = sheet.head + 0.45 * spare
    left = (width - sheet.long * scale) / 2 + (_MARGIN_MM + sheet.before) * scale
    first = (_MARGIN_MM + band + head) * scale
    panels, pulses = [], []
    for row, leads in enumerate(sheet.rows):
        y = first + row * pitch * scale
        edges = [round(num_samples * i / len(leads)) for i in range(len(leads) + 1)]
        for column, lead in enumerate(leads):
            start, stop = (0, edges[1]) if simultaneous else edges[column : column + 2]
            x = left + edges[column] / rate * sheet.speed * scale
            if sheet.layout == "12x1":
                name = (x - sheet.before * scale, y + 1.5 * scale)
            else:
                name = (x + scale, y - 8.5 * scale)
            panels.append(Panel(lead, x, y, *name, start, stop))
        if sheet.pulse != "none":
            pulses.append((left + sheet.rise * scale, y))
    top = math.ceil((_MARGIN_MM + band) * scale) if lines else 0
    base = [(_MARGIN_MM + (1.25 + number * _LINE_PITCH) * capital) * scale for number in range(len(lines))]
    bottom = math.floor(height - _FOOTER_MM * scale)
    return Geometry(
        *(width, height, scale, rate, sheet.speed, sheet.gain, tuple(panels), tuple(pulses), top, bottom),
        *(tuple(zip(lines, base, strict=True)), capital * scale),
    )


def _fit_header(
    sheet: _Sheet, size: tuple[int, int] | None, dpi: float | None, header: str
) -> tuple[list[str], float, float, float]:
    """The header's lines, their capitals in mm, the header's height in mm, and the scale in pixels per mm.

    More lines make the header higher and the scale smaller, on which more fits into a line: so the fewest lines are
    sought that hold the text, and smaller letters where they are too many.
    """

    def scale_of(band: float) -> float:
        if size is None:
            assert dpi is not None
            return dpi / 25.4
        fit = min(size[0] / sheet.long, size[1] / sheet.high(band))
        if dpi is None:
            return fit
        return dpi / 25.4 if dpi / 25.4 <= fit + 1e-9 else 0.0

    def width_of(scale: float) -> float:
        return (size[0] / scale if size else sheet.long) - 2 * _MARGIN_MM

    if scale_of(0.0) < _LEAST_SCALE:
        raise _too_small(sheet, size, dpi, 0.0)
    if not header:
        return [], 0.0, 0.0, scale_of(0.0)
    best = None
    for capital in _CAPITALS_MM:
        pitch = _LINE_PITCH * capital
        for count in range(1, int((_MOST_HEADER_MM - _HEADER_PAD_MM) / pitch) + 1):
            band = count * pitch + _HEADER_PAD_MM
            scale = scale_of(band)
            if scale < _LEAST_SCALE:
                break
            lines = wrap(header, capital * scale, width_of(scale) * scale, count)
            if len(lines) <= count:
                return lines, capital, band, scale
            best = (cut(lines, count, capital * scale, width_of(scale) * scale), capital, band, scale)
    if best is None:
        raise _too_small(sheet, size, dpi, _LINE_PITCH * _CAPITALS_MM[-1] + _HEADER_PAD_MM)
    return best


def _too_small(sheet: _Sheet, size: tuple[int, int] | None, dpi: float | None, band: float) -> EcglmError:
    scale = _LEAST_SCALE if dpi is None else dpi / 25.4
    width, height = (math.ceil(value * scale) for value in (sheet.long, sheet.high(band)))
    found = f"size {size[0]}x{size[1]}" if size else "the paper"
    at = "" if dpi is None else f" at {dpi:g} dpi"
    return EcglmError(f"render: {found} is too small{at}; at least {width}x{height} is needed for this ECG")
