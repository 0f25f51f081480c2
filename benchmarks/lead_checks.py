"""Are the leads what they are called? Limb-lead relations of every real record, source by source.

In a right record II = I + III, aVR = -(I + II) / 2, aVL = (I - III) / 2 and aVF = (II + III) / 2 up to rounding. What
is measured is the absolute difference, its median over time and its largest value: in steps of the analogue-digital
converter (LSB) where a source stores integers, in microvolts where it stores floating-point numbers. Records of integer
sources beyond the bound, by their median or in single samples, are named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.types import Record

BOUND_LSB = 3.0
#: Name → (source, folder below the data, microvolts per step; None: floating point).
SOURCES: dict[str, tuple[str, str, float | None]] = {
    "ptb-xl, 500 Hz": ("folder", "ptb-xl/records500", 1.0),
    "ptb-xl, 100 Hz": ("folder", "ptb-xl/records100", 1.0),
    "ptb-xl, challenge edition": ("folder", "cinc2020_2021/training/ptb-xl", 1.0),
    "cpsc and cpsc-extra": ("cpsc", "cinc2020_2021/training", 1.0),
    "georgia": ("georgia", "cinc2020_2021", 1.0),
    "ptb": ("ptb", "cinc2020_2021/training/ptb", 1.0),
    "csn": ("csn", "csn", 1.0),
    "cpsc, original structs": ("cpsc", "cpsc2018", None),
    "code15": ("code15", "code15", None),
    "sph": ("sph", "sph", None),
}
RELATIONS = ("II-I-III", "aVR+(I+II)/2", "aVL-(I-III)/2", "aVF-(II+III)/2")


def relations(record: Record) -> np.ndarray:
    """float64 ``(4, 2)``: median and largest absolute difference of each of RELATIONS in µV; NaN without a sample."""
    rows = {lead: row.astype(np.float64) * 1000 for lead, row in zip(record.leads, record.signal, strict=True)}
    one, two, three = rows["I"], rows["II"], rows["III"]
    differences = (
        two - one - three,
        rows["aVR"] + (one + two) / 2,
        rows["aVL"] - (one - three) / 2,
        rows["aVF"] - (two + three) / 2,
    )
    sizes = [np.abs(d[np.isfinite(d)]) for d in differences]
    return np.array([(np.median(size), size.max()) if size.size else (np.nan, np.nan) for size in sizes])


def records(name: str, data: Path) -> Iterator[Record]:
    """All records of one of SOURCES, whether their tables know them or not."""
    source_name, folder, _ = SOURCES[name]
    source = registry.get("records", source_name)(root=data / folder)
    for key in source.keys():
        yield source.read(key)


def check(name: str, data: Path) -> dict[str, Any]:
    """records; the largest median and the largest difference of each relation; integer sources: names beyond the bound.

    ``beyond``: records whose median is beyond it; ``single_samples``: others of which some sample is.
    """
    step = SOURCES[name][2]
    # Rounded: float32 millivolts hold a whole number of steps with an error of a thousandth of one.
    found = {record.record_id: (relations(record) / (step or 1.0)).round(2) for record in records(name, data)}
    worst = np.nanmax(np.stack(list(found.values())), axis=0)
    beyond = {key: v[:, 0] for key, v in found.items() if step and np.nanmax(v[:, 0]) > BOUND_LSB}
    single = {key: v[:, 1] for key, v in found.items() if step and key not in beyond and np.nanmax(v[:, 1]) > BOUND_LSB}
    return {
        "records": len(found),
        "unit": "LSB" if step else "uV",
        "median": _named(worst[:, 0]),
        "largest": _named(worst[:, 1]),
        "beyond": {key: _named(values) for key, values in beyond.items()},
        "single_samples": {key: _named(values) for key, values in single.items()},
    }


def _named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(RELATIONS, values.round(2).tolist(), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("ECGLM_SHARED_DATA"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data (or ECGLM_SHARED_DATA) names the folder of real recordings")
    results = {name: check(name, options.data) for name in SOURCES}
    for name, result in results.items():
        print(f"{name}: {result['records']} records, largest median in {result['unit']}: {result['median']}")
        for kind in ("beyond", "single_samples"):
            for key, values in result[kind].items():
                print(f"  {kind.replace('_', ' ')}: {key} {values}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
