"""The answer to one request, between the engine's thread that writes it and the caller's that reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ecglm.errors import EcglmError
from ecglm.models.stream import Row, Sampling, Text
from ecglm.types import EcgInput, Neighbour, Turn

Reason = Literal["stop", "length", "cancelled"]


class Stream:
    """Pieces of an answer's text, for iteration (which waits) or ``take`` (which does not).

    text: the answer so far; joined, the pieces are the whole. finish_reason: ``"stop"``, ``"length"`` (a limit cut it)
    or ``"cancelled"``; None while it goes on, and where it failed. num_prompt_tokens, num_tokens: counted by the
    model's tokenizer. truncated: what did not fit into the prompt, as ``Example.truncated`` names it. ``with`` cancels
    what is not complete at its end.
    """

    def __init__(
        self,
        stop: tuple[str, ...] = (),
        listen: Callable[[], None] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.text = ""
        self.finish_reason: Reason | None = None
        self.error: EcglmError | None = None
        self.num_prompt_tokens = self.num_tokens = 0
        self.truncated: tuple[str, ...] = ()
        self._stop, self._listen, self._wake = stop, listen, wake
        self._changed = threading.Condition()
        self._given = 0
        self._held = ""

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None or self.error is not None

    @property
    def has_news(self) -> bool:
        """Whether ``take`` would find something."""
        return len(self.text) > self._given

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        """The next piece, all that is there by now. Raises the EcglmError of this request."""
        return next(self.pieces())

    def pieces(self, every: float | None = None) -> Iterator[str]:
        """The pieces, and an empty one when none came for so many seconds; the caller can look at other things then.
        Raises the EcglmError of this request.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.done or self.has_news, every)
            found = self.take()
            if found or not self.done:
                yield found
            elif self.error is not None:
                raise self.error
            elif not self.has_news:
                return

    def take(self) -> str:
        """What is new, perhaps nothing, without waiting."""
        with self._changed:
            found, self._given = self.text[self._given :], len(self.text)
            return found

    def result(self, timeout: float | None = None) -> str:
        """Wait for the whole answer. Raises the EcglmError of this request, and one after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise EcglmError(f"no complete answer within {timeout:g} s")
        if self.error is not None:
            raise self.error
        return self.text

    def cancel(self) -> None:
        """Nobody wants the rest: its place in the batch is free from the next token on."""
        with self._changed:
            if self.done:
                return
            self.finish_reason = "cancelled"
            self._changed.notify_all()
        self._told()
        if self._wake is not None:
            self._wake()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    # --- the engine's side

    def give(self, piece: str) -> bool:
        """Add a piece; True when a stop text has ended the answer. What may be the beginning of one is held back."""
        if not piece or self.done:
            return False
        text = self._held + piece
        ends = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if ends:
            self._held = ""
            self._add(text[: min(ends)].rstrip())
            return True
        kept = max((n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        if self._stop:  # blanks before a stop text are no part of the answer
            kept = len(text) - len(text[: len(text) - kept].rstrip())
        self._held = text[len(text) - kept :]
        self._add(text[: len(text) - kept])
        return False

    def end(self, reason: Reason) -> None:
        """The answer is complete."""
        held, self._held = self._held, ""
        with self._changed:
            if self.done:
                return
            self.text += held
            self.finish_reason = reason
            self._changed.notify_all()
        self._told()

    def fail(self, error: EcglmError) -> None:
        """The answer will never be complete."""
        with self._changed:
            if self.done:
                return
            self.error = error
            self._changed.notify_all()
        self._told()

    def _add(self, piece: str) -> None:
        if not piece:
            return
        with self._changed:
            if self.done:
                return
            self.text += piece
            self._changed.notify_all()
        self._told()

    def _told(self) -> None:
        if self._listen is not None:
            self._listen()


@dataclass(eq=False)
class Ticket:
    """A request inside the engine. since: when it came, by the monotonic clock."""

    turns: list[Turn]
    ecgs: list[EcgInput]
    max_new_tokens: int
    sampling: Sampling | None
    retrieved: tuple[Neighbour, ...]
    since: float
    stream: Stream = field(default_factory=Stream)
    row: Row | None = None
    text: Text | None = None

    @property
    def size(self) -> int:
        """Tokens of its prompt and of the longest answer it may get."""
        return 0 if self.row is None else len(self.row.example.input_ids) + self.row.room

    def tell(self) -> bool:
        """Hand on what the row has; True when that was the end of the answer."""
        row, stream = self.row, self.stream
        if row is None or self.text is None or stream.done:
            return False
        if row.error is not None:
            stream.fail(row.error)
            return False
        stream.num_tokens = len(row.tokens)
        if stream.give(self.text.more(row.tokens, done=not row.going)):
            row.left = row.going
            stream.end("stop")
        elif not row.going:
            stream.end("length" if row.cut else "stop")
        return stream.done and stream.finish_reason != "cancelled"
