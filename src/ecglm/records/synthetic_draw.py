"""One synthetic ECG from a patient and the findings: the signal without artefacts, and its exact measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ecglm.records.synthetic_model import (
    INDEPENDENT,
    INJURY,
    T_INVERTED,
    T_NORMAL,
    TERRITORIES,
    Waves,
    add_beats,
    frontal_axis,
    join,
    lead_matrix,
    p_waves,
    qrs_waves,
    st_waves,
    t_waves,
    territory_levels,
    twelve,
    waves,
)
from ecglm.records.synthetic_patient import Findings, Patient
from ecglm.records.synthetic_rhythm import PVC, plan
from ecglm.types import LEADS

_V1, _V5, _V6 = (INDEPENDENT.index(lead) for lead in ("V1", "V5", "V6"))

#: Ventricular premature complexes by origin: QRS rows as in the model, then the T dipole.
_PVCS = {
    "right_ventricle": (
        ((0.0, 0.40, 0.46, 0.80, 1.30, 1.45, 1.35), (0.45, 0.74, 0.80, 1.0, 0.75, 0.70, 0.60)),
        (-0.52, -0.55, -0.50),
    ),
    "left_ventricle": (
        ((0.0, 0.38, 0.44, 0.78, -0.75, -1.35, -1.25), (0.45, 0.72, 0.78, 1.0, -0.85, -0.80, -0.60)),
        (0.42, 0.55, 0.45),
    ),
}


@dataclass(frozen=True)
class Truth:
    """signal: float32 ``(12, samples)`` mV without artefacts. measurements: as in a record's metadata.

    beats: a WFDB beat code for each QRS: N normal, V and A premature (ventricular, atrial), / paced.
    """

    signal: np.ndarray
    measurements: dict[str, Any]
    qrs_onsets_s: list[float]
    beats: str
    p_onsets_s: list[float]


def draw(patient: Patient, findings: Findings, rng: np.random.Generator, *, rate: int, duration: float) -> Truth:
    """Draw one ECG of ``duration`` s at ``rate`` Hz."""
    matrix = lead_matrix(patient.turn + rng.uniform(-0.03, 0.03))
    pr, qrs = findings.pr_ms / 1000, findings.qrs_ms / 1000
    timing = plan(
        findings.rhythm,
        rng,
        duration=duration,
        rate=findings.rate,
        pr=pr,
        qtc=findings.qtc_ms / 1000,
        p_before_pacing=findings.p_before_pacing,
    )
    onsets = timing.qrs[timing.inside(duration)]
    rr = np.diff(onsets)
    # Whole milliseconds, so that what the report says is what was drawn.
    qt_ms = round(findings.qtc_ms * float(np.sqrt(rr.mean())))
    complex_, beat = _ventricles(patient, findings, rng, matrix, qrs, qt_ms / 1000)

    lead_in = int(2 * rate)
    strip = np.zeros((len(INDEPENDENT), round(duration * rate) + 2 * lead_in))
    ectopic = timing.kinds == PVC
    add_beats(strip, beat, timing.qrs[~ectopic], rate, lead_in)
    if ectopic.any():
        add_beats(strip, _premature(rng, matrix, qt_ms / 1000, patient.sokolow), timing.qrs[ectopic], rate, lead_in)
    if findings.rhythm == "paced":
        add_beats(strip, _spike(matrix, rate), timing.qrs, rate, lead_in)
    p_ms = int(rng.integers(88, 112))
    for is_ectopic in (False, True):
        p = p_waves(matrix, p_ms / 1000, patient.p_scale, is_ectopic)
        add_beats(strip, p, timing.p[timing.p_ectopic == is_ectopic], rate, lead_in)
    strip = strip[:, lead_in : strip.shape[1] - lead_in]
    if findings.rhythm == "atrial_fibrillation":
        strip = strip + _fibrillation(rng, matrix, np.arange(strip.shape[1]) / rate)

    mean_rr = float(rr.mean())
    measurements: dict[str, Any] = {
        "heart_rate": round(60 / mean_rr, 1),
        "rr_sd_ms": round(float(rr.std()) * 1000, 1),
        "qrs_ms": findings.qrs_ms,
        "qt_ms": qt_ms,
        "qtc_ms": round(qt_ms / float(np.sqrt(mean_rr))),
        "axis_deg": round(frontal_axis(complex_.area())),
    }
    if findings.rhythm not in ("atrial_fibrillation", "paced"):
        measurements["pr_ms"] = findings.pr_ms
    st_mv = twelve(beat.at(np.array([qrs + 0.06])).T)[:, 0].astype(float)
    measurements["st_leads_mv"] = {lead: round(v, 3) for lead, v in zip(LEADS, st_mv.tolist(), strict=True)}
    measurements["st_mv"] = {name: round(v, 3) for name, v in territory_levels(st_mv).items()}
    if findings.conduction == "normal":
        measurements["sokolow_mv"] = round(_sokolow(complex_, qrs), 2)
    beats = "".join("NVA/"[kind] for kind in timing.kinds[timing.inside(duration)])
    p_onsets = timing.p[(timing.p >= 0) & (timing.p < duration)]
    return Truth(
        twelve(strip), measurements, np.round(onsets, 4).tolist(), beats, np.round(np.sort(p_onsets), 4).tolist()
    )


def _ventricles(
    patient: Patient, findings: Findings, rng: np.random.Generator, matrix: np.ndarray, qrs: float, qt: float
) -> tuple[Waves, Waves]:
    """The QRS complex alone, and the whole beat from QRS onset to the end of T."""
    kind = findings.conduction
    axis = None if kind == "paced" else patient.axis + rng.uniform(-2, 2)
    complex_ = qrs_waves(kind, matrix, qrs, axis)
    factor = float(rng.uniform(0.85, 1.25))
    if kind == "normal":
        factor = patient.sokolow / _sokolow(complex_, qrs)
        if not findings.lvh:  # a rotated heart shows V5 little of itself: it must not grow for that
            factor = min(factor, 1.3)
    complex_ = Waves(complex_.times, complex_.leads * factor)
    scale = patient.t_scale * float(rng.uniform(0.92, 1.08))
    if kind == "normal":  # a heart of low voltage has low T waves too
        scale *= float(np.sqrt(patient.sokolow / 2.6)) if not findings.lvh else 1.0
    st: np.ndarray | None = None
    t: Any = T_NORMAL
    if kind == "lbbb":
        t, st = np.array([-0.28, -0.10, -0.36]) * factor, np.array([-0.10, -0.03, -0.16]) * factor
    elif kind == "rbbb":
        t = (0.34, 0.22, 0.10)
    elif kind == "paced":
        t, st = np.array([-0.26, 0.34, -0.40]) * factor, np.array([-0.08, 0.10, -0.14]) * factor
    elif findings.strain:
        t, st = (-0.26, -0.06, -0.26), np.array([-0.12, -0.03, -0.06])
    elif findings.twave is not None:
        t = T_INVERTED[findings.twave[1]]
    elif findings.st is not None:
        direction = np.array(INJURY[findings.st[1]])
        territory = [LEADS.index(lead) for lead in TERRITORIES[findings.st[1]]]
        st = direction * findings.st_mv / twelve((matrix @ direction)[:, None])[territory, 0].max()
        # Acute injury: the T wave goes the same way as the ST segment, or is flattened under a depressed one.
        t = np.array(T_NORMAL) * 0.6 + (0.7 if findings.st[0] == "elevation" else 0.2) * st
    # Where the ventricles are activated from one side, ST and T are one slope.
    segment = 0.01 if kind in ("lbbb", "paced") else 0.05
    parts = [complex_, t_waves(matrix, t, qrs, qt, scale=scale, segment=segment)]
    if st is not None:
        parts.append(st_waves(matrix, st, qrs, qt))
    return complex_, join(*parts)


def _sokolow(complex_: Waves, qrs: float) -> float:
    """Sokolow-Lyon index in mV: depth of S in V1 plus the taller R of V5 and V6."""
    shape = complex_.at(np.linspace(0, qrs, 120))
    return float(-shape[:, _V1].min() + shape[:, [_V5, _V6]].max())


def _premature(rng: np.random.Generator, matrix: np.ndarray, qt: float, sokolow: float) -> Waves:
    """A ventricular premature complex: wide, no P wave, T against the QRS; one origin per record."""
    rows, t = _PVCS[str(rng.choice(sorted(_PVCS)))]
    qrs, scale = (
        float(rng.uniform(0.142, 0.178)),
        float(rng.uniform(0.85, 1.1) * np.sqrt(sokolow / 2.6)),
    )
    beat = waves(rows, matrix, scale=scale, stretch=qrs)
    return join(beat, t_waves(matrix, np.array(t) * scale, qrs, max(qt + 0.05, qrs + 0.24), segment=0.01))


def _spike(matrix: np.ndarray, rate: int) -> Waves:
    """A pacing stimulus just before the QRS: 2 ms, or as short as the sampling rate can show."""
    width = max(0.002, 1 / rate)
    return waves([(-2 * width, -width, -width, 0.0, 1.1, 1.5, -0.6)], matrix)


def _fibrillation(rng: np.random.Generator, matrix: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Fibrillatory waves, 5 to 8 per second with wandering rate and size, largest in V1 and the inferior leads."""
    strip = np.zeros((len(matrix), len(t)))
    size = rng.uniform(0.45, 1.0)
    for dipole in ((-0.06, 0.11, -0.06), (-0.05, -0.03, -0.05)):
        speed, slow = rng.uniform(5.0, 8.0), rng.uniform(0.3, 1.1, 3)
        phases = rng.uniform(0, 2 * np.pi, 5)
        bend = 1.6 * np.sin(2 * np.pi * slow[0] * t + phases[0]) + 0.9 * np.sin(2 * np.pi * slow[1] * t + phases[1])
        angle = 2 * np.pi * speed * t + bend + phases[2]
        swell = 1 + 0.35 * np.sin(2 * np.pi * slow[2] * t + phases[3])
        strip += np.outer(
            matrix @ np.array(dipole) * size, swell * (np.sin(angle) + 0.4 * np.sin(2 * angle + phases[4]))
        )
    return strip
