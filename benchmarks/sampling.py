"""Cost of ``ecg_bench_288``, of random and stratified sampling and of percentiles, as the store grows: 1k, 4k, 16k.

One process, processor time (other programs on the machine stretch it less than wall time). The segments are synthetic
ECGs of 5 s at 250 Hz, each with its own gain and noise.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import lru_cache  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, ClassVar  # noqa: E402

import numpy as np  # noqa: E402

from ecglm.records.synthetic import Synthetic  # noqa: E402
from ecglm.signals.features import ecg_bench_288  # noqa: E402
from ecglm.signals.pipeline import get_pipeline  # noqa: E402
from ecglm.store.percentiles import percentiles  # noqa: E402
from ecglm.store.prepare import prepare  # noqa: E402
from ecglm.store.reader import SegmentStore  # noqa: E402
from ecglm.store.sampling import sample  # noqa: E402
from ecglm.types import LEADS, Record  # noqa: E402

SIZES = (1000, 4000, 16000)
BAR_MS, BAR_GROWTH = 2.0, 5.0


@lru_cache(maxsize=1)
def base() -> np.ndarray:
    """Synthetic ECGs, float32 ``(n, 12, 2500)``."""
    source = Synthetic(num_patients=100, rate=250, seed=0)
    return np.stack([source.read(key).signal for key in source.keys()])


@dataclass(frozen=True, kw_only=True)
class Varied:
    """``num`` records of 10 s, each one of ``base`` with its own gain and noise."""

    num: int
    name: ClassVar[str] = "varied"

    def version(self) -> str:
        return "1"

    def fingerprint(self) -> dict[str, Any]:
        return {"num": self.num}

    def keys(self) -> list[str]:
        return [f"varied/{i:06d}" for i in range(self.num)]

    def read(self, key: str) -> Record:
        number = int(key.partition("/")[2])
        rng = np.random.default_rng(number)
        signal = base()[number % len(base())] * rng.uniform(0.7, 1.4, (12, 1))
        signal += rng.normal(0, 0.01, signal.shape)
        return Record(
            record_id=key,
            signal=signal.astype(np.float32),
            sampling_rate=250.0,
            leads=LEADS,
            patient_id=key,
            fold=1,
        )

    def accounting(self) -> dict[str, list[str]]:
        return {}


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> int:
    """Measure, print a table and one line of JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="segments of the stores")
    options = parser.parse_args()
    segments = base()[:32]
    ecg_bench_288(segments[0], 250)  # compiles
    per_segment = min(seconds(lambda: ecg_bench_288(segments, 250)) for _ in range(7)) / len(segments) * 1e3
    print(f"ecg_bench_288: {per_segment:.2f} ms per 12 × 2500 segment")
    print(
        f"{'segments':>10}{'random s':>10}{'stratified s':>14}{'ms/segment':>12}{'percentiles s':>15}{'clusters':>10}"
    )
    times: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = get_pipeline("default", preset="none", seg_len=1250)
        for size in options.sizes:
            out = Path(scratch) / str(size)
            prepare(Varied(num=size // 2), pipeline, out, progress=False)
            store = SegmentStore(out)
            assert len(store) == size
            found: list[Any] = []
            n = size // 20
            row = {
                "random": seconds(lambda n=n, store=store: sample(store, n)),
                "stratified": seconds(
                    lambda n=n, store=store, found=found: found.append(sample(store, n, method="stratified"))
                ),
                "percentiles": seconds(lambda store=store: percentiles(store)),
            }
            times[str(size)] = {name: round(value, 3) for name, value in row.items()}
            print(
                f"{size:10}{row['random']:10.2f}{row['stratified']:14.2f}{row['stratified'] / size * 1e3:12.2f}"
                f"{row['percentiles']:15.2f}{found[0].facts['num_clusters']:10}"
            )
    last, before = (times[str(size)]["stratified"] for size in (options.sizes[-1], options.sizes[-2]))
    growth = last / before / (options.sizes[-1] / options.sizes[-2]) * 4  # for four times the segments
    passed = per_segment <= BAR_MS and growth <= BAR_GROWTH
    result = {
        "benchmark": "sampling",
        "feature_ms_per_segment": round(per_segment, 3),
        "cpu_seconds": times,
        "growth_for_4x_segments": round(growth, 2),
        "bar_ms": BAR_MS,
        "bar_growth": BAR_GROWTH,
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
