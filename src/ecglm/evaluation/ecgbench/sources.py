"""Where ECGBench's items come from: the hub's dataset, or a folder of Parquet or JSON files; one item at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.conversations.instruction import visible
from ecglm.conversations.json_stream import iter_items
from ecglm.errors import EcglmError, hub_errors, is_path
from ecglm.evaluation.ecgbench.subsets import SUBSETS, Subset
from ecglm.files import file_sha256, fingerprint

#: Rows held at once: a picture is up to a few MB.
BATCH = 8
_BYTES = ("image", "images")


def source_folder(source: str, subsets: Sequence[Subset], revision: str | None = None) -> Path:
    """The folder or file itself, or the hub's dataset fetched into the hub's cache, these subsets only.

    The token is read from the environment (``HF_TOKEN``). EcglmError where there is no such folder or dataset.
    """
    if Path(source).exists():
        return Path(source)
    if is_path(source) or source.count("/") != 1:
        raise EcglmError(f"{source}: no such folder, nor a dataset of the hub (owner/name)")
    from huggingface_hub import snapshot_download

    patterns = [p for s in subsets for p in (f"{s.hub}/*.parquet", f"data/{s.hub}/*.parquet", f"{s.hub}.json*")]
    try:
        token = os.environ.get("HF_TOKEN") or False
        return Path(
            snapshot_download(source, repo_type="dataset", revision=revision, allow_patterns=patterns, token=token)
        )
    except hub_errors() as error:
        said = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise EcglmError(f"{source}: no such folder, and not to be had from the hub ({said})") from error


def files_of(root: Path, subset: Subset) -> list[Path]:
    """The files that hold a subset, in order: ``<subset>.json``, ``.jsonl``, or Parquet in its folder; maybe none."""
    if root.is_file():
        return [root] if subset.name in (root.stem, root.parent.name) else []
    for suffix in (".json", ".jsonl", ".parquet"):
        if (path := root / f"{subset.name}{suffix}").is_file():
            return [path]
    folders = (root / subset.hub, root / subset.hub / "test", root / "data" / subset.hub)
    return next((found for folder in folders if (found := visible(folder, ".parquet"))), [])


def find_subsets(root: Path, asked: Sequence[Subset], named: bool) -> dict[str, list[Path]]:
    """Subset → its files. EcglmError where none is there, or one that was named is not."""
    found = {subset.name: files for subset in asked if (files := files_of(root, subset))}
    missing = [subset.name for subset in asked if subset.name not in found]
    if not found or (named and missing):
        raise EcglmError(
            f"{root}: no <subset>.json and no folder <subset> of Parquet files here for {', '.join(missing)}"
            + ("" if root.is_dir() else f"; a single file must be called after its subset ({', '.join(SUBSETS)})")
        )
    return found


def files_fingerprint(files: Sequence[Path]) -> str:
    """Of the files' contents, in their order."""
    return fingerprint([file_sha256(path) for path in files])


def read_items(files: Sequence[Path], with_pictures: bool) -> Iterator[tuple[int, Any, Any]]:
    """(position in the subset, item, picture cell or None) of all files; memory does not grow with them.

    Raises EcglmError, naming the file, for JSON or Parquet that cannot be read.
    """
    position = 0
    for path in files:
        if path.suffix != ".parquet":
            for _, item in iter_items(path):
                yield position, item, None
                position += 1
            continue
        cells = _cells(path) if with_pictures else None
        for _, item in iter_items(path):
            yield position, item, next(cells, None) if cells is not None else None
            position += 1


def _cells(path: Path) -> Iterator[Any]:
    """The picture of every row: a structure with ``bytes``, bytes alone, or None."""
    try:
        with pq.ParquetFile(path) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            name = next((n for n in _BYTES if n in kinds and _holds_bytes(kinds[n])), None)
            if name is None:
                return
            for batch in file.iter_batches(batch_size=BATCH, columns=[name]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise EcglmError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
