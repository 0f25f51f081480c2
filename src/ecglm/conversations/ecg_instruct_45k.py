"""ECG-Chat's 45,000 dialogues on MIMIC-IV-ECG (arXiv 2408.08849): corpus ``ecg-instruct-45k``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecglm.conversations.instruction import Rules, map_items, read_files
from ecglm.conversations.outcomes import Outcome
from ecglm.conversations.pretrain_mimic import read_study_item
from ecglm.registry import register

VERSION = 1
CORPUS = "ecg-instruct-45k"
TASK = "ecg-instruct"
FILES = ("ecg_instruct_45k.json", "data/ecg_instruct_45k.json", "llava/playground/data/ecg_instruct_45k.json")


@register("conversations", "ecg-instruct-45k")
def map_ecg_instruct_45k(
    stores: Any,
    *,
    root: str | Path,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Dialogues of several turns, of ``ecg_instruct_45k.json``; task ``ecg-instruct``.

    Options and items are those of ``pretrain_mimic.map_pretrain_mimic``.
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
