"""Time of every effect of ``representations/augment_effects.py`` on a 12×2500 segment, and the sheet that shows them.

Each effect alone, always applied, at its defaults, through ``augment_signal``: the copy, the check for NaN, the
seeding and the effect itself. Best processor time of many. ``--sheet docs/img/augmentations.png`` draws what each
effect does to one synthetic ECG instead.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from ecglm import registry  # noqa: E402
from ecglm.records.synthetic import Synthetic  # noqa: E402
from ecglm.representations.augment import Augmentation, augment_signal  # noqa: E402
from ecglm.signals.pipeline import get_pipeline  # noqa: E402
from ecglm.types import LEADS  # noqa: E402

RATE, SECONDS = 250, 10
BAR_MS = 0.3
#: Effect → (leads that show it, options that make it plain, row of the draw).
SHOWN: dict[str, tuple[tuple[str, ...], dict[str, object], str]] = {
    "noise": (("I", "V5"), {}, "a"),
    "wander": (("I", "V5"), {}, "b"),
    "muscle": (("I", "V5"), {"rms": [0.05, 0.05]}, "a"),
    "mains": (("I", "V5"), {"frequencies": [50], "amplitude": [0.1, 0.1]}, "d"),
    "step": (("II", "III"), {"amplitude": [0.8, 0.8]}, "o"),
    "flat": (("V5", "V6"), {"seconds": [1.0, 1.0], "leads": ["V5"]}, "h"),
    "lead-dropout": (("I", "V5"), {"number": [1, 1], "leads": ["V5"]}, "a"),
    "electrode-swap": (("I", "II"), {"pairs": ["RA-LA"]}, "a"),
    "time-shift": (("I", "V5"), {"seconds": [0.5, 0.5]}, "b"),
    "scale": (("I", "V5"), {"factor": [0.7, 0.7]}, "a"),
}


def example() -> np.ndarray:
    """A synthetic ECG in sinus rhythm without artefacts: float32 ``(12, 2500)`` in mV."""
    pipeline = get_pipeline("default", rate=RATE, seg_len=RATE * SECONDS)
    source = Synthetic(num_patients=60, seed=7)
    records = (source.read(key) for key in source.keys())
    return pipeline.run(next(r for r in records if {"superclass:NORM", "quality:good"} <= set(r.labels))).signal[0]


def milliseconds(name: str, segment: np.ndarray, repeats: int) -> float:
    """The best of ``repeats``, each with a draw of its own."""
    plan = Augmentation.from_plain({name: {"p": 1.0}})
    best = float("inf")
    for repeat in range(repeats):
        started = time.process_time_ns()
        augment_signal(segment, RATE, plan, seed=0, row_id=str(repeat))
        best = min(best, time.process_time_ns() - started)
    return best / 1e6


def draw_sheet(segment: np.ndarray, path: Path) -> None:
    """One strip per effect: 4 s of two leads, before (grey) and after (black), on the millimetre grid of ECG paper."""
    seconds, spacing = 4.0, 2.4
    figure = Figure(figsize=(11, 15), layout="constrained")
    axes = figure.subplots(len(SHOWN) // 2, 2).ravel()
    samples = int(seconds * RATE)
    t = np.arange(samples) / RATE
    for axis, (name, (leads, options, row)) in zip(axes, SHOWN.items(), strict=True):
        plan = Augmentation.from_plain({name: {"p": 1.0, **options}})
        after = augment_signal(segment, RATE, plan, seed=0, row_id=row)
        # the window must hold what happens only once in the segment
        changed = np.flatnonzero(np.abs(after - segment).max(axis=0) > 0.02)
        start = RATE if name != "time-shift" else 0
        if len(changed) <= samples:
            start = max(0, min(int(changed[0]) - RATE, segment.shape[1] - samples))
        for number, lead in enumerate(leads):
            base = -spacing * number
            trace = slice(start, start + samples)
            axis.plot(t, segment[LEADS.index(lead), trace] + base, color="#8b93a0", linewidth=0.8, label="before")
            axis.plot(t, after[LEADS.index(lead), trace] + base, color="#111111", linewidth=0.8, label="after")
            axis.text(0.04, base + 0.9, lead, fontsize=9, weight="bold")
        axis.set(xlim=(0, seconds), ylim=(-spacing - 1.3, 1.9), aspect=0.4, xticklabels=[], yticklabels=[])
        for kind, size, colour in (("minor", 1, "#f6d5d5"), ("major", 5, "#eeb0b0")):
            axis.set_xticks(np.arange(0, seconds + 1e-9, 0.04 * size), minor=kind == "minor")
            axis.set_yticks(np.arange(-3.6, 1.91, 0.1 * size), minor=kind == "minor")
            axis.grid(which=kind, color=colour, linewidth=0.4)
            axis.tick_params(which=kind, length=0)
        axis.set_axisbelow(True)
        told = ", ".join(f"{key} {value}".replace("'", "") for key, value in options.items())
        axis.set_title(f"{name}   {told}", loc="left", fontsize=10)
    figure.suptitle("One synthetic ECG before (grey) and after (black) each effect; 25 mm/s, 10 mm/mV", fontsize=11)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main() -> int:
    """Print a table, then one JSON line; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="200 repeats")
    parser.add_argument("--sheet", type=Path, help="draw the contact sheet into this PNG file, measure nothing")
    options = parser.parse_args()
    segment = example()
    if options.sheet:
        draw_sheet(segment, options.sheet)
        return 0
    repeats = 200 if options.quick else options.repeats
    found = {name: milliseconds(name, segment, repeats) for name in registry.names("augmentations")}
    everything = Augmentation.from_plain(dict.fromkeys(found))
    started = time.process_time()
    for row in range(repeats):
        augment_signal(segment, RATE, everything, seed=0, row_id=str(row))
    together = (time.process_time() - started) / repeats * 1e3
    print(f"{'effect':18}{'ms':>8}   12×{segment.shape[1]}, one core, best of {repeats}")
    for name, value in found.items():
        print(f"{name:18}{value:8.3f}")
    print(f"{'all, each p = 0.5':18}{together:8.3f}   mean")
    passed = max(found.values()) < BAR_MS
    result = {"benchmark": "augment", "ms": {k: round(v, 4) for k, v in found.items()}, "all_ms": round(together, 4)}
    print(json.dumps({**result, "bar_ms": BAR_MS, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
