"""The letter an answer to a multiple-choice question states: as the original scorer finds it, and by stated rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from random import Random

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.labels import plain

ALL = "ABCDEFGH"
SEED = 42
_STATED, _ANSWER = "The correct option is ", "Answer:"
_MORE = r"\s*(?:[,;]\s*(?:and\b|or\b)?|/|&|\+|\band\b|\bor\b)\s*(?:(?:maybe|possibly|perhaps)\s+)?(?:option\s+)?[\[(*]*"
#: How some models dress the letter: LaTeX's box, a tag.
_BOX = re.compile(r"\\boxed\s?\{(?:\\(?:text|mathrm|mathbf)\s?\{)?([^{}\n]{1,200})\}{1,2}")
_TAG = re.compile(r"<answer>", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__|`|\$|</answer>", re.IGNORECASE)
_LONE = re.compile(r"[\[(]?[A-Z][\])]?")
_HEDGE = r"(?:therefore|thus|hence|then|clearly|definitely|indeed|likely|most\s+likely|probably|most\s+probably)"


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
    text is a letter, or a capital one is its first line), ``leading`` (the text begins with ``X.``, ``X)``, ``(X)``,
    ``X:`` or ``Option X``), ``text`` (exactly one option's words occur). Two letters by one rule, or the list of
    options repeated, are ``ambiguous``; the only option named is ``denied`` (``no atrial fibrillation``); nothing found
    is ``none``. Emphasis, quotes, tags and boxes around a letter are no part of it.
    """
    stated, alone, leading, words = _rules(letters)
    text = _undressed(text)
    if statements := list(stated.finditer(text)):
        last = statements[-1]
        return _one({last.group("l"), last.group("m") or last.group("l")}, "stated")
    if found := alone.fullmatch(text):
        return _one({found.group("l")}, "alone")
    lines = text.split("\n")
    if _LONE.fullmatch(lines[0].strip()) and alone.fullmatch(lines[0].strip()):
        return _one({found.group("l") for line in lines if (found := alone.fullmatch(line.strip()))}, "alone")
    if _is_the_list(text, letters, options):
        return None, "ambiguous"
    if found := leading.match(text):
        first = found.group("l") or found.group("b") or found.group("o")
        return _one({first, found.group("m") or first}, "leading")
    said = " ".join(text.lower().split())
    hits = {
        letters[n]: words(option) for n, option in enumerate(options) if option.strip() and words(option).search(said)
    }
    if len(hits) == 1 and all(_DENIED.search(said[: m.start()]) for w in hits.values() for m in w.finditer(said)):
        return None, "denied"
    return _one(set(hits), "text") if hits else (None, "none")


def _undressed(text: str) -> str:
    """The text without boxes and tags around letters, and without marks of emphasis or quotation at its head."""
    text = _EMPHASIS.sub("", _TAG.sub("Answer: ", _BOX.sub(r"(\1)", plain(text))))
    return text.strip().lstrip('>#*"\u201c \n')


def _is_the_list(text: str, letters: str, options: Sequence[str]) -> bool:
    """Whether the text begins with the list of options, repeated."""
    first = [r"\W*".join(re.escape(w) for w in re.findall(r"\w+", option)) for option in options[:2]]
    if len(first) < 2 or not all(first):
        return False
    (a, one), (b, two) = zip(letters, first, strict=False)
    return re.match(rf"\(?{a}[.):]\s*{one}\W*\(?{b}[.):]\s*{two}\b", text, re.IGNORECASE) is not None


def _one(found: set[str], rule: str) -> tuple[str | None, str]:
    upper = {letter.upper() for letter in found}
    return (upper.pop(), rule) if len(upper) == 1 else (None, "ambiguous")


#: "A" before a word that begins a phrase, as in "A normal ECG …"; "A because", "A is right" are the letter.
_LINKS = "because|since|based|due|given|for|with|which|that|not|only|likely|the|this|so|but|while|though"
_ARTICLE = rf"A\s+(?!(?:{_LINKS})\b)[b-df-hj-np-tv-z]"
#: Directly before an option's words: the answer says that it is not this.
_DENIED = re.compile(
    r"\b(?:no|not|without|rules?\s+out)\s+(?:(?:an?|any|the|evidence|signs?|suggestive|consistent|of|with)\s+)*$"
)


@lru_cache(maxsize=16)
def _rules(letters: str) -> tuple:
    own, small = f"[{letters}]", f"[{letters.lower()}]"
    end = r"(?![^\W_])(?![-'\u2019]\w)"
    more = rf"(?:{_MORE}(?P<m>{own}){end})?"
    # "A" may be the article: not before what is no link of a sentence. A small letter may be the word "a": it counts
    # only where nothing but punctuation follows.
    letter = rf"(?P<l>(?!{_ARTICLE}){own}{end}|{small}(?=\s*[\])}}*.:;,\"'\u2019\u201d]|\s*$))"
    stated = re.compile(
        r"\b(?i:answer|correct\s+option|correct\s+choice)\b(?:\s+(?i:to|for|among|from)\s[^.:\n]{1,60}?(?=\s+(?i:is)\b))?"
        rf"(?:\s+(?i:is|would(?:\s+{_HEDGE})?\s+be|should\s+be|must\s+be|option)(?:\s+(?i:{_HEDGE}))?)?"
        rf"(?:\s[-\u2013]\s|[\s:=*_\"'\u2018\u201c\[(<{{])*(?:(?i:option|choice)[\s:(\[]+)?{letter}[\])*\"']*{more}"
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
