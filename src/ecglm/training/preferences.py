"""Preference files → pairs: the chat's thumbs, corrections and comparisons, ranked samples, and TRL's formats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.conversations.messages import clean_text
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import canonical_json, file_sha256, read_jsonl
from ecglm.types import SPLITS, Turn

#: Of the rows that the chat and ``ecglm pairs`` write.
VERSION = 1
MAX_ROW_TEXT = 1 << 20
_ROLES = ("system", "user", "assistant")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PreferenceEcg:
    """An ECG that answers were compared on. record: its id in a store, empty for one that somebody brought. file: of a
    kept one, relative to ``folder``, that of the preference file. sha256: of its int16 microvolts (little endian, C
    order), empty where the row does not say. rate: Hz, None where the row does not say.
    """

    record: str = ""
    file: str | None = None
    sha256: str = ""
    rate: int | None = None
    folder: Path = Path()

    @property
    def key(self) -> str:
        """What two rows about the same ECG share."""
        return self.sha256 or self.record or str(self.folder / (self.file or ""))


@dataclass(frozen=True)
class PreferenceRow:
    """One row. where: file and line, for people. turns: end with the user's. people: hashes (``prompts.people``)."""

    where: str
    id: str
    source: str
    turns: tuple[Turn, ...]
    ecgs: tuple[PreferenceEcg, ...]
    split: str = ""
    people: tuple[int, ...] = ()
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    thumb: int | None = None


@dataclass(frozen=True)
class Pair:
    """Two answers to the same turns about the same ECGs, of which ``chosen`` is preferred."""

    id: str
    source: str
    turns: tuple[Turn, ...]
    ecgs: tuple[PreferenceEcg, ...]
    people: tuple[int, ...]
    chosen: str
    rejected: str


@dataclass
class Preferences:
    """What files hold. num_rows = paired_rows + those ``refused``: ``{"id", "reason", "detail"}`` each. sha256: of each
    file, in order.
    """

    pairs: list[Pair] = field(default_factory=list)
    num_rows: int = 0
    paired_rows: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """``rows = paired + the sum of rejected:…``."""
        reasons = Counter(f"rejected:{r['reason']}" for r in self.refused)
        return {"rows": self.num_rows, "paired": self.paired_rows, **dict(sorted(reasons.items()))}


def read_pairs(files: Sequence[str | Path], usable: Callable[[PreferenceRow], None] | None = None) -> Preferences:
    """The pairs of preference files, JSONL or Parquet, in their order.

    usable: raises RejectedRecord for a row that may not be learned from. Rows with ``chosen`` and ``rejected`` are
    pairs; of thumbs, every answer that was liked makes one with every answer to the same turns and ECGs that was not.
    Of rows with the same id, the last counts: somebody changed his mind. Reasons for rows: ``replaced``, ``no_pair``,
    ``equal_texts``, ``empty``, ``bad_characters``, ``answer_too_long`` and those of ``usable``.

    Raises EcglmError, naming file, line and field, for a row of neither format.
    """
    found = Preferences()
    for file in files:
        rows, sha256 = read_rows(Path(file))
        found.sha256.append(sha256)
        found.num_rows += len(rows)
        last = {(row.source, row.id): number for number, row in enumerate(rows)}
        thumbs: dict[str, list[PreferenceRow]] = {}
        for number, row in enumerate(rows):
            try:
                if last[row.source, row.id] != number:
                    raise RejectedRecord("replaced", f"{row.where}: a later row has the same id")
                row = _cleaned(row)
                if usable is not None:
                    usable(row)
                if row.chosen is not None and row.rejected is not None:
                    found.pairs.append(_pair(row.id, row, row.chosen, row.rejected))
                    found.paired_rows += 1
                elif row.thumb in (1, -1):
                    thumbs.setdefault(_asked(row), []).append(row)
                else:
                    raise RejectedRecord("no_pair", f"{row.where}: no two answers to compare")
            except RejectedRecord as error:
                found.refused.append({"id": row.id, "reason": error.reason, "detail": error.detail})
        for group in thumbs.values():
            _pair_thumbs(group, found)
    return found


def _pair_thumbs(rows: Sequence[PreferenceRow], found: Preferences) -> None:
    """All pairs of an answer that was liked and one that was not, to the same question."""
    paired: set[str] = set()
    equal: set[str] = set()
    for up in rows:
        for down in rows:
            if up.thumb != 1 or down.thumb != -1:
                continue
            try:
                found.pairs.append(_pair(f"{up.id}>{down.id}", up, str(up.answer), str(down.answer), down.people))
                paired |= {up.where, down.where}
            except RejectedRecord:
                equal |= {up.where, down.where}
    found.paired_rows += len(paired)
    for row in rows:
        if row.where not in paired:
            reason = "equal_texts" if row.where in equal else "no_pair"
            told = (
                "liked and not liked" if reason == "equal_texts" else "no other answer to the same question to compare"
            )
            found.refused.append({"id": row.id, "reason": reason, "detail": f"{row.where}: {told}"})


