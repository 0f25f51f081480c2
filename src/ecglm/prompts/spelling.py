"""Pieces → token ids, equal to those of the whole text, and no text anybody typed becomes a control token.

A tokenizer cuts a text at its control tokens and spells what lies between them on its own. So do we: pieces between two
control tokens are spelled as one text, except where the loss begins or ends, since a prompt must end there too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ecglm.errors import ConfigError, RejectedRecord
from ecglm.prompts.turns import Piece

#: Added tokens of this look steer a model even where its tokenizer does not call them special (``<think>``).
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_/]+\]")
#: Texts that stand before another to spell it as in the middle of a text; the first that does not merge is taken.
_ANCHORS = ("\n", "x", ".", ",", "0")


@dataclass(frozen=True, eq=False)
class Spelling:
    """What one tokenizer does with text. marks: its control tokens. pattern: finds them. anchor: what to spell a text
    after so that it gets no blank of its own (sentencepiece puts one before every text), empty where none is put.
    after_mark: whether it is put after control tokens as well.
    """

    tokenizer: Any
    marks: dict[str, int]
    pattern: re.Pattern[str]
    anchor: str
    after_mark: bool
    control: frozenset[int]
    _eats: dict[int, tuple[bool, bool]] = field(repr=False)  # id → blanks before, blanks after it are dropped

    def eats(self, mark: int) -> tuple[bool, bool]:
        """Whether a control token swallows the blanks before it, and those after it."""
        return self._eats[mark]

    def raw(self, text: str) -> list[int]:
        """Ids of a text, control tokens spelled out."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def ids(self, text: str, *, inside: bool) -> list[int]:
        """Ids of a text that begins the sequence, or ``inside`` another text.

        Raises RejectedRecord ``control_token`` where it cannot be spelled without one.
        """
        found = self._spell(text, inside)
        if not self.control.isdisjoint(found):
            found, begin = [], 0
            marks = [m for m, i in self.marks.items() if m in text]
            for cut in sorted({m.start() + 1 for mark in marks for m in re.finditer(re.escape(mark), text)}):
                found += self._spell(text[begin:cut], inside or begin > 0)
                begin = cut
            found += self._spell(text[begin:], inside or begin > 0)
            if not self.control.isdisjoint(found):
                raise RejectedRecord("control_token", f"no spelling without control tokens for {text[:60]!r}")
        return found

    def _spell(self, text: str, inside: bool) -> list[int]:
        if not inside or not self.anchor:
            return self.raw(text)
        for anchor in (self.anchor, *_ANCHORS):
            before = self.raw(anchor)
            found = self.raw(anchor + text)
            if found[: len(before)] == before:
                return found[len(before) :]
        raise ConfigError(f"this tokenizer has no way to spell {text[:40]!r} in the middle of a text")


@lru_cache(maxsize=64)
def _spelling(tokenizer: Any, size: int) -> Spelling:
    """Looks at the tokenizer once per size of its vocabulary (ECG tokens are added later)."""
    added = tokenizer.added_tokens_decoder
    known = {i: t for i, t in added.items() if t.special or _MARK.fullmatch(t.content)}
    marks = {t.content: int(i) for i, t in known.items()} | {
        t: int(i) for t, i in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    }
    longest = sorted(marks, key=lambda m: (-len(m), m))
    pattern = re.compile("|".join(map(re.escape, longest)) if longest else r"(?!)")
    eats = {i: (bool(t.lstrip), bool(t.rstrip)) for i, t in known.items()}
    eats = {i: eats.get(i, (False, False)) for i in marks.values()}
    bare = Spelling(tokenizer, marks, pattern, "", False, frozenset(marks.values()), eats)
    alone, inside, anchor = bare.raw("x"), None, ""
    for anchor in _ANCHORS:
        before, found = bare.raw(anchor), bare.raw(anchor + "x")
        if found[: len(before)] == before and len(found) > len(before):
            inside = found[len(before) :]
            break
    if inside is None or inside == alone:
        return bare
    plain = [m for m, i in marks.items() if not any(eats[i])]
    after = not plain or tokenizer.encode(plain[0] + "x", add_special_tokens=False)[-len(alone) :] == alone
    return Spelling(tokenizer, marks, pattern, anchor, after, bare.control, eats)


