"""Who may stand in an index: segments of training records alone, good enough to be shown; all others are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ecglm.conversations.table import iter_conversations
from ecglm.errors import EcglmError
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split

Quality = Literal["any", "usable", "good"]
#: Share of a lead's samples that may be missing, and that may stand at its extremes; least signal to noise in dB.
_MISSING, _CLIPPED, _NOISE_DB = 0.01, 0.05, 5.0

COLUMNS = pa.schema(
    [
        ("segment_id", pa.string()),
        ("record_id", pa.string()),
        ("patient_id", pa.string()),
        ("report", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("store", pa.int32()),
        ("position", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Members:
    """Rows of ``COLUMNS`` in the order of the stores; left_out: reason → segments that are no candidates; rejects:
    ``{"segment_id", "reason"}`` of candidates that are too bad.
    """

    table: pa.Table
    left_out: Mapping[str, int]
    rejects: list[dict[str, str]]


def training_members(
    stores: Sequence[SegmentStore],
    data: Sequence[str | Path] = (),
    *,
    segments: Literal["first", "all"] = "first",
    min_quality: Quality = "usable",
) -> Members:
    """The training segments of the stores.

    data: conversations files, whose training rows say which records are training ones; without any, the stores' own
    split, or official fold. Raises EcglmError where neither says it, for a store without a training record, for a
    patient who is in validation or test too, and for a record in two stores.
    """
    split_of = _splits_of_data(data) if data else _splits_of_stores(stores)
    left_out: Counter[str] = Counter()
    rejects: list[dict[str, str]] = []
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS.names}
    first_store: dict[str, int] = {}
    for number, store in enumerate(stores):
        trained = False
        for position, row in enumerate(_rows(store)):
            record = row["record_id"]
            place = first_store.get(record)
            if place is not None and place != number:
                raise EcglmError(f"record {record} is in two of the given stores; give each record once")
            later = place is not None
            first_store[record] = number
            split = split_of.get(record, "")
            if split != "train":
                left_out[f"split_{split}" if split else "not_in_data" if data else "no_split"] += 1
                continue
            trained = True
            if later and segments == "first":
                left_out["later_segment"] += 1
                continue
            if reason := _too_bad(row, min_quality):
                rejects.append({"segment_id": row["segment_id"], "reason": reason})
                continue
            for name in ("segment_id", "record_id", "patient_id"):
                columns[name].append(row[name])
            columns["report"].append(row["report_en"] or row["report"] or "")
            columns["labels"].append(list(row["labels"] or ()))
            columns["store"].append(number)
            columns["position"].append(position)
        if not trained:
            held = ", ".join(sorted({split_of.get(r, "") or "none" for r in store.records()})) or "nothing"
            raise EcglmError(
                f"{store.path}: holds no training record (splits: {held}); an index holds training ECGs alone: leave "
                "this store out, or name the conversations that train on it with --data"
            )
    return Members(pa.table(columns, schema=COLUMNS), dict(sorted(left_out.items())), rejects)


_READ = (
    *("segment_id", "record_id", "patient_id", "report", "report_en", "labels"),
    *("flags", "nan_share", "flat_share", "clip_share", "snr_db"),
)


def _rows(store: SegmentStore) -> Iterator[dict[str, Any]]:
    for batch in store.index.select(_READ).to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _too_bad(row: Mapping[str, Any], least: Quality) -> str:
    """Why a segment is not good enough; empty where it is.

    ``usable``: no lead flat or with more than 1 % of its samples missing, amplitudes of an ECG. ``good``: moreover
    nothing saturated, limb leads that obey Einthoven, every lead at least 5 dB above its noise.
    """
    if least == "any":
        return ""
    flags = set(row["flags"] or ())

    def worst(name: str) -> float:
        return float(np.nan_to_num(np.asarray(row[name] or [0.0], np.float64)).max())

    if flags & {"flat", "flat_lead"} or worst("flat_share") >= 1:
        return "flat_lead"
    if worst("nan_share") > _MISSING:
        return "missing_samples"
    if "amplitude_implausible" in flags:
        return "amplitude_implausible"
    if least == "good":
        if "saturated" in flags or worst("clip_share") > _CLIPPED:
            return "saturated"
        if "einthoven" in flags:
            return "einthoven"
        if np.nan_to_num(np.asarray(row["snr_db"] or [np.inf], np.float64), nan=np.inf).min() < _NOISE_DB:
            return "noisy_lead"
    return ""


def _splits_of_data(data: Sequence[str | Path]) -> dict[str, str]:
    """Record → split, of conversations."""
    found: dict[str, str] = {}
    patients: dict[str, str] = {}
    told = ", ".join(Path(path).name for path in data)
    for path in data:
        for conversation in iter_conversations(path):
            if not conversation.split:
                continue
            for record, patient in zip(conversation.ecgs, conversation.patients, strict=True):
                found[record] = _one_split("record", record, found.get(record), conversation.split, told)
                if patient:
                    patients[patient] = _one_split("patient", patient, patients.get(patient), conversation.split, told)
    if "train" not in found.values():
        raise EcglmError(f"{told}: no conversation of the split train; name the file the model trains on")
    return found


def _splits_of_stores(stores: Sequence[SegmentStore]) -> dict[str, str]:
    """Record → split as the stores say it, by split or official fold."""
    found: dict[str, str] = {}
    patients: dict[str, str] = {}
    told = ", ".join(str(store.path) for store in stores)
    for store in stores:
        columns = [store.index.column(name).to_pylist() for name in ("record_id", "patient_id", "split", "fold")]
        for record, patient, split, fold in zip(*columns, strict=True):
            split = split or (fold_split(int(fold)) if fold is not None else "")
            if not split:
                continue
            found[record] = _one_split("record", record, found.get(record), split, told)
            patients[patient] = _one_split("patient", patient, patients.get(patient), split, told)
    if not found:
        raise EcglmError(
            f"{told}: says of no record whether it is a training one; name the conversations a model trains on with "
            "--data FILE.parquet"
        )
    return found


def _one_split(what: str, name: str, before: str | None, split: str, told: str) -> str:
    """The split; EcglmError where it was a training one before and is none now, or the other way round."""
    if before is not None and before != split and "train" in (before, split):
        other = split if before == "train" else before
        raise EcglmError(
            f"{told}: {what} {name} is in the splits train and {other}: an index would show what it is asked about; "
            "`ecglm audit` lists such leaks"
        )
    return split
