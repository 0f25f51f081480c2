"""ECG paper: our renderer, a figure of twelve matplotlib axes, and a plotter as ECG-Bench's, in one run on one core.

The twelve axes: one axis per lead with the 1 mm and 5 mm grid, drawn to a buffer of the same size. The plotter: one
figure with one axis for all twelve leads, minor and major grid, saved to a PNG in memory at 720x1000 and read back, as
ECG-Bench makes its pictures (its own plotter took 71 ms on one core of such a machine). Both draw the grid as line
collections, many times faster than by matplotlib's ticks, so they are kinder than usual code. Then up to 16,000
pictures in one process, each of another segment with another header, and the memory after each count; and a DataLoader
with two workers, whose pictures must have the same bytes as those drawn here.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

import argparse  # noqa: E402
import hashlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from ecglm.records.synthetic import Synthetic  # noqa: E402
from ecglm.representations.paper import LAYOUTS  # noqa: E402
from ecglm.representations.render import png_bytes, render  # noqa: E402
from ecglm.types import LEADS  # noqa: E402

RATE, SIZE, PLOTTER_SIZE = 250, (1000, 800), (720, 1000)
BAR_MS, BAR_AXES, BAR_PLOTTER, BAR_GROWTH = 6.0, 50.0, 10.0, 1.25


def segments(num: int) -> np.ndarray:
    """``(num, 12, 2500)`` mV."""
    source = Synthetic(num_patients=num, rate=RATE, records_per_patient=(1, 1))
    return np.stack([source.read(key).signal for key in source.keys()])


def twelve_axes(segment: np.ndarray) -> np.ndarray:
    """A figure of twelve axes, each with its grid, at SIZE: uint8 ``(800, 1000, 3)``."""
    figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    seconds = np.arange(segment.shape[1]) / RATE
    for number, axis in enumerate(figure.subplots(6, 2, sharex=True).ravel()):
        _grid(axis, seconds[-1], -2.0, 2.0)
        axis.plot(seconds, segment[number], color="black", linewidth=0.8)
        axis.text(0.05, 1.2, LEADS[number], fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plotter(segment: np.ndarray) -> np.ndarray:
    """One axis, twelve leads above each other, minor and major grid, by way of a PNG: uint8 ``(1000, 720, 3)``."""
    figure = Figure(figsize=(PLOTTER_SIZE[0] / 100, PLOTTER_SIZE[1] / 100), dpi=100)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    seconds = np.arange(segment.shape[1]) / RATE
    _grid(axis, seconds[-1], 0.0, 3.0 * (len(LEADS) + 1))
    for number, lead in enumerate(LEADS):
        base = 3.0 * (len(LEADS) - number)
        axis.plot(seconds, segment[number] + base, color="black", linewidth=0.6)
        axis.text(0.05, base + 0.6, lead, fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    with Image.open(out) as picture:
        return np.asarray(picture.convert("RGB"))


def _grid(axis: Any, right: float, low: float, high: float) -> None:
    axis.set_axis_off()
    axis.set_xlim(0, right)
    axis.set_ylim(low, high)
    for every_s, every_mv, color, width in ((0.04, 0.1, (0.98, 0.84, 0.82), 0.3), (0.2, 0.5, (0.93, 0.63, 0.61), 0.6)):
        axis.vlines(np.arange(0, right, every_s), low, high, colors=[color], linewidth=width)
        axis.hlines(np.arange(low, high, every_mv), 0, right, colors=[color], linewidth=width)


def alternate(sides: dict[str, Callable[[int], Any]], repeats: int, calls: dict[str, int]) -> dict[str, float]:
    """Milliseconds of processor time per call of each side; the sides take turns, the best of the repeats counts."""
    best = dict.fromkeys(sides, float("inf"))
    for side in sides.values():
        side(0)
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.process_time()
            for i in range(calls[name]):
                side(i)
            best[name] = min(best[name], (time.process_time() - start) / calls[name] * 1e3)
    return best


def memory_mb() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(signals: np.ndarray, counts: list[int]) -> list[tuple[int, float, float]]:
    """Pictures drawn so far, milliseconds each (the median hundred of the last stretch), memory in MB."""
    rows, drawn = [], 0
    for count in counts:
        took = []
        for first in range(drawn, count, 100):
            start = time.process_time()
            for i in range(first, first + 100):
                render(signals[i % len(signals)], RATE, size=SIZE, header=f"Record {i:06d}   sinus rhythm")
            took.append((time.process_time() - start) * 10)
        rows.append((count, float(np.median(took)), memory_mb()))
        drawn = count
    return rows


class Pictures(Dataset):  # type: ignore[type-arg]
    """Pictures of segments, for a DataLoader."""

    def __init__(self, signals: np.ndarray, num: int) -> None:
        self.signals, self.num = signals, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> np.ndarray:
        return render(self.signals[i % len(self.signals)], RATE, size=SIZE)


def loader(signals: np.ndarray, num: int, workers: int, method: str | None) -> tuple[float, str]:
    """Pictures per second of a DataLoader, and the sha256 of the first 64."""
    made = DataLoader(
        Pictures(signals, num), batch_size=16, num_workers=workers, multiprocessing_context=method if workers else None
    )
    digest, start, seen = hashlib.sha256(), 0.0, 0
    for number, batch in enumerate(made):
        if number < 4:
            digest.update(batch.numpy().tobytes())
        if number == 3:  # the workers have started
            start = time.perf_counter()
        elif number > 3:
            seen += len(batch)
    return seen / (time.perf_counter() - start), digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 16000], help="pictures in one process")
    parser.add_argument("--loader", type=int, default=1600, help="pictures of the DataLoader")
    args = parser.parse_args()
    torch.set_num_threads(1)
    signals = segments(64)

    ours: dict[str, Callable[[int], Any]] = {
        f"ecglm {layout}": lambda i, layout=layout: render(signals[i % 64], RATE, size=SIZE, layout=layout)
        for layout in LAYOUTS
    }
    small = {"size": PLOTTER_SIZE, "layout": "12x1"}
    sides: dict[str, Callable[[int], Any]] = {
        **ours,
        "ecglm 3x4+1, other header each": lambda i: render(signals[i % 64], RATE, size=SIZE, header=f"Record {i}"),
        "matplotlib, 12 axes": lambda i: twelve_axes(signals[i % 64]),
        "ecglm 12x1, 720x1000": lambda i: render(signals[i % 64], RATE, **small),  # type: ignore[arg-type]
        "ecglm 12x1, 720x1000, PNG": lambda i: png_bytes(render(signals[i % 64], RATE, **small)),  # type: ignore[arg-type]
        "plotter as ECG-Bench's": lambda i: plotter(signals[i % 64]),
    }
    calls = {name: 2 if name.startswith(("matplotlib", "plotter")) else 20 for name in sides}
    took = alternate(sides, args.repeats, calls)
    axes, bench = took["matplotlib, 12 axes"], took["plotter as ECG-Bench's"]
    print(f"{'':34} {'ms':>8} {'faster than':>12}\n{'':34} {'':>8} {'12 axes':>12} {'plotter':>10}")
    for name, value in took.items():
        print(f"{name:34} {value:8.2f} {axes / value:11.0f}x {bench / value:9.1f}x")

    grown = growth(signals, args.counts)
    print(f"\n{'pictures':>9} {'ms each':>8} {'MB':>7}")
    for count, each, held in grown:
        print(f"{count:9d} {each:8.2f} {held:7.0f}")

    alone, expected = loader(signals, args.loader // 4, 0, None)
    rates = {"none": alone}
    same = True
    for method in ("fork", "spawn"):
        rates[method], digest = loader(signals, args.loader, 2, method)
        same &= digest == expected
    print("\nDataLoader, pictures/s: " + ", ".join(f"{name} {value:.0f}" for name, value in rates.items()))
    print(f"the same bytes with two workers: {same}")

    slowest = max(took[name] for name in ours)
    bars = {
        "slowest_layout_ms": (slowest, slowest < BAR_MS),
        "times_12_axes": (axes / took["ecglm 12x1"], axes / took["ecglm 12x1"] >= BAR_AXES),
        "times_plotter": (bench / took["ecglm 12x1, 720x1000"], bench / took["ecglm 12x1, 720x1000"] >= BAR_PLOTTER),
        "ms_growth": (grown[-1][1] / grown[0][1], grown[-1][1] <= BAR_GROWTH * grown[0][1]),
        "memory_growth": (grown[-1][2] / grown[0][2], grown[-1][2] <= BAR_GROWTH * grown[0][2]),
        "same_bytes": (float(same), same),
    }
    print(
        json.dumps(
            {
                "benchmark": "render",
                **{name: round(value, 3) for name, (value, _) in bars.items()},
                "ms": {name: round(value, 3) for name, value in took.items()},
                "growth": [[count, round(each, 3), round(held)] for count, each, held in grown],
                "loader_per_s": {name: round(value) for name, value in rates.items()},
                "met": all(met for _, met in bars.values()),
            }
        )
    )
    return 0 if all(met for _, met in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
