"""Corpus → conversations file: mapped once, reused as long as corpus, options and stores stay the same."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm import registry
from ecglm.conversations.outcomes import MapResult, Outcome
from ecglm.conversations.table import check_rejects, is_finished, log_path, manifest_path, write_conversations
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.files import file_sha256, fingerprint, read_manifest
from ecglm.store.reader import SegmentStore
from ecglm.types import SPLITS

_GIVEN = ("stores", "splits", "root")  # arguments that are no options of the corpus


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
    """Map ``corpus`` onto the stores into the Parquet file ``out``, as a stream; returns its manifest.

    root: file or folder of the corpus' own files, for corpora that have some (``reads_files``). splits: patient id →
    split, for corpora without official ones (``takes_splits``). options: the corpus' own (``options_of``). Raises
    ConfigError for an unknown corpus or option, and once the file is written EcglmError when more than ``max_reject``
    of the items were rejected.
    """
    mapper = registry.get("conversations", corpus)
    known = options_of(corpus)
    for name in options:
        if name not in known:
            known_names = ", ".join(sorted(known))
            raise ConfigError(
                f"corpus '{corpus}' has no option '{name}'{nearest(name, known)}; its options: {known_names}"
            )
    settings: dict[str, Any] = {
        "corpus": corpus,
        "version": getattr(sys.modules.get(mapper.__module__), "VERSION", 1),
        **known,
        **options,
        "splits": fingerprint(dict(splits)) if splits else None,
        "split_plan": getattr(splits, "plan", None) or None,
    }
    inputs: dict[str, Any] = {f"store{i or ''}": s.fingerprint for i, s in enumerate(stores)}
    if reads_files(corpus) and root is None:
        raise ConfigError(f"corpus '{corpus}' reads files: say where with --root")
    if root is not None:
        options["root"] = Path(root)
        inputs["files"] = _files(Path(root))
    if splits is not None:
        if not takes_splits(corpus):
            raise ConfigError(f"corpus '{corpus}' has its own official splits; leave splits out")
        options["splits"] = splits
    if not is_finished(out, settings, inputs, overwrite=overwrite):
        outcomes: Iterable[Outcome] | MapResult = mapper(stores, **options)
        write_conversations(out, outcomes, settings, inputs, overwrite=overwrite)
    manifest = read_manifest(manifest_path(out), "conversations")
    check_rejects(manifest, out, max_reject)
    return manifest


def options_of(corpus: str) -> dict[str, Any]:
    """The corpus' own options and their defaults."""
    return {name: p.default for name, p in _parameters(corpus).items() if name not in _GIVEN}


def reads_files(corpus: str) -> bool:
    """Whether the corpus needs a ``root``."""
    root = _parameters(corpus).get("root")
    return root is not None and root.default is root.empty


def takes_splits(corpus: str) -> bool:
    """Whether the corpus has no official splits, so that patients are split by ``splits``."""
    return "splits" in _parameters(corpus)


def needs_stores(corpus: str) -> bool:
    """Whether the corpus is about ECGs, which stores must hold."""
    return not getattr(sys.modules[registry.get("conversations", corpus).__module__], "TEXT_ONLY", False)


def _parameters(corpus: str) -> Mapping[str, inspect.Parameter]:
    mapper: Callable[..., Any] = registry.get("conversations", corpus)
    return inspect.signature(mapper).parameters


def _files(root: Path) -> str:
    """One fingerprint of the file ``root``, or of all question files under it, by name and content."""
    if root.is_file():
        return fingerprint({root.name: file_sha256(root)})
    if not root.is_dir():
        raise EcglmError(f"{root}: no such file or folder; say with --root where the corpus' files lie")
    kinds = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.suffix in kinds and p.is_file()}
    shown = {name: p for name, p in found.items() if not any(part.startswith(".") for part in name.split("/"))}
    return fingerprint({name: file_sha256(p) for name, p in sorted(shown.items())})


def lines(manifest: Mapping[str, Any], out: str | Path) -> list[str]:
    """What was mapped, for people: counts that add up, splits, and where the file and its reject log lie."""
    counts = dict(manifest.get("counts", {}))
    total, mapped = counts.pop("in", manifest["num_conversations"]), counts.pop("mapped", manifest["num_conversations"])
    told = [f"{mapped} of {total} items mapped"]
    if counts:
        told.append("not mapped: " + ", ".join(f"{reason} {n}" for reason, n in counts.items()))
    sizes = manifest["splits"]
    told.append("splits: " + ", ".join(f"{s or 'none'} {sizes[s]}" for s in (*SPLITS, "") if s in sizes))
    if manifest.get("rejected"):
        told.append(f"rejects: {log_path(out, 'rejects')}")
    return [*told, f"conversations: {out}"]