def _pair(name: str, row: PreferenceRow, chosen: str, rejected: str, people: Sequence[int] = ()) -> Pair:
    if chosen == rejected:
        raise RejectedRecord("equal_texts", f"{row.where}: chosen and rejected say the same")
    everybody = tuple(sorted({*row.people, *people}))
    return Pair(name, row.source, row.turns, row.ecgs, everybody, chosen, rejected)


def _asked(row: PreferenceRow) -> str:
    """What rows about the same question share."""
    return canonical_json([[[t.role, t.text] for t in row.turns], [e.key for e in row.ecgs]])


def _cleaned(row: PreferenceRow) -> PreferenceRow:
    """The row with its texts as conversations have them (``clean_text``); RejectedRecord where one is empty."""
    try:
        turns = tuple(Turn(t.role, clean_text(t.text)) for t in row.turns)
        texts = {n: getattr(row, n) for n in ("chosen", "rejected", "answer")}
        texts = {n: None if t is None else clean_text(t) for n, t in texts.items()}
    except RejectedRecord as error:
        raise RejectedRecord(error.reason, f"{row.where}: {error.detail}") from error
    if row.source == "correction" and texts["rejected"] is None:
        texts["rejected"] = texts["answer"]  # what was corrected
    if not turns or turns[-1].role != "user" or not turns[-1].text:
        raise RejectedRecord("empty", f"{row.where}: the turns must end with a question")
    for name, text in texts.items():
        if text == "":
            raise RejectedRecord("empty", f"{row.where}: {name} has no text")
        if text is not None and len(text) > MAX_ROW_TEXT:
            raise RejectedRecord("answer_too_long", f"{row.where}: {name} has {len(text)} characters")
    if row.thumb is not None and row.chosen is None and texts["answer"] is None:
        raise RejectedRecord("empty", f"{row.where}: a thumb without an answer")
    return replace(row, turns=turns, **texts)


def read_rows(path: Path) -> tuple[list[PreferenceRow], str]:
    """The rows of one file as they stand, and its sha256. EcglmError where one is of neither format, or the file
    changed meanwhile (a chat that goes on writes to it).
    """
    if not path.is_file():
        raise EcglmError(f"{path}: no such preference file; the chat or `ecglm pairs` makes one")
    before = file_sha256(path)
    if path.suffix == ".parquet":
        try:
            plain = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise EcglmError(f"{path}: cannot be read as Parquet ({error})") from error
        place = "row"
    else:
        plain, place = read_jsonl(path), "line"
    if file_sha256(path) != before:
        raise EcglmError(f"{path}: was written to while it was read; run the same command again")
    folder = path.resolve().parent
    rows = []
    for number, row in enumerate(plain, 1):
        reader = _Row(row, f"{path}, {place} {number}", folder, f"{path.stem}:{number}")
        rows.append(reader.ours() if row.get("version") is not None else reader.trl())
    return rows, before


