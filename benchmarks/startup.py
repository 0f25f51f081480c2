"""How long a user waits for nothing: ``import ecglm`` and ``ecglm --help``, beside a bare interpreter."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

IMPORT_BAR_S, HELP_BAR_S = 0.3, 0.5
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import ecglm": ["-c", "import ecglm"],
    "ecglm --help": ["-m", "ecglm", "--help"],
}
BARS = {"import ecglm": IMPORT_BAR_S, "ecglm --help": HELP_BAR_S}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        seconds(arguments)  # byte code and file caches, once for all
    for _ in range(repeats):  # interleaved, so that a busy moment falls on all alike
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"whole processes, medians of {repeats} interleaved runs")
    print(f"{'':18}{'ms':>8}{'bar ms':>8}")
    for name, value in medians.items():
        bar = f"{BARS[name] * 1e3:8.0f}" if name in BARS else f"{'':8}"
        print(f"{name:18}{value * 1e3:8.0f}{bar}")
    passed = all(medians[name] < bar for name, bar in BARS.items())
    result = {
        "benchmark": "startup",
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "bars": BARS,
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
