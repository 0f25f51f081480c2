"""From the turns of a source file to ours: roles, ECG marks, clean text; every refusal has a stable reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ecglm.errors import RejectedRecord
from ecglm.files import canonical_json
from ecglm.types import ECG_MARK, Turn

#: The names of roles in the corpora → ours.
ROLES: dict[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
_ROLE_KEYS = ("from", "role")
_TEXT_KEYS = ("value", "content")
_LIST_KEYS = ("conversations", "conversation", "messages")
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_IMAGE_WORD = re.compile(r"\bimage(s?)\b", re.IGNORECASE)
# A mark and the one line break that may follow it; blanks around both carry no meaning in any corpus.
_MARK = re.compile(r"<(?:ecg|image)>[ \t]*\n?", re.IGNORECASE)


def clean_text(text: str) -> str:
    """``text`` in NFC with ``\\n`` line ends and no outer blanks.

    Raises RejectedRecord ``bad_characters`` for NUL and lone surrogates: no tokenizer reads them back as they were.
    """
    if bad := _UNREADABLE.search(text):
        raise RejectedRecord("bad_characters", f"U+{ord(bad.group()):04X} at character {bad.start()}")
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise RejectedRecord ``bad_characters`` where a text among metadata is not to be written (lone surrogates)."""
    try:
        canonical_json(dict(metadata)).encode()
    except UnicodeEncodeError as error:
        raise RejectedRecord("bad_characters", f"metadata: {error.object[max(error.start - 20, 0) :]!r:.60}") from error


def join_value(value: object, separator: str | None = None) -> str:
    """The text of a turn's ``value``: a string, or a list of strings.

    A list of single characters is joined with nothing; another list with ``separator``, the corpus' own rule.
    Raises RejectedRecord ``bad_value`` for null, numbers, objects, and a list where the corpus has no rule.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        if all(len(part) == 1 for part in value):
            return "".join(value)
        if separator is not None:
            return separator.join(value)
        raise RejectedRecord("bad_value", "a list of strings, and this corpus has no rule to join them")
    raise RejectedRecord("bad_value", f"text or a list of texts is needed, found {type(value).__name__}")


def item_messages(item: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The (role as written, value) pairs of an item.

    Read are ``conversations``, ``conversation`` or ``messages``: lists of ``{from|role, value|content}``, or of
    ``{question, answer}``, each of which makes two turns. Raises RejectedRecord ``no_turns`` or ``bad_turn``.
    """
    key = next((k for k in _LIST_KEYS if k in item), None)
    if key is None or not isinstance(item[key], list) or not item[key]:
        raise RejectedRecord("no_turns", f"none of the keys {', '.join(_LIST_KEYS)} holds a list of turns")
    pairs: list[tuple[str, object]] = []
    for number, message in enumerate(item[key]):
        if not isinstance(message, dict):
            raise RejectedRecord("bad_turn", f"turn {number} is a {type(message).__name__}, an object is needed")
        if "question" in message and "answer" in message:
            pairs += [("user", message["question"]), ("assistant", message["answer"])]
            continue
        role = next((message[k] for k in _ROLE_KEYS if k in message), None)
        text_key = next((k for k in _TEXT_KEYS if k in message), None)
        if not isinstance(role, str) or text_key is None:
            raise RejectedRecord("bad_turn", f"turn {number} has the keys {', '.join(sorted(map(str, message)))}")
        pairs.append((role, message[text_key]))
    return pairs


