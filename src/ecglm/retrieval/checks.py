"""Whether the files of an index are whole, and of one index: looked at before anything in them is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecglm.errors import ConfigError, TornOutputError
from ecglm.files import MANIFEST, plan_fingerprint
from ecglm.retrieval.copies import SKETCH
from ecglm.retrieval.members import COLUMNS

KIND = "ecg-index"
FORMAT = 1
VECTORS, MEMBERS, REJECTS, FAISS = "vectors.safetensors", "members.parquet", "rejects.jsonl", "index.faiss"
_ARRAYS = ("vectors", "mean", "factor", "sketch", "content", "record", "patient")
#: What a manifest says beside what every manifest does.
_FACTS = {"counts": dict, "dim": int, "left_out": dict, "rejected": dict, "sizes": dict, "stores": list}
_MEND = "copy the index again, whole, or build it again"


def check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """ConfigError for an index of another format; TornOutputError for a manifest that lacks something, whose settings
    were changed, or whose files have other sizes.
    """
    file = folder / MANIFEST
    settings = manifest.get("settings")
    if isinstance(settings, dict) and settings.get("format") != FORMAT:
        raise ConfigError(f"{folder}: index format {settings.get('format')}, this ecglm reads {FORMAT}; build it again")
    for name, kind in (("settings", dict), ("inputs", dict), *_FACTS.items()):
        if not isinstance(manifest.get(name), kind):
            raise TornOutputError(f"{file}: says no {name}; {_MEND}")
    if manifest.get("fingerprint") != plan_fingerprint(KIND, manifest["settings"], manifest["inputs"]):
        raise TornOutputError(f"{file}: its settings or inputs are not those the index was built with; {_MEND}")
    for name, size in manifest["sizes"].items():
        if (folder / name).stat().st_size != size:
            raise TornOutputError(f"{folder / name}: not {size} bytes as its manifest says; {_MEND}")


def check_together(folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray], table: pa.Table) -> None:
    """TornOutputError where the parts of an index are not of one index: lengths, shapes, types, the mark of each."""
    if sorted(arrays) != sorted(_ARRAYS) or table.schema.names != COLUMNS.names:
        raise TornOutputError(f"{folder}: holds other arrays or columns than an index; {_MEND}")
    count, dim = manifest["counts"].get("indexed"), manifest["dim"]
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(("content", "record", "patient"), (count,))
    shapes = {**wanted, "vectors": (count, dim), "mean": (dim,), "factor": (dim,), "sketch": (count, SKETCH)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise TornOutputError(f"{folder / VECTORS}: {name} is {arrays[name].shape}, {shape} is needed; {_MEND}")
    if empty := [name for name in COLUMNS.names if table.column(name).null_count]:
        raise TornOutputError(f"{folder / MEMBERS}: column {empty[0]} is empty (null) in some rows; {_MEND}")
    if table.num_rows != count:
        raise TornOutputError(f"{folder / MEMBERS}: {table.num_rows} rows for {count} vectors; {_MEND}")
    if not np.isfinite(arrays["vectors"]).all():
        raise TornOutputError(f"{folder / VECTORS}: holds NaN; {_MEND}")
    if (table.schema.metadata or {}).get(b"ecglm.index", b"").decode() != manifest["fingerprint"]:
        raise TornOutputError(f"{folder / MEMBERS}: belongs to another index; {_MEND}")
