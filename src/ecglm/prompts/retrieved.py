"""Retrieved text: what a prompt says of the ECGs that a search found like the one it shows (docs/retrieval.md)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ecglm.errors import ConfigError, nearest
from ecglm.types import ECG_MARK, LEADS, Neighbour, Turn

#: What a mark inside a report becomes: words, and no place for an ECG.
_PLAIN_MARK = ECG_MARK.replace("<", "(").replace(">", ")")
_MONTH = r"(?:jan|feb|mar|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez|märz)[a-z]*\.?"
_DATE = re.compile(
    r"\b(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2(?:\d{4}|\d{2})"
    rf"|\d{{1,2}}[-. ]{{1,2}}{_MONTH}[-, ]{{1,2}}\d{{2,4}}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})\b",
    re.IGNORECASE,
)
#: Shorter ones than this are too common among numbers to be looked for.
_SHORTEST_ID = 4


@dataclass(frozen=True, kw_only=True)
class RagOptions:
    """How retrieved ECGs are told. k: how many. location: at the end of the ``system`` prompt, or before the text of
    the first ``user`` turn. content: their ``report``, their ``features``, or ``both``. max_tokens: of all retrieved
    text together, by the model's tokenizer. features: which are told, each of all leads (``heart_rate``) or of one
    (``II_heart_rate``); none named: all.
    """

    k: int = 1
    location: Literal["system", "user"] = "system"
    content: Literal["report", "features", "both"] = "report"
    max_tokens: int = 256
    features: tuple[str, ...] = ("heart_rate", "rr_std", "qrs_width", "t_amplitude", "st_deviation")

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("max_tokens", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"rag.{name} must be {least} or more, found {getattr(self, name)}")
        for name, known in (("location", ("system", "user")), ("content", ("report", "features", "both"))):
            if getattr(self, name) not in known:
                raise ValueError(f"rag.{name} must be one of {', '.join(known)}, found {getattr(self, name)!r}")
        if twice := [f for f in self.features if self.features.count(f) > 1]:
            raise ValueError(f"rag.features names {twice[0]} twice; name it once")

    def said(self) -> str:
        """The condition for people: ``"k=1, report, system"``."""
        return f"k={self.k}, {self.content}, {self.location}"

    def chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the feature names that are told, in their order."""
        if self.content == "report":
            return ()
        return tuple(n for n in names if not self.features or {n, _split(n)[1]} & set(self.features))

    def check(self, names: Sequence[str], has_reports: bool) -> None:
        """Whether an index of these features can tell what is asked for; ConfigError with the mend."""
        if self.content != "features" and not has_reports:
            raise ConfigError(f"rag.content is {self.content}, but the index has no reports; choose features")
        if self.content == "report":
            return
        if not names:
            raise ConfigError(f"rag.content is {self.content}, but the index has no features; choose report")
        measures = dict.fromkeys(_split(n)[1] for n in names)
        for name in self.features:
            if name not in measures and name not in names:
                near = nearest(name, [*measures, *names])
                raise ConfigError(f"rag.features: the index has no '{name}'{near}; it has {', '.join(measures)}")


@dataclass(frozen=True)
class Retrieved:
    """Retrieved text that fits its budget. blocks: one per hit, nearest first. cut: what the budget did:
    ``dropped_neighbour`` for every hit that went, ``cut_neighbour``.
    """

    blocks: tuple[str, ...] = ()
    location: str = "system"
    cut: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it, empty without a block."""
        return "\n\n".join([_opening(len(self.blocks)), *self.blocks]) if self.blocks else ""

    def into(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with the text in its place; a system turn is made where there is none."""
        found = list(turns)
        if not self.blocks:
            return found
        if self.location == "user":
            at = next((i for i, t in enumerate(found) if t.role == "user"), None)
            if at is not None:
                found[at] = replace(found[at], text=f"{self.text}\n\n{found[at].text}")
        elif found and found[0].role == "system":
            found[0] = replace(found[0], text=f"{found[0].text}\n\n{self.text}".strip())
        else:
            found.insert(0, Turn("system", self.text))
        return found

    def within(self, budget: int, count: Callable[[str], int]) -> Retrieved:
        """As much as ``budget`` tokens hold: whole hits go from the far end, then the last is cut at a word.

        count: text → number of its tokens.
        """
        found = self
        while len(found.blocks) > 1 and count(found.text) > budget:
            found = replace(found, blocks=found.blocks[:-1], cut=(*found.cut, "dropped_neighbour"))
        if not found.blocks or count(found.text) <= budget:
            return found
        block = _shorter(found.blocks[0], lambda b: count(replace(found, blocks=(b,)).text) <= budget)
        was_cut = "cut_neighbour" in found.cut
        if block is None:
            return replace(found, blocks=(), cut=(*found.cut, "dropped_neighbour"))
        return replace(found, blocks=(block,), cut=found.cut if was_cut else (*found.cut, "cut_neighbour"))


