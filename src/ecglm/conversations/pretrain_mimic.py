"""ECG-Chat's report pairs on MIMIC-IV-ECG (arXiv 2408.08849): corpus ``pretrain-mimic``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecglm.conversations.instruction import Item, Rules, map_items, numbered_record, read_files, source_id_of, text_of
from ecglm.conversations.messages import item_messages
from ecglm.conversations.outcomes import Outcome
from ecglm.registry import register

VERSION = 1
CORPUS = "pretrain-mimic"
TASK = "report"
FILES = ("pretrain_mimic.json", "data/pretrain_mimic.json", "llava/playground/data/pretrain_mimic.json")


@register("conversations", "pretrain-mimic")
def map_pretrain_mimic(
    stores: Any,
    *,
    root: str | Path,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """One question and a report each, of ``pretrain_mimic.json``; task ``report``.

    root: the file, its folder or ECG-Chat's repository. splits: patient id → split (there is no official one).
    duplicates: what to do with a source id that stands twice: ``error``, ``reject`` or ``keep``. say_signal: the word
    ``image`` in user turns becomes ``signal``. strip_prefixes: cut off the turns, e.g. ``("user:",)``.

    Item: ``{id?, ecg, conversations}``; the last component of ``ecg`` is the study. The first item must have this form
    (EcglmError otherwise), later ones are rejected. Metadata: version.
    """
    rules = Rules(
        corpus=CORPUS,
        version=VERSION,
        splits=splits,
        limit=limit,
        duplicates=duplicates,
        say_signal=say_signal,
        strip_prefixes=strip_prefixes,
        give_up_after=1,
    )
    rules.check()
    yield from map_items(stores, read_files(root, FILES, CORPUS), partial(read_study_item, task=TASK), rules)


def read_study_item(item: Mapping[str, Any], position: int, *, task: str) -> Item:
    """``{id?, ecg: "files/…/<study>", conversations}``, as both files of ECG-Chat have it."""
    key = text_of(item, "ecg")
    record = numbered_record("mimic-iv-ecg", key.strip().rstrip("/").rsplit("/", 1)[-1], key)
    return Item(item_messages(item), (record,), task, source_id_of(item))
