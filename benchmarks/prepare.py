"""Records per second of ``ecglm prepare`` on real 500 Hz PTB-XL records, against the original chain per record.

One process and one worker each, in turn within one run, medians over the repeats, everything included: reading,
pipeline, quality measures, shards, index, checksums, manifest. The baseline is first shown equal to the golden arrays,
and the ``ecg_bench`` store equal to the baseline's segments. Then one and two workers on the same records many times
over, and beside them two runs of one worker each at the same time: what this machine's two cores give for such records
when they need not wait for each other. The bar for workers is that of ``scale.py``. Data: ECGLM_SHARED_DATA (default
``../shared/data`` beside the repository). PTB-XL: Wagner et al., PhysioNet, CC BY 4.0.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

import original_chain  # noqa: E402
from ecglm.records.ptb_xl import PtbXl  # noqa: E402
from ecglm.signals.pipeline import get_pipeline  # noqa: E402
from ecglm.store.prepare import prepare  # noqa: E402
from ecglm.store.reader import SegmentStore  # noqa: E402
from ecglm.types import Record  # noqa: E402

SEG_LEN = 2500
NOTCH = "default, notch 50 Hz"
#: Least throughput as a multiple of the original chain's.
BARS = {NOTCH: 20.0, "ecg_bench": 3.0}
PIPELINES = {
    "default": get_pipeline("default", seg_len=SEG_LEN),
    NOTCH: get_pipeline("default", seg_len=SEG_LEN, mains=50.0),
    "ecg_bench": get_pipeline("ecg_bench", seg_len=SEG_LEN),
}


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """The records of ``source``, each ``times`` times under ids of their own: a larger source."""

    source: PtbXl
    times: int
    name = "ptb-xl-replicated"

    def version(self) -> str:
        return self.source.version()

    def fingerprint(self) -> dict[str, Any]:
        return {**self.source.fingerprint(), "times": self.times}

    def keys(self) -> list[str]:
        return [f"{key}/{copy}" for copy in range(self.times) for key in self.source.keys()]

    def read(self, key: str) -> Record:
        return dataclasses.replace(self.source.read(key.rpartition("/")[0]), record_id=key)

    def accounting(self) -> dict[str, list[str]]:
        return {}


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def run_apart(data: Path, copies: int, out: Path) -> None:
    """One of two runs at the same time, in a process of its own."""
    many = Replicated(source=PtbXl(root=data, resolution="500"), times=copies)
    prepare(many, PIPELINES[NOTCH], out, progress=False)


def check_equal(store: SegmentStore, folder: Path) -> float:
    """Largest difference in mV between a store and the baseline's files; more than its rounding is an error."""
    worst = 0.0
    for number in range(len(store)):
        row = store.row(number)
        native, position = str(row["segment_id"]).split("/")[1].split("#")
        original = np.load(folder / f"{native}_hr_{position}.npy", allow_pickle=False)
        worst = max(worst, float(np.abs(store[number] - original).max()))
    assert worst <= 0.5e-3 + 2e-6, f"ecg_bench differs from the original chain by {worst} mV"
    return worst