def compose(neighbours: Sequence[Neighbour], options: RagOptions) -> Retrieved:
    """What is told of the hits, nearest first, before any budget. Of each: a numbered heading, its report once, its
    features by name and lead. At most ``options.k`` per ECG are found, and here all that are given are told but those
    with nothing to tell. No id of a record or patient and no date is in it.
    """
    bodies = [body for n in neighbours if (body := _body(n, options))]
    return Retrieved(tuple(f"Similar ECG {i}\n{body}" for i, body in enumerate(bodies, 1)), options.location)


def rag_text(neighbours: Sequence[Neighbour], options: RagOptions) -> str:
    """The retrieved text as a prompt shows it where its budget is large enough; empty without a hit."""
    return compose(neighbours, options).text


def _opening(number: int) -> str:
    if number == 1:
        return "For comparison, one ECG of another patient that resembles the ECG in question:"
    return f"For comparison, {number} ECGs of other patients that resemble the ECG in question, most alike first:"


def _body(neighbour: Neighbour, options: RagOptions) -> str:
    lines = []
    if options.content != "features" and (report := clean(neighbour.report, neighbour)):
        lines.append(f"Report: {report}")
    if options.content != "report":
        lines += _feature_lines(neighbour, options)
    return "\n".join(lines)


def clean(text: str, neighbour: Neighbour | None = None) -> str:
    """A report as one line of plain words: no control characters, ECG marks or line breaks, nor dates and ids."""
    visible = "".join(c if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "" for c in text)
    line = _DATE.sub("[date]", " ".join(visible.split()))
    if neighbour is not None:
        ids = {
            i for name in (neighbour.segment_id, neighbour.record_id, neighbour.patient_id) for i in _spellings(name)
        }
        for name in sorted(ids, key=lambda i: (-len(i), i)):
            line = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "[id]", line, flags=re.IGNORECASE)
    return line.replace(ECG_MARK, _PLAIN_MARK)


def _spellings(name: str) -> Iterator[str]:
    """An id whole, and without its source."""
    for found in (name, name.rpartition("/")[2]):
        if len(found) >= _SHORTEST_ID:
            yield found


def _split(name: str) -> tuple[str, str]:
    """``("II", "heart_rate")`` of ``II_heart_rate``; an empty lead where a feature is not of one."""
    lead, _, measure = name.partition("_")
    return (lead, measure) if lead in LEADS and measure else ("", name)


def _feature_lines(neighbour: Neighbour, options: RagOptions) -> list[str]:
    """``heart_rate: I 72, II 71, …``: a line per measure, each lead by its name."""
    values: dict[str, list[str]] = {}
    for name in options.chosen(tuple(neighbour.features)):
        lead, measure = _split(name)
        values.setdefault(measure, []).append(f"{lead} {neighbour.features[name]:.3g}".strip())
    return [f"{measure}: {', '.join(found)}" for measure, found in values.items()]


def _shorter(block: str, fits: Callable[[str], bool]) -> str | None:
    """The longest beginning of a block that fits, cut behind a word of its body; None where not one word does."""
    words = [m.end() for m in re.finditer(r"\S+", block)][4:]  # behind "Similar ECG 1 Report:"
    low, high = 0, len(words) - 1  # with the last word it is whole, and does not fit
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(f"{block[: words[middle]]} …") else (low, middle)
    for end in reversed(words[:low]):  # a longer text may have fewer tokens: look again
        if fits(shorter := f"{block[:end]} …"):
            return shorter
    return None
