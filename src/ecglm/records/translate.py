"""Reports in English: a lossless dictionary of machine statements, and translation models for what it does not know."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Protocol

from ecglm.files import fingerprint
from ecglm.records.german_phrases import ENGLISH_WORDS, PHRASES

_LETTERS = "a-zäöüåß"
#: Copied as they stand: blanks, punctuation, numbers, lead names, and what readers appended in capitals (SCP codes).
_LITERAL = re.compile(
    r"\s+|[.,:;!?()/+%=<>&-]+|\d+(?:[.,:]\d+)*(?![A-Za-zÄÖÜäöü])"
    r"|(?:v[1-6]|avr|avl|avf|iii|ii|i)(?![A-Za-zÄÖÜäöü#])|[A-Z][A-Z0-9_]+(?![a-zäöüå])"
    r"|Edit(?=:)|Sokolow(?= \d)|[mf](?=,\d)"
)
_WORD = re.compile(rf"[{_LETTERS}#]{{3,}}(?:-[{_LETTERS}]+)*")
_UMLAUTS = str.maketrans("äöüå", "ÄÖÜÅ")


class Translator(Protocol):
    """Turns reports into English. ``name`` is what a record's ``report_origin`` says."""

    name: str

    def translate(self, texts: Sequence[str]) -> list[str | None]:
        """English for every text, None where this translator cannot."""
        ...


class PhraseTranslator:
    """The built-in dictionary: a report is translated only when every part of it is known.

    The longest known statement comes first, nothing is dropped; blanks, punctuation, numbers, lead names and codes in
    capitals stay. Lossless: ``restore`` turns every translation back into the report it was made from.
    """

    name = "phrases"

    def translate(self, texts: Sequence[str]) -> list[str | None]:
        """English for every text whose statements are all known, else None."""
        return [translate_phrases(text) for text in texts]


@functools.lru_cache(maxsize=1 << 15)  # a tenth of PTB-XL's reports are different ones
def translate_phrases(text: str) -> str | None:
    """The report in English, or None where a part of it is unknown or could not be turned back."""
    language = report_language(text)
    if language not in PHRASES:
        return None
    english = _rewrite(text, language, forward=True)
    if english is None or (restored := restore(english, language)) is None:
        return None
    return english if restored.casefold() == text.casefold() else None


def restore(english: str, language: str) -> str | None:
    """The report that ``translate_phrases`` made ``english`` from, umlauts in capitals as PTB-XL has them."""
    return _rewrite(english, language, forward=False)


def _rewrite(text: str, language: str, *, forward: bool) -> str | None:
    pattern, table = _matcher(language, forward)
    parts, at = [], 0
    while at < len(text):
        found = pattern.match(text, at)
        if found:
            phrase = table[found[0].casefold()]
            parts.append(phrase if forward else phrase.translate(_UMLAUTS))
        else:
            found = _LITERAL.match(text, at)
            if not found:
                return None
            parts.append(found[0])
        at = found.end()
    return "".join(parts)


@functools.cache
def _matcher(language: str, forward: bool) -> tuple[re.Pattern[str], dict[str, str]]:
    table = {(k if forward else v).casefold(): (v if forward else k) for k, v in PHRASES[language].items()}
    longest_first = sorted(table, key=lambda phrase: (-len(phrase), phrase))
    body = "|".join(re.escape(phrase) for phrase in longest_first)
    # a statement ends where a word ends
    return re.compile(rf"(?<![{_LETTERS}#])(?:{body})(?![{_LETTERS}#0-9])", re.IGNORECASE), table


@functools.lru_cache(maxsize=1 << 15)
def report_language(text: str) -> str:
    """``"de"``, ``"sv"`` or ``"en"``, whichever knows most of the report's words; ``""`` where none knows half.

    What a reader appended after ``Edit:`` may be in another language: an English report with such words is ``""``.
    """
    head, _, tail = text.partition("Edit:")
    found = _language(_words(head))
    return "" if found == "en" and (words := _words(tail)) and _language(words) != "en" else found


def _language(words: list[str]) -> str:
    if not words:
        return ""
    shares = {name: sum(w in known for w in words) / len(words) for name, known in _vocabularies().items()}
    best = max(shares, key=lambda name: shares[name])  # the first of en, de, sv on ties
    return best if shares[best] >= 0.5 else ""


def _words(text: str) -> list[str]:
    """Words of three letters or more, lower case, without lead names and codes in capitals."""
    plain = re.sub(r"\b\w*[A-Z]{2}\w*\b|\bSokolow\b", " ", text).casefold()
    return [word for word in _WORD.findall(plain) if word not in ("iii", "avr", "avl", "avf")]


@functools.cache
def _vocabularies() -> dict[str, frozenset[str]]:
    found = {name: frozenset(_WORD.findall(" ".join(table))) for name, table in PHRASES.items()}
    english = _WORD.findall(" ".join(v for table in PHRASES.values() for v in table.values()))
    return {"en": frozenset(english) | ENGLISH_WORDS, **found}


@functools.cache
def phrases_fingerprint() -> str:
    """sha256 of the dictionary: another one gives other translations."""
    return fingerprint({"phrases": PHRASES, "english": sorted(ENGLISH_WORDS)})
