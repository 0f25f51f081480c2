"""ECG-Chat's report pairs on MIMIC-IV-ECG (arXiv 2408.08849): corpus ``pretrain-mimic``.

One question and a report each, of ``pretrain_mimic.json``; task ``report``. Item: ``{id?, ecg, conversations}``; the
last component of ``ecg`` is the study. The first item must have this form (EcglmError otherwise), later ones are
rejected. Metadata: version.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ecglm.conversations.instruction import Item, corpus_mapper, numbered_record, source_id_of, text_of
from ecglm.conversations.messages import item_messages
from ecglm.registry import register

VERSION = 1
CORPUS = "pretrain-mimic"
TASK = "report"
FILES = ("pretrain_mimic.json", "data/pretrain_mimic.json", "llava/playground/data/pretrain_mimic.json")


def read_study_item(item: Mapping[str, Any], position: int, *, task: str) -> Item:
    """``{id?, ecg: "files/…/<study>", conversations}``, as both files of ECG-Chat have it."""
    key = text_of(item, "ecg")
    record = numbered_record("mimic-iv-ecg", key.strip().rstrip("/").rsplit("/", 1)[-1], key)
    return Item(item_messages(item), (record,), task, source_id_of(item))


map_pretrain_mimic = register("conversations", "pretrain-mimic")(
    corpus_mapper(CORPUS, FILES, partial(read_study_item, task=TASK), __name__, give_up_after=1)
)
