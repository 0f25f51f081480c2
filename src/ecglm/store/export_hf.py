"""Export to the Hugging Face hub's form: Parquet files per split with their features, and a dataset card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split
from ecglm.store.writer import LEAD_COLUMNS, SCHEMA

#: Segments per file (at most 250 MB of signal at 10 s, 250 Hz) and per row group (a reader's smallest bite).
FILE_SEGMENTS, GROUP_SEGMENTS = 4096, 256
#: Our split → the hub's name for it.
_SPLITS = {"train": "train", "val": "validation", "test": "test", "": "unassigned"}
_COLUMNS = [name for name in SCHEMA.names if name not in ("shard", "row")]
_TEXTS = ["record_id", "patient_id", "source", "split", "report", "report_en", "report_origin", "metadata", "quality"]
_DTYPES = {pa.string(): "string", pa.bool_(): "bool", pa.float64(): "float64", pa.int32(): "int32"}


def write_hf(
    store: SegmentStore, out: Path, head: pa.Table, batches: Iterator[tuple[pa.Table, np.ndarray]]
) -> dict[str, Any]:
    """``data/<split>-00000-of-00001.parquet`` and ``README.md``; the store's order within each split."""
    counts: Counter[str] = Counter()
    for fold, split in zip(head.column("fold").to_pylist(), head.column("split").to_pylist(), strict=True):
        counts[_split_of(fold, split)] += 1
    splits = {name: counts[name] for name in _SPLITS.values() if counts[name]}
    schema = _schema(store)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_SplitFiles(out, name, size, schema)) for name, size in splits.items()}
        for rows, signals in batches:
            facts = rows.select(["fold", "split"]).to_pydict()
            names = np.array([_split_of(*pair) for pair in zip(facts["fold"], facts["split"], strict=True)])
            for name in dict.fromkeys(names.tolist()):
                chosen = np.flatnonzero(names == name)
                table = rows.select(_COLUMNS).take(pa.array(chosen))
                signal = _signal_array(signals[chosen])
                writers[name].add(table.append_column(schema.field("signal"), signal).cast(schema))
        outputs = {}
    for writer in writers.values():
        outputs.update(writer.outputs)
    files.write_text(out / "README.md", _card(store, splits))
    outputs["README.md"] = files.file_sha256(out / "README.md")
    return {"outputs": outputs, "splits": splits}


def _split_of(fold: int | None, split: str) -> str:
    """The hub's name of the official split; folds of another kind than PTB-XL's ten say nothing about it."""
    if not split and fold is not None:
        try:
            split = fold_split(fold)
        except EcglmError:
            split = ""
    return _SPLITS.get(split, "unassigned")


def _signal_array(signals: np.ndarray) -> pa.Array:
    """int16 ``(n, leads, samples)`` as a list of lists: the storage of ``datasets.Array2D``."""
    num, leads, samples = signals.shape
    inner = pa.ListArray.from_arrays(
        np.arange(num * leads + 1, dtype=np.int32) * samples, pa.array(signals.reshape(-1))
    )
    return pa.ListArray.from_arrays(np.arange(num + 1, dtype=np.int32) * leads, inner)


def _schema(store: SegmentStore) -> pa.Schema:
    """Columns of the files, with the features that ``datasets`` reads from the schema's metadata."""
    features: dict[str, Any] = {}
    for name in _COLUMNS:
        kind = SCHEMA.field(name).type
        if pa.types.is_list(kind):
            value = "float32" if name in LEAD_COLUMNS else "string"
            features[name] = {"feature": {"dtype": value, "_type": "Value"}, "_type": "Sequence"}
        else:
            features[name] = {"dtype": _DTYPES[kind], "_type": "Value"}
    shape = [len(store.leads), store.seg_len]
    # Programs that know this extension type (``datasets`` does) read an array of this shape, the rest a list of lists.
    extension = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": json.dumps([shape, "int16"]),
    }
    features["signal"] = {"shape": shape, "dtype": "int16", "_type": "Array2D"}
    signal = pa.field("signal", pa.list_(pa.list_(pa.int16())), metadata=extension)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([*(SCHEMA.field(name) for name in _COLUMNS), signal], metadata)


