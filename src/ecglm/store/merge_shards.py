"""The copying of a merge: shard files byte by byte, checked on the way, and the index rows that belong to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import TornOutputError
from ecglm.store.finish import remove_leftovers
from ecglm.store.progress import RecordProgress
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import INDEX, SCHEMA, part_bytes, part_finished, part_names, shard_name

_BATCH, _BLOCK = 8192, 1 << 20


def copy_shards(
    stores: Sequence[SegmentStore],
    shards: Sequence[Sequence[tuple[int, int]]],
    rejects: Sequence[list[dict[str, Any]]],
    out: Path,
    progress: bool,
) -> float:
    """Write every new shard that is not complete yet; records per second of this run.

    shards: per new shard, the (store, shard) pieces it is made of, all pieces of all stores in order. rejects: rows of
    each store's reject log, which go with its first piece. One new shard's index rows are in memory at a time.
    """
    remove_leftovers(out)
    total = sum(store.manifest["counts"]["records"] for store in stores)
    done = {number for number in range(len(shards)) if part_finished(out, number)}
    with ExitStack() as stack, RecordProgress("merge", total, 0, progress) as bar:
        tables = [stack.enter_context(_ShardTables(store)) for store in stores]
        for number, pieces in enumerate(shards):
            rows = pa.concat_tables([tables[k].next(shard) for k, shard in pieces])
            if number not in done:
                fresh = [k for k, shard in pieces if shard == 0]  # a store's rejects go with its first shard
                logged = [row for k in fresh for row in rejects[k]]
                _write_part(out, number, [(stores[k], shard) for k, shard in pieces], rows, logged)
            bar.update(bar.done + len(rows.column("record_id").unique()), 0)
        return bar.rate


class _ShardTables:
    """The index rows of one shard after the other, read in batches."""

    def __init__(self, store: SegmentStore) -> None:
        self.store = store
        self._held = SCHEMA.empty_table()

    def __enter__(self) -> _ShardTables:
        self._file = pq.ParquetFile(self.store.path / INDEX)
        self._batches: Iterator[pa.RecordBatch] = self._file.iter_batches(batch_size=_BATCH, use_threads=False)
        if self._file.schema_arrow.names != SCHEMA.names:
            raise TornOutputError(f"{self.store.path / INDEX}: has other columns than a segment store's index")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def next(self, shard: int) -> pa.Table:
        """The rows of ``shard``, which follows the one asked for before."""
        size = self.store.manifest["shard_segments"][shard]
        while self._held.num_rows < size:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held = pa.concat_tables([self._held, pa.Table.from_batches([batch]).cast(SCHEMA)])
        rows, self._held = self._held.slice(0, size), self._held.slice(size)
        if rows.num_rows != size or (size and pc.unique(rows.column("shard")).to_pylist() != [shard]):
            raise TornOutputError(f"{self.store.path / INDEX}: does not list the {size} segments of shard {shard}")
        return rows.combine_chunks()


def _write_part(
    out: Path, number: int, pieces: list[tuple[SegmentStore, int]], rows: pa.Table, rejects: list[dict[str, Any]]
) -> None:
    """One new shard file with its part of the index, in the form that ``finish`` expects."""
    digest = hashlib.sha256()
    with files.atomic_path(out / shard_name(number)) as temporary, open(temporary, "wb") as handle:
        for store, shard in pieces:
            file, own = store.path / shard_name(shard), hashlib.sha256()
            with open(file, "rb") as source:
                while block := source.read(_BLOCK):
                    own.update(block)
                    digest.update(block)
                    handle.write(block)
            if own.hexdigest() != store.manifest["outputs"][shard_name(shard)]:
                raise TornOutputError(f"{file}: altered (its sha256 differs); prepare the store again with --overwrite")
    places = {
        "shard": pa.array([number] * rows.num_rows, pa.int32()),
        "row": pa.array(range(rows.num_rows), pa.int32()),
    }
    for name, column in places.items():
        rows = rows.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
    table, note = part_names(number)
    with files.atomic_path(out / table) as temporary, open(temporary, "wb") as handle:
        handle.write(part_bytes(rows.combine_chunks()))
    facts = {
        "num_segments": rows.num_rows,
        "sha256": digest.hexdigest(),
        "index_sha256": files.file_sha256(out / table),
        "rejects": rejects,
    }
    files.write_json(out / note, facts)
