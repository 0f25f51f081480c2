"""ECG-QA (arXiv 2306.15681), questions about one ECG and comparisons of two: ``ecg-qa-ptbxl``, ``ecg-qa-mimic``."""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm.conversations.json_stream import iter_items
from ecglm.conversations.messages import check_metadata, check_turns, clean_text, show_ecgs
from ecglm.conversations.outcomes import Outcome, Reject, SetAside
from ecglm.conversations.resolve import StoreRecords
from ecglm.conversations.seen import Seen
from ecglm.errors import ConfigError, EcglmError, RejectedRecord, nearest
from ecglm.registry import register
from ecglm.types import Conversation, Turn

#: Raised whenever the same item would give another conversation.
VERSION = 1
TASK = "ecg-qa"
VARIANTS = ("template", "paraphrased")
#: Official split folder → our split.
OFFICIAL_SPLITS = {"train": "train", "valid": "val", "test": "test"}
#: Question type → number of ECGs it shows.
QUESTION_TYPES = {
    "single-verify": 1,
    "single-choose": 1,
    "single-query": 1,
    "comparison_consecutive-verify": 2,
    "comparison_consecutive-query": 2,
    "comparison_irrelevant-verify": 2,
    "comparison_irrelevant-query": 2,
}


@dataclass(frozen=True)
class _Corpus:
    name: str
    folder: str
    record: Callable[[int], str]


_PTB_XL = _Corpus("ecg-qa-ptbxl", "ptbxl", lambda ecg_id: f"ptb-xl/{ecg_id:05d}")
_MIMIC = _Corpus("ecg-qa-mimic", "mimic-iv-ecg", lambda ecg_id: f"mimic-iv-ecg/{ecg_id}")


