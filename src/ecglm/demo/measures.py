"""What is measured of an ECG as rows for people, and where on it the beats and waves lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ecglm.errors import EcglmError
from ecglm.signals.beats import RATE
from ecglm.signals.delineate import delineate
from ecglm.signals.measured import Measurements, measure
from ecglm.types import LEADS

#: Why something was not measured, in words.
REASONS: Mapping[str, str] = {
    "no_signal": "no signal",
    "no_qrs": "no QRS complexes found",
    "no_clear_qrs": "no clear QRS complexes",
    "one_beat": "only one beat",
    "too_few_beats": "too few beats",
    "no_p_wave": "no P wave found",
    "p_not_constant": "no constant P wave",
    "no_t_wave": "no T wave found",
    "t_end_hidden": "the end of the T wave is hidden",
    "lead_flat": "a lead without signal",
    "indeterminate": "no direction prevails",
}
NOT_MEASURED = "not measured"
#: Beat codes (``Measurements.beats``) → their names.
_EARLY = (("A", "premature narrow"), ("V", "ventricular"), ("Q", "of another shape"))


@dataclass(frozen=True)
class Row:
    """One measurement for people; value is text, ``not measured`` where there is none, and note says why."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A stretch of the ECG: ``P``, ``QRS``, ``T`` (from the end of QRS to the end of T) or ``beat`` (a QRS onset alone,
    start and end equal, where the beat's own boundaries are not known). Seconds from the segment's start.
    """

    kind: str
    start_s: float
    stop_s: float
    beat: int


def rows_of(segment: np.ndarray, rate: float) -> list[Row]:
    """The rows of a segment ``(12, samples)`` in mV. Never raises for what cannot be measured: a row says so."""
    try:
        found = measure(segment, rate)
    except EcglmError as error:
        return [Row("Measurements", NOT_MEASURED, "", str(error).removeprefix("measure: "))]
    rows = [_number(found, "Heart rate", "heart_rate", "bpm", "ventricular"), _rhythm(found), _beats(found)]
    for name, field in (
        ("RR mean", "rr_mean_ms"), ("RR shortest", "rr_min_ms"), ("RR longest", "rr_max_ms"), ("P", "p_ms"),
        ("PR", "pr_ms"), ("QRS", "qrs_ms"), ("QT", "qt_ms"), ("QTc (Bazett)", "qtc_bazett_ms"),
        ("QTc (Fridericia)", "qtc_fridericia_ms"),
    ):  # fmt: skip
        rows.append(_number(found, name, field, "ms"))
    for name, field in (("QRS axis", "axis_deg"), ("P axis", "p_axis_deg"), ("T axis", "t_axis_deg")):
        rows.append(_number(found, name, field, "°"))
    if found.paced:
        rows.append(Row("Pacing", "stimuli before the complexes"))
    rows += [_lead(found, found.st_mv, "ST", lead, "60 ms behind the end of QRS") for lead in LEADS]
    for name, field in (("Sokolow-Lyon voltage", "sokolow_mv"), ("Cornell voltage", "cornell_mv")):
        rows.append(_number(found, name, field, "mV", decimals=2))
    return rows


def _number(found: Measurements, name: str, field: str, unit: str, note: str = "", decimals: int = 0) -> Row:
    value = getattr(found, field)
    if value is None:
        return Row(name, NOT_MEASURED, "", _why(found, field))
    return Row(name, f"{round(value, decimals) + 0.0:.{decimals}f}", unit, note)


def _why(found: Measurements, field: str) -> str:
    code = found.reasons.get(field, "")
    return REASONS.get(code, code.replace("_", " "))


def _rhythm(found: Measurements) -> Row:
    if found.regularity is None:
        return Row("Rhythm", NOT_MEASURED, "", _why(found, "regularity"))
    return Row("Rhythm", found.regularity.replace("_", " "))


def _beats(found: Measurements) -> Row:
    early = [f"{found.beats.count(code)} {what}" for code, what in _EARLY if code in found.beats]
    return Row("Beats", str(len(found.beats)), "", ", ".join(early))


def _lead(found: Measurements, values: Mapping[str, float | None], name: str, lead: str, note: str) -> Row:
    value = values.get(lead)
    if value is None:
        flat = bool(values)
        return Row(f"{name} {lead}", NOT_MEASURED, "", REASONS["lead_flat"] if flat else _why(found, "qrs_ms"))
    return Row(f"{name} {lead}", f"{round(value, 2) + 0.0:+.2f}", "mV", note)


def marks_of(segment: np.ndarray, rate: float) -> tuple[Mark, ...]:
    """Where beats and waves lie, in order of time; none where nothing can be told. P, QRS and T are those of the median
    beat of the dominant shape, set at every beat of that shape.
    """
    try:
        found = delineate(segment, rate)
    except EcglmError:
        return ()
    if isinstance(found, str):
        return ()
    length, marks = segment.shape[1] / rate, []
    for beat, (onset, kind) in enumerate(zip(found.onsets_s, found.rhythm.kinds, strict=True)):
        if kind not in "NA":
            if 0 <= onset <= length:  # the first may have begun before the segment
                marks.append(Mark("beat", onset, onset, beat))
            continue

        def at(sample: float, onset: float = onset) -> float:
            return onset + (sample - found.qrs_on) / RATE

        waves = [("QRS", onset, at(found.qrs_off))]
        if found.p is not None and kind == "N":
            waves.append(("P", at(found.p.on), at(found.p.off)))
        if found.t_off is not None:
            waves.append(("T", at(found.qrs_off), at(found.t_off)))
        for name, start, stop in waves:
            start, stop = max(0.0, start), min(length, stop)
            if start < stop:
                marks.append(Mark(name, round(start, 4), round(stop, 4), beat))
    return tuple(sorted(marks, key=lambda mark: (mark.start_s, mark.stop_s)))
