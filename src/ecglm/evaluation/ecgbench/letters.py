"""The letter an answer to a multiple-choice question states: as the original scorer finds it, and by stated rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from random import Random

from ecglm.errors import EcglmError

ALL = "ABCDEFGH"
SEED = 42
_STATED, _ANSWER = "The correct option is ", "Answer:"
_MORE = r"\s*(?:,|/|;|&|\band\b|\bor\b)\s*(?:option\s+)?[\[(*]*"


def pulse_letter(text: str) -> str | None:
    """The letter the original scorer reads, or None, for which it draws one at random.

    Raises EcglmError where it stops: nothing stands behind its ``The correct option is``.
    """
    if len(text) == 1 and text in ALL:
        return text
    for letter in ALL:
        if f"{letter}." in text:
            return letter
    if _STATED in text:
        rest = text.rsplit(_STATED, 1)[1]
        if not rest:
            raise EcglmError(f"nothing stands behind '{_STATED.strip()}'; the original scorer stops here")
        return rest[0] if rest[0] in ALL else None
    if _ANSWER in text:
        rest = text.rsplit(_ANSWER, 1)[1]
        return next((letter for letter in ALL if letter in rest), None)
    return None


def pulse_stream() -> Random:
    """The original's random letters: one stream for all multiple-choice files, in the order they are read."""
    return Random(SEED)


def strict_letter(text: str, letters: str, options: Sequence[str] = ()) -> tuple[str | None, str]:
    """(letter or None, the rule that decided) of an answer. letters: the row's own; options: their texts, if known.

    Rules in order: ``stated`` (the last ``answer`` or ``correct option`` with a letter behind it), ``alone`` (the whole
    text is a letter), ``leading`` (the text begins with ``X.``, ``X)``, ``(X)``, ``X:`` or ``Option X``), ``text``
    (exactly one option's words occur). Two letters by one rule are ``ambiguous``, nothing found is ``none``.
    """
    stated, alone, leading, words = _rules(letters)
    text = text.strip()
    if statements := list(stated.finditer(text)):
        last = statements[-1]
        return _one({last.group("l"), last.group("m") or last.group("l")}, "stated")
    if found := alone.fullmatch(text):
        return _one({found.group("l")}, "alone")
    if found := leading.match(text):
        first = found.group("l") or found.group("b") or found.group("o")
        return _one({first, found.group("m") or first}, "leading")
    said = " ".join(text.lower().split())
    hits = {letters[n] for n, option in enumerate(options) if option.strip() and words(option).search(said)}
    return _one(hits, "text") if hits else (None, "none")


def _one(found: set[str], rule: str) -> tuple[str | None, str]:
    upper = {letter.upper() for letter in found}
    return (upper.pop(), rule) if len(upper) == 1 else (None, "ambiguous")


@lru_cache(maxsize=16)
def _rules(letters: str) -> tuple:
    own, small = f"[{letters}]", f"[{letters.lower()}]"
    end = r"(?![^\W_])(?![-'\u2019])"
    more = rf"(?:{_MORE}(?P<m>{own}){end})?"
    # A small letter may be the word "a": it counts only where nothing but punctuation follows.
    letter = rf"(?P<l>{own}{end}|{small}(?=\s*[\])*.:;,]|\s*$))"
    stated = re.compile(
        r"\b(?i:answer|correct\s+option|correct\s+choice)\b(?:\s+(?i:is|would\s+be|should\s+be|option))?"
        rf"[\s:=*_\"'\[(]*(?:(?i:option|choice)[\s:(\[]+)?{letter}[\])*\"']*{more}"
    )
    alone = re.compile(rf"(?i:[\[(]?\s*(?P<l>{own})\s*[\])]?\s*[.:]?)")
    behind = rf"(?:{_MORE}(?P<m>{own})(?:[.):\]]|{end}))?"
    leading = re.compile(
        rf"(?:(?P<l>{own})[.):]|[\[(](?P<b>{own})[\])]|(?i:option)\s+[\[(]?(?P<o>(?i:{own})){end}[\])]?){behind}"
    )
    return stated, alone, leading, _words


@lru_cache(maxsize=1 << 14)
def _words(option: str) -> re.Pattern[str]:
    """An option's words as whole words, whatever the case and the blanks; a full stop at its end may be left out."""
    return re.compile(rf"(?<![^\W_]){re.escape(' '.join(option.lower().split()).rstrip('. '))}(?![^\W_])")
