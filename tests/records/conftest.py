"""Hand-written ECG files for the tests of readers: WFDB records as the standard describes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def random_counts(num_samples: int = 400, num_leads: int = 12, seed: int = 0) -> np.ndarray:
    """int16 ``(samples, leads)``; with a gain of 1000/mV a plausible size for an ECG."""
    rng = np.random.default_rng(seed)
    return rng.integers(-700, 900, size=(num_samples, num_leads), dtype=np.int16)


def _write(
    folder: Path,
    counts: np.ndarray | None = None,
    *,
    name: str = "rec",
    leads: Sequence[str] = TWELVE,
    gain: str = "1000.0(0)/mV",
    rate: str = "500",
    fmt: str = "16",
    data: str = "",
    record_line: str | None = None,
    newline: str = "\n",
    tail: Sequence[str] = (),
) -> Path:
    """Write ``name.hea`` and ``name.dat`` into ``folder``; the path of the header."""
    counts = random_counts(num_leads=len(leads)) if counts is None else counts
    data = data or f"{name}.dat"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record_line if record_line is not None else f"{name} {len(leads)} {rate} {len(counts)}"]
    for column, lead in enumerate(leads):
        values = counts[:, column].astype(np.int64)
        first = int(values[0]) if len(values) else 0
        checksum = (int(values.sum()) + 0x8000) % 0x10000 - 0x8000
        lines.append(f"{data} {fmt} {gain} 16 0 {first} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_bytes("".join(line + newline for line in [*lines, *tail]).encode())
    (folder / f"{name}.dat").write_bytes(counts.astype("<i2").tobytes())
    return folder / f"{name}.hea"


@pytest.fixture
def write_record() -> Callable[..., Path]:
    return _write


@pytest.fixture
def counts() -> Callable[..., np.ndarray]:
    return random_counts


@pytest.fixture
def edit_header() -> Callable[[Path, int, int, Any], None]:
    """Replace one blank-separated field of one line (both counted from 0) of a header."""

    def edit(header: Path, line: int, field: int, value: Any) -> None:
        lines = header.read_text().split("\n")
        fields = lines[line].split()
        fields[field] = str(value)
        lines[line] = " ".join(f for f in fields if f)
        header.write_text("\n".join(lines))

    return edit
