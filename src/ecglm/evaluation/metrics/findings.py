"""Diagnostic statements found in an English report, with negation and doubt, by the words of ``lexicon.yaml``."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files as package_files
from typing import NamedTuple

import yaml

from ecglm.errors import EcglmError

#: What a report says of a statement; of several mentions the strongest counts.
PRESENT, UNCERTAIN, ABSENT = "present", "uncertain", "absent"
_STRENGTH = {PRESENT: 2, UNCERTAIN: 1, ABSENT: 0}
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")

_SENTENCE_END = re.compile(r"(?:(?<!\d)\.|\.(?!\d)|[;!\n])+|(?<=\?)(?<=[^\s?]\?)")
_WORD = re.compile(r"\d+:\d+|[a-z0-9]+|[,/?]|(?<=\s)-(?=\s)")
_SPELLING = (
    (re.compile(r"\ba\s*-\s*v\b"), "av"),
    (re.compile(r"\bp-r\b(?!-)"), "pr"),
    (re.compile(r"\bq-t\b"), "qt"),
    (re.compile(r"\bcorrected qt\b"), "qtc"),
    (re.compile(r"\bnon[- ]?st[- ](?:segment[- ])?elevation\b"), "nste"),
    (re.compile(r"\b([123]|i{1,3}) ?°(?= a)"), r"\1 degree"),
    (re.compile(r"(?::| -) ?(?:no|negative|not (?:seen|present))(?= ?(?:,|$))"), " absent"),  # "LVH: no"
    (re.compile(r"\(s\)"), "s"),
    (re.compile(r"aemi"), "emi"),
    (re.compile(r"(?<=\w)-(?=\w)|['’′°()\[\]\"&]"), " "),
)

#: Start, end and names of a term or cue among the words of a sentence.
_Item = tuple[int, int, tuple[str, ...]]


@dataclass(slots=True)
class _Node:
    """What may follow the words so far, and what these name; a cue's name begins with "="."""

    after: dict[str, _Node] = field(default_factory=dict)
    names: tuple[str, ...] = ()


class Mention(NamedTuple):
    """A name of the lexicon, what is said of it, and the words (from, to) that say it."""

    name: str
    status: str
    start: int
    end: int


@cache
def _lexicon() -> dict[str, dict]:
    text = (package_files("ecglm.evaluation.metrics") / "lexicon.yaml").read_text(encoding="utf-8")
    found: dict[str, dict] = yaml.safe_load(text)
    return found


@cache
def statements() -> dict[str, str]:
    """Every statement of the lexicon → its diagnostic class (one of ``SUPERCLASSES``), or an empty string."""
    return {name: entry.get("class", "") for name, entry in _lexicon()["statements"].items()}


