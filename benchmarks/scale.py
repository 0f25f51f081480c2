"""Cost of ``prepare`` as the work grows: 1k → 4k → 16k → 20k synthetic 10-s records at 500 Hz, and 1 → 2 workers.

Every run is a process of its own. Shown: wall time, processor time of all its processes, peak memory (RSS) of the
parent and of its largest worker, measured by the kernel. The cost of one more record is the difference of two runs
over the difference of their records, so that starting up counts nowhere; of 1k and 4k the best of the repeats is taken.

Bars: a record costs at most 1.25 times as much processor time from 4k to 20k as from 1k to 4k; peak memory from 1k to
20k grows by at most 10 % (workers) and 4 kB a record (parent: the list of record ids, one row group of the index, both
of fixed size per record or altogether); two workers do at least 0.8 × 2 times the records per second of one.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

SEG_LEN = 2500
BAR_LINEAR, BAR_WORKER_MEMORY, BAR_PARENT_KB, BAR_SCALING = 1.25, 1.10, 4.0, 0.8

Run = dict[str, float]


def prepare_once(num: int, workers: int, out: Path) -> None:
    """The measured process: one ``prepare``; its figures as JSON on stdout."""
    from ecglm.records.synthetic import Synthetic
    from ecglm.signals.pipeline import get_pipeline
    from ecglm.store.prepare import prepare

    started = time.perf_counter()
    source = Synthetic(num_patients=num, records_per_patient=(1, 1))
    summary = prepare(source, get_pipeline("default", seg_len=SEG_LEN), out, workers=workers, progress=False)
    wall = time.perf_counter() - started
    assert summary.num_records == summary.num_keys == num, f"{summary.num_records} of {num} records kept"
    own, workers_use = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    figures = {
        "wall": wall,
        "cpu": sum(use.ru_utime + use.ru_stime for use in (own, workers_use)),
        "parent_mb": own.ru_maxrss / 1024,
        "worker_mb": workers_use.ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def measure(num: int, workers: int) -> Run:
    """Figures of one ``prepare`` of ``num`` records in a process of its own; its store is removed."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, "--run", str(num), str(workers), str(Path(scratch) / "store")]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: Run = json.loads(done.stdout.splitlines()[-1])
    return found


def best(runs: list[Run]) -> Run:
    """The least of every figure: other programs on the machine only ever add."""
    return {name: min(run[name] for run in runs) for name in runs[0]}


def main() -> int:
    """Print a table, then one JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2, help="of the 1k and 4k runs")
    parser.add_argument("--quick", action="store_true", help="a tenth of the records; its figures say little")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        prepare_once(int(options.run[0]), int(options.run[1]), Path(options.run[2]))
        return 0
    sizes = [count // (10 if options.quick else 1) for count in (1000, 4000, 16000, 20000)]
    small, middle, _, large = sizes
    runs: dict[tuple[int, int], list[Run]] = {}
    for _ in range(options.repeats):  # in turn, so that a busy minute of the machine hits all alike
        for num in (small, middle):
            for workers in (1, 2):
                runs.setdefault((num, workers), []).append(measure(num, workers))
    for num in sizes[2:]:
        runs[num, 2] = [measure(num, 2)]
    table = {key: best(found) for key, found in runs.items()}
    print(f"{'records':>8}{'workers':>9}{'wall s':>9}{'ms/rec':>8}{'CPU ms/rec':>12}{'parent MB':>11}{'worker MB':>11}")
    for (num, workers), run in sorted(table.items(), key=lambda item: (item[0][1], item[0][0])):
        memory = f"{run['parent_mb']:11.0f}" + (f"{run['worker_mb']:11.0f}" if workers > 1 else f"{'–':>11}")
        per_record = f"{run['wall'] / num * 1e3:8.2f}{run['cpu'] / num * 1e3:12.2f}"
        print(f"{num:8}{workers:9}{run['wall']:9.1f}{per_record}{memory}")

    def one_more(figure: str, workers: int, low: int, high: int) -> float:
        """Milliseconds that one more record costs."""
        return 1e3 * (table[high, workers][figure] - table[low, workers][figure]) / (high - low)

    early, late = one_more("cpu", 2, small, middle), one_more("cpu", 2, middle, large)
    scaling = one_more("wall", 1, small, middle) / one_more("wall", 2, small, middle) / 2
    worker_growth = table[large, 2]["worker_mb"] / table[small, 2]["worker_mb"]
    parent_kb = 1024 * (table[large, 2]["parent_mb"] - table[small, 2]["parent_mb"]) / (large - small)
    print(f"one more record: {early:.2f} ms of processor from {small} to {middle}, {late:.2f} ms from there to {large}")
    print(
        f"two workers: {scaling:.2f} × linear; worker memory × {worker_growth:.2f}, parent {parent_kb:.2f} kB a record"
    )
    checks = {
        "linear": late <= BAR_LINEAR * early,
        "worker_memory": worker_growth <= BAR_WORKER_MEMORY,
        "parent_memory": parent_kb <= BAR_PARENT_KB,
        "scaling": scaling >= BAR_SCALING,
    }
    result = {
        "benchmark": "scale",
        "records": sizes,
        "cpu_ms_of_one_more_record": [round(early, 3), round(late, 3)],
        "scaling_2_workers": round(scaling, 3),
        "worker_memory_growth": round(worker_growth, 3),
        "parent_kb_per_record": round(parent_kb, 3),
        "runs": [{"records": n, "workers": w, **{k: round(v, 2) for k, v in r.items()}} for (n, w), r in table.items()],
        "checks": checks,
        "passed": all(checks.values()),
    }
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
