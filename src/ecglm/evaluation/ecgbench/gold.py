"""The items of a prepared subset: question, picture, right answers, choices, recording and patient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm.conversations.json_stream import iter_items
from ecglm.conversations.messages import ROLES, clean_text, item_messages
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.ecgbench.subsets import Subset, subset_named
from ecglm.files import read_json
from ecglm.types import ECG_MARK, Turn

#: Beside the subsets: record id → patient id, written by ``prepare --store``.
PATIENTS = "patients.json"
ARENA_ROUNDS = 2
ONLY_ANSWER = "Only answer based on the given Options without any explanation."
_MARK = re.compile(r"<(?:ecg|image)>", re.IGNORECASE)
_OPTION = r"(?:(?<=\s)|(?<=^)|(?<=[,;:]))\(?{}[.):]\s*"


@dataclass(frozen=True)
class GoldItem:
    """One item. image: path below ``DATA/images``. turns: user and assistant by turns, ``<ecg>`` before the first
    question; the last assistant turn is what is to be answered (both in ``arena``). answers: the right ones: a list
    for ``ecgqa-test``, one per round for ``arena``, else one text. options: texts of the choices, A first, or ECG-QA's
    candidates; empty where the question lists none. record: of the recording shown, None for photographs. patient_id:
    from ``patients.json``, else the record or item stands for its own patient and patient_known is False. raw: the
    item as the file has it.
    """

    id: str
    image: str
    turns: tuple[Turn, ...]
    answers: tuple[str, ...]
    options: tuple[str, ...]
    patient_id: str
    patient_known: bool = False
    record: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The first question without the ECG's mark: what stands in ``prompt`` of a prediction."""
        return next(t.text for t in self.turns if t.role == "user").replace(ECG_MARK, "").strip()


def read_gold(path: str | Path, subset: str, patients: Mapping[str, str] | None = None) -> list[GoldItem]:
    """Items of a subset in the file's order. path: the folder of ``{subset}.json``, or the file itself. patients:
    record → patient, where more are known than ``patients.json`` beside the file says.

    Accepts ``No`` for ``id``, ``image`` or ``image_path``, ``conversation`` for ``conversations``, values that are
    lists of texts or characters, and an empty answer where it says that no label applies. Raises EcglmError, one line,
    for a missing or broken file, an item of another form, two items of one id, and a file without items.
    """
    facts, source = subset_named(subset), gold_file(path, subset)
    known = {**_patients(source.parent), **(patients or {})}
    items: dict[str, GoldItem] = {}
    for position, item in iter_items(source):
        try:
            found = gold_item(item, facts, known)
        except RejectedRecord as error:
            raise EcglmError(f"{source}, item {position}: {error}; prepare the subset again") from error
        if found.id in items:
            raise EcglmError(f"{source}, item {position}: id '{found.id}' stands twice; every item needs its own")
        items[found.id] = found
    if not items:
        raise EcglmError(f"{source}: holds no items; prepare the subset again")
    return list(items.values())


def gold_file(path: str | Path, subset: str) -> Path:
    """``{subset}.json`` of a prepared folder, or the file that was named; EcglmError where it is not there."""
    path = Path(path)
    if path.is_dir():
        path = path / f"{subset}.json"
    if not path.is_file():
        raise EcglmError(f"{path}: no such file; make it with ecglm ecgbench prepare --subsets {subset}")
    return path


