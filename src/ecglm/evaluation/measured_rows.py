"""Measurements of the ECG behind each row, for metrics that check what an answer says about it (``row["measured"]``).

Each record is measured once, from its first segment, and kept beside the predictions in ``measured.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.metrics.base import Row, answer_kind
from ecglm.evaluation.metrics.claims import FIELDS
from ecglm.signals.measured import measure
from ecglm.store.features import VERSION as MEASURED_VERSION
from ecglm.store.reader import SegmentStore

FILE = "measured.json"
FORMAT = "ecglm-measured"
#: What is kept of the measurements.
_NUMBERS = tuple(FIELDS.values())
_PER_LEAD = ("st_mv", "st_j_mv")


def with_measurements(
    rows: Sequence[Row],
    stores: Sequence[str | Path],
    folder: str | Path | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """The rows; those with a text answer about one ECG get its ``measured``: numbers, mV per lead, None for unknown.

    The ECG is the one the question is about, under every control. folder: where ``measured.json`` is kept; measurements
    of other stores, or by another version, are made anew. Raises EcglmError where no store holds any of the ECGs.
    """
    opened = [SegmentStore(path) for path in stores]
    wanted = dict.fromkeys(record for row in rows if (record := _record_of(row)))
    where = {record: store for store in reversed(opened) for record in store.records() if record in wanted}
    if wanted and not where:
        named = ", ".join(str(store.path) for store in opened)
        raise EcglmError(
            f"{named}: holds none of the {len(wanted)} ECGs of the predictions; give the store they are from"
        )
    made_from = files.fingerprint({"version": MEASURED_VERSION, "stores": [store.fingerprint for store in opened]})
    kept = Path(folder) / FILE if folder is not None else None
    known = _read(kept, made_from)
    new = [record for record in where if record not in known]
    if new and say:
        say(f"measuring {len(new)} ECGs")
    known |= {record: measure_record(where[record], record) for record in new}
    if kept is not None:
        files.write_json(kept, {"format": FORMAT, "fingerprint": made_from, "records": dict(sorted(known.items()))})
    return [_with(row, known) for row in rows]


def num_unmeasured(rows: Sequence[Row]) -> int:
    """How many text answers are about one ECG that was not measured."""
    return sum(bool(_record_of(row)) and "measured" not in row for row in rows)


def _record_of(row: Row) -> str:
    """The one ECG a text answer is about, or an empty string."""
    ecgs: Iterable[str] = row.get("ecgs") or ()
    records = list(dict.fromkeys(map(str, ecgs)))
    return records[0] if len(records) == 1 and answer_kind(row) == "text" else ""


def _with(row: Row, known: Mapping[str, Any]) -> dict[str, Any]:
    record = _record_of(row)
    return {**row, "measured": known[record]} if record in known else dict(row)


def measure_record(store: SegmentStore, record: str) -> dict[str, Any]:
    """Of a record's first segment: bpm, ms, degrees, and by lead ``st_mv`` and ``st_j_mv``; None for unknown."""
    found = measure(store[store.segments_of(record)[0]], store.rate)
    numbers = {name: _rounded(getattr(found, name)) for name in _NUMBERS}
    return {**numbers, **{n: {k: _rounded(v) for k, v in getattr(found, n).items()} for n in _PER_LEAD}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)


def _read(path: Path | None, made_from: str) -> dict[str, Any]:
    """What was measured before from the same stores."""
    if path is None or not path.exists():
        return {}
    found = files.read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("records"), dict):
        raise EcglmError(f"{path}: is no file of measurements; remove it, it is made anew")
    return dict(found["records"]) if found.get("fingerprint") == made_from else {}
