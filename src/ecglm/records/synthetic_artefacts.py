"""What disturbs a synthetic ECG: muscle noise, baseline wander, mains hum, a lead that came off."""

from __future__ import annotations

import numpy as np

from ecglm.records.synthetic_model import INDEPENDENT, twelve
from ecglm.types import LEADS

#: Electrodes RA, LA, LL, V1 … V6 → the eight independent leads. Noise arises at electrodes, so Einthoven still holds.
ELECTRODES = np.zeros((8, 9))
ELECTRODES[0, [1, 0]] = 1, -1
ELECTRODES[1, [2, 0]] = 1, -1
ELECTRODES[2:, 3:] = np.eye(6)
ELECTRODES[2:, :3] = -1 / 3

#: Artefact → how often it is seen.
CHANCES: dict[str, float] = {"noise": 0.12, "wander": 0.12, "mains_hum": 0.08, "flat_lead": 0.05}


def add_artefacts(
    signal: np.ndarray, rng: np.random.Generator, rate: int, *, spare: str, lvh: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """``(12, samples)`` mV with artefacts, and their names. A faint noise and sway is always there, and not named.

    spare, lvh: conduction and hypertrophy, whose diagnosis rests on V1, V5 and V6: those leads never come off then.
    """
    found = tuple(name for name, chance in CHANCES.items() if rng.uniform() < chance)
    samples = signal.shape[1]
    t = np.arange(samples, dtype=np.float32) / np.float32(rate)
    muscle = rng.uniform(0.030, 0.055) if "noise" in found else rng.uniform(0.002, 0.006)
    electrodes = rng.standard_normal((9, samples), dtype=np.float32) * np.float32(muscle)
    sway = rng.uniform(0.12, 0.35) if "wander" in found else rng.uniform(0.003, 0.015)
    for speed in rng.uniform(0.12, 0.45, 2):
        wave = np.sin(np.float32(2 * np.pi * speed) * t + np.float32(rng.uniform(0, 2 * np.pi)))
        electrodes += np.outer(rng.uniform(-sway, sway, 9), wave).astype(np.float32)
    hum, hertz = rng.uniform(0.04, 0.09), float(rng.choice([50.0, 60.0]))
    if "mains_hum" in found:
        wave = np.sin(np.float32(2 * np.pi * hertz) * t + np.float32(rng.uniform(0, 2 * np.pi)))
        electrodes += np.outer(hum * rng.uniform(-1.0, 1.0, 9), wave).astype(np.float32)
    rows = [LEADS.index(lead) for lead in INDEPENDENT]
    noisy = twelve(signal[rows] + ELECTRODES.astype(np.float32) @ electrodes)
    may_fall = ["V2", "V3", "V4"] if lvh or spare != "normal" else [f"V{i}" for i in range(1, 7)]
    fallen = str(rng.choice(may_fall))
    if "flat_lead" in found:
        noisy[LEADS.index(fallen)] = 0
    return noisy, found
