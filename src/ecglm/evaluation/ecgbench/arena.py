"""Arena's talks of several rounds: each round shows the model its own earlier answers, never the reference ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.base import Answerer, Reply, Request
from ecglm.prompts.turns import ChatFormat, Piece
from ecglm.types import ECG_MARK, Turn

#: How the second round is written: as the chat format says, or with the empty answer that PULSE's published code
#: leaves in it (``pulse_bug``; the published arena numbers were, as far as that code shows, made so).
TEMPLATES = ("correct", "pulse_bug")


@dataclass(frozen=True)
class Talk:
    """A talk to be held. request: its first question, with what is shown; later: the questions that follow."""

    request: Request
    later: tuple[Turn, ...] = ()


def hold(answerer: Answerer, talks: Sequence[Talk]) -> list[list[Reply]]:
    """Replies of each talk, one per round, rounds of all talks side by side; a failed round ends its talk."""
    replies: list[list[Reply]] = [[] for _ in talks]
    open_talks = list(range(len(talks)))
    turns = [list(talk.request.turns) for talk in talks]
    round_number = 0
    while open_talks:
        asked = [replace(talks[n].request, turns=tuple(turns[n])) for n in open_talks]
        for number, reply in zip(open_talks, answerer.answer(asked), strict=True):
            replies[number].append(reply)
            if reply.error is None and round_number < len(talks[number].later):
                turns[number] += [Turn("assistant", reply.text or ""), talks[number].later[round_number]]
        open_talks = [n for n in open_talks if replies[n][-1].error is None and len(talks[n].later) > round_number]
        round_number += 1
    return replies


@dataclass(frozen=True, kw_only=True)
class PulseBug(ChatFormat):
    """LLaVA's format as PULSE's arena code wrote it: the empty answer that stood for "your turn" in one round is left
    in the talk of the next, which also moves the end token behind the question.

    ``… USER: <image>\\nQ1 ASSISTANT:ASSISTANT: A1 USER: Q2</s>ASSISTANT:``
    """

    @classmethod
    def of(cls, chat: ChatFormat) -> PulseBug:
        """EcglmError unless the model writes ``llava_v1``, whose bug it is."""
        if chat.name != "llava_v1":
            raise EcglmError(
                f"--arena-template pulse_bug is a bug of the chat format llava_v1, this model writes {chat.name}; "
                "use correct"
            )
        return cls(**{f.name: getattr(chat, f.name) for f in fields(chat)})

    def _pieces(self, turns: Sequence[Turn], generate: bool) -> Iterator[Piece]:
        said = 0  # messages so far, empty ones too: what closes a message depends on its number
        for index, turn in enumerate(turns):
            if turn.role == "system":
                assert self.system is not None
                yield Piece("control", self.system[0], False, index)
                yield Piece("text", turn.text, False, index)
                continue
            if said == 0:
                yield Piece("control", self.system[1] if index and self.system else self.opening, False, index)
            elif turn.role == "user":
                yield Piece("control", "USER: ", False, index)
            else:
                yield Piece("control", "ASSISTANT: ", False, index)
            for number, text in enumerate(turn.text.split(ECG_MARK) if turn.role == "user" else [turn.text]):
                if number:
                    yield Piece("ecg", "", False, index)
                yield Piece("text", text, False, index)
            yield Piece("control", self.end if said % 2 else " ", False, index)
            said += 1
            if turn.role == "user":
                yield Piece("control", "ASSISTANT:", False, index)
                said += 1
