"""Verbs: instruction data → conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction

from ecglm.errors import ConfigError
from ecglm.verbs.common import Stores, function_options, tell

Files = Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE …]")]]


def map_(
    corpus: Positional[str],
    out: Path,
    store: Stores = (),
    root: Path | None = None,
    tasks: tuple[str, ...] = (),
    variant: Literal["template", "paraphrased"] | None = None,
    set: UseAppendAction[tuple[str, ...]] = (),
    fold: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    dev: bool = False,
    max_reject: float = 0.05,
    overwrite: bool = False,
) -> None:
    """Map a corpus onto the ECGs of one or more stores.

    Args:
        corpus: name of the corpus (ecglm ls conversations).
        out: the Parquet file to make.
        store: segment stores that hold its ECGs.
        root: file or folder of the corpus' own files, where it has some.
        tasks: only these tasks (corpus labels).
        variant: wording of ECG-QA's questions.
        set: KEY=VALUE, another option of the corpus (language=original, duplicates=keep, subsets=ptb-test …).
        fold: FOLD/K, run FOLD (from 0) of a K-fold cross-validation by patient, for corpora without official splits.
        seed: of phrasings, of splits and folds by patient.
        limit: at most so many records (labels), or items of each split or file.
        dev: limit 50, unless --limit says otherwise.
        max_reject: a larger share of rejected items is an error.
        overwrite: replace a file made with other settings.
    """
    import typing

    from ecglm import registry
    from ecglm.conversations.make import lines, map_corpus, needs_stores, options_of, reads_files, takes_splits
    from ecglm.store.reader import SegmentStore
    from ecglm.store.splits import assign_splits, fold_splits, parse_fold

    mapper = registry.get("conversations", corpus)
    if root is None and reads_files(corpus):
        raise ConfigError(f"corpus '{corpus}' reads files: say where with --root DIR")
    if not store and needs_stores(corpus):
        raise ConfigError(f"corpus '{corpus}' is about ECGs: name the stores that hold them with --store DIR")
    known = options_of(corpus)
    options = function_options(known, typing.get_type_hints(mapper), set)
    given: dict[str, Any] = {"limit": 50 if dev and limit is None else limit, "variant": variant}
    given |= {"tasks": list(tasks) or None, "seed": seed if "seed" in known else None}
    options |= {name: value for name, value in given.items() if value is not None}
    stores = [SegmentStore(s) for s in store]
    splits = None
    if fold is not None:
        splits = fold_splits(stores, *reversed(parse_fold(fold)), seed=seed)
    elif takes_splits(corpus):
        splits = assign_splits(stores, seed=seed)
    if splits is not None:
        tell(splits.lines())
    made = map_corpus(
        corpus, stores, out, root=root, splits=splits, overwrite=overwrite, max_reject=max_reject, **options
    )
    tell(lines(made, out))


def mix(
    data: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE[:WEIGHT[:CAP]] …")]],
    out: Path,
    store: Stores = (),
    fold: str | None = None,
    keep_duplicates: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Mix conversations files: one split for every patient, no row twice, training rows shuffled.

    Args:
        data: conversations files; WEIGHT is the share of the training rows (0.5) or how often each stands (2).
        out: the Parquet file to make.
        store: stores whose official folds shall have a say: their test patients are no training patients.
        fold: FOLD/K, run FOLD (from 0) of a K-fold cross-validation over the patients of the stores.
        keep_duplicates: keep rows that say the same of the same ECGs.
        seed: of shares, caps, order and folds.
        overwrite: replace a file mixed otherwise.
    """
    from ecglm.conversations.mix import MixInput, lines
    from ecglm.conversations.mix import mix as run
    from ecglm.store.reader import SegmentStore
    from ecglm.store.splits import fold_splits, parse_fold

    stores = [SegmentStore(s) for s in store]
    if fold is not None and not stores:
        raise ConfigError("--fold divides the patients of stores: name them with --store DIR")
    splits = fold_splits(stores, *reversed(parse_fold(fold)), seed=seed) if fold is not None else None
    inputs = [MixInput.parse(text) for text in data]
    tell(
        lines(
            run(
                inputs,
                out,
                stores=stores if splits is None else (),
                splits=splits,
                seed=seed,
                dedupe=not keep_duplicates,
                overwrite=overwrite,
            ),
            out,
        )
    )


def audit_(data: Files, store: Stores) -> int:
    """Look for leakage between splits and for sick items.

    Args:
        data: conversations files that are used together.
        store: the stores they were mapped onto.
    """
    from itertools import chain

    from ecglm.conversations.table import conversations_fingerprint, iter_conversations
    from ecglm.store.audit import audit
    from ecglm.store.reader import SegmentStore

    for file in data:  # a mistyped name is told before the stores are read
        conversations_fingerprint(file)
    report = audit(chain.from_iterable(map(iter_conversations, data)), [SegmentStore(s) for s in store])
    tell(report.lines())
    return 0 if report.ok else 1
