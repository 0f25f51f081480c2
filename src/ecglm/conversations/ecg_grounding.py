"""ECG-Grounding, GEM's items with evidence (arXiv 2503.06073): ``ecg-grounding``, ``-pulse`` and ``-test``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm.conversations.instruction import (
    Item,
    Rules,
    map_items,
    numbered_record,
    ptb_xl_record,
    read_files,
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


@register("conversations", "ecg-grounding")
def map_ecg_grounding(
    stores: Any,
    *,
    root: str | Path,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """The 30,000 grounding items of ``grounding_train_30k.json``; task ``ecg-grounding``.

    root: the file, its folder or the one above it. splits: patient id → split (there is no official one). duplicates:
    what to do with a source id that stands twice: ``error``, ``reject`` or ``keep``. say_signal: the word ``image`` in
    user turns becomes ``signal``. strip_prefixes: cut off the turns, e.g. ``("user:",)``.

    Item: ``{id, image, ecg, conversations, machine_measurements?, report?}``; ``ecg`` names the recording, of
    MIMIC-IV-ECG, PTB-XL or CODE-15. Metadata: image, machine_measurements and report where given, version.
    """
    rules = Rules(
        corpus="ecg-grounding",
        version=VERSION,
        splits=splits,
        limit=limit,
        duplicates=duplicates,
        say_signal=say_signal,
        strip_prefixes=strip_prefixes,
    )
    yield from _outcomes(stores, root, rules)


@register("conversations", "ecg-grounding-pulse")
def map_ecg_grounding_pulse(
    stores: Any,
    *,
    root: str | Path,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """GEM's training mixture ``ECG_Grounding_30k.json``, which ``ecg-grounding`` is a part of; options as there."""
    rules = Rules(
        corpus="ecg-grounding-pulse",
        version=VERSION,
        splits=splits,
        limit=limit,
        duplicates=duplicates,
        say_signal=say_signal,
        strip_prefixes=strip_prefixes,
    )
    yield from _outcomes(stores, root, rules)


@register("conversations", "ecg-grounding-test")
def map_ecg_grounding_test(
    stores: Any,
    *,
    root: str | Path,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """GEM's test items ``ecg-grounding-test.json``, officially all ``test``; options as ``map_ecg_grounding``."""
    rules = Rules(
        corpus="ecg-grounding-test",
        version=VERSION,
        split="test",
        limit=limit,
        duplicates=duplicates,
        say_signal=say_signal,
        strip_prefixes=strip_prefixes,
    )
    yield from _outcomes(stores, root, rules)


def _outcomes(stores: Any, root: str | Path, rules: Rules) -> Iterator[Outcome]:
    rules.check()
    name = FILES[rules.corpus]
    yield from map_items(stores, read_files(root, (name, f"ecg_jsons/{name}"), rules.corpus), _read, rules)


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
