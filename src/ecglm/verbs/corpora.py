"""Verbs: instruction data → conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.verbs.common import Stores, tell


def map_(
    corpus: Positional[str],
    store: Stores,
    out: Path,
    root: Path | None = None,
    tasks: tuple[str, ...] = (),
    variant: Literal["template", "paraphrased"] | None = None,
    seed: int = 0,
    limit: int | None = None,
    dev: bool = False,
    max_reject: float = 0.05,
    overwrite: bool = False,
) -> None:
    """Map a corpus onto the ECGs of one or more stores.

    Args:
        corpus: name of the corpus (ecglm ls conversations).
        store: segment stores that hold its ECGs.
        out: the Parquet file to make.
        root: folder of the corpus' own files, where it has some.
        tasks: only these tasks (corpus labels).
        variant: wording of ECG-QA's questions.
        seed: of phrasings and of splits by patient.
        limit: at most so many records (labels), or items of each split.
        dev: limit 50, unless --limit says otherwise.
        max_reject: a larger share of rejected items is an error.
        overwrite: replace a file made with other settings.
    """
    from ecglm.conversations.make import lines, map_corpus
    from ecglm.store.reader import SegmentStore
    from ecglm.store.splits import assign_splits

    registry.get("conversations", corpus)
    if root is None and corpus != "labels":
        raise ConfigError(f"corpus '{corpus}' reads files: say where with --root DIR")
    stores = [SegmentStore(s) for s in store]
    options: dict[str, Any] = {"limit": 50 if dev and limit is None else limit}
    if corpus == "labels":
        splits = assign_splits(stores, seed=seed)
        tell(splits.lines())
        options |= {"splits": dict(splits), "seed": seed, "tasks": list(tasks) or None}
    if variant is not None:
        options["variant"] = variant
    made = map_corpus(corpus, stores, out, root=root, overwrite=overwrite, max_reject=max_reject, **options)
    tell(lines(made, out))


def audit_(data: Positional[Path], store: Stores) -> int:
    """Look for leakage between splits and for sick items.

    Args:
        data: a conversations file.
        store: the stores it was mapped onto.
    """
    from ecglm.conversations.table import read_conversations
    from ecglm.store.audit import audit
    from ecglm.store.reader import SegmentStore

    report = audit(read_conversations(data), [SegmentStore(s) for s in store])
    tell(report.lines())
    return 0 if report.ok else 1
