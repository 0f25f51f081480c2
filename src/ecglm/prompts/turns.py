"""Turns → pieces of text with a role each: what stands before, between and after them, and where the loss counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ecglm.errors import RejectedRecord
from ecglm.types import ECG_MARK, Turn


@dataclass(frozen=True)
class Piece:
    """A stretch of the sequence.

    kind: ``control`` (the format's own text and control tokens), ``text`` (what somebody wrote: never a control token),
    ``ecg`` (where one ECG goes; ``text`` is empty) or ``words`` (what an ECG says in words, right after it).
    labelled: the loss counts here. turn: index of the turn it belongs to, -1 before all.
    """

    kind: str
    text: str
    labelled: bool
    turn: int


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How one LLM family writes a talk, told by what stands between the texts. A talk is an optional system text, then
    questions and answers by turns::

        opening USER header lead ANSWER close end between USER last_header lead ANSWER close end tail

    With a system text, ``system[0] SYSTEM system[1]`` stands in the place of ``opening``; where ``system`` is None the
    text goes into the first user turn, followed by an empty line. ``opening`` holds the text that a family shows when
    nobody gives one. A prompt to answer ends with ``last_header``, which is ``header`` in most families. Learned are
    lead (the blank that belongs to the answer's first word), answer, close and end; ``end`` is one token. strip: roles
    whose texts lose the blanks around them. published: whether the tokenizer's own template must agree. apart: whether
    the texts after an ECG and after the token that begins all are spelled as texts of their own.
    """

    name: str
    opening: str
    system: tuple[str, str] | None
    header: str
    last_header: str
    lead: str = ""
    close: str = ""
    end: str
    between: str
    tail: str = ""
    strip: frozenset[str] = frozenset()
    published: bool = True
    apart: bool = False

    def turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns as this family shows them: a system text it has no place for merged into the first user turn.

        Raises RejectedRecord ``turn_order`` unless they are an optional system turn, then user and assistant by turns.
        """
        first = 1 if turns and turns[0].role == "system" else 0
        expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns) - first)]
        if [t.role for t in turns[first:]] != expected or len(turns) == first:
            found = " ".join(t.role for t in turns)
            raise RejectedRecord("turn_order", f"user and assistant must take turns, user first; found {found}")
        shown = [replace(t, text=t.text.strip()) if t.role in self.strip else t for t in turns]
        if first and self.system is None:
            shown = [Turn("user", f"{shown[0].text}\n\n{shown[1].text}"), *shown[2:]]
        return shown

    def pieces(self, turns: Sequence[Turn], *, generate: bool = False) -> list[Piece]:
        """The conversation as pieces; ``generate`` ends them with the header after which the model answers."""
        shown = self.turns(turns)
        return [p for p in self._pieces(shown, generate) if p.text or p.kind == "ecg"]

    def _pieces(self, turns: Sequence[Turn], generate: bool) -> Iterator[Piece]:
        last = max((i for i, t in enumerate(turns) if t.role == "assistant"), default=-1)
        before = self.opening
        for index, turn in enumerate(turns):
            if turn.role == "system":
                assert self.system is not None
                yield Piece("control", self.system[0], False, index)
                yield Piece("text", turn.text, False, index)
                before = self.system[1]
            elif turn.role == "user":
                yield Piece("control", before, False, index)
                yield from _question(turn.text, index)
            else:
                header = self.last_header if index == last and not generate else self.header
                yield Piece("control", header, False, index)
                yield Piece("text", self.lead + turn.text, True, index)
                yield Piece("control", self.close, True, index)
                yield Piece("control", self.end, True, index)
                before = self.between
        if turns[-1].role == "assistant":
            yield Piece("control", self.tail, False, len(turns) - 1)
        elif generate:
            yield Piece("control", self.last_header, False, len(turns))


def _question(text: str, index: int) -> Iterator[Piece]:
    """A user's text, cut at its ECG marks; an assistant's text has none (mapping refuses them)."""
    for number, part in enumerate(text.split(ECG_MARK)):
        if number:
            yield Piece("ecg", "", False, index)
        yield Piece("text", part, False, index)


def by_role(
    name: str,
    header: str,
    end: str,
    after: str = "",
    *,
    start: str = "",
    roles: Sequence[str] = ("system", "user", "assistant"),
    system: bool = True,
    default: str = "",
    before_system: str = "",
    empty_system: bool = False,
    last: str = "",
    strip: Sequence[str] = (),
) -> ChatFormat:
    """The format of a family whose turns all look alike: ``header`` with ``{role}``, text, ``end``, ``after``.

    start: before everything. roles: the family's names of ours. system: whether it has system turns. default: the
    system text it shows when nobody gives one. before_system: what it writes ahead of any system text; empty_system:
    even where there is none. last: written into the header of the last answer.
    """
    opens = [header.format(role=role) for role in roles]
    closed = end + after
    ahead = f"{start}{opens[0]}{before_system}"
    shown = f"{ahead}{default}{closed}" if default or empty_system else start
    return ChatFormat(
        name=name,
        opening=shown + opens[1],
        system=(ahead, closed + opens[1]) if system else None,
        header=closed + opens[2],
        last_header=closed + opens[2] + last,
        end=end,
        between=after + opens[1],
        tail=after,
        strip=frozenset(strip),
    )
