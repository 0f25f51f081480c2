"""ECG-Grounding, GEM's items with evidence (arXiv 2503.06073): ``ecg-grounding``, ``-pulse`` and ``-test``.

``ecg-grounding``: the 30,000 grounding items; ``-pulse``: GEM's training mixture, which these are a part of; ``-test``:
the test items, officially all ``test``. Task ``ecg-grounding``. Item: ``{id, image, ecg, conversations,
machine_measurements?, report?}``; ``ecg`` names the recording, of MIMIC-IV-ECG, PTB-XL or CODE-15. Metadata: image,
machine_measurements and report where given, version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ecglm.conversations.instruction import (
    Item,
    corpus_mapper,
    numbered_record,
    ptb_xl_record,
    source_id_of,
    text_of,
    unknown_key,
)
from ecglm.conversations.messages import item_messages
from ecglm.conversations.outcomes import Outcome
from ecglm.registry import register

VERSION = 1
TASK = "ecg-grounding"
#: Corpus → its file, in the folder or in ``ecg_jsons`` below it.
FILES = {
    "ecg-grounding": "grounding_train_30k.json",
    "ecg-grounding-pulse": "ECG_Grounding_30k.json",
    "ecg-grounding-test": "ecg-grounding-test.json",
}
#: First component of an ``ecg`` key → dataset.
DATASETS = {"mimic-iv": "mimic-iv-ecg", "ecg_ptbxl_benchmarking": "ptb-xl", "code15": "code15"}


def _read(item: Mapping[str, Any], position: int) -> Item:
    record = record_of(text_of(item, "ecg"))
    kept = {name: item[name] for name in ("image", "machine_measurements", "report") if item.get(name) is not None}
    return Item(item_messages(item), (record,), TASK, source_id_of(item), kept)


def record_of(key: str) -> str:
    """``mimic-iv/files/…/<study>``, ``ecg_ptbxl_benchmarking/…/NNNNN_hr`` or ``code15/…/<exam>`` → record id.

    Raises RejectedRecord ``unknown_ecg_key`` for any other.
    """
    parts = [part for part in key.strip().split("/") if part not in ("", ".")]
    dataset = DATASETS.get(parts[0]) if len(parts) > 1 else None
    if dataset is None:
        raise unknown_key(key, f"it begins with none of {', '.join(DATASETS)}")
    return ptb_xl_record(parts[-1], key) if dataset == "ptb-xl" else numbered_record(dataset, parts[-1], key)


def _mapper(corpus: str, split: str = "") -> Callable[..., Iterator[Outcome]]:
    name = FILES[corpus]
    return corpus_mapper(corpus, (name, f"ecg_jsons/{name}"), _read, __name__, split=split)


map_ecg_grounding = register("conversations", "ecg-grounding")(_mapper("ecg-grounding"))
map_ecg_grounding_pulse = register("conversations", "ecg-grounding-pulse")(_mapper("ecg-grounding-pulse"))
map_ecg_grounding_test = register("conversations", "ecg-grounding-test")(_mapper("ecg-grounding-test", split="test"))