def gold_item(item: Any, subset: Subset, patients: Mapping[str, str] | None = None) -> GoldItem:
    """An item of the dataset or of ``{subset}.json``; RejectedRecord with a stable reason where it is no such item."""
    if not isinstance(item, dict):
        raise RejectedRecord("malformed_item", f"an object is needed, found {type(item).__name__}")
    item_id, image = _id(item), _image(item)
    turns: list[Turn] = []
    answers: list[str] = []
    for role, value in item_messages(item):
        ours = ROLES.get(role.strip().lower())
        if ours is None:
            raise RejectedRecord("unknown_role", f"'{role}' of item '{item_id}'; known: {', '.join(ROLES)}")
        texts = _texts(value, ours, item_id)
        if ours == "assistant":
            answers = texts
        turns.append(Turn(ours, _MARK.sub("", ", ".join(texts)).strip() if ours == "user" else ", ".join(texts)))
    spoken = [turn for turn in turns if turn.role != "system"]
    if [t.role for t in spoken] != ["user", "assistant"] * (len(spoken) // 2) or not spoken:
        raise RejectedRecord("turn_order", f"item '{item_id}': found {' '.join(t.role for t in turns) or 'none'}")
    if any(not turn.text and (turn.role == "user" or subset.kind != "multi-label") for turn in spoken):
        raise RejectedRecord("empty_turn", f"item '{item_id}': a question or an answer is empty")
    if subset.kind == "arena":
        turns = [t for t in turns if t.role == "system"] + spoken[: 2 * ARENA_ROUNDS]
        answers = [turn.text for turn in turns if turn.role == "assistant"]
    first = next(n for n, turn in enumerate(turns) if turn.role == "user")
    turns[first] = Turn("user", f"{ECG_MARK}\n{turns[first].text}")
    record = subset.record(image)
    known = (patients or {}).get(record or "")
    return GoldItem(
        id=item_id,
        image=image,
        turns=tuple(turns),
        answers=tuple(answers),
        options=_options(turns[first].text, subset),
        patient_id=known or record or f"{subset.name}/{item_id}",
        patient_known=bool(known),
        record=record,
        raw=item,
    )


def _id(item: Mapping[str, Any]) -> str:
    value = next((item[key] for key in ("id", "No") if item.get(key) is not None), None)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RejectedRecord("missing_id", f"field id must be text or a number, found {value!r:.80}")
    return str(value).strip()


def _image(item: Mapping[str, Any]) -> str:
    value = next((item[key] for key in ("image_path", "image") if isinstance(item.get(key), str)), "")
    if not value.strip():
        raise RejectedRecord("image_missing", "field image_path (or image) must name a file")
    return value.strip()


def _texts(value: object, role: str, item_id: str) -> list[str]:
    """A turn's value as texts: pieces of a question and lists of characters are joined, lists of answers are not."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise RejectedRecord("bad_value", f"item '{item_id}': text or a list of texts is needed, found {value!r:.60}")
    if role != "assistant" or (len(value) > 1 and all(len(part) == 1 for part in value)):
        value = ["".join(value)]
    return [clean_text(part) for part in value]


def _options(question: str, subset: Subset) -> tuple[str, ...]:
    if subset.kind == "choice":
        return lettered_options(question, subset.letters)
    return listed_options(question) if subset.kind == "set" else ()


def lettered_options(question: str, letters: str) -> tuple[str, ...]:
    """Texts behind ``A.``, ``B)``, ``(C)`` …, in that order without a gap; empty where fewer than two are listed."""
    _, mark, rest = question.rpartition("Options:")
    text = rest if mark else question
    found: list[re.Match[str]] = []
    at = 0
    for letter in letters:
        match = re.compile(_OPTION.format(letter)).search(text, at)
        if match is None:
            break
        found.append(match)
        at = match.end()
    if len(found) < 2:
        return ()
    ends = [match.start() for match in found[1:]] + [len(text)]
    parts = (text[match.end() : end] for match, end in zip(found, ends, strict=True))
    return tuple(part.split("\n\n", 1)[0].replace(ONLY_ANSWER, "").strip(" \t\n,;") for part in parts)


def listed_options(question: str) -> tuple[str, ...]:
    """ECG-QA's candidates behind the last ``Options:``, between commas; empty where there are none."""
    _, mark, rest = question.rpartition("Options:")
    parts = (part.strip() for part in rest.replace(ONLY_ANSWER, "").split(","))
    return tuple(part for part in parts if part) if mark else ()


def _patients(folder: Path) -> Mapping[str, str]:
    path = folder / PATIENTS
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(v, str) and v for v in found.values()):
        raise EcglmError(f"{path}: an object of record id and patient id is needed; prepare again with --store")
    return found
