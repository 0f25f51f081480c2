"""Chat formats: turns → pieces of text with a role each, so that prompt and loss mask come from offsets, not search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.types import ECG_MARK, Turn


@dataclass(frozen=True)
class Piece:
    """A stretch of the sequence that is tokenised on its own.

    kind: ``control`` (the format's own tokens), ``text`` (never parsed for control tokens) or ``ecg`` (where one ECG
    goes; ``text`` is empty). labelled: the loss counts here. turn: index of the turn it belongs to, -1 before all.
    """

    kind: str
    text: str
    labelled: bool
    turn: int


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How one LLM family writes a conversation.

    header: text before a turn, with ``{role}``. end: closes a turn and is learned for assistant turns. after: follows
    ``end`` and is never learned. system: ``turn`` (a turn of its own) or ``merge`` (before the first user turn, for
    families without a system role). roles: our role names → the family's.
    """

    name: str
    bos: str = ""
    header: str
    end: str
    after: str = ""
    system: str = "turn"
    roles: dict[str, str] = field(default_factory=dict)

    def pieces(self, turns: Sequence[Turn], *, generate: bool = False) -> list[Piece]:
        """The conversation as pieces; ``generate`` adds the assistant's header at the end for the model to go on."""
        turns = _merge_system(turns) if self.system == "merge" else list(turns)
        out = [Piece("control", self.bos, False, -1)] if self.bos else []
        for index, turn in enumerate(turns):
            answer = turn.role == "assistant"
            out.append(Piece("control", self.open(turn.role), False, index))
            out.extend(_body(turn.text, answer, index))
            out.append(Piece("control", self.end, answer, index))
            if self.after:
                out.append(Piece("control", self.after, False, index))
        if generate:
            out.append(Piece("control", self.open("assistant"), False, len(turns)))
        return out

    def open(self, role: str) -> str:
        """The header of a turn of ``role``."""
        return self.header.format(role=self.roles.get(role, role))


def _merge_system(turns: Sequence[Turn]) -> list[Turn]:
    if not turns or turns[0].role != "system":
        return list(turns)
    if len(turns) < 2 or turns[1].role != "user":
        raise EcglmError("a system turn must be followed by a user turn")
    return [Turn("user", f"{turns[0].text}\n\n{turns[1].text}"), *turns[2:]]


def _body(text: str, answer: bool, index: int) -> Iterable[Piece]:
    """A turn's text, cut at its ECG marks; an assistant's text has none (mapping refuses them)."""
    if answer:
        yield Piece("text", text, True, index)
        return
    for number, part in enumerate(text.split(ECG_MARK)):
        if number:
            yield Piece("ecg", "", False, index)
        if part:
            yield Piece("text", part, False, index)


CHAT_FORMATS = [
    ChatFormat(name="chatml", header="<|im_start|>{role}\n", end="<|im_end|>", after="\n"),
    ChatFormat(
        name="llama3",
        bos="<|begin_of_text|>",
        header="<|start_header_id|>{role}<|end_header_id|>\n\n",
        end="<|eot_id|>",
    ),
    ChatFormat(
        name="gemma",
        bos="<bos>",
        header="<start_of_turn>{role}\n",
        end="<end_of_turn>",
        after="\n",
        system="merge",
        roles={"assistant": "model"},
    ),
]
for _format in CHAT_FORMATS:
    registry.register("chat_formats", _format.name)(_format)


def plain_format(tokenizer: Any) -> ChatFormat:
    """``User:`` / ``Assistant:`` lines closed by the model's own end token, for LLMs without a chat template."""
    if tokenizer.eos_token is None:
        raise ConfigError("the tokenizer has no end token (eos_token), which the plain chat format needs")
    names = {"user": "User", "assistant": "Assistant", "system": "System"}
    return ChatFormat(
        name="plain",
        bos=tokenizer.bos_token or "",
        header="{role}: ",
        end=tokenizer.eos_token,
        after="\n",
        roles=names,
    )


def chat_format(name: str, tokenizer: Any) -> ChatFormat:
    """The format called ``name``; ``auto`` looks at which control tokens the tokenizer knows.

    Raises ConfigError when the tokenizer would cut a control token of the format into pieces.
    """
    known = tokenizer.get_vocab()
    if name == "auto":
        marks = {"<|im_start|>": "chatml", "<|start_header_id|>": "llama3", "<start_of_turn>": "gemma"}
        name = next((family for mark, family in marks.items() if mark in known), "plain")
    found = plain_format(tokenizer) if name == "plain" else registry.get("chat_formats", name)
    if found.end not in known:
        raise ConfigError(
            f"chat format '{name}' closes turns with {found.end}, which the tokenizer does not have; use auto or plain"
        )
    return found


def encode_piece(tokenizer: Any, piece: Piece) -> list[int]:
    """Token ids of a control or text piece. Text can never become a control token, whatever a user typed."""
    if piece.kind == "ecg":
        raise ValueError("an ECG piece has no text")
    return tokenizer.encode(piece.text, add_special_tokens=False, split_special_tokens=piece.kind == "text")


def end_token_id(tokenizer: Any, chat: ChatFormat) -> int:
    """The id that closes an assistant's turn: where generation stops."""
    return int(tokenizer.get_vocab()[chat.end])