def main() -> int:
    """Print a table, then one JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--copies", type=int, default=150, help="copies of each record in the run with two workers")
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("ECGLM_SHARED_DATA", beside))
    if not (data / "ptb-xl").is_dir():
        print(f"{data}: no ptb-xl folder here; set ECGLM_SHARED_DATA", file=sys.stderr)
        return 2
    golden = original_chain.check_golden(data / "golden")
    headers = [data / "ptb-xl" / "records500" / "00000" / f"{number:05d}_hr.hea" for number in range(1, 201)]
    times: dict[str, list[tuple[float, float]]] = {"original chain": [], **{name: [] for name in PIPELINES}}
    difference = 0.0
    with tempfile.TemporaryDirectory() as scratch:

        def run_original(folder: Path) -> None:
            for header in headers:
                original_chain.process_file(header, folder, SEG_LEN)

        def run_ours(name: str, folder: Path) -> None:
            summary = prepare(
                PtbXl(root=data / "ptb-xl", resolution="500"), PIPELINES[name], folder, workers=1, progress=False
            )
            assert summary.num_records == len(headers), f"{name}: {summary.num_records} records kept"

        for name in PIPELINES:  # caches of coefficients and of the file system, once for all
            run_ours(name, Path(scratch) / f"warm-{name}")
        for header in headers:
            header.with_suffix(".dat").read_bytes()
        for repeat in range(options.repeats):
            files = Path(scratch) / f"original-{repeat}"
            files.mkdir()
            times["original chain"].append(seconds(lambda files=files: run_original(files)))
            for name in PIPELINES:
                out = Path(scratch) / f"{name}-{repeat}"
                times[name].append(seconds(lambda name=name, out=out: run_ours(name, out)))
                if name == "ecg_bench":
                    difference = max(difference, check_equal(SegmentStore(out), files))
        many = Replicated(source=PtbXl(root=data / "ptb-xl", resolution="500"), times=options.copies)
        rates = {}
        for workers in (1, 2):
            out = Path(scratch) / f"workers-{workers}"
            wall, _ = seconds(
                lambda workers=workers, out=out: prepare(many, PIPELINES[NOTCH], out, workers=workers, progress=False)
            )
            rates[workers] = options.copies * len(headers) / wall
        context = multiprocessing.get_context("spawn")
        given = [(data / "ptb-xl", options.copies // 2, Path(scratch) / f"apart-{k}") for k in (1, 2)]
        apart = [context.Process(target=run_apart, args=arguments) for arguments in given]
        wall, _ = seconds(lambda: [[p.start() for p in apart], [p.join() for p in apart]])
        rates_apart = 2 * (options.copies // 2) * len(headers) / wall
    spent = {name: statistics.median(wall for wall, _ in values) / len(headers) for name, values in times.items()}
    cpu = {name: statistics.median(used for _, used in values) / len(headers) for name, values in times.items()}
    base = spent["original chain"]
    print(f"{len(headers)} PTB-XL records, 500 Hz, 10 s; {options.repeats} interleaved repeats, medians")
    print(f"{'':24}{'ms/record':>10}{'CPU ms':>8}{'records/s':>11}{'ratio':>8}{'bar':>6}")
    for name, value in spent.items():
        bar = f"{BARS[name]:6.0f}" if name in BARS else ""
        print(f"{name:24}{value * 1e3:10.2f}{cpu[name] * 1e3:8.2f}{1 / value:11.0f}{base / value:8.1f}{bar}")
    gain = rates[2] / rates[1]
    total = options.copies * len(headers)
    print(f"{total} records: {rates[1]:.0f} records/s with 1 worker, {rates[2]:.0f} with 2: {gain:.2f}x")
    print(f"two runs of one worker at the same time: {rates_apart:.0f} records/s, {rates_apart / rates[1]:.2f}x")
    ratios = {name: base / spent[name] for name in PIPELINES}
    passed = all(ratios[name] >= bar for name, bar in BARS.items())
    result = {
        "benchmark": "prepare",
        "ratio": round(ratios[NOTCH], 2),
        "ratio_default": round(ratios["default"], 2),
        "ratio_ecg_bench": round(ratios["ecg_bench"], 2),
        "ratio_two_workers": round(gain, 2),
        "ratio_two_runs_apart": round(rates_apart / rates[1], 2),
        "ratio_one_worker_many_records": round(base * rates[1], 2),  # no bar: costs once per run weigh less there
        "records_per_s": {str(workers): round(rate) for workers, rate in rates.items()},
        "ms_per_record": {name: round(value * 1e3, 3) for name, value in spent.items()},
        "cpu_ms_per_record": {name: round(value * 1e3, 3) for name, value in cpu.items()},
        "golden_max_mv": golden,
        "ecg_bench_store_max_mv": difference,
        "bars": {"ratio": BARS[NOTCH], "ratio_ecg_bench": BARS["ecg_bench"]},
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
