"""Corpus → conversations file: mapped once, reused as long as corpus, options and stores stay the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm import registry
from ecglm.conversations.table import MapResult, is_finished, manifest_path, write_conversations
from ecglm.errors import ConfigError
from ecglm.files import file_sha256, fingerprint, read_manifest
from ecglm.store.reader import SegmentStore
from ecglm.types import SPLITS


def map_corpus(
    corpus: str,
    stores: Sequence[SegmentStore],
    out: str | Path,
    *,
    root: str | Path | None = None,
    splits: Mapping[str, str] | None = None,
    overwrite: bool = False,
    max_reject: float = 0.05,
    **options: Any,
) -> dict[str, Any]:
    """Map ``corpus`` onto the stores into the Parquet file ``out``; returns its manifest.

    root: folder of the corpus' own files, for corpora that have some. splits: patient id → split, for corpora without
    official ones. options: the corpus' own. Raises ConfigError for an unknown corpus or option, and once the file is
    written EcglmError when more than ``max_reject`` of the items were rejected.
    """
    mapper = registry.get("conversations", corpus)
    known = set(inspect.signature(mapper).parameters) - {"stores", "splits", "root"}
    for name in options:
        if name not in known:
            raise ConfigError(f"corpus '{corpus}' has no option '{name}'; its options: {', '.join(sorted(known))}")
    settings: dict[str, Any] = {"corpus": corpus, **options, "splits": fingerprint(dict(splits)) if splits else None}
    inputs: dict[str, Any] = {f"store{i or ''}": s.fingerprint for i, s in enumerate(stores)}
    if root is not None:
        options["root"] = Path(root)
        inputs["files"] = _files(Path(root))
    if splits is not None:
        options["splits"] = splits
    if not is_finished(out, settings, inputs, overwrite=overwrite):
        result: MapResult = mapper(stores, **options)
        write_conversations(out, result, settings, inputs, overwrite=overwrite)
        result.check_rejects(max_reject)
    return read_manifest(manifest_path(out), "conversations")


def _files(root: Path) -> str:
    """One fingerprint of all question files under ``root``, by name and content."""
    found = sorted(p for p in root.rglob("*") if p.suffix in (".json", ".jsonl", ".csv", ".tsv") and p.is_file())
    return fingerprint({p.relative_to(root).as_posix(): file_sha256(p) for p in found})


def lines(manifest: Mapping[str, Any], out: str | Path) -> list[str]:
    """What was mapped, for people: counts that add up, splits, and where the file lies."""
    counts = dict(manifest.get("counts", {}))
    total, mapped = counts.pop("in", manifest["num_conversations"]), counts.pop("mapped", manifest["num_conversations"])
    told = [f"{mapped} of {total} items mapped"]
    if counts:
        told.append("not mapped: " + ", ".join(f"{reason} {n}" for reason, n in counts.items()))
    sizes = manifest["splits"]
    told.append("splits: " + ", ".join(f"{s or 'none'} {sizes[s]}" for s in (*SPLITS, "") if s in sizes))
    return [*told, f"conversations: {out}"]
