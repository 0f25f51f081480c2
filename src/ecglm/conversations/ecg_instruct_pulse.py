"""ECGInstruct, PULSE's 1.2 million items (arXiv 2410.19008): corpus ``ecg-instruct-pulse``; task ``ecg-instruct``.

Item: ``{id, image, conversations, metadata}``. The first component of ``image`` names the dataset (``DATASETS``); an
image of any other (scans, other paper layouts) has no recording and is set aside as ``no_signal_record``, unless it is
to be shown as the picture it is (``images``). A mark behind its question is moved to the start of the turn, as in
PULSE's training. Metadata: subtask, type and source as the corpus gives them, image, version. It is a training set:
there is no official split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecglm.conversations.instruction import (
    Aside,
    Item,
    Rules,
    map_items,
    numbered_record,
    ptb_xl_record,
    read_files,
    source_id_of,
    text_of,
)
from ecglm.conversations.messages import item_messages
from ecglm.conversations.outcomes import Outcome
from ecglm.errors import RejectedRecord
from ecglm.registry import register

VERSION = 2
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
#: The patient in the path of a MIMIC-IV-ECG study, and the names of CSN's records.
_SUBJECT = re.compile(r"/p(\d{8})/s\d+/")
_IMAGE = re.compile("<image>", re.IGNORECASE)
_CSN = re.compile(r"JS\d{5}", re.ASCII)


def _read(item: Mapping[str, Any], position: int, *, images: bool = False, prefixes: Sequence[str] = ()) -> Item:
    image = text_of(item, "image")
    about = item.get("metadata", {})
    if not isinstance(about, dict):
        raise RejectedRecord("malformed_item", f"field metadata must be an object, found {about!r:.80}")
    pairs = [(role, _picture_first(value, prefixes)) for role, value in item_messages(item)]
    patients: tuple[str, ...] = ()
    try:
        ecg = record_of(image)
    except Aside:
        if not images:
            raise
        ecg, patients = f"image/{image.strip()}", (picture_patient(image),)
    else:
        if images and (subject := _SUBJECT.search(image)) and ecg.startswith("mimic-iv-ecg/"):
            patients = (f"mimic-iv-ecg/{int(subject[1])}",)
    return Item(pairs, (ecg,), TASK, source_id_of(item), {**about, "image": image}, patients=patients)


def _picture_first(value: object, prefixes: Sequence[str]) -> object:
    """A turn's text with its mark, which may stand behind the question, moved to the start as in PULSE's training;
    prefixes, which are cut off later, stay before it.
    """
    if not isinstance(value, str) or len(_IMAGE.findall(value)) != 1 or value.lower().startswith("<image>"):
        return value
    text = _IMAGE.sub("", value).strip()
    prefix = next((p for p in prefixes if text.lower().startswith(p.lower())), "")
    return f"{text[: len(prefix)]}<image>\n{text[len(prefix) :].strip()}"


def picture_patient(image: str) -> str:
    """Whose ECG a picture without a recording shows, as far as its name says: all whose file names begin alike, up to
    the first ``-``, count as one patient; one that names a record of CSN is that record's (it names no patients).
    """
    name = image.strip().rsplit("/", 1)[-1].split("-", 1)[0].split(".", 1)[0]
    return f"csn/{name}" if _CSN.fullmatch(name) else f"image/{name}"


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


@register("conversations", "ecg-instruct-pulse")
def map_ecg_instruct_pulse(
    stores: Any,
    *,
    root: str | Path,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
    images: bool = False,
) -> Iterator[Outcome]:
    """The items of ECGInstruct; options as those of ``corpus_mapper``, and images: keep what can be shown as a picture
    alone (training then needs ``data.images``), images of no dataset, as ECG ``image/<path>``, and those of
    MIMIC-IV-ECG that no store holds, whose patient is in the path. PTB-XL's and CODE-15's patients are known from a
    store only.
    """
    rules = Rules(
        corpus=CORPUS,
        version=VERSION,
        splits=splits,
        limit=limit,
        duplicates=duplicates,
        say_signal=say_signal,
        strip_prefixes=strip_prefixes,
    )
    rules.check()
    yield from map_items(
        stores, read_files(root, FILES, CORPUS), partial(_read, images=images, prefixes=strip_prefixes), rules
    )
