"""ECGInstruct, PULSE's 1.2 million items (arXiv 2410.19008): corpus ``ecg-instruct-pulse``; task ``ecg-instruct``.

Item: ``{id, image, conversations, metadata}``. The first component of ``image`` names the dataset (``DATASETS``); an
image of any other (scans, other paper layouts) has no recording and is set aside as ``no_signal_record``. Metadata:
subtask, type and source as the corpus gives them, image, version. It is a training set: there is no official split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecglm.conversations.instruction import (
    Aside,
    Item,
    corpus_mapper,
    numbered_record,
    ptb_xl_record,
    source_id_of,
    text_of,
)
from ecglm.conversations.messages import item_messages
from ecglm.errors import RejectedRecord
from ecglm.registry import register

VERSION = 1
CORPUS = "ecg-instruct-pulse"
TASK = "ecg-instruct"
FILES = ("ECGInstruct.json", "ECGInstruct.jsonl")
#: First component of an image's path → the dataset its name points into (``cod15_v4`` is written so in the corpus).
DATASETS = {
    "mimic": "mimic-iv-ecg",
    "mimic_v4": "mimic-iv-ecg",
    "ptb-xl": "ptb-xl",
    "code15_v4": "code15",
    "cod15_v4": "code15",
    "code15": "code15",
}


def _read(item: Mapping[str, Any], position: int) -> Item:
    image = text_of(item, "image")
    about = item.get("metadata", {})
    if not isinstance(about, dict):
        raise RejectedRecord("malformed_item", f"field metadata must be an object, found {about!r:.80}")
    pairs = item_messages(item)
    return Item(pairs, (record_of(image),), TASK, source_id_of(item), {**about, "image": image})


def record_of(image: str) -> str:
    """The record an image was drawn from: ``mimic/p1127/p11273115/s44111511/44111511-0.png`` → its study.

    Raises Aside ``no_signal_record`` for images of no dataset, RejectedRecord ``unknown_ecg_key`` for a name in one of
    the datasets that is no record's.
    """
    parts = [part for part in image.strip().split("/") if part not in ("", ".")]
    dataset = DATASETS.get(parts[0]) if parts else None
    if dataset is None:
        raise Aside("no_signal_record", image[:200])
    name = parts[-1].split("-", 1)[0].split(".", 1)[0]
    return ptb_xl_record(name, image) if dataset == "ptb-xl" else numbered_record(dataset, name, image)


map_ecg_instruct_pulse = register("conversations", "ecg-instruct-pulse")(corpus_mapper(CORPUS, FILES, _read, __name__))
