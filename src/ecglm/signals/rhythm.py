"""What the times of the ventricular beats say: rate, variability, premature beats, regularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Fewest RR intervals from which regularity is told.
MIN_INTERVALS = 4
#: A beat that comes after less than this share of the usual interval is premature.
PREMATURE = 0.86


@dataclass(frozen=True)
class Rhythm:
    """Of RR intervals in ms; None where there are too few. kinds: a letter per beat, as ``letters`` gives them.

    irregularity: median difference of successive intervals over the mean interval; about 0.02 in sinus rhythm, 0.2 in
    atrial fibrillation. regularity: ``"regular"``, ``"regularly irregular"`` (premature beats on a regular rhythm,
    pairs or groups of beats, a slow swing), ``"irregularly irregular"``.
    """

    heart_rate: float | None
    rr_mean_ms: float | None
    rr_sd_ms: float | None
    rr_min_ms: float | None
    rr_max_ms: float | None
    rmssd_ms: float | None
    irregularity: float | None
    regularity: str | None
    kinds: str


def rhythm_of(onsets_s: np.ndarray, shapes: np.ndarray, widths_ms: np.ndarray, has_p: bool = True) -> Rhythm:
    """Rhythm of QRS onsets ``(num_beats,)`` in s; shapes: class of each beat, 0 the dominant one; widths_ms: of each
    beat's class, NaN where it could not be measured; has_p: whether a P wave stands before the dominant beats. Without
    one, less disorder is called irregularly irregular."""
    rr = np.diff(onsets_s) * 1000
    if not len(rr):
        return Rhythm(None, None, None, None, None, None, None, None, kinds="N" * len(onsets_s))
    mean = float(rr.mean())
    steps = np.abs(np.diff(rr))
    ordinary = shapes[1:] == 0
    among = ordinary & (shapes[:-1] == 0)
    usual, steady = _usual(rr[among] if among.any() else rr[ordinary])
    irregularity = regularity = None
    wild = False
    if len(rr) >= MIN_INTERVALS:
        irregularity = float(np.median(steps)) / mean
        every_second = np.abs(rr[2:] - rr[:-2])
        step, swing, most = (0.085, 0.07, 0.5) if has_p else (0.06, 0.05, 0.7)
        wild = irregularity > step and float(np.median(every_second)) > swing * mean and steady < most
    kinds = letters(rr, shapes, widths_ms, None if wild else usual)
    if irregularity is not None:
        ordered, cut = np.sort(rr), len(rr) // 10
        spread = float(ordered[len(rr) - 1 - cut] - ordered[cut]) / mean
        even = set(kinds) <= {"N"} and irregularity < 0.085 and spread < 0.2
        regularity = "irregularly irregular" if wild else "regular" if even else "regularly irregular"
    return Rhythm(
        heart_rate=60000 / mean,
        rr_mean_ms=mean,
        rr_sd_ms=float(rr.std()),
        rr_min_ms=float(rr.min()),
        rr_max_ms=float(rr.max()),
        rmssd_ms=float(np.sqrt(np.square(steps).mean())) if len(steps) else None,
        irregularity=irregularity,
        regularity=regularity,
        kinds=kinds,
    )


def _usual(rr: np.ndarray) -> tuple[float, float]:
    """The interval that most others resemble, and the share within 7 % of it; 0 and 0 without intervals."""
    if not len(rr):
        return 0.0, 0.0
    alike = np.abs(rr[:, None] - rr) <= 0.07 * rr[:, None]
    best = alike[int(alike.sum(axis=1).argmax())]
    return float(rr[best].mean()), float(best.mean())


def letters(rr_ms: np.ndarray, shapes: np.ndarray, widths_ms: np.ndarray, usual: float | None) -> str:
    """A WFDB beat code per beat: N the dominant shape, A the same shape but premature, V another shape that is wide or
    premature, Q another shape that is neither. usual: the interval against which a beat is early, ms; None where
    nothing is, as in atrial fibrillation."""
    early = np.concatenate([[False], rr_ms < PREMATURE * (usual if usual is not None else 0.0)])
    dominant = widths_ms[(shapes == 0) & np.isfinite(widths_ms)]
    wide = max(115.0, (float(dominant.min()) if len(dominant) else 90.0) + 15.0)
    found = []
    for shape, soon, width in zip(shapes.tolist(), early.tolist(), widths_ms.tolist(), strict=True):
        if shape == 0:
            found.append("A" if soon else "N")
        else:
            found.append("V" if soon or width >= wide else "Q")
    return "".join(found)
