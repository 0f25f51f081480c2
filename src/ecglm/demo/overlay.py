"""Marks of beats and waves drawn into a page of ECG paper: tints that leave the trace readable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.demo.measures import Mark
from ecglm.representations.paper import Geometry, Panel, signal_to_pixel

#: Kind of mark → the colour its stretch is multiplied with; told apart also in grey.
TINTS: dict[str, tuple[int, int, int]] = {
    "P": (196, 240, 200),
    "QRS": (178, 206, 255),
    "T": (255, 228, 168),
    "beat": (120, 120, 220),
}
_HALF_MM = 7.0


def draw_marks(image: np.ndarray, paper: Geometry, marks: Sequence[Mark]) -> None:
    """Tint the marks' stretches on the rhythm strip, or, without one, on every row of lead II; in place.

    image: uint8 ``(height, width, 3)``, drawn on ``paper``. A beat whose boundaries are not known gets a line.
    """
    for panel in _panels(paper):
        reach = _HALF_MM * paper.px_per_mm
        top, bottom = (int(np.clip(round(panel.y + way * reach), paper.top, paper.bottom)) for way in (-1, 1))
        first, last = panel.start / paper.rate, panel.stop / paper.rate
        for mark in marks:
            start, stop = max(mark.start_s, first), min(mark.stop_s, last)
            if start > stop or (start == stop and mark.kind != "beat"):
                continue
            left, right = (signal_to_pixel(paper, panel, s * paper.rate, 0.0)[0] for s in (start, stop))
            columns = slice(max(0, round(left)), max(round(right), round(left) + 1))
            part = image[top:bottom, columns].astype(np.uint16)
            image[top:bottom, columns] = part * np.array(TINTS[mark.kind], np.uint16) // 255


def _panels(paper: Geometry) -> list[Panel]:
    whole = [panel for panel in paper.panels if panel.lead == "II"]
    longest = max(panel.stop - panel.start for panel in whole)
    return [panel for panel in whole if panel.stop - panel.start == longest][-1:]