class _SplitFiles:
    """The numbered files of one split, of which ``size`` segments are known to come."""

    def __init__(self, out: Path, split: str, size: int, schema: pa.Schema) -> None:
        self.out, self.split, self.schema = out, split, schema
        self.num_files = -(-size // FILE_SEGMENTS)
        self.outputs: dict[str, str] = {}
        self._waiting = schema.empty_table()
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0

    def __enter__(self) -> _SplitFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            while self._waiting.num_rows:
                self._write_group()
            self._close()
        elif self._writer is not None:  # the first error is the one to tell
            self._stack.__exit__(kind, error, at)

    def add(self, table: pa.Table) -> None:
        """Append segments; they are written a row group at a time."""
        self._waiting = pa.concat_tables([self._waiting, table])
        while self._waiting.num_rows >= GROUP_SEGMENTS:
            self._write_group()

    def _write_group(self) -> None:
        if self._writer is None:
            name = f"data/{self.split}-{len(self.outputs):05d}-of-{self.num_files:05d}.parquet"
            self._name, self._stack = name, ExitStack()
            temporary = self._stack.enter_context(files.atomic_path(self.out / name))
            self._writer = self._stack.enter_context(
                pq.ParquetWriter(temporary, self.schema, compression="zstd", use_dictionary=_TEXTS)
            )
        group, self._waiting = self._waiting.slice(0, GROUP_SEGMENTS), self._waiting.slice(GROUP_SEGMENTS)
        self._writer.write_table(group.combine_chunks(), row_group_size=GROUP_SEGMENTS)
        self._in_file += group.num_rows
        if self._in_file >= FILE_SEGMENTS:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._stack.close()
            self.outputs[self._name] = files.file_sha256(self.out / self._name)
            self._writer, self._in_file = None, 0


def _card(store: SegmentStore, splits: dict[str, int]) -> str:
    """The dataset card: where each split's files are (read by ``load_dataset``), and what the columns mean."""
    paths = "".join(f"  - split: {name}\n    path: data/{name}-*.parquet\n" for name in splits)
    where = f"  data_files:\n{paths}" if splits else "  data_files: []\n"
    counts = ", ".join(f"{name} {count}" for name, count in splits.items()) or "no segments"
    pipeline = store.manifest["settings"]["pipeline"]
    origins = [entry["origin"] for entry in store.manifest.get("merged", [])]
    source = ", ".join(origins) or store.manifest["inputs"]["source"]["name"]
    return f"""---
pretty_name: 12-lead ECG segments ({source})
tags:
- ecg
configs:
- config_name: default
{where}---

# 12-lead ECG segments: {source}

{sum(splits.values())} segments of {store.seg_len / store.rate:g} s at {store.rate} Hz ({counts}).

| column | meaning |
|---|---|
| `signal` | int16 `(12, {store.seg_len})`, **microvolts** (divide by 1000 for mV); leads {", ".join(store.leads)} |
| `segment_id`, `record_id`, `patient_id` | `patient_known` is false where the source names no patient |
| `start_s` | seconds from the start of the record |
| `fold`, `split` | as the source has them; the files follow them, `unassigned` where it has none |
| `report`, `report_en`, `report_origin` | the report, its English form, and where that comes from |
| `labels` | `group:name` |
| `metadata`, `quality` | JSON texts |
| `flags`, `{"`, `".join(LEAD_COLUMNS)}` | signal quality; lists have one number per lead |

```python
from datasets import load_dataset

data = load_dataset("path/to/this/folder").with_format("numpy")
millivolts = data["{next(iter(splits), "train")}"][0]["signal"] / 1000
```

Signals were cleaned with the pipeline `{pipeline["name"]}` (version {pipeline["version"]}) of ecglm; store fingerprint
`{store.fingerprint}`. The licence is that of the recordings: name it here before you share the files.
"""
