"""What mapping asks of the stores: which records they hold, whose they are, and what their index says of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.errors import TornOutputError
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import INDEX

_JSON_COLUMNS = ("metadata", "quality")


class StoreRecords:
    """The records of one or several stores: ``record_id in records``, ``records.patient(record_id)``.

    Read from two index columns only: about 200 bytes a record, a second for 800,000.
    """

    def __init__(self, stores: SegmentStore | Sequence[SegmentStore]) -> None:
        self._patients: dict[str, str] = {}
        names: dict[str, str] = {}  # one string per patient, however many records
        for store in _list(stores):
            for batch in _batches(store, ["record_id", "patient_id"]):
                columns = (batch.column(name).to_pylist() for name in ("record_id", "patient_id"))
                for record, patient in zip(*columns, strict=True):
                    if record not in self._patients:
                        self._patients[record] = names.setdefault(patient, patient)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._patients

    def __len__(self) -> int:
        return len(self._patients)

    def patient(self, record_id: str) -> str:
        """The patient id of a record that is here."""
        return self._patients[record_id]


def record_rows(
    stores: SegmentStore | Sequence[SegmentStore], columns: Sequence[str], limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """The index row of each record's first segment, every record once, at most ``limit``; ``columns`` only.

    A column that a store of another version does not have is left out; ``metadata`` and ``quality`` are dictionaries.
    """
    seen: set[str] = set()
    for store in _list(stores):
        for batch in _batches(store, list(dict.fromkeys(["record_id", *columns]))):
            fresh = []
            for position, record in enumerate(batch.column("record_id").to_pylist()):
                if record not in seen and (limit is None or len(seen) < limit):
                    seen.add(record)
                    fresh.append(position)
            for row in batch.take(pa.array(fresh, pa.int64())).to_pylist():
                yield {k: json.loads(v) if k in _JSON_COLUMNS and isinstance(v, str) else v for k, v in row.items()}
        if limit is not None and len(seen) >= limit:
            return


def _list(stores: Any) -> list[Any]:
    return list(stores) if isinstance(stores, list | tuple) else [stores]


def _batches(store: Any, columns: list[str]) -> Iterable[pa.RecordBatch]:
    """The index in pieces, from the file: the whole index of a large store, reports and all, is gigabytes."""
    if not isinstance(store, SegmentStore):  # whatever has an index as a SegmentStore has one
        index = store.index
        yield from index.select([name for name in columns if name in index.schema.names]).to_batches(max_chunksize=8192)
        return
    path = store.path / INDEX
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            yield from file.iter_batches(batch_size=8192, columns=[name for name in columns if name in names])
    except (pa.ArrowInvalid, OSError) as error:
        raise TornOutputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