class _Row:
    """One row of a file, read field by field."""

    def __init__(self, row: Mapping[str, Any], where: str, folder: Path, usual_id: str) -> None:
        self.row, self.where, self.folder, self.usual_id = row, where, folder, usual_id

    def fail(self, message: str) -> EcglmError:
        return EcglmError(f"{self.where}: {message}")

    def text(self, name: str, usual: str | None = "") -> Any:
        value = self.row.get(name)
        if value is None:
            return usual
        if not isinstance(value, str):
            raise self.fail(f"'{name}' must be text, found {type(value).__name__}")
        return value

    def ours(self) -> PreferenceRow:
        if self.row["version"] != VERSION:
            raise self.fail(f"version {self.row['version']!r:.40}, this ecglm reads {VERSION}")
        thumb = self.row.get("thumb")
        if thumb not in (1, -1, None) or isinstance(thumb, bool):
            raise self.fail(f"'thumb' must be 1, -1 or null, found {thumb!r:.40}")
        turns = self.row.get("turns")
        if not isinstance(turns, list):
            raise self.fail("'turns' must be a list")
        texts = {name: self.text(name, None) for name in ("chosen", "rejected", "answer")}
        spoken = tuple(self.turn(t, "text") for t in turns)
        return self.made(self.text("source") or "unknown", spoken, thumb=thumb, **texts)

    def made(self, source: str, turns: tuple[Turn, ...], **more: Any) -> PreferenceRow:
        split = self.text("split")
        if split and split not in SPLITS:
            raise self.fail(f"'split' must be one of {', '.join(SPLITS)} or empty, found {split!r:.40}")
        people = self.row.get("people") or []
        try:
            hashes = tuple(sorted({int(str(p)) for p in people}))
        except (TypeError, ValueError) as error:
            raise self.fail("'people' must be a list of hashes (whole numbers as text)") from error
        if any(not 0 <= h < 1 << 64 for h in hashes):
            raise self.fail("'people' must be hashes of 64 bits")
        name = str(self.row.get("id") or self.usual_id)
        return PreferenceRow(self.where, name, source, turns, self.ecgs(), split, hashes, **more)

    def ecgs(self) -> tuple[PreferenceEcg, ...]:
        found = self.row.get("ecgs") or []
        if not isinstance(found, list):
            raise self.fail("'ecgs' must be a list")
        return tuple(self.ecg(e) for e in found)

    def ecg(self, value: Any) -> PreferenceEcg:
        if isinstance(value, str):  # a record id alone
            return PreferenceEcg(value, folder=self.folder)
        if not isinstance(value, Mapping):
            raise self.fail("each of 'ecgs' must be a record id, or an object with record, file and sha256")
        inner = _Row(value, f"{self.where}, ecgs", self.folder, "")
        sha256, rate = inner.text("sha256"), value.get("rate")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise inner.fail("'sha256' must be 64 hexadecimal digits")
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int)):
            raise inner.fail(f"'rate' must be a whole number of Hz, found {rate!r:.40}")
        return PreferenceEcg(inner.text("record"), inner.text("file", None), sha256, rate, self.folder)

    def turn(self, value: Any, key: str) -> Turn:
        role = value.get("role") if isinstance(value, Mapping) else None
        if role not in _ROLES:
            raise self.fail(f"a turn's role must be one of {', '.join(_ROLES)}, found {role!r:.40}")
        text = value.get(key)
        if not isinstance(text, str):
            raise self.fail(f"a turn's '{key}' must be text, found {type(text).__name__}")
        return Turn(role, text)

    def trl(self) -> PreferenceRow:
        """TRL's preference formats: ``chosen`` and ``rejected``, as texts or as messages, with ``prompt`` or with the
        prompt as their common beginning.
        """
        row = self.row
        for name in ("chosen", "rejected"):
            if not isinstance(row.get(name), str | list):
                mend = "a row of the chat has 'version', one of TRL 'chosen' and 'rejected'"
                raise self.fail(f"'{name}' must be text or a list of messages, found {_kind(row.get(name))}; {mend}")
        parts = [row.get("prompt"), row["chosen"], row["rejected"]]
        if len({isinstance(p, list) for p in parts if p is not None}) > 1:
            raise self.fail("'prompt', 'chosen' and 'rejected' must all be texts, or all lists of messages")
        if isinstance(row["chosen"], str):
            turns, chosen, rejected = self._texts(row.get("prompt"), row["chosen"], row["rejected"])
        else:
            turns, chosen, rejected = self._messages(row.get("prompt") or [], row["chosen"], row["rejected"])
        return self.made("trl", turns, chosen=chosen, rejected=rejected)

    def _texts(self, prompt: Any, chosen: str, rejected: str) -> tuple[tuple[Turn, ...], str, str]:
        if prompt is None:
            same = takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))
            shared = "".join(one for one, _ in same)
            shared = shared[:-1] if shared.endswith(" ") else shared  # the blank belongs to the answer's first word
            prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
        if not isinstance(prompt, str):
            raise self.fail(f"'prompt' must be text, found {_kind(prompt)}")
        return (Turn("user", prompt),), chosen, rejected

    def _messages(self, prompt: list[Any], chosen: list[Any], rejected: list[Any]) -> tuple[tuple[Turn, ...], str, str]:
        ahead = [self.turn(m, "content") for m in prompt]
        one, other = ([self.turn(m, "content") for m in answer] for answer in (chosen, rejected))
        same = 0
        while same < min(len(one), len(other)) - 1 and one[same] == other[same]:
            same += 1
        for name, rest in (("chosen", one[same:]), ("rejected", other[same:])):
            if [t.role for t in rest] != ["assistant"]:
                raise self.fail(f"'{name}' must add one assistant's message to the prompt")
        return (*ahead, *one[:same]), one[same].text, other[same].text


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
