"""ECG-Expert-QA, questions of cardiology in words alone (arXiv 2502.17475): corpus ``ecg-expert-qa``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecglm.conversations.instruction import Aside, Item, Rules, map_items, text_of, visible
from ecglm.conversations.json_stream import iter_items
from ecglm.conversations.messages import item_messages
from ecglm.conversations.outcomes import Outcome
from ecglm.errors import ConfigError, EcglmError
from ecglm.registry import register

VERSION = 1
CORPUS = "ecg-expert-qa"
TASK = "ecg-expert-qa"
#: Keys of an item → (what stands before the question, question, answer, kept in the metadata only).
FORMS: dict[frozenset[str], tuple[str, str, str, str]] = {
    frozenset({"Q", "A"}): ("", "Q", "A", ""),
    frozenset({"Disease", "Q", "A"}): ("", "Q", "A", "Disease"),
    frozenset({"medical_advice", "Q", "A"}): ("medical_advice", "Q", "A", ""),
    frozenset({"Question", "Answer"}): ("", "Question", "Answer", ""),
    frozenset({"question", "answer"}): ("", "question", "answer", ""),
}
_DIALOGUES = ("conversations", "conversation", "messages")
_CHINESE = re.compile("[\u3400-\u9fff]")
#: No item shows an ECG: no store is needed.
TEXT_ONLY = True


@register("conversations", "ecg-expert-qa")
def map_ecg_expert_qa(
    stores: Any,
    *,
    root: str | Path,
    files: Sequence[str] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    limit: int | None = None,
    strip_prefixes: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Question and answer without any ECG, of the English files; task ``ecg-expert-qa``.

    root: a file or the folder of them. files: beginnings of file names, e.g. ``("ECG Knowledge",)``; default all.
    There is no patient: an item's split is a hash of ``seed`` and its question, with ``fractions`` (train, val, test);
    the stores play no part. limit: number of items of each file.

    The keys of an item are one of ``FORMS``, or a list of turns; what stands before the question (medical advice)
    becomes the first paragraph of the user turn. The disease gives the answer away and is metadata alone. Items in
    Chinese are set aside as ``not_english``. Metadata: file (its short name), disease, version.
    Raises EcglmError for a file whose items have other keys, naming those found.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"ecg-expert-qa: fractions must be three numbers that add up to 1, found {fractions}")
    rules = Rules(
        corpus=CORPUS,
        version=VERSION,
        seed=seed,
        fractions=fractions,
        limit=limit,
        strip_prefixes=strip_prefixes,
    )
    rules.check(text_only=True)
    for path in _found(Path(root), files):
        yield from map_items([], [(path.name, iter_items(path))], partial(_read, path), rules)


def _found(root: Path, files: Sequence[str] | None) -> list[Path]:
    if not root.exists():
        raise EcglmError(f"{root}: no such file or folder; say with --root where the files of {CORPUS} lie")
    found = [root] if root.is_file() else [p for suffix in (".json", ".jsonl") for p in visible(root, suffix)]
    asked = [files] if isinstance(files, str) else files
    for beginning in asked or ():
        if not any(path.name.startswith(beginning) for path in found):
            names = ", ".join(path.name for path in found)
            raise EcglmError(f"{root}: no file begins with '{beginning}'; there are {names}")
    chosen = [p for p in found if asked is None or any(p.name.startswith(b) for b in asked)]
    if not chosen:
        raise EcglmError(f"{root}: no JSON file here; give the folder of {CORPUS}'s files as --root")
    return chosen


def short_name(path: Path) -> str:
    """``ECG Knowledge (Basic Q&A).json`` → ``ecg-knowledge``."""
    words = re.findall(r"[^\W_]+", path.stem.split("(", 1)[0].replace("'", "").replace("\u2019", "").lower())
    return "-".join(words) or path.stem


def _read(path: Path, item: Mapping[str, Any], position: int) -> Item:
    if _CHINESE.search(str(item)):
        raise Aside("not_english", f"{path.name}: holds Chinese")
    name = short_name(path)
    metadata: dict[str, Any] = {"file": name, "question_type": "text"}
    source_id = f"{name}/{position}"
    if any(key in item for key in _DIALOGUES):
        return Item(item_messages(item), (), TASK, source_id, metadata)
    form = FORMS.get(frozenset(item) - {"id"})
    if form is None:
        known = "; ".join(", ".join(sorted(keys)) for keys in FORMS)
        raise EcglmError(
            f"{path}, item {position}: keys {', '.join(map(str, item))[:120]} are none of the forms known ({known}); "
            "leave the file out with files"
        )
    context, question, answer, hidden = form
    asked = text_of(item, question)
    if context:
        asked = f"{text_of(item, context).strip()}\n\n{asked.strip()}"
    if hidden:
        metadata[hidden.lower()] = text_of(item, hidden)
    return Item([("user", asked), ("assistant", text_of(item, answer))], (), TASK, source_id, metadata)
