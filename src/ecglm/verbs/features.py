"""Verbs: measurements of a store's segments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import say, segment_of, tell


def features(
    store: Positional[Path],
    out: Path | None = None,
    kind: Literal["measured", "ecg_bench_288"] = "measured",
    segment: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> None:
    """Measure every segment of a store, or one of them.

    Args:
        store: a segment store.
        out: the Parquet file to make, one row per segment.
        kind: rate, intervals, axes, ST and amplitudes as a machine prints them; or ECG-Bench's 288 features.
        segment: print the line of measurements of this segment instead.
        limit: the first N segments only.
        workers: processes; the result does not depend on their number.
        overwrite: replace a file made otherwise.
    """
    if (out is None) == (segment is None):
        raise ConfigError(
            "features: say where to write with --out FILE.parquet, or which line to print with --segment N"
        )
    if segment is not None and kind != "measured":
        raise EcglmError(f"--kind {kind} is for a table; leave out --segment and give --out FILE.parquet")
    if out is not None and out.suffix.lower() != ".parquet":
        raise EcglmError(f"--out {out}: a Parquet file is made; its name ends in .parquet")
    if segment is not None:
        from ecglm.representations.features import describe
        from ecglm.signals.measured import measure

        found = measure(*segment_of(store, segment))
        say(describe(found))
        tell(f"  {name}: {why}" for name, why in sorted(found.reasons.items()))
        return
    from ecglm.store.features import write_features

    assert out is not None
    tell(write_features(store, out, kind=kind, limit=limit, workers=workers, overwrite=overwrite).lines())
