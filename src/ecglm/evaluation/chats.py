"""Chats with a language model: a reply, an item's error, and many chats at once in a bounded number of threads."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ecglm.errors import EcglmError
from ecglm.interrupts import LOOK, counted_interrupts

#: A chat: ``{"role": "system" | "user" | "assistant", "content": text or parts}`` each.
Messages = Sequence[Mapping[str, Any]]
#: After so many items in a row that nobody answered, nothing more is asked.
_GIVE_UP = 20
_UNREACHED = ("timeout", "connection_lost", "rate_limited", "server_error", "bad_reply")


@dataclass(frozen=True)
class ChatReply:
    """One answer. usage: ``prompt_tokens`` and ``completion_tokens`` where told; raw: the endpoint's JSON object."""

    text: str
    finish_reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


class ChatError(EcglmError):
    """One item that got no answer. ``reason`` is a stable code: ``rate_limited``, ``server_error``, ``timeout``,
    ``connection_lost``, ``bad_reply``, ``refused_request``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


Outcome = ChatReply | ChatError | None
#: Told of each finished item (its position, its outcome) in the caller's thread; True asks for no further item.
OnDone = Callable[[int, ChatReply | ChatError], "bool | None"]


class Llm(ABC):
    """A model that can be asked: ``Endpoint``, ``LocalLlm``, ``DummyJudge``."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What names this model in outputs: no key, nothing that only changes the speed."""

    @abstractmethod
    def chat_many(
        self,
        talks: Sequence[Messages],
        *,
        max_tokens: int,
        temperature: float | None = 0.0,
        seed: int | None = None,
        json: bool = False,
        on_done: OnDone | None = None,
    ) -> list[Outcome]:
        """One outcome per chat, in their order: a reply, a ChatError, or None where it was not asked any more. json:
        ask for a JSON object.
        """

    def chat(self, messages: Messages, **options: Any) -> ChatReply:
        """One answer; options as those of ``chat_many``. Raises ChatError for this item, EcglmError for all of them."""
        outcome = self.chat_many([messages], **options)[0]
        if isinstance(outcome, ChatReply):
            return outcome
        assert outcome is not None
        raise outcome


def ask_all(
    ask: Callable[[Messages], ChatReply],
    talks: Sequence[Messages],
    concurrency: int,
    on_done: OnDone | None = None,
    stopped: threading.Event | None = None,
    abandon: Callable[[], None] | None = None,
) -> list[Outcome]:
    """``ask`` of each chat, ``concurrency`` at a time; see ``Endpoint.chat_many``.

    After an error or Ctrl-C, answers on their way are waited for; ``abandon`` is called when a second Ctrl-C ends that
    wait, and must end every ``ask`` at once.
    """
    results: list[Outcome] = [None] * len(talks)
    waiting: dict[Future[ChatReply], int] = {}
    unreached, following, enough = 0, 0, False

    def take(future: Future[ChatReply]) -> bool:
        """Store and hand over one finished item; True when it says that no more shall be asked."""
        nonlocal unreached
        position, error = waiting.pop(future), future.exception()
        if error is not None and not isinstance(error, ChatError):
            raise error
        outcome: ChatReply | ChatError = error if isinstance(error, ChatError) else future.result()
        unreached = unreached + 1 if isinstance(outcome, ChatError) and outcome.reason in _UNREACHED else 0
        results[position] = outcome
        return bool(on_done(position, outcome)) if on_done else False

    ended = False
    with counted_interrupts() as ctrl_c, ThreadPoolExecutor(concurrency) as pool:
        try:
            while not ctrl_c.count and (waiting or (following < len(talks) and not enough)):
                while following < len(talks) and len(waiting) < concurrency and not enough:
                    waiting[pool.submit(ask, talks[following])] = following
                    following += 1
                done, _ = wait(waiting, timeout=LOOK, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: waiting[f]):
                    enough = take(future) or enough
                if unreached >= _GIVE_UP:
                    last = next(r for r in reversed(results) if isinstance(r, ChatError))
                    raise EcglmError(
                        f"{unreached} items in a row were not answered ({last}); run the same command again later"
                    )
            ended = not ctrl_c.count
        finally:
            if not ended and stopped is not None:
                stopped.set()  # whoever waits for another try gives up
            heard = ctrl_c.count
            if heard and waiting:
                on_way = f"waiting for {len(waiting)} answers on their way, which may be paid for"
                print(f"{on_way}; Ctrl-C again drops them", file=sys.stderr)
            left = set(waiting)  # what is on its way is paid for, also after an error or Ctrl-C
            try:
                while left and ctrl_c.count <= heard:
                    left = wait(left, timeout=LOOK).not_done
            finally:
                if left and abandon is not None:
                    abandon()
            with ExitStack() as each:  # all are handed over, also where one cannot be
                for future in waiting:
                    if future.done() and future.exception() is None:
                        each.callback(take, future)
    if ctrl_c.count:
        raise KeyboardInterrupt
    return results
