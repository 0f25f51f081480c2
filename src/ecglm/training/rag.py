"""The ``rag`` section of a recipe: its index, looked at first, then searched once for every conversation of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecglm.errors import ConfigError
from ecglm.prompts.data import EcgSource
from ecglm.prompts.retrieved import rag_text
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.training.distributed import from_main
from ecglm.training.recipe import Recipe
from ecglm.types import Conversation

if TYPE_CHECKING:  # it loads much, which a recipe without retrieval need not wait for: at run time late
    from ecglm.retrieval.index import Index
    from ecglm.retrieval.neighbours import Neighbours

#: Where a run keeps what was found.
FOLDER = "neighbours"


def read_index(recipe: Recipe, *, verify: bool = False) -> Index | None:
    """The index of a recipe, None without one; ConfigError where it cannot tell what is asked for. verify: whether
    its files are compared with its manifest, as a training does once.
    """
    if recipe.rag is None:
        return None
    if not recipe.rag.index:
        raise ConfigError("rag.index names no index; name the folder of one (ecglm index build)")
    if recipe.data.images:
        raise ConfigError("rag searches by the signal, and data.images shows picture files; leave one of them out")
    from ecglm.retrieval.index import Index

    index = Index.load(recipe.rag.index, verify=verify)
    recipe.rag.check(index.feature_names, index.has_reports)
    return index


def neighbours_of(
    recipe: Recipe,
    index: Index,
    by_split: dict[str, list[Conversation]],
    stores: Sequence[SegmentStore],
    folder: Path,
    say: Callable[[str], None],
) -> Neighbours:
    """The neighbours of all training and validation questions; by one process of several, once for a run.

    EcglmError where the index holds anybody of the validation or test split.
    """
    from ecglm.retrieval.neighbours import check_index, find_neighbours, queries_of, read_neighbours

    assert recipe.rag is not None
    for split in ("val", "test"):
        check_index(index, by_split[split], f"split '{split}'")
    options, ecgs = recipe.rag, EcgSource(stores, None)
    asked = [query for split in ("train", "val") for c in by_split[split] for query in queries_of(c)]

    def find() -> None:
        find_neighbours(
            index,
            asked,
            lambda query: (ecgs.segment(query.ecg), ecgs.rate(query.ecg)),
            folder / FOLDER,
            k=options.k,
            features=options.chosen(index.feature_names),
            inputs=ecgs.fingerprints(),
            say=say,
        )

    from_main(find)
    return read_neighbours(folder / FOLDER)


def texts_of(recipe: Recipe, found: Neighbours | None) -> list[str]:
    """What prompts will say of the neighbours, for a tokenizer that is trained on the corpus."""
    if recipe.rag is None or found is None:
        return []
    return [rag_text([hit], recipe.rag) for hit in found.hits()]


def people_of(found: Neighbours | None) -> np.ndarray:
    """Hashes of all patients and ECGs that were found, as ``prompts.people``: a model reads of them, too."""
    names = {name for hit in found.hits() for name in (hit.patient_id, hit.record_id) if name} if found else set()
    return np.array(sorted(digest(name) for name in names), np.uint64)


def rag_line(recipe: Recipe, conversations: Sequence[Conversation]) -> str:
    """What ``ecglm validate`` says of the section; EcglmError where the index holds anybody of validation or test."""
    from ecglm.retrieval.neighbours import check_index

    index = read_index(recipe)
    assert index is not None and recipe.rag is not None
    for split in ("val", "test"):
        check_index(index, [c for c in conversations if c.split == split], f"split '{split}'")
    return f"rag: {len(index)} training ECGs by {index.by}; {recipe.rag.said()}, at most {recipe.rag.max_tokens} tokens"
