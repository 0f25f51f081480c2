"""ECGBench, PULSE's nine test sets (arXiv 2410.19008): corpus ``ecgbench``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    source_id_of,
    text_of,
    unknown_key,
    visible,
)
from ecglm.conversations.json_stream import iter_items
from ecglm.conversations.messages import ROLES, item_messages
from ecglm.conversations.outcomes import Outcome
from ecglm.conversations.resolve import StoreRecords
from ecglm.errors import ConfigError, EcglmError, RejectedRecord, nearest
from ecglm.registry import register

VERSION = 1
CORPUS = "ecgbench"


@dataclass(frozen=True)
class _Subset:
    """record: basename of the image before ``-`` → record id; None where the images are of no recording."""

    record: Callable[[str, str], str] | None
    task: str
    question_type: str
    labels: Sequence[str] = field(default=())


def _named(pattern: str, dataset: str) -> Callable[[str, str], str]:
    def record(name: str, key: str) -> str:
        if not re.fullmatch(pattern, name, re.ASCII):
            raise unknown_key(key, f"no record of {dataset}")
        return f"{dataset}/{name}"

    return record


def _cpsc(name: str, key: str) -> str:
    return (_named(r"Q\d{4}", "cpsc2018-extra") if name.startswith("Q") else _named(r"A\d{4}", "cpsc2018"))(name, key)


_PTB_XL_LABELS = ("NORM", "MI", "STTC", "CD", "HYP")
_CPSC_LABELS = ("NORM", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
_CODE_15_LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
SUBSETS = {
    "ptb-test": _Subset(ptb_xl_record, "ptb-test", "multi-label", _PTB_XL_LABELS),
    "ptb-test-report": _Subset(ptb_xl_record, "report", "text"),
    "code15-test": _Subset(partial(numbered_record, "code15"), "code15-test", "multi-label", _CODE_15_LABELS),
    "ecgqa-test": _Subset(ptb_xl_record, "ecgqa-test", "multi-label"),
    "cpsc-test": _Subset(_cpsc, "cpsc-test", "multi-label", _CPSC_LABELS),
    "csn-test-no-cot": _Subset(_named(r"JS\d{5}", "csn"), "csn-test-no-cot", "choice"),
    "g12-test-no-cot": _Subset(_named(r"E\d{5}", "georgia"), "g12-test-no-cot", "choice"),
    "mmmu-ecg": _Subset(None, "mmmu-ecg", "choice"),
    "arena": _Subset(None, "arena", "text"),
}


@register("conversations", "ecgbench")
def map_ecgbench(
    stores: Any,
    *,
    root: str | Path,
    subsets: Sequence[str] | None = None,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Items of ECGBench, officially all ``test``; task: the subset's name, but ``report`` for ``ptb-test-report``.

    root: the dataset's folder (``<subset>/test-*.parquet``), a folder of ``<subset>.json``, or one such file. subsets:
    names of ``SUBSETS``, default all that are there. limit: number of items of each subset. duplicates: what to do with
    a source id that stands twice in a subset: ``error``, ``reject`` or ``keep``. say_signal: the word ``image`` in user
    turns becomes ``signal``. strip_prefixes: cut off the turns, e.g. ``("user:",)``.

    The record is the image's file name before ``-``; ``mmmu-ecg`` and ``arena`` show photographs, their items are set
    aside as ``no_signal_record``. Image bytes are not read. Metadata: subset, question_type (``multi-label``,
    ``choice``, ``text``), label_set (the classes of a multi-label subset), answers (``ecgqa-test``), image, version.
    Raises EcglmError where none of the subsets is there, or one that was asked for is missing.
    """
    rules = Rules(
        corpus=CORPUS,
        version=VERSION,
        split="test",
        limit=limit,
        duplicates=duplicates,
        say_signal=say_signal,
        strip_prefixes=strip_prefixes,
    )
    rules.check()
    found, records = _found(Path(root), subsets), StoreRecords(stores)
    for name, files in found.items():
        items = ((n, item) for n, (_, item) in enumerate(pair for file in files for pair in iter_items(file)))
        yield from map_items(records, [(name, items)], partial(_read, name), rules)


def _found(root: Path, subsets: Sequence[str] | None) -> dict[str, list[Path]]:
    asked = [subsets] if isinstance(subsets, str) else list(subsets or SUBSETS)
    for name in asked:
        if name not in SUBSETS:
            raise ConfigError(f"ecgbench: no subset '{name}'{nearest(name, SUBSETS)}; known: {', '.join(SUBSETS)}")
    if root.is_file():
        named = [name for name in (root.stem, root.parent.name) if name in asked]
        if subsets is not None and len(asked) == 1:
            named = asked
        if not named:
            raise EcglmError(f"{root}: its name is no subset's; say which it is with subsets ({', '.join(SUBSETS)})")
        return {named[0]: [root]}
    found = {name: files for name in asked if (files := _files(root, name))}
    missing = [name for name in asked if name not in found]
    if not found or (subsets is not None and missing):
        which = ", ".join(missing[:3])
        raise EcglmError(f"{root}: no <subset>.json and no folder <subset> with Parquet files here for {which}")
    return found


def _files(root: Path, name: str) -> list[Path]:
    for suffix in (".json", ".jsonl"):
        if (path := root / f"{name}{suffix}").is_file():
            return [path]
    folders = (root / name, root / name / "test", root / "data" / name)
    return next((found for folder in folders if (found := visible(folder, ".parquet"))), [])


def _read(name: str, item: Mapping[str, Any], position: int) -> Item:
    subset = SUBSETS[name]
    image = text_of(item, "image_path" if "image_path" in item else "image")
    source_id = source_id_of(item, "id", "No")
    metadata: dict[str, Any] = {"subset": name, "question_type": subset.question_type, "image": image}
    if subset.labels:
        metadata["label_set"] = list(subset.labels)
    pairs = item_messages(item)
    if name == "ecgqa-test":
        pairs, metadata["answers"] = _joined(pairs)
    if subset.record is None:
        raise Aside("no_signal_record", image[:200])
    record = subset.record(image.strip().rsplit("/", 1)[-1].split("-", 1)[0].split(".", 1)[0], image)
    return Item(pairs, (record,), subset.task, f"{name}/{source_id or f'#{position}'}", metadata)


def _joined(pairs: Sequence[tuple[str, object]]) -> tuple[list[tuple[str, object]], list[str]]:
    """Turns of ``ecgqa-test``, whose values are lists: pieces of a question, characters or answers of an answer."""
    joined: list[tuple[str, object]] = []
    answers: list[str] = []
    for role, value in pairs:
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            if ROLES.get(role.strip().lower()) == "user" or all(len(part) == 1 for part in value):
                value = "".join(value)
            elif not all(part.strip() for part in value):
                raise RejectedRecord("empty_turn", "one of the answers is empty")
            else:
                answers, value = [part.strip() for part in value], ", ".join(part.strip() for part in value)
        if ROLES.get(role.strip().lower()) == "assistant" and isinstance(value, str) and not answers:
            answers = [value.strip()]
        joined.append((role, value))
    return joined, answers
