"""``measure``: what a machine prints above an ECG (rate, intervals, axes, ST, amplitudes), from the segment alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ecglm.signals import waves
from ecglm.signals.beats import RATE
from ecglm.signals.delineate import Delineation, delineate
from ecglm.signals.rhythm import Rhythm
from ecglm.types import LEADS

#: Fields with one value per lead, in mV.
PER_LEAD: tuple[str, ...] = ("st_mv", "st_j_mv", "p_mv", "q_mv", "r_mv", "s_mv", "t_mv")
#: Net area of QRS, P or T below this share of its whole area has no direction.
_NO_AXIS = 0.08


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Measurements of one segment. None where something cannot be measured; ``reasons`` says why, by field.

    beats: a WFDB code per beat: N dominant shape, A the same but premature, V another shape, wide or premature, Q
    another shape. onsets_s: their QRS onsets. heart_rate: ventricular, bpm. rr_*, rmssd: of all intervals.
    irregularity, regularity: see ``rhythm.Rhythm``. paced: a stimulus stands before the complexes.

    On the median beat of the dominant shape, over all leads together (earliest onset to latest end): pr_ms (P onset to
    QRS onset), p_ms, qrs_ms, qt_ms; qtc_bazett_ms (QT / RR^(1/2)) and qtc_fridericia_ms (QT / RR^(1/3)), RR the mean in
    s. axis_deg, p_axis_deg, t_axis_deg: frontal, from the net areas in I and aVF, in (-180, 180].

    Lead → mV, against the level just before the QRS complex: st_mv 60 ms behind its end, st_j_mv at its end; r: the
    highest positive deflection, q: the negative one before the first of them, s: the deepest behind it, alone in a QS
    complex, 0 where there is none; p, t: the largest deflection of either sign. shapes: lead → letters of the complex
    ("qRs", "rSR'", "QS"), small ones below half of the largest.
    sokolow_mv: S in V1 and the taller R of V5 and V6. cornell_mv: R in aVL and S in V3.
    """

    beats: str = ""
    onsets_s: tuple[float, ...] = ()
    heart_rate: float | None = None
    rr_mean_ms: float | None = None
    rr_sd_ms: float | None = None
    rr_min_ms: float | None = None
    rr_max_ms: float | None = None
    rmssd_ms: float | None = None
    irregularity: float | None = None
    regularity: str | None = None
    paced: bool = False
    pr_ms: float | None = None
    p_ms: float | None = None
    qrs_ms: float | None = None
    qt_ms: float | None = None
    qtc_bazett_ms: float | None = None
    qtc_fridericia_ms: float | None = None
    axis_deg: float | None = None
    p_axis_deg: float | None = None
    t_axis_deg: float | None = None
    sokolow_mv: float | None = None
    cornell_mv: float | None = None
    st_mv: Mapping[str, float | None] = field(default_factory=dict)
    st_j_mv: Mapping[str, float | None] = field(default_factory=dict)
    p_mv: Mapping[str, float | None] = field(default_factory=dict)
    q_mv: Mapping[str, float | None] = field(default_factory=dict)
    r_mv: Mapping[str, float | None] = field(default_factory=dict)
    s_mv: Mapping[str, float | None] = field(default_factory=dict)
    t_mv: Mapping[str, float | None] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Everything as one flat row: ``st_mv`` of lead V1 becomes ``st_V1_mv``, onsets and reasons become text."""
        row: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if name in PER_LEAD:
                row |= {f"{name[:-3]}_{lead}_mv": value.get(lead) for lead in LEADS}
            elif name == "shapes":
                row |= {f"shape_{lead}": value.get(lead) for lead in LEADS}
            elif name == "onsets_s":
                row[name] = " ".join(f"{onset:.3f}" for onset in value)
            elif name == "reasons":
                row[name] = " ".join(f"{key}:{why}" for key, why in sorted(value.items()))
            else:
                row[name] = value
        return row


def measure(segment: np.ndarray, rate: float) -> Measurements:
    """Measure a segment ``(12, num_samples)`` in mV, canonical leads, at ``rate`` Hz, alone: pure and deterministic.

    It is brought to 500 Hz, so that times are finer than its samples. A segment without complexes that can be told
    (asystole, fibrillation, noise, nothing connected) gives no number at all, and the reason.
    Raises EcglmError for another shape, NaN or infinity, less than 1 s, or less than 50 Hz.
    """
    found = delineate(segment, rate)
    if isinstance(found, str):
        unmeasured = [f.name for f in fields(Measurements) if f.default is None]
        return Measurements(reasons=dict.fromkeys(unmeasured, found))
    return _measurements(found)


def _measurements(found: Delineation) -> Measurements:
    beat, rhythm, p = found.beat, found.rhythm, found.p
    reasons = dict(found.reasons)
    on, off = found.qrs_on, found.qrs_off
    level = beat[:, max(int(on) - 10, 0) : max(int(on) - 1, 1)].mean(axis=1, keepdims=True)
    beat = beat - level
    complexes = beat[:, int(on) : int(np.ceil(off)) + 1]
    values: dict[str, Any] = {"qrs_ms": _ms(off - on)}
    for name, sample in (("st_j_mv", off), ("st_mv", off + 0.06 * RATE)):
        values[name] = beat[:, max(int(sample) - 2, 0) : int(sample) + 3].mean(axis=1)
    deflections, letters = _deflections(complexes)
    values |= deflections
    t_part = p_part = None
    if found.t_off is not None:
        values["qt_ms"] = _ms(found.t_off - on)
        t_part = beat[:, min(int(off) + RATE // 50, beat.shape[1] - 2) : int(found.t_off) + 1]
        values["t_mv"] = _extreme(t_part)
    if p is not None:
        values |= {"pr_ms": _ms(on - p.on), "p_ms": _ms(p.off - p.on)}
        p_part = _above_feet(beat, p)
        values["p_mv"] = _extreme(p_part)
    for name, part in (("axis_deg", complexes), ("p_axis_deg", p_part), ("t_axis_deg", t_part)):
        values[name], why = _axis(part, found.usable)
        if why:
            reasons[name] = why
    if rhythm.rr_mean_ms is None:
        alone = ("heart_rate", "rr_mean_ms", "rr_sd_ms", "rr_min_ms", "rr_max_ms")
        reasons |= dict.fromkeys((*alone, "qtc_bazett_ms", "qtc_fridericia_ms"), "one_beat")
    elif "qt_ms" in values:
        interval = rhythm.rr_mean_ms / 1000
        values["qtc_bazett_ms"] = values["qt_ms"] / interval**0.5
        values["qtc_fridericia_ms"] = values["qt_ms"] / interval ** (1 / 3)
    for name in ("rmssd_ms", "irregularity", "regularity"):
        if getattr(rhythm, name) is None:
            reasons[name] = "too_few_beats"
    per_lead: dict[str, Any] = {name: _named(values.pop(name, None), found.usable) for name in PER_LEAD}
    r = per_lead["r_mv"]
    deepest = _named(np.minimum(complexes.min(axis=1), 0), found.usable)
    tall = [v for v in (r["V5"], r["V6"]) if v is not None]
    if deepest["V1"] is not None and tall:
        values["sokolow_mv"] = max(tall) - deepest["V1"]
    if deepest["V3"] is not None and r["aVL"] is not None:
        values["cornell_mv"] = r["aVL"] - deepest["V3"]
    for name in ("sokolow_mv", "cornell_mv"):
        if name not in values:
            reasons[name] = "lead_flat"
    for follower, cause in (
        ("p_ms", "pr_ms"), ("p_mv", "pr_ms"), ("p_axis_deg", "pr_ms"), ("t_mv", "qt_ms"), ("t_axis_deg", "qt_ms"),
        ("qtc_bazett_ms", "qt_ms"), ("qtc_fridericia_ms", "qt_ms"),
    ):  # fmt: skip
        if cause in reasons:
            reasons[follower] = reasons[cause]
    shapes = {lead: text if good else "" for lead, text, good in zip(LEADS, letters, found.usable, strict=True)}
    of_rhythm: dict[str, Any] = {f.name: getattr(rhythm, f.name) for f in fields(Rhythm) if f.name != "kinds"}
    return Measurements(
        beats=rhythm.kinds,
        onsets_s=found.onsets_s,
        paced=found.paced,
        shapes=shapes,
        reasons=reasons,
        **of_rhythm,
        **per_lead,
        **values,
    )


def _ms(samples: float) -> float:
    return float(samples) / RATE * 1000


def _named(values: np.ndarray | None, usable: np.ndarray) -> dict[str, float | None]:
    """Lead → value, None for leads that are flat."""
    if values is None:
        return dict.fromkeys(LEADS)
    return {lead: float(v) if good else None for lead, v, good in zip(LEADS, values, usable, strict=True)}


def _extreme(part: np.ndarray) -> np.ndarray:
    """The value furthest from 0 of every row."""
    rows = np.arange(len(part))
    result: np.ndarray = part[rows, np.abs(part).argmax(axis=1)]
    return result


def _above_feet(beat: np.ndarray, p: waves.PWave) -> np.ndarray:
    """The P wave ``(12, num)`` above the line between its onset and its end."""
    low, high = max(int(p.on), 0), int(np.ceil(p.off))
    share = np.linspace(0, 1, high - low + 1)
    result: np.ndarray = beat[:, low : high + 1] - beat[:, [low]] * (1 - share) - beat[:, [high]] * share
    return result


def _deflections(complexes: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """q, r, s of every lead and the letters of its complex.

    A deflection is a run of one sign that exceeds 0.025 mV and 4 % of the largest. R is the first positive one (a later
    one R'), Q a negative one before it, S one behind; without a positive one it is QS. r is the highest of all.
    """
    values = {name: np.zeros(len(complexes)) for name in ("q_mv", "r_mv", "s_mv")}
    letters = []
    for lead, row in enumerate(complexes):
        sizes = _runs(row, max(0.025, 0.04 * float(np.abs(row).max())))
        largest = max((abs(size) for size in sizes), default=0.0)
        text, num_r, num_s = "", 0, 0
        for size in sizes:
            if size > 0:
                letter, num_r = "R" + "'" * num_r, num_r + 1
                values["r_mv"][lead] = max(values["r_mv"][lead], size)
            elif num_r:
                letter, num_s = "S" + "'" * num_s, num_s + 1
                values["s_mv"][lead] = min(values["s_mv"][lead], size)
            else:
                letter = "Q"
                values["q_mv"][lead] = min(values["q_mv"][lead], size)
            text += letter if abs(size) >= 0.5 * largest else letter.lower()
        if sizes and not num_r:
            text = "QS"
            values["q_mv"][lead], values["s_mv"][lead] = 0.0, values["q_mv"][lead]
        letters.append(text)
    return values, letters


def _runs(row: np.ndarray, least: float) -> list[float]:
    """Extremes of the runs of one sign that reach ``least``, those of one sign after another joined."""
    starts = np.flatnonzero(np.diff(np.sign(row), prepend=0.0))
    highs, lows = np.maximum.reduceat(row, starts), np.minimum.reduceat(row, starts)
    found: list[float] = []
    for high, low in zip(highs.tolist(), lows.tolist(), strict=True):
        size = high if high > -low else low
        if abs(size) < least:
            continue
        if found and (found[-1] > 0) == (size > 0):
            found[-1] = max(found[-1], size, key=abs)
        else:
            found.append(size)
    return found


def _axis(part: np.ndarray | None, usable: np.ndarray) -> tuple[float | None, str]:
    """Frontal axis in degrees from the net areas in I and aVF; or None and why."""
    first, foot = LEADS.index("I"), LEADS.index("aVF")
    if part is None:
        return None, ""
    if not (usable[first] and usable[foot]):
        return None, "lead_flat"
    x, y = part[first].sum(), part[foot].sum() * 2 / np.sqrt(3)
    if np.hypot(x, y) < _NO_AXIS * (np.abs(part[first]).sum() + np.abs(part[foot]).sum()):
        return None, "indeterminate"
    angle = float(np.degrees(np.arctan2(y, x)))
    return (180.0 if angle == -180.0 else angle), ""
