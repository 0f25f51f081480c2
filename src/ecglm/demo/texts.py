"""Text that people, models and files bring along, made plain: no marks, no controls, no table formulas."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.types import ECG_MARK

#: Longest question or correction, in characters.
MAX_TEXT = 8000
#: Bidirectional overrides and characters without width, by which a text looks like another.
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_MARK = re.compile(re.escape(ECG_MARK), re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain(text: str) -> str:
    """``text`` in NFC with ``\\n`` line ends, without control, hidden and half characters; outer blanks are kept."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _HIDDEN.sub("", text)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


def without_marks(text: str) -> str:
    """``text`` in which no ECG mark stands: what somebody typed as ``<ecg>`` is a word in brackets."""
    return _MARK.sub("[ecg]", text)


def question_text(text: str, what: str = "question") -> str:
    """What a person typed, ready for a talk. EcglmError for nothing, or more than ``MAX_TEXT`` characters."""
    if len(text) > 4 * MAX_TEXT:
        raise EcglmError(f"the {what} has {len(text):,} characters, at most {MAX_TEXT:,}; make it shorter")
    found = without_marks(plain(text)).strip()
    if not found:
        raise EcglmError(f"the {what} is empty; write something")
    if len(found) > MAX_TEXT:
        raise EcglmError(f"the {what} has {len(found):,} characters, at most {MAX_TEXT:,}; make it shorter")
    return found


def safe_name(name: str) -> str:
    """A file's own name as people may see it: one line of printable characters, no folder, 80 characters at most. It is
    also a name that any disk takes.
    """
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c if c.isprintable() else "_" for c in _HIDDEN.sub("", unicodedata.normalize("NFC", name)))
    name = name.strip().lstrip(".~") or "file"
    stem, dot, suffix = name.rpartition(".")
    if len(name) <= 80 and len(name.encode()) <= 240:
        return name
    most = 68 if name.isascii() else 50
    return f"{stem[:most]}…{dot}{suffix[:10]}" if dot else f"{name[:most]}…"


def csv_cell(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def fenced(text: str) -> str:
    """``text`` as a Markdown block in which nothing is Markdown or HTML, whatever stands in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


#: What a prompt's length policy did, for people.
_TRUNCATED = {
    "dropped_neighbour": "some similar ECGs",
    "cut_neighbour": "the end of what is told of similar ECGs",
    "dropped_oldest_turns": "its oldest questions",
    "dropped_system": "the system text",
    "ecg_tokens": "part of the ECG",
}


def left_out(truncated: Sequence[str]) -> str:
    """What a model was not shown of a talk that is too long for it, for people; empty where that is nothing."""
    parts = [words for code, words in _TRUNCATED.items() if code in truncated]
    return f"without {' and '.join(parts)}: the talk is longer than this model reads" if parts else ""


def words_of(error: EcglmError) -> str:
    """An error for people: a rejection without its code, a talk that a model cannot read with what to do."""
    if not isinstance(error, RejectedRecord):
        return str(error)
    if error.reason == "sequence_too_long":
        return (
            "this question with its ECGs is longer than the model can read; ask shorter, or clear and show fewer ECGs"
        )
    return error.detail or error.reason.replace("_", " ")