def make_turns(
    pairs: Sequence[tuple[str, object]],
    num_ecgs: int,
    *,
    separator: str | None = None,
    strip_prefixes: Sequence[str] = (),
    say_signal: bool = False,
) -> tuple[Turn, ...]:
    """Turns of a conversation about ``num_ecgs`` ECGs from (role, value) pairs, checked by ``check_turns``.

    Roles become ours, ``<image>`` and ``<ecg>`` of any case become ``<ecg>``, followed by one line break where text
    follows on a turn's first mark. Without any mark, ``num_ecgs`` marks are put before the first user turn's text.
    separator: how lists of strings are joined. strip_prefixes: e.g. ``("user:",)``, cut off user and assistant turns.
    say_signal: in user turns the word ``image`` becomes ``signal`` (see ``rewrite_image``).
    Raises RejectedRecord: ``unknown_role``, ``bad_value``, ``bad_characters``, and those of ``check_turns``.
    """
    turns: list[Turn] = []
    for number, (written, value) in enumerate(pairs):
        role = ROLES.get(written.strip().lower())
        if role is None:
            raise RejectedRecord("unknown_role", f"turn {number} is by {written!r}; known: {', '.join(ROLES)}")
        text = clean_text(join_value(value, separator))
        for prefix in strip_prefixes:
            if role != "system" and text.lower().startswith(prefix.lower()):
                text = text[len(prefix) :].lstrip()
        text = _our_marks(text)
        turns.append(Turn(role, rewrite_image(text) if say_signal and role == "user" else text))
    if num_ecgs and not any(ECG_MARK in turn.text for turn in turns):
        first = next((n for n, turn in enumerate(turns) if turn.role == "user"), None)
        if first is not None and turns[first].text:  # a mark does not make an empty question one
            turns[first] = Turn("user", show_ecgs(turns[first].text, num_ecgs))
    check_turns(turns, num_ecgs)
    return tuple(turns)


def _our_marks(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        leads_the_turn = match.start() == 0
        keeps_break = match.group().endswith("\n")
        return ECG_MARK + ("\n" if leads_the_turn or keeps_break else match.group()[match.group().index(">") + 1 :])

    return _MARK.sub(replace, text).strip()


def rewrite_image(text: str) -> str:
    """``text`` with ``signal`` for every whole word ``image``, plural and case (image, Image, IMAGE) kept."""

    def replace(match: re.Match[str]) -> str:
        word = match.group()
        new = "SIGNAL" if word[:5].isupper() else "Signal" if word[0].isupper() else "signal"
        return new + match.group(1)

    return _IMAGE_WORD.sub(replace, text)


def show_ecgs(question: str, num_ecgs: int) -> str:
    """A question with its ECG mark before it, or for several ECGs one numbered line each: ``ECG 1: <ecg>``."""
    if num_ecgs == 1:
        return f"{ECG_MARK}\n{question}"
    return "".join(f"ECG {n}: {ECG_MARK}\n" for n in range(1, num_ecgs + 1)) + question


def check_turns(turns: Sequence[Turn], num_ecgs: int) -> None:
    """Raise RejectedRecord unless the turns are a conversation about ``num_ecgs`` ECGs.

    ``no_turns``; ``unknown_role``; ``turn_order`` (an optional system turn, then user and assistant by turns, the
    assistant last); ``empty_turn``; ``mark_outside_user_turn``; ``mark_count`` (marks are not as many as ECGs).
    A user turn that only shows an ECG is not empty.
    """
    if not turns:
        raise RejectedRecord("no_turns", "a question and an answer are needed")
    spoken = turns[1:] if turns[0].role == "system" else turns
    for number, turn in enumerate(turns):
        if turn.role not in ("system", "user", "assistant"):
            raise RejectedRecord("unknown_role", f"turn {number} is by {turn.role!r}")
        if not turn.text.strip():
            raise RejectedRecord("empty_turn", f"turn {number} ({turn.role}) has no text")
        if turn.role != "user" and ECG_MARK in turn.text:
            raise RejectedRecord("mark_outside_user_turn", f"turn {number} ({turn.role}) holds {ECG_MARK}")
    expected = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or [turn.role for turn in spoken] != expected:
        raise RejectedRecord("turn_order", "found " + " ".join(turn.role for turn in turns))
    marks = sum(turn.text.count(ECG_MARK) for turn in turns)
    if marks != num_ecgs:
        raise RejectedRecord("mark_count", f"{marks} ECG marks for {num_ecgs} ECGs")
