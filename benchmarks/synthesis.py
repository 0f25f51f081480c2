"""Cost of synthesised scans and photographs: milliseconds per image for each recipe and size, and for each effect.

One core, processor time (other programs on the machine stretch it less than wall time). The segments are synthetic ECGs
of 10 s at 250 Hz; every image draws its own layout, paper and effects, as in training.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from ecglm.records.synthetic import Synthetic  # noqa: E402
from ecglm.representations.effects import EFFECTS  # noqa: E402
from ecglm.representations.paper import paper_geometry  # noqa: E402
from ecglm.representations.render import render  # noqa: E402
from ecglm.representations.synthesis import synthesise  # noqa: E402
from ecglm.representations.synthesis_recipes import RECIPES  # noqa: E402

SIZES = ((1100, 850), (2200, 1700))
BAR_MS, BAR_RECIPE, BAR_SIZE = 60.0, "pulse", "1100x850"
BAR_GROWTH = 1.25  # the second half of the images may cost so much more than the first


def of_recipe(segments: list[np.ndarray], recipe: str, size: tuple[int, int], count: int) -> list[float]:
    """Milliseconds of ``count`` images, after a few that are not counted."""
    times = []
    for number in range(-8, count):
        start = time.process_time()
        synthesise(segments[number % len(segments)], 250, recipe=recipe, row_id=f"bench-{number}", size=size)
        times.append((time.process_time() - start) * 1e3)
    return times[8:]


def of_effect(name: str, image: np.ndarray, px_per_mm: float, repeats: int) -> float:
    """Milliseconds of one effect with its defaults, the best of several draws."""
    best = np.inf
    for seed in range(repeats + 1):
        start = time.process_time()
        EFFECTS[name](image, np.random.default_rng(seed), px_per_mm=px_per_mm)
        best = min(best, time.process_time() - start)
    return float(best) * 1e3


def main() -> int:
    """Measure, print two tables and one line of JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="images per recipe and size")
    parser.add_argument("--repeats", type=int, default=7, help="draws per effect")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    source = Synthetic(num_patients=16, rate=250, seed=0, records_per_patient=(1, 1))
    segments = [source.read(key).signal for key in source.keys()]
    print(f"{'recipe':10}{'size':>12}{'mean ms':>10}{'median':>9}{'95 %':>9}{'images/s':>10}")
    result: dict[str, dict[str, float]] = {}
    growth, memory = 0.0, 0
    for width, height in SIZES:
        for recipe in RECIPES:
            times = of_recipe(segments, recipe, (width, height), options.images)
            name = f"{recipe} {width}x{height}"
            row = {"mean": np.mean(times), "median": np.median(times), "q95": np.quantile(times, 0.95)}
            result[name] = {key: round(float(value), 1) for key, value in row.items()}
            print(
                f"{recipe:10}{f'{width}x{height}':>12}{row['mean']:10.1f}{row['median']:9.1f}{row['q95']:9.1f}"
                f"{1e3 / row['mean']:10.0f}"
            )
            if name == f"{BAR_RECIPE} {BAR_SIZE}":
                half = len(times) // 2
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                growth = float(np.mean(times[half:]) / np.mean(times[:half]))
                of_recipe(segments, recipe, (width, height), options.images)
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\nsecond half of the images against the first: {growth:.2f} x; as many again: +{memory / 1024:.0f} MB")
    print(f"\n{'effect':16}" + "".join(f"{f'{w}x{h} ms':>16}" for w, h in SIZES))
    effects: dict[str, list[float]] = {name: [] for name in EFFECTS}
    for size in SIZES:
        image = render(segments[0], 250, size=size)
        scale = paper_geometry(segments[0].shape[1], 250, size=size).px_per_mm
        for name in EFFECTS:
            effects[name].append(round(of_effect(name, image, scale, options.repeats), 2))
    for name, values in effects.items():
        print(f"{name:16}" + "".join(f"{value:16.1f}" for value in values))
    passed = result[f"{BAR_RECIPE} {BAR_SIZE}"]["mean"] < BAR_MS and growth < BAR_GROWTH
    print(
        json.dumps(
            {
                "benchmark": "synthesis",
                "ms": result,
                "effects_ms": effects,
                "growth": round(growth, 2),
                "bar_ms": BAR_MS,
                "passed": passed,
            }
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