@register("conversations", "ecg-qa-ptbxl")
def map_ecg_qa(
    stores: Any,
    *,
    root: str | Path,
    variant: str = "template",
    answer_join: str = ", ",
    only: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[Outcome]:
    """Conversations of the official question files whose ECGs are all in ``stores``, official splits kept.

    root: the repository, its ``ecgqa`` or its ``ecgqa/ptbxl``. variant: ``template`` or ``paraphrased``, two wordings
    of the same samples: their conversations carry the same ids, so that they cannot be mixed as if independent.
    answer_join: between the answers of an item (the list itself stays in the metadata as ``answers``). only: official
    splits (train, valid, test), default all that are there. limit: number of items of each split.

    A comparison reads ``ECG 1: <ecg>``, ``ECG 2: <ecg>`` and the question, one line each; its order is the item's.
    Items with an ECG in no store are set aside as ``ecg_not_in_store``, with every id of the item; broken ones are
    rejected (``malformed_item``, and the reasons of ``check_turns``), named by file and index. Task: ``ecg-qa``.
    Metadata: answers, choices (possible answers of the template, where ``answers_for_each_template.csv`` is there),
    question_type, attribute_type, attribute, template_id, question_id, sample_id, variant, version.
    Raises EcglmError for a missing folder, a file that is no list of items, and a sample id that stands twice.
    """
    yield from _outcomes(_PTB_XL, stores, root, variant, answer_join, only, limit)


@register("conversations", "ecg-qa-mimic")
def map_ecg_qa_mimic(
    stores: Any,
    *,
    root: str | Path,
    variant: str = "template",
    answer_join: str = ", ",
    only: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[Outcome]:
    """ECG-QA's expansion to MIMIC-IV-ECG, ``ecgqa/mimic-iv-ecg``: ECGs are study ids; else as ``map_ecg_qa``."""
    yield from _outcomes(_MIMIC, stores, root, variant, answer_join, only, limit)


def _outcomes(
    corpus: _Corpus,
    stores: Any,
    root: str | Path,
    variant: str,
    answer_join: str,
    only: Sequence[str] | None,
    limit: int | None,
) -> Iterator[Outcome]:
    if variant == "both":
        raise ConfigError(
            "ecg-qa: variant 'both': two wordings of the same samples would pass for independent questions; "
            f"choose one: {' or '.join(VARIANTS)}"
        )
    if variant not in VARIANTS:
        raise ConfigError(f"ecg-qa: no variant '{variant}'{nearest(variant, VARIANTS)}; known: {', '.join(VARIANTS)}")
    base = _base_folder(Path(root), corpus.folder, variant)
    choices = _template_choices(base / "answers_for_each_template.csv")
    folders = _split_folders(base / variant, only)
    records = StoreRecords(stores)
    for official in folders:
        seen = Seen()
        for number, (place, item) in enumerate(_items(base / variant / official)):
            if limit is not None and number >= limit:
                break
            try:
                fields = _checked(item)
                sample = fields["sample_id"]
                if (first := seen.add(str(sample), number)) is not None:
                    raise EcglmError(
                        f"{base / variant}: sample_id {sample} stands twice: {place} and item {first} of {official}"
                    )
                ecgs = tuple(corpus.record(ecg_id) for ecg_id in fields["ecg_id"])
                missing = [ecg for ecg in dict.fromkeys(ecgs) if ecg not in records]
                if missing:
                    detail = f"needs {' and '.join(ecgs)}; in no store: {' and '.join(missing)}"
                    yield SetAside(place, "ecg_not_in_store", detail)
                    continue
                metadata = {"variant": variant, "version": VERSION}
                if fields["template_id"] in choices:
                    metadata["choices"] = choices[fields["template_id"]]
                split = OFFICIAL_SPLITS[official]
                shown = tuple(records.patient(ecg) for ecg in ecgs)
                yield _conversation(corpus.name, fields, split, ecgs, shown, answer_join, metadata)
            except RejectedRecord as error:
                yield Reject(place, error.reason, error.detail)
            except RecursionError:
                yield Reject(place, "malformed_item", "nested too deep")


def _base_folder(root: Path, folder: str, variant: str) -> Path:
    candidates = (root / "ecgqa" / folder, root / folder, root)
    if root.name in {_PTB_XL.folder, _MIMIC.folder} - {folder}:
        raise EcglmError(f"{root}: is the other part of ECG-QA, '{folder}' is needed; give the repository as --root")
    for candidate in candidates:
        if (candidate / variant).is_dir():
            return candidate
    found = next((c for c in candidates if any((c / other).is_dir() for other in VARIANTS)), None)
    if found is not None:
        raise EcglmError(f"{found}: no folder '{variant}' here; choose the other variant or fetch the missing files")
    raise EcglmError(f"{root}: no ECG-QA here (ecgqa/{folder}/{variant} is missing); give the repository as --root")


def _split_folders(folder: Path, only: Sequence[str] | None) -> list[str]:
    """Official split names to read, in official order; those asked for must be there."""
    asked = [only] if isinstance(only, str) else only
    for name in asked or ():
        if name not in OFFICIAL_SPLITS:
            known = ", ".join(OFFICIAL_SPLITS)
            raise ConfigError(f"ecg-qa: no split '{name}'{nearest(name, OFFICIAL_SPLITS)}; known: {known}")
        if not (folder / name).is_dir():
            raise EcglmError(f"{folder / name}: no such folder; fetch this split, or leave it out")
    found = [name for name in OFFICIAL_SPLITS if (folder / name).is_dir() and (asked is None or name in asked)]
    if not found:
        raise EcglmError(f"{folder}: holds none of the folders {', '.join(OFFICIAL_SPLITS)}")
    return found


def _items(folder: Path) -> Iterator[tuple[str, object]]:
    """(``<split>/<file>[index]``, item) of a split's files in the order of their numbers, one file in memory."""
    files = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
    for path in files:
        if not path.stem.isascii() or not path.stem.isdigit():
            raise EcglmError(f"{path}: no ECG-QA file (they are named by their first sample id); move it elsewhere")
    if not files:
        raise EcglmError(f"{folder}: no question files (*.json) here")
    for path in sorted(files, key=lambda path: int(path.stem)):
        for index, item in iter_items(path):
            yield f"{folder.name}/{path.name}[{index}]", item


def _template_choices(path: Path) -> dict[int, list[str]]:
    """Template id → its possible answers; empty where the file is absent."""
    if not path.exists():
        return {}
    choices: dict[int, list[str]] = {}
    with open(path, encoding="utf-8-sig", newline="") as handle:
        rows = csv.DictReader(handle)
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            try:
                template, classes = int(row["template_id"]), ast.literal_eval(row["classes"])
            except (KeyError, TypeError, ValueError, SyntaxError) as error:
                raise EcglmError(f"{place}: needs the columns template_id and classes (a list of texts)") from error
            if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
                raise EcglmError(f"{place}: column classes must be a list of texts")
            choices[template] = classes
    return choices


def _checked(item: object) -> dict[str, Any]:
    """The item, if every field is what the format says; RejectedRecord ``malformed_item`` naming the field."""
    if not isinstance(item, dict):
        raise RejectedRecord("malformed_item", f"an object is needed, found {type(item).__name__}")

    def need(name: str, right: bool, what: str) -> None:
        if not right:
            shown = repr(item.get(name))
            raise RejectedRecord("malformed_item", f"field {name} must be {what}, found {shown[:80]}")

    for name in ("sample_id", "template_id", "question_id"):
        need(name, _is_count(item.get(name)), "a whole number")
    need("question", isinstance(item.get("question"), str), "text")
    need("attribute_type", isinstance(item.get("attribute_type"), str), "text")
    kind = item.get("question_type")
    need("question_type", isinstance(kind, str) and kind in QUESTION_TYPES, "one of the seven types")
    num_ecgs, ecgs = QUESTION_TYPES[str(kind)], item.get("ecg_id")
    need("ecg_id", isinstance(ecgs, list) and all(map(_is_count, ecgs)) and len(ecgs) == num_ecgs, f"{num_ecgs} id(s)")
    need("answer", _is_texts(item.get("answer")) and len(item["answer"]) > 0, "a list of texts")
    need("attribute", item.get("attribute") is None or _is_texts(item["attribute"]), "null or a list of texts")
    return item


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _conversation(
    corpus: str,
    item: Mapping[str, Any],
    split: str,
    ecgs: tuple[str, ...],
    patients: tuple[str, ...],
    answer_join: str,
    metadata: Mapping[str, Any],
) -> Conversation:
    question = clean_text(item["question"])
    answers = [clean_text(answer) for answer in item["answer"]]
    if not question or not all(answers):
        raise RejectedRecord("empty_turn", "the question or an answer is empty")
    turns = (Turn("user", show_ecgs(question, len(ecgs))), Turn("assistant", answer_join.join(answers)))
    check_turns(turns, len(ecgs))
    check_metadata(item)
    kept = ("question_type", "attribute_type", "attribute", "template_id", "question_id", "sample_id")
    return Conversation(
        id=f"{corpus}/{split}/{item['sample_id']}",
        corpus=corpus,
        task=TASK,
        split=split,
        ecgs=ecgs,
        patients=patients,
        turns=turns,
        source_id=str(item["sample_id"]),
        metadata={**{name: item[name] for name in kept if name in item}, "answers": answers, **metadata},
    )
