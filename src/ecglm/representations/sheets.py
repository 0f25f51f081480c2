"""Around the pictures: contact sheets with titles, and the header text that a record's own facts give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecglm.errors import EcglmError
from ecglm.representations.lettering import write
from ecglm.representations.paper import LAYOUTS, MAX_PIXELS
from ecglm.representations.render import render

_GAP, _TITLE, _CAPITAL = 12, 30, 13.0
_BACK, _INK = 236, (30, 30, 34)
#: Measurement → how a recorder prints it.
_PRINTED = {
    "heart_rate": "Rate {:.0f} bpm",
    "rr_interval": "RR {:.0f} ms",
    "pr_ms": "PR {:.0f} ms",
    "qrs_ms": "QRS {:.0f} ms",
    "qt_ms": "QT {:.0f} ms",
    "qtc_ms": "QTc {:.0f} ms",
    "axis_deg": "Axis {:.0f}°",
    "qrs_axis": "QRS axis {:.0f}°",
}


def contact_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], *, columns: int = 2) -> np.ndarray:
    """Pictures ``(height, width, 3)`` uint8 side by side, row by row, each below its title: one such picture.

    Raises EcglmError without pictures, or when the sheet would be absurdly large.
    """
    if not pictures or len(pictures) != len(titles):
        raise EcglmError(f"contact sheet: {len(pictures)} pictures and {len(titles)} titles; one title each is needed")
    columns = min(columns, len(pictures))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    wide = max(picture.shape[1] for picture in pictures)
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    shape = (sum(heights) + len(rows) * (_TITLE + _GAP), columns * (wide + _GAP) + _GAP, 3)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise EcglmError(f"contact sheet: {shape[1]}x{shape[0]} pixels are too many; give fewer or smaller pictures")
    sheet = np.full(shape, _BACK, np.uint8)
    top = 0
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, picture in enumerate(row):
            left = _GAP + column * (wide + _GAP)
            write(sheet, titles[number * columns + column], (left, top + _TITLE - 8), _CAPITAL, _INK)
            sheet[top + _TITLE : top + _TITLE + picture.shape[0], left : left + picture.shape[1]] = picture
        top += height + _TITLE + _GAP
    return sheet


def layout_sheet(segment: np.ndarray, rate: float, **options: Any) -> np.ndarray:
    """One segment in every layout, two beside each other; ``options`` are those of ``render``."""
    if options.get("dpi") is None:
        options = {"size": (720, 550), **options}
    return contact_sheet([render(segment, rate, layout=name, **options) for name in LAYOUTS], list(LAYOUTS))


def header_text(
    record_id: str, metadata: Mapping[str, Any], report: str = "", *, patient_id: str = "", start_s: float = 0.0
) -> str:
    """What a recorder prints above the traces, from a record's own facts: patient line, measurements, statements.

    Whatever the record does not tell is left out; nothing is measured here.
    """
    who = [record_id, f"patient {patient_id.rpartition('/')[2]}" if patient_id and patient_id != record_id else ""]
    who += [f"{metadata['age']:g} years" if isinstance(metadata.get("age"), (int, float)) else ""]
    who += [metadata["sex"] if isinstance(metadata.get("sex"), str) else ""]
    who += [f"from {start_s:g} s" if start_s else ""]
    measured = metadata.get("measurements")
    facts = measured if isinstance(measured, Mapping) else {}
    values = [
        printed.format(facts[name])
        for name, printed in _PRINTED.items()
        if isinstance(facts.get(name), (int, float)) and not isinstance(facts.get(name), bool)
    ]
    return "\n".join(line for line in ("   ".join(filter(None, who)), "   ".join(values), report.strip()) if line)