def spelling(tokenizer: Any) -> Spelling:
    """What ``tokenizer`` does with text, as it is now: ask again once tokens were added."""
    return _spelling(tokenizer, len(tokenizer))


@lru_cache(maxsize=65536)
def _cached(spell: Spelling, text: str, inside: bool) -> tuple[int, ...]:
    """The same questions and headers come back thousands of times; spell each once."""
    return tuple(spell.ids(text, inside=inside))


@lru_cache(maxsize=4096)
def _cut(spell: Spelling, text: str) -> tuple[tuple[str, int | None], ...]:
    """A format's text at its control tokens: ``(text, None)`` and ``("", control token)``."""
    parts: list[tuple[str, int | None]] = []
    begin = 0
    for found in spell.pattern.finditer(text):
        parts += [(text[begin : found.start()], None), ("", spell.marks[found.group()])]
        begin = found.end()
    return tuple(part for part in [*parts, (text[begin:], None)] if part[0] or part[1] is not None)


@dataclass
class _Bit:
    """Part of a piece: a control token (``mark``), or text; an ECG has neither."""

    piece: int
    text: str = ""
    mark: int | None = None
    labelled: bool = False


def encode_pieces(spell: Spelling, pieces: Sequence[Piece], *, apart: bool = False) -> list[list[int]]:
    """Token ids of each piece; one after another they are the sequence. An ECG's are empty, for the caller to fill in.

    A token that reaches over the border of two pieces (never where the loss begins or ends) counts to the first.
    apart: the text after an ECG, and after the token that begins the sequence, is spelled as one on its own.
    """
    bits = _bits(spell, pieces)
    out: list[list[int]] = [[] for _ in pieces]
    at = 0
    after = "start"  # what comes before: nothing, a control token or an ECG, or text
    while at < len(bits):
        bit = bits[at]
        if not bit.text:
            if bit.mark is not None:
                out[bit.piece].append(bit.mark)
            after, at = "start" if apart and (at == 0 or bit.mark is None) else "mark", at + 1
            continue
        end = at
        while end < len(bits) and bits[end].text and bits[end].labelled == bit.labelled:
            end += 1
        inside = after == "text" or (after == "mark" and not spell.after_mark)
        whole, text, done = "".join(b.text for b in bits[at:end]), "", 0
        ids = _cached(spell, whole, inside)
        for one in bits[at:end]:
            text += one.text
            upto = len(ids) if text == whole else len(_cached(spell, text, inside))
            upto = max(done, min(upto, len(ids)))
            out[one.piece].extend(ids[done:upto])
            done = upto
        after, at = "text", end
    return out


def _bits(spell: Spelling, pieces: Sequence[Piece]) -> list[_Bit]:
    """Pieces cut at their control tokens, without the blanks that those swallow."""
    bits: list[_Bit] = []
    for number, piece in enumerate(pieces):
        if piece.kind == "ecg":
            bits.append(_Bit(number))
        elif piece.kind != "control":
            bits.append(_Bit(number, piece.text, labelled=piece.labelled))
        else:
            bits += [_Bit(number, text, mark, piece.labelled) for text, mark in _cut(spell, piece.text)]
    for way, step in ((1, 1), (0, -1)):  # blanks after, then blanks before
        eating = False
        for bit in bits[::step]:
            if bit.mark is not None:
                eating = spell.eats(bit.mark)[way]
            elif not bit.text:
                eating = False
            elif eating:
                bit.text = bit.text.lstrip() if way else bit.text.rstrip()
                eating = not bit.text
    return [b for b in bits if b.text or b.mark is not None or pieces[b.piece].kind == "ecg"]
