"""What the quickstart reaches and how long it takes: synthetic ECGs, and PTB-XL where the recordings are there."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from ecglm.evaluation.tables import Run
from ecglm.quickstart import quickstart

SECONDS_BAR, SIGNAL_BAR, ECG_BYTE_BAR, BLANK_BAR, NORMAL_BAR = 360, 0.90, 0.80, 0.05, 0.75


def accuracy(run: Run, task: str) -> dict[str, float]:
    """Condition → accuracy of a task."""
    found = {control: tasks[task]["accuracy"]["value"] for control, tasks in run.scores["controls"].items()}
    return {**found, "majority": run.scores["baselines"]["majority"][task]["accuracy"]["value"]}


def timed(out: Path, data: Path | None, seed: int) -> tuple[list[Run], float]:
    started = time.perf_counter()
    return quickstart(out, data=data, seed=seed), time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    shared = Path(os.environ.get("ECGLM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    result: dict[str, object] = {"benchmark": "quickstart", "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        (signal, ecg_byte), seconds = timed(Path(folder) / "synthetic", None, seed)
        rhythm = {run.name: accuracy(run, "rhythm") for run in (signal, ecg_byte)}
        passed = {
            "seconds": seconds <= SECONDS_BAR,
            "signal": rhythm["signal"]["real"] >= SIGNAL_BAR,
            "ecg-byte": rhythm["ecg-byte"]["real"] >= ECG_BYTE_BAR,
            "blank": all(r["blank"] <= r["majority"] + BLANK_BAR for r in rhythm.values()),
        }
        result |= {"seconds": round(seconds, 1), "rhythm": rhythm}
        if (shared / "ptb-xl").is_dir():
            (signal, _), seconds = timed(Path(folder) / "ptb-xl", shared / "ptb-xl", seed)
            gap = signal.scores["gap_to"]["normal"]["accuracy"]["blank"]
            normal = signal.scores["controls"]["real"]["normal"]["accuracy"]
            passed |= {"ptb-xl": normal["value"] >= NORMAL_BAR, "ptb-xl gap": gap["low"] > 0}
            result |= {"ptb-xl seconds": round(seconds, 1), "ptb-xl normal": normal, "ptb-xl gap to blank": gap}
    for name, reached in passed.items():
        print(f"{name:12} {'reached' if reached else 'MISSED'}")
    print(json.dumps({**result, "passed": all(passed.values())}, sort_keys=True))
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
