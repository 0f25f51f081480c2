"""Who the synthetic patients are and what is found in each of their ECGs: the draws, before any wave is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecglm.records.synthetic_model import INJURY, T_INVERTED
from ecglm.records.synthetic_rhythm import RATES

#: Frontal QRS axis in degrees per label, well inside the limits -30 and +90.
AXES: dict[str, tuple[float, float]] = {"normal": (-15.0, 75.0), "left": (-75.0, -42.0), "right": (103.0, 145.0)}
#: QRS duration in ms.
QRS_MS: dict[str, tuple[int, int]] = {"normal": (76, 106), "lbbb": (132, 172), "rbbb": (126, 156), "paced": (150, 184)}


@dataclass(frozen=True)
class Patient:
    """What all ECGs of one patient share.

    conduction: normal, lbbb or rbbb. axis: degrees. turn: of the heart in the horizontal plane, radians. sokolow:
    voltage aimed at in mV. p_scale, t_scale: size of P and T. qtc_ms: at a narrow QRS.
    """

    healthy: bool
    age: int
    sex: str
    conduction: str
    lvh: bool
    axis: float
    turn: float
    qrs_ms: int
    sokolow: float
    p_scale: float
    t_scale: float
    qtc_ms: float


@dataclass(frozen=True)
class Findings:
    """What one ECG shows. st and twave: ``(kind, territory)`` or None; st_mv: ST shift in its largest lead, mV."""

    rhythm: str
    rate: float
    conduction: str
    pr_ms: int
    qrs_ms: int
    qtc_ms: float
    st: tuple[str, str] | None
    st_mv: float
    twave: tuple[str, str] | None
    long_qt: bool
    lvh: bool
    strain: bool
    p_before_pacing: bool


def draw_patient(rng: np.random.Generator) -> Patient:
    """One patient. Two in five are healthy; the others have chronic findings."""
    healthy = bool(rng.uniform() < 0.4)
    conduction = "normal" if healthy else str(rng.choice(["normal", "lbbb", "rbbb"], p=[0.64, 0.18, 0.18]))
    lvh = not healthy and conduction == "normal" and bool(rng.uniform() < 0.22)
    side = "normal" if healthy else str(rng.choice(["normal", "left", "right"], p=[0.5, 0.27, 0.23]))
    if side == "right" and (conduction == "lbbb" or lvh):
        side = "left"  # a right axis is a rarity with either
    sex = str(rng.choice(["female", "male"]))
    low, high = QRS_MS[conduction]
    return Patient(
        healthy=healthy,
        age=int(rng.integers(18, 70) if healthy else rng.integers(35, 90)),
        sex=sex,
        conduction=conduction,
        lvh=lvh,
        axis=float(rng.uniform(*AXES[side])),
        turn=float(rng.uniform(-0.14, 0.14)),
        qrs_ms=int(rng.integers(low, high + 1)),
        sokolow=float(rng.uniform(3.7, 4.6) if lvh else rng.uniform(1.7, 3.1)),
        p_scale=float(rng.uniform(0.8, 1.2)),
        t_scale=float(rng.uniform(0.8, 1.25)),
        qtc_ms=float(rng.uniform(385, 430) + (10 if sex == "female" else 0)),
    )


def draw_findings(rng: np.random.Generator, patient: Patient, rhythms: tuple[str, ...]) -> Findings:
    """One ECG of a patient: a rhythm (all equally likely) and at most one acute ST, T or QT finding.

    ST, T and QT findings need normal conduction and no LVH: elsewhere repolarisation is abnormal by itself.
    """
    rhythm = rhythms[int(rng.integers(len(rhythms)))]
    paced = rhythm == "paced"
    conduction = "paced" if paced else patient.conduction
    rate = float(rng.uniform(*RATES[rhythm]))
    primary = conduction == "normal" and not patient.lvh
    kind = str(
        rng.choice(
            ["none", "elevation", "depression", "inversion", "long_qt"],
            p=[0.85, 0.15, 0, 0, 0] if patient.healthy else [0.12, 0.3, 0.24, 0.18, 0.16],
        )
    )
    st_territory, t_territory = str(rng.choice(list(INJURY))), str(rng.choice(list(T_INVERTED)))
    elevation, depression = float(rng.uniform(0.22, 0.45)), float(rng.uniform(0.17, 0.30))
    long_qtc, pr = float(rng.uniform(490, 560)), int(rng.integers(124, 192))
    strain, p_before_pacing = bool(rng.uniform() < 0.5), bool(rng.uniform() < 0.5)
    qrs_ms = int(rng.integers(*QRS_MS["paced"])) if paced else patient.qrs_ms + int(rng.integers(-3, 4))
    qtc = patient.qtc_ms + float(rng.uniform(-8, 8)) + max(0, qrs_ms - 110)
    if rhythm == "first_degree_av_block":
        pr = int(rng.integers(225, 330))
    elif rhythm == "sinus_tachycardia":
        pr = min(pr, 150)
    if not primary:
        kind = "none"
    if kind == "long_qt" and rate > 92:
        kind = "none"  # the T wave would run into the next P
    st = (kind, st_territory) if kind in ("elevation", "depression") else None
    return Findings(
        rhythm=rhythm,
        rate=rate,
        conduction=conduction,
        pr_ms=pr,
        qrs_ms=qrs_ms,
        qtc_ms=long_qtc if kind == "long_qt" else qtc,
        st=st,
        st_mv=0.0 if st is None else elevation if kind == "elevation" else -depression,
        twave=("inversion", t_territory) if kind == "inversion" else None,
        long_qt=kind == "long_qt",
        lvh=patient.lvh and not paced,
        strain=patient.lvh and not paced and strain,
        p_before_pacing=p_before_pacing,
    )