def expand(pattern: str, macros: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Every phrase a pattern stands for, as words: ``[a|b|]`` alternatives, ``<name>`` macros, ``(s)`` or none."""
    macro = re.search(r"<(\w+)>", pattern)
    if macro:
        if macro[1] not in macros:
            raise EcglmError(f"lexicon.yaml: no macro <{macro[1]}> in '{pattern}'")
        yield from expand(pattern.replace(macro[0], macros[macro[1]], 1), macros)
        return
    if re.search(r"\[[^\]]*\[", pattern):
        raise EcglmError(f"lexicon.yaml: alternatives within alternatives in '{pattern}'; write two terms")
    parts = [part.split("|") for part in re.findall(r"\[([^\]]*)\]|([^\[\]]+)", pattern) for part in part if part]
    for chosen in itertools.product(*parts):
        plain = " ".join(" ".join(chosen).split())
        plurals = plain.count("(s)")
        for ends in itertools.product(("", "s"), repeat=plurals):
            yield tuple(_filled(plain, ends).split())


def _filled(text: str, ends: tuple[str, ...]) -> str:
    for end in ends:
        text = text.replace("(s)", end, 1)
    return text


@cache
def _table(part: str) -> _Node:
    """The phrases of a part of the lexicon and all cues, as a tree of words."""
    lexicon, root = _lexicon(), _Node()
    named = {name: entry["terms"] if isinstance(entry, dict) else entry for name, entry in lexicon[part].items()}
    for name, patterns in [*named.items(), *((f"={cue}", patterns) for cue, patterns in lexicon["cues"].items())]:
        for pattern in patterns:
            for phrase in expand(pattern, lexicon["macros"]):
                node = root
                for word in phrase:
                    node = node.after.setdefault(word, _Node())
                node.names = tuple(dict.fromkeys((*node.names, name)))
    return root


def findings(text: str) -> dict[str, str]:
    """Statement → ``present``, ``uncertain`` or ``absent``, for every statement of the lexicon a report mentions."""
    found: dict[str, str] = {}
    for sentence in sentences(text):
        for statement, status in _in_sentence(sentence):
            if statement not in found or _STRENGTH[status] > _STRENGTH[found[statement]]:
                found[statement] = status
    return found


def stated(text: str) -> frozenset[str]:
    """The statements a report makes, for certain or with doubt; those it denies are left out."""
    return frozenset(name for name, status in findings(text).items() if status != ABSENT)


def sentences(text: str) -> list[str]:
    """The sentences of a report in lower case; a point between digits ends none."""
    return [part.strip() for part in _SENTENCE_END.split(text.lower()) if part.strip()]


@lru_cache(maxsize=1 << 16)
def _in_sentence(sentence: str) -> tuple[tuple[str, str], ...]:
    return tuple((m.name, m.status) for m in mentions(words_of(sentence), "statements"))


def mentions(words: list[str], part: str) -> list[Mention]:
    """What the words of a sentence mention of a part of the lexicon, in order. Time grows as the number of words."""
    items = list(_items(words, part))
    terms = [at for at, _, names in items if not _is_cue(names)]
    scope_end, scope_start = _scope_ends(words, items), _scope_starts(words, items)
    # how many more cues of a kind reach each word than the one before
    reached = {kind: [0] * (len(words) + 1) for kind in ("absent", "uncertain")}
    for at, end, names in items:
        kind, _, side = names[0][1:].partition("_")
        if not _is_cue(names) or kind not in reached:
            continue
        follows = bisect_left(terms, end) < bisect_left(terms, scope_end[end])
        if side == "either" or (kind == "uncertain" and side == "before" and not follows):
            side = "before" if follows else "behind"  # "LVH absent", "inferior infarct possible"
        first, stop = (end, scope_end[end]) if side == "before" else (scope_start[at], at)
        if first < stop:
            reached[kind][first] += 1
            reached[kind][stop] -= 1
    absent, uncertain = (list(itertools.accumulate(reached[kind])) for kind in ("absent", "uncertain"))
    return [
        Mention(name, ABSENT if absent[at] else UNCERTAIN if uncertain[at] else PRESENT, at, end)
        for at, end, names in items
        if not _is_cue(names)
        for name in names
        if not name.startswith("=")
    ]


def _is_cue(names: tuple[str, ...]) -> bool:
    return names[0].startswith("=")


def words_of(sentence: str) -> list[str]:
    """The words of a lower-case sentence, commas among them; hyphens and brackets are blanks."""
    for pattern, plain in _SPELLING:
        sentence = pattern.sub(plain, sentence)
    return _WORD.findall(sentence)


def _items(words: list[str], part: str) -> Iterator[_Item]:
    """(start, end, names) of the terms and cues of a sentence, from the left, the longest first."""
    root, at = _table(part), 0
    while at < len(words):
        node, end, longest = root, at, at
        names: tuple[str, ...] = ()
        while end < len(words) and words[end] in node.after:
            node, end = node.after[words[end]], end + 1
            if node.names:
                longest, names = end, node.names
        if names:
            yield at, longest, names
        at = max(longest, at + 1)


def _scope_ends(words: list[str], items: list[_Item]) -> list[int]:
    """Per word: where the scope of a cue that ends before it ends, to the right.

    At the next word that stops, or a comma before that; a comma does not end it where "or", "nor" follows before it.
    """
    stops = {at for at, _, names in items if names[0] == "=stop"}
    ends = [len(words)] * (len(words) + 1)
    comma, listed = len(words), False
    for at in range(len(words) - 1, -1, -1):
        if at in stops:
            comma, listed = at, False
        elif words[at] in ("or", "nor"):
            listed = True
        elif words[at] == "," and not listed:
            comma = at
        ends[at] = comma
    return ends


def _scope_starts(words: list[str], items: list[_Item]) -> list[int]:
    """Per word: where the scope of a cue that begins at it begins, to the left."""
    stops = {end for _, end, names in items if names[0] == "=stop"}
    within = {first for first, _, _ in items}  # a term may begin with a comma
    starts, start = [], 0
    for at in range(len(words) + 1):
        if at in stops or (at and words[at - 1] == "," and at - 1 not in within):
            start = at
        starts.append(start)
    return starts
