"""The heart vector of a synthetic ECG and its projection on twelve leads, with waves that begin and end exactly.

Coordinates: x to the patient's left, y to the feet, z to the back; the source is a sum of dipoles. Limb leads are
Einthoven's triangle, chest leads the transform of Dower et al. (1980). Waves are smooth bumps of compact support, so
that onset and offset are numbers and not matters of opinion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecglm.types import LEADS

#: The leads that are computed; the other four limb leads follow from I and II.
INDEPENDENT: tuple[str, ...] = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB_GAIN = 0.8
CHEST = np.array(
    [
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
LIMB = LIMB_GAIN * np.array([[1.0, 0.0, 0.0], [0.5, np.sqrt(3) / 2, 0.0]])

#: Territory → its leads, as a report names them.
TERRITORIES: dict[str, tuple[str, ...]] = {
    "anterior": ("V1", "V2", "V3", "V4"),
    "inferior": ("II", "III", "aVF"),
    "lateral": ("I", "aVL", "V5", "V6"),
}
#: Direction of the injury current of ST elevation.
INJURY: dict[str, tuple[float, float, float]] = {
    "anterior": (0.25, -0.05, -1.0),
    "inferior": (-0.15, 1.0, 0.25),
    "lateral": (1.0, -0.35, 0.30),
}
#: T vector, upright and inverted in a territory.
T_NORMAL = (0.30, 0.19, -0.19)
T_INVERTED: dict[str, tuple[float, float, float]] = {
    "anterior": (0.04, 0.19, 0.34),
    "inferior": (0.26, -0.38, -0.17),
    "lateral": (-0.27, 0.20, -0.20),
}

#: QRS complexes: rows (rise from, peak, peak until, back at zero) as fractions of the duration, then (x, y, z) in mV.
QRS: dict[str, tuple[tuple[float, ...], ...]] = {
    "normal": (
        (0.00, 0.18, 0.18, 0.42, -0.15, -0.02, -0.28),  # septum: r in V1, q in I and V6
        (0.16, 0.46, 0.46, 0.78, 1.20, 0.75, 0.10),  # free wall: R from V3 to V6
        (0.46, 0.72, 0.72, 1.00, -0.10, -0.10, 0.85),  # base: S in V1 to V3
    ),
    "lbbb": (
        (0.00, 0.27, 0.36, 0.64, 0.95, 0.35, 0.10),  # no septal q; two humps to the left: notched R in I, aVL, V6
        (0.40, 0.64, 0.72, 1.00, 0.90, 0.25, 0.10),
        (0.00, 0.38, 0.54, 0.98, 0.00, 0.00, 1.05),  # one deep smooth QS in V1 to V3
    ),
    "rbbb": (
        (0.00, 0.12, 0.12, 0.27, -0.15, -0.02, -0.30),
        (0.10, 0.30, 0.30, 0.52, 1.10, 0.75, 0.10),
        (0.26, 0.40, 0.40, 0.56, 0.10, -0.05, 0.55),
        (0.42, 0.65, 0.69, 1.00, -0.52, 0.05, -0.66),  # right ventricle, late: R' in V1, wide S in I and V6
    ),
    "paced": (
        (0.00, 0.34, 0.42, 0.74, 0.55, -0.80, 1.05),
        (0.44, 0.70, 0.76, 1.00, 0.50, -0.70, 0.70),
    ),
}


@dataclass(frozen=True)
class Waves:
    """Bumps relative to one onset. times: ``(n, 4)`` s. leads: ``(n, 8)`` mV in ``INDEPENDENT`` order."""

    times: np.ndarray
    leads: np.ndarray

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """Values ``(..., 8)`` in mV at times relative to the onset."""
        t = seconds[..., None]
        rise, top, until, end = self.times.T
        up = np.clip((t - rise) / (top - rise), 0, 1)
        down = np.clip((end - t) / (end - until), 0, 1)
        return (up * up * (3 - 2 * up) * (down * down * (3 - 2 * down))) @ self.leads

    def area(self) -> np.ndarray:
        """Integral of each independent lead, ``(8,)`` mV·s, in closed form."""
        rise, top, until, end = self.times.T
        return ((end - rise + until - top) / 2) @ self.leads


def join(*waves: Waves) -> Waves:
    """All bumps of several groups with the same onset."""
    return Waves(np.concatenate([w.times for w in waves]), np.concatenate([w.leads for w in waves]))


def lead_matrix(turn: float) -> np.ndarray:
    """``(8, 3)`` lead vectors of a body whose heart is turned by ``turn`` radians in the horizontal plane."""
    c, s = np.cos(turn), np.sin(turn)
    return np.concatenate([LIMB, CHEST @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])])


def waves(rows: object, matrix: np.ndarray, *, scale: float = 1.0, start: float = 0.0, stretch: float = 1.0) -> Waves:
    """Rows (four times, x, y, z) as Waves: times ``start + stretch * t``, amplitudes ``scale`` times the dipole."""
    table = np.asarray(rows, dtype=np.float64)
    return Waves(start + stretch * table[:, :4], scale * table[:, 4:] @ matrix.T)


def frontal_axis(area: np.ndarray) -> float:
    """Frontal QRS axis in degrees (-180, 180] from net areas of the independent leads, by the hexaxial system."""
    avf = area[1] - area[0] / 2
    return float(np.degrees(np.arctan2(2 / np.sqrt(3) * avf, area[0])))


def qrs_waves(kind: str, matrix: np.ndarray, duration: float, axis: float | None) -> Waves:
    """A QRS complex of ``duration`` s. axis: wanted frontal axis in degrees, met exactly; None leaves it as it is.

    The chest leads see only a third of the rotation: electrodes on the chest stay where they are, and the
    horizontal picture of a rotated heart changes far less than the frontal one.
    """
    plain = waves(QRS[kind], matrix, stretch=duration)
    if axis is None:
        return plain
    angle = np.radians(axis - frontal_axis(plain.area()))
    dipoles = np.asarray(QRS[kind])[:, 4:]
    leads = [dipoles @ _frontal(a).T @ rows.T for a, rows in ((angle, matrix[:2]), (angle / 3, matrix[2:]))]
    return Waves(plain.times, np.concatenate(leads, axis=1))


def _frontal(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def p_waves(matrix: np.ndarray, duration: float, scale: float, ectopic: bool) -> Waves:
    """A P wave: right then left atrium (biphasic in V1); an ectopic one climbs from low in the atrium."""
    if ectopic:
        rows = [(0.0, 0.45, 0.5, 1.0, 0.05, -0.11, -0.07)]
    else:
        rows = [(0.0, 0.38, 0.42, 0.80, 0.04, 0.12, -0.06), (0.25, 0.62, 0.66, 1.0, 0.08, 0.08, 0.05)]
    return waves(rows, matrix, scale=scale, stretch=duration)


def t_waves(
    matrix: np.ndarray, dipole: object, qrs: float, qt: float, *, scale: float = 1.0, segment: float = 0.05
) -> Waves:
    """A T wave that ends exactly at ``qt`` s behind the QRS onset: slow rise, faster fall.

    segment: seconds that are left to the ST segment at least.
    """
    width = min(0.56 * qt, qt - qrs - segment)
    start, table = qt - width, np.asarray(dipole, dtype=np.float64)
    peak = start + 0.58 * width
    body = [start, peak, peak + 0.01 * width, qt, *(0.86 * table)]
    foot = [qrs, peak, peak + 0.01 * width, qt, *(0.14 * table)]  # ST slopes into T, as it does in people
    return waves([body, foot], matrix, scale=scale)


def st_waves(matrix: np.ndarray, dipole: object, qrs: float, qt: float) -> Waves:
    """A shift of the ST segment: there from the J point on, gone with the T wave."""
    x, y, z = np.asarray(dipole, dtype=np.float64)
    return waves([(qrs - 0.016, qrs + 0.012, max(qrs + 0.07, 0.66 * qt), qt, x, y, z)], matrix)


def add_beats(strip: np.ndarray, group: Waves, onsets: np.ndarray, rate: float, lead_in: int) -> None:
    """Add a group of waves at every onset (s) to ``strip`` ``(8, samples)``; sample ``lead_in`` is time zero."""
    if not len(onsets):
        return
    first = np.ceil((onsets + group.times[:, 0].min()) * rate).astype(np.int64)
    width = int((group.times[:, 3].max() - group.times[:, 0].min()) * rate) + 1
    seconds = (first[:, None] + np.arange(width)) / rate - onsets[:, None]
    values = group.at(seconds).transpose(0, 2, 1)
    for start, block in zip(first + lead_in, values, strict=True):
        low, high = max(start, 0), min(start + width, strip.shape[1])
        if low < high:
            strip[:, low:high] += block[:, low - start : high - start]


def twelve(independent: np.ndarray) -> np.ndarray:
    """``(8, samples)`` → float32 ``(12, samples)``: III, aVR, aVL, aVF from the *rounded* I and II."""
    x = independent.astype(np.float32)
    first, second = x[0], x[1]
    half = np.float32(0.5)
    limb = [first, second, second - first, -half * (first + second), first - half * second, second - half * first]
    return np.concatenate([np.stack(limb), x[2:]])


def territory_levels(leads: np.ndarray) -> dict[str, float]:
    """Mean over each territory's leads of twelve values, ``(12,)`` mV."""
    return {name: float(np.mean([leads[LEADS.index(i)] for i in where])) for name, where in TERRITORIES.items()}
