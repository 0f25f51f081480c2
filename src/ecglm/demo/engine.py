"""One thread that owns a model and answers many talks at once, each in pieces as it comes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from ecglm.demo.streams import Stream, Ticket
from ecglm.errors import EcglmError
from ecglm.models.assistant import Assistant, mark_ecgs
from ecglm.models.stream import Group, Sampling, Text, new_row
from ecglm.types import EcgInput, Neighbour, Turn

#: What one request can do to a batch, beside its own errors: shapes that do not fit, memory that does not suffice.
_TROUBLE = (EcglmError, RuntimeError, ValueError, IndexError, TypeError)
#: Seconds that the first request of an idle engine waits for others to be read with.
GATHER = 0.003


class Busy(EcglmError):
    """So many requests wait already that another is refused; ask again later."""


class Closed(EcglmError):
    """The engine takes no more requests, or ended before this one was answered."""


class TooLate(EcglmError):
    """The answer was not complete in time."""


class Engine:
    """Answers talks with one model: those that arrive together are read and decoded together, later ones join.

    A thread of its own is the only one that touches the model and its tokenizer; ``submit`` may be called from any. The
    text of an answer is the one ``Assistant.answer`` gives for the talk alone under the id ``"ask"``.

    max_batch: answers that are written at a time. max_queue: requests that wait besides; the next is refused.
    max_tokens: of prompts and answers at a time, which bounds keys and values; a longer request is answered by itself.
    timeout: seconds from a request to the end of its answer.
    """

    def __init__(
        self,
        assistant: Assistant,
        *,
        max_batch: int = 16,
        max_queue: int = 256,
        max_tokens: int = 1 << 16,
        timeout: float = 600.0,
    ) -> None:
        if min(max_batch, max_queue, max_tokens) < 1 or not timeout > 0:
            raise EcglmError("engine: max_batch, max_queue and max_tokens must be 1 or more, timeout above 0")
        self.assistant, self.max_batch, self.max_queue = assistant, max_batch, max_queue
        self.max_tokens, self.timeout = max_tokens, timeout
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._groups: list[tuple[Group, list[Ticket]]] = []
        self._closed: str | None = None
        self._draining = False
        self.num_answered = 0
        assistant.bundle.elm.eval()
        self._thread = threading.Thread(target=self._run, name="ecglm-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        turns: Sequence[Turn],
        ecgs: Sequence[EcgInput],
        *,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        retrieved: Sequence[Neighbour] = (),
        stop: Sequence[str] = (),
        listen: Callable[[], None] | None = None,
    ) -> Stream:
        """Ask; the answer comes through the ``Stream``, and so do the errors of this request (a talk that is too long,
        another number of marks than ECGs).

        turns end with the user's; marks as in ``Assistant.ask``. stop: texts before which the answer ends. listen: is
        called, from the engine's thread, whenever the stream has something new. Raises Busy when too many wait,
        Closed by then, EcglmError for options that cannot be.
        """
        if max_new_tokens < 1:
            raise EcglmError(f"max_new_tokens must be 1 or more, found {max_new_tokens}")
        if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
            raise EcglmError("stop must be a list of texts, none of them empty")
        ticket = Ticket(list(turns), list(ecgs), max_new_tokens, sampling, tuple(retrieved), time.monotonic())
        stream = ticket.stream = Stream(tuple(stop), listen, self._wake)
        with self._changed:
            if self._closed is not None or self._draining:
                raise Closed(self._closed or "the engine is closing; ask another one")
            self._waiting = deque(t for t in self._waiting if not t.stream.done)  # those cancelled wait no more
            running = sum(not t.stream.done for _, tickets in self._groups for t in tickets)
            free = max(self.max_batch - running, 0)  # who takes one of these at the next token waits for nobody
            if len(self._waiting) >= self.max_queue + free:
                raise Busy(f"{len(self._waiting)} requests wait already; try again in a moment")
            self._waiting.append(ticket)
            self._changed.notify_all()
        return stream

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._closed is None and not self._draining

    @property
    def load(self) -> dict[str, int]:
        """``waiting`` requests, ``running`` answers, and ``tokens`` of keys and values that those may come to."""
        with self._changed:
            running = [t for _, tickets in self._groups for t in tickets if not t.stream.done]
            waiting = sum(not t.stream.done for t in self._waiting)
            return {"waiting": waiting, "running": len(running), "tokens": sum(t.size for t in running)}

    def close(self, *, drain: float = 0.0) -> None:
        """Take no more requests, and end the thread: at once, or when all are answered, at most ``drain`` seconds
        later. Whoever still waits then gets an error. Closing twice does nothing.
        """
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not (self._waiting or self._groups) or self._closed is not None, drain)
            self._closed = self._closed or "the engine was closed before the answer was complete; ask again"
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- everything below runs in the engine's own thread

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        reason = "the engine's thread failed, see the trace it printed; start the program again"
        try:
            with torch.inference_mode():
                while self._wait():
                    self._round()
            reason = self._closed or reason
        finally:  # whatever happened, nobody waits for ever
            with self._changed:
                self._closed = reason
                left = [*self._waiting, *(t for _, tickets in self._groups for t in tickets)]
                self._waiting.clear()
                self._groups.clear()
                self._changed.notify_all()
            for ticket in left:
                ticket.stream.fail(Closed(reason))

    def _round(self) -> None:
        """A token for every answer. A method of its own: while the engine waits, no name holds keys and values."""
        self._leave()
        self._admit()
        for group, tickets in list(self._groups):
            self._advance(group, tickets)

    def _wait(self) -> bool:
        """Wait for work; False when the engine is closed."""
        with self._changed:
            if not self._groups:
                idle = not self._waiting
                self._changed.notify_all()  # whoever drains
                self._changed.wait_for(lambda: self._waiting or self._closed is not None)
                if idle and self._closed is None and len(self._waiting) < self.max_batch:
                    self._changed.wait_for(lambda: len(self._waiting) >= self.max_batch, GATHER)
            return self._closed is None

    def _tickets(self) -> Iterator[Ticket]:
        yield from self._waiting
        for _, tickets in self._groups:
            yield from tickets

    def _leave(self) -> None:
        """Drop what was cancelled or took too long."""
        now = time.monotonic()
        with self._changed:
            for ticket in self._tickets():
                if not ticket.stream.done and now - ticket.since > self.timeout:
                    ticket.stream.fail(TooLate(f"no complete answer within {self.timeout:g} s; ask for a shorter one"))
            self._waiting = deque(t for t in self._waiting if not t.stream.done)
            self._tidy()

    def _tidy(self) -> None:
        """Let the rows go that nobody waits for, and the groups of which none is left."""
        for ticket in self._tickets():
            if ticket.stream.done and ticket.row is not None:
                ticket.row.left = True
        self._groups = [(g, [t for t in tickets if not t.stream.done]) for g, tickets in self._groups if g.going]

    def _admit(self) -> None:
        """Read waiting prompts, as many as there is room for, and let them be decoded with the others."""
        fresh: list[Ticket] = []
        with self._changed:
            running = [t for _, tickets in self._groups for t in tickets if t.row is not None and t.row.going]
            waiting = list(self._waiting)
        free, budget = self.max_batch - len(running), self.max_tokens - sum(t.size for t in running)
        taken = 0
        for ticket in waiting[:free]:
            if not self._build(ticket):
                taken += 1
                continue
            if ticket.size > budget and (running or fresh):
                break
            fresh.append(ticket)
            taken, budget = taken + 1, budget - ticket.size
        if not taken:
            return
        groups = self._read(fresh)
        with self._changed:
            gone = {id(t) for t in waiting[:taken]}
            self._waiting = deque(t for t in self._waiting if id(t) not in gone)
            self._groups += groups
            self._tidy()
        self._join()

    def _build(self, ticket: Ticket) -> bool:
        """Make a request's prompt, once; False where it cannot be shown to the model, which the request is told."""
        if ticket.row is None and not ticket.stream.done:
            try:
                turns = mark_ecgs(ticket.turns, len(ticket.ecgs))
                build = self.assistant.bundle.prompter.build
                example = build("ask", turns, ticket.ecgs, generate=True, retrieved=ticket.retrieved)
                ticket.row = new_row(self.assistant.bundle.elm, example, ticket.max_new_tokens, ticket.sampling)
            except _TROUBLE as error:
                ticket.stream.fail(_told(error))
                return False
            ticket.stream.num_prompt_tokens, ticket.stream.truncated = len(example.input_ids), example.truncated
            ticket.text = Text(self.assistant.bundle.prompter.tokenizer)
            ticket.ecgs = []
        if ticket.row is not None and ticket.row.cut:  # not a position left
            ticket.stream.end("length")
        return not ticket.stream.done

    def _read(self, tickets: list[Ticket]) -> list[tuple[Group, list[Ticket]]]:
        """Read prompts together; where that fails in halves, so that only what cannot be read at all fails."""
        tickets = [t for t in tickets if not t.stream.done]
        if not tickets:
            return []
        bundle = self.assistant.bundle
        try:
            return [(Group.read(bundle.elm, bundle.prompter, [t.row for t in tickets if t.row]), tickets)]
        except _TROUBLE as error:
            trouble = _told(error)
        # Outside of the handler, whose trace would hold the tensors of the failed pass.
        _free()
        if len(tickets) == 1:
            tickets[0].stream.fail(trouble)
            return []
        half = len(tickets) // 2
        return self._read(tickets[:half]) + self._read(tickets[half:])

    def _advance(self, group: Group, tickets: list[Ticket]) -> None:
        """One token for every row of a group."""
        trouble = None
        try:
            group.advance()
        except _TROUBLE as error:
            trouble = _told(error)
        for ticket in tickets:
            self.num_answered += ticket.tell()
        if trouble is None:
            return
        group.rows, group.past = [], None
        _free()
        left = [t for t in tickets if not t.stream.done]
        if len(left) == 1:
            left[0].stream.fail(trouble)
            left = []
        half = (len(left) + 1) // 2
        again = self._read(left[:half]) + self._read(left[half:])  # from where their answers are
        with self._changed:
            self._groups = [pair for pair in self._groups if pair[0] is not group] + again

    def _join(self) -> None:
        """Make one group of several where the model allows it; the others take turns."""
        kept: list[tuple[Group, list[Ticket]]] = []
        for group, tickets in self._groups:
            for at, (earlier, others) in enumerate(kept):
                if _joined(earlier, group):
                    kept[at] = (earlier, others + tickets)
                    break
            else:
                kept.append((group, tickets))
        with self._changed:
            self._groups = kept


def _joined(group: Group, other: Group) -> bool:
    try:
        return group.join(other)
    except RuntimeError:  # no memory for both as one: they take turns
        _free()
        return False


def _told(error: BaseException) -> EcglmError:
    """An error as the request's user is told it."""
    if isinstance(error, EcglmError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return EcglmError("the device has not enough memory for this request; ask shorter, or with fewer ECGs")
    said = next(iter(str(error).strip().splitlines()), "")
    return EcglmError(f"the model cannot answer this request ({type(error).__name__}: {said[:300]})")


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
