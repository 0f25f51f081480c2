"""SegmentStore: random access to a prepared store, float32 millivolts; safe across fork, spawn and pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files, registry
from ecglm.errors import ConfigError, StaleOutputError, TornOutputError
from ecglm.store.writer import FORMAT_VERSION, INDEX, KIND, SCHEMA, segment_bytes, shard_name


class SegmentStore:
    """A finished segment store.

    ``len(store)`` segments; ``store[i]`` is a fresh float32 ``(12, seg_len)`` array in millivolts, canonical leads;
    ``store[a:b]`` and ``store.take(indices)`` are ``(num_segments, 12, seg_len)``. Shards are memory-mapped when they
    are first read, in each process for itself.

    Raises TornOutputError when the manifest or a shard is missing or short, and StaleOutputError when the store was
    made with another format or another version of its pipeline.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest: dict[str, Any] = files.read_manifest(self.path, KIND)
        settings = self.manifest["settings"]
        _check_versions(self.path, settings)
        self.fingerprint: str = self.manifest["fingerprint"]
        self.rate: int = settings["rate"]
        self.seg_len: int = settings["seg_len"]
        self.leads: tuple[str, ...] = tuple(settings["leads"])
        self._len: int = self.manifest["counts"]["segments"]
        self._check_sizes()
        self._forget()

    def _check_sizes(self) -> None:
        if not (self.path / INDEX).exists():
            raise TornOutputError(f"{self.path / INDEX}: missing; prepare the store again with --overwrite")
        for number, num_segments in enumerate(self.manifest["shard_segments"]):
            shard = self.path / shard_name(number)
            expected = num_segments * segment_bytes(self.seg_len)
            found = shard.stat().st_size if shard.exists() else -1
            if found != expected:
                what = "missing" if found < 0 else f"{found} bytes, {expected} expected"
                raise TornOutputError(f"{shard}: {what}; prepare the store again with --overwrite")

    def _forget(self) -> None:
        """Drop what belongs to one process: maps and tables are opened again where they are needed."""
        self._maps: dict[int, np.memmap] = {}
        self._index: pa.Table | None = None
        self._places: tuple[np.ndarray, np.ndarray] | None = None
        self._segments_of: dict[str, list[int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        names = ("_maps", "_index", "_places", "_segments_of")
        return {name: value for name, value in self.__dict__.items() if name not in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        seconds = self.seg_len / self.rate
        return f"SegmentStore('{self.path}': {len(self)} segments of {seconds:g} s at {self.rate} Hz)"

    def __len__(self) -> int:
        return self._len

    @property
    def index(self) -> pa.Table:
        """One row per segment, in the store's order (columns: docs/design.md, §6)."""
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def _read_index(self, columns: list[str] | None = None) -> pa.Table:
        try:
            table = pq.read_table(self.path / INDEX, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise TornOutputError(f"{self.path / INDEX}: cannot be read ({error})") from error
        if columns is None and table.schema.names != SCHEMA.names:
            raise TornOutputError(f"{self.path / INDEX}: has other columns than a segment store's index")
        if table.num_rows != len(self):
            raise TornOutputError(f"{self.path / INDEX}: {table.num_rows} rows, the manifest says {len(self)}")
        return table

    def _place(self, position: int) -> tuple[int, int]:
        """(shard, row) of a segment."""
        if self._places is None:
            table = self._index if self._index is not None else self._read_index(["shard", "row"])
            self._places = (table.column("shard").to_numpy(), table.column("row").to_numpy())
        return int(self._places[0][position]), int(self._places[1][position])

    def _microvolts(self, position: int) -> np.ndarray:
        """int16 view ``(12, seg_len)`` into the shard's memory map."""
        shard, row = self._place(position)
        mapped = self._maps.get(shard)
        if mapped is None:
            file = self.path / shard_name(shard)
            sizes = self.manifest["shard_segments"]
            shape = (sizes[shard] if 0 <= shard < len(sizes) else 0, len(self.leads), self.seg_len)
            try:
                mapped = np.memmap(file, dtype="<i2", mode="r", shape=shape)
            except (OSError, ValueError) as error:
                raise TornOutputError(f"{file}: cannot be read ({error}); run `ecglm store verify`") from error
            self._maps[shard] = mapped
        if not 0 <= row < len(mapped):
            file = self.path / shard_name(shard)
            raise TornOutputError(f"{file}: the index points at row {row}, past its end ({len(mapped)} segments)")
        return mapped[row]

    def _position(self, i: int) -> int:
        position = int(i)
        if not -len(self) <= position < len(self):
            raise IndexError(f"segment {position} of a store of {len(self)}")
        return position % len(self)

    def __getitem__(self, i: int | slice) -> np.ndarray:
        if isinstance(i, slice):
            return self.take(range(*i.indices(len(self))))
        return np.divide(self._microvolts(self._position(i)), 1000, dtype=np.float32)

    def take(self, indices: Sequence[int] | np.ndarray | range) -> np.ndarray:
        """float32 ``(len(indices), 12, seg_len)`` in millivolts, in the order asked for."""
        out = np.empty((len(indices), len(self.leads), self.seg_len), dtype=np.float32)
        for row, i in enumerate(indices):
            np.divide(self._microvolts(self._position(i)), 1000, out=out[row], dtype=np.float32)
        return out

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        """``take``: torch's DataLoader calls this with a whole batch of indices at once.

        The fast way: ``DataLoader(store, batch_size=128, shuffle=True, num_workers=2, collate_fn=torch.from_numpy)``.
        """
        return self.take(indices)

    def microvolts(self, indices: Sequence[int] | np.ndarray | range) -> np.ndarray:
        """int16 ``(len(indices), 12, seg_len)`` in microvolts: the stored values themselves."""
        out = np.empty((len(indices), len(self.leads), self.seg_len), dtype=np.int16)
        for row, i in enumerate(indices):
            out[row] = self._microvolts(self._position(i))
        return out

    def records(self) -> list[str]:
        """Record ids in the store's order, each once."""
        return list(self._by_record())

    def segments_of(self, record_id: str) -> list[int]:
        """Positions of a record's segments, in time order; empty where the store has no such record."""
        return list(self._by_record().get(record_id, ()))

    def _by_record(self) -> dict[str, list[int]]:
        if self._segments_of is None:
            found: dict[str, list[int]] = {}
            for position, record_id in enumerate(self.index.column("record_id").to_pylist()):
                found.setdefault(record_id, []).append(position)
            self._segments_of = found
        return self._segments_of

    def row(self, i: int) -> dict[str, Any]:
        """The index row of a segment as plain values; ``metadata`` and ``quality`` as dictionaries."""
        row = self.index.slice(self._position(i), 1).to_pylist()[0]
        return {**row, "metadata": json.loads(row["metadata"]), "quality": json.loads(row["quality"])}


def _check_versions(path: Path, settings: dict[str, Any]) -> None:
    mend = "prepare it again with --overwrite"
    if settings.get("format_version") != FORMAT_VERSION:
        found = settings.get("format_version")
        raise StaleOutputError(f"{path}: store format {found}, this ecglm reads {FORMAT_VERSION}; {mend}")
    name, version = settings["pipeline"]["name"], settings["pipeline"]["version"]
    try:
        pipeline = registry.get("pipelines", name)
    except ConfigError:  # another package's pipeline, not installed here: the segments are usable all the same
        return
    if pipeline.version != version:
        raise StaleOutputError(
            f"{path}: made with version {version} of the pipeline '{name}', this ecglm has {pipeline.version}; {mend}"
        )
