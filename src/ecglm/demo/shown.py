"""One ECG in a talk: the recording or picture, the segments that a model reads of it, its page, what is measured."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ecglm.demo.measures import Mark, Row, marks_of, rows_of
from ecglm.demo.overlay import draw_marks
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.representations.paper import LAYOUTS, Geometry, paper_geometry
from ecglm.representations.render import png_bytes, render
from ecglm.signals.pipeline import pipeline_from_config
from ecglm.store.writer import to_microvolts
from ecglm.types import EcgInput, Record

#: What cuts a recording where no model says otherwise: 10 s at 250 Hz.
DISPLAY: Mapping[str, Any] = {"name": "default", "version": 2, "rate": 250, "seg_len": 2500}
#: Widest and narrowest page in pixels; a page is as high as its layout needs.
WIDTHS = (480, 4000)
#: height / width of a page, by layout: those with many rows are higher.
_SHAPE = {"12x1": 1.0, "6x2": 0.85, "3x4+3": 0.85}
_ORDINARY_SHAPE = 0.7727


@dataclass(frozen=True)
class Origin:
    """Where an ECG comes from, for the preference log and for checks; nothing of it is shown to people.

    kind: ``upload``, ``store`` or ``synthetic``. record, store: the record's id and its store's fingerprint, empty for
    uploads. people: patient and record ids that leakage is looked for by. split: of the record, empty when not known.
    """

    kind: str = "upload"
    record: str = ""
    store: str = ""
    people: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True, eq=False)
class Shown:
    """One ECG of a talk: a recording, segments of a store, or a picture.

    name: what people see of its name, safe to be shown as text. pipeline: config of the pipeline that cuts the
    recording; the segments of a store are as it cut them. ``segments`` raises RejectedRecord where the recording cannot
    be used; who makes a Shown asks for it once.
    """

    name: str
    record: Record | None = field(default=None, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)
    prepared: np.ndarray | None = field(default=None, repr=False)
    pipeline: Mapping[str, Any] = field(default_factory=lambda: dict(DISPLAY))
    origin: Origin = field(default=Origin(), repr=False)

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, of which nothing is measured."""
        return self.picture is not None

    @property
    def rate(self) -> int:
        """Hz of the segments."""
        return int(self.pipeline["rate"])

    @functools.cached_property
    def _cut(self) -> tuple[np.ndarray, tuple[float, ...]]:
        return self._cut_by(self.pipeline)

    @property
    def segments(self) -> np.ndarray:
        """float32 ``(num_segments, 12, seg_len)`` in mV, whole microvolts; empty for a picture."""
        return self._cut[0]

    @property
    def start_s(self) -> tuple[float, ...]:
        """Where each segment starts in the recording, in seconds."""
        return self._cut[1]

    @property
    def num_bytes(self) -> int:
        """Memory that the ECG takes."""
        arrays = (self.record.signal if self.record is not None else None, self.picture, self.prepared, self.segments)
        return sum(a.nbytes for a in arrays if a is not None)

    def titles(self) -> list[str]:
        """One line per segment for a chooser, such as ``10 to 20 s``."""
        seconds = int(self.pipeline["seg_len"]) / self.rate
        return [f"{start:g} to {start + seconds:g} s" for start in (round(s, 2) for s in self.start_s)]

    def input_for(self, assistant: Any, segment: int = 0) -> EcgInput:
        """The ECG as a model (``models.assistant.Assistant``) reads it: the segment that people see, or, where the
        model cuts otherwise, its own that begins nearest. EcglmError for a model that cannot read it.
        """
        bundle = assistant.bundle
        if self.picture is not None:
            found: EcgInput = assistant.encode_picture(self.picture)
            return found
        values, starts = self._cut
        self._check_segment(segment)
        if dict(bundle.pipeline) != dict(self.pipeline):
            wanted = starts[segment]
            values, starts = self._cut_by(bundle.pipeline)
            segment = int(np.argmin([abs(start - wanted) for start in starts]))
        read: EcgInput = bundle.representation(values[segment], bundle.pipeline["rate"])
        return read

    def sha256(self, segment: int = 0) -> str:
        """sha256 (hex) of the shown segment's microvolts (int16, little endian, C order), or of a picture's pixels."""
        data = self.picture if self.picture is not None else self.microvolts(segment)
        return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()

    def microvolts(self, segment: int = 0) -> np.ndarray:
        """A segment as little-endian int16 microvolts ``(12, seg_len)``. EcglmError for a picture."""
        self._check_segment(segment)
        return to_microvolts(self.segments[segment])

    def geometry(self, layout: str = "3x4+1", width: int = 1100, gain: float = 10.0, speed: float = 25.0) -> Geometry:
        """The paper that ``page`` draws on. EcglmError for a picture and for options that do not exist."""
        if self.picture is not None:
            raise EcglmError(f"{self.name}: a picture is shown as it is; only a recording can be drawn otherwise")
        if not WIDTHS[0] <= width <= WIDTHS[1]:
            raise EcglmError(f"a page is {WIDTHS[0]} to {WIDTHS[1]} pixels wide, found {width}")
        size = (int(width), round(width * _SHAPE.get(layout, _ORDINARY_SHAPE)))
        length = int(self.pipeline["seg_len"])
        return paper_geometry(length, self.rate, layout=layout, size=size, gain=gain, speed=speed)

    def page(
        self,
        layout: str = "3x4+1",
        width: int = 1100,
        *,
        segment: int = 0,
        gain: float = 10.0,
        speed: float = 25.0,
        marks: bool = False,
    ) -> bytes:
        """The ECG as PNG bytes: paper drawn in one of ``LAYOUTS``, ``width`` pixels wide (larger is zoomed in), or the
        picture itself. marks: tint P, QRS and T where the measurements found them. Nothing of the file's name, date or
        patient is drawn.
        """
        if self.picture is not None:
            return png_bytes(self.picture)
        paper = self.geometry(layout, width, gain, speed)
        self._check_segment(segment)
        size = (paper.width, paper.height)
        image = render(self.segments[segment], self.rate, layout=layout, size=size, gain=gain, speed=speed)
        if marks:
            draw_marks(image, paper, self.marks(segment))
        return png_bytes(image)

    def calibration(
        self, layout: str = "3x4+1", width: int = 1100, gain: float = 10.0, speed: float = 25.0
    ) -> dict[str, Any]:
        """What calipers on the page need, JSON-able; empty for a picture, whose scale nobody knows.

        ``px_per_s, px_per_mv, px_per_mm, width, height`` and per lead box ``{lead, x, y, left, right, top, bottom,
        start_s, stop_s}``: x, y is the pixel of time start_s and of 0 mV.
        """
        if self.picture is not None:
            return {}
        paper = self.geometry(layout, width, gain, speed)
        rows = sorted({panel.y for panel in paper.panels})
        half = 0.5 * min([b - a for a, b in pairwise(rows)] or [40 * paper.px_per_mm])
        px_per_s = paper.speed * paper.px_per_mm
        boxes = []
        for panel in paper.panels:
            right = panel.x + (panel.stop - panel.start) / paper.rate * px_per_s
            box = {"left": panel.x, "right": right, "top": panel.y - half, "bottom": panel.y + half}
            times = {"start_s": panel.start / paper.rate, "stop_s": panel.stop / paper.rate}
            boxes.append({"lead": panel.lead, "x": panel.x, "y": panel.y, **box, **times})
        return {
            "width": paper.width,
            "height": paper.height,
            "px_per_mm": paper.px_per_mm,
            "px_per_s": px_per_s,
            "px_per_mv": paper.gain * paper.px_per_mm,
            "boxes": boxes,
        }

    def marks(self, segment: int = 0) -> tuple[Mark, ...]:
        """Where beats and their waves are, in seconds from the segment's start; none for a picture."""
        if self.picture is not None:
            return ()
        self._check_segment(segment)
        return marks_of(self.segments[segment], self.rate)

    def measurements(self, segment: int = 0) -> list[Row]:
        """Rows for people, in order; of a picture one row that says that nothing is measured."""
        if self.picture is not None:
            return [Row("Measurements", "not measured", "", "a picture holds no signal to measure")]
        self._check_segment(segment)
        return rows_of(self.segments[segment], self.rate)

    def _check_segment(self, segment: int) -> None:
        if not 0 <= segment < len(self.segments):
            raise EcglmError(f"{self.name}: no segment {segment}; it has {len(self.segments)}")

    def _cut_by(self, pipeline: Mapping[str, Any]) -> tuple[np.ndarray, tuple[float, ...]]:
        if self.picture is not None:
            return np.empty((0, 12, 0), np.float32), ()
        seconds = int(pipeline["seg_len"]) / int(pipeline["rate"])
        if self.prepared is not None:
            if dict(pipeline) != dict(self.pipeline):
                raise EcglmError(
                    f"{self.name}: its store was prepared otherwise than this model reads; give a store prepared with "
                    f"the model's pipeline ({pipeline['name']}, {pipeline['rate']} Hz, {seconds:g} s)"
                )
            return self.prepared, tuple(number * seconds for number in range(len(self.prepared)))
        assert self.record is not None
        found = pipeline_from_config(dict(pipeline)).run(self.record)
        try:
            whole = [np.divide(to_microvolts(s), 1000, dtype=np.float32) for s in found.signal]
        except RejectedRecord as error:
            raise RejectedRecord(error.reason, f"{self.name}: {error.detail}") from error
        return np.stack(whole), found.start_s


def layouts() -> Sequence[str]:
    """Names of the layouts that a page can have, the usual one first."""
    return tuple(LAYOUTS)
