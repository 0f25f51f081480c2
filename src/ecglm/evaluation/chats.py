"""Chats with a language model: a reply, an item's error, and many chats at once in a bounded number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from ecglm.errors import EcglmError

#: A chat: ``{"role": "system" | "user" | "assistant", "content": text or parts}`` each.
Messages = Sequence[Mapping[str, Any]]
#: After so many items in a row that nobody answered, nothing more is asked.
_GIVE_UP = 20
_UNREACHED = ("timeout", "connection_lost")


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


def ask_all(
    ask: Callable[[Messages], ChatReply],
    talks: Sequence[Messages],
    concurrency: int,
    on_done: OnDone | None = None,
    stopped: threading.Event | None = None,
) -> list[Outcome]:
    """``ask`` of each chat, ``concurrency`` at a time; see ``Endpoint.chat_many``."""
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
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            while waiting or (following < len(talks) and not enough):
                while following < len(talks) and len(waiting) < concurrency and not enough:
                    waiting[pool.submit(ask, talks[following])] = following
                    following += 1
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: waiting[f]):
                    enough = take(future) or enough
                if unreached >= _GIVE_UP:
                    raise EcglmError(f"{unreached} items in a row were not answered; run the same command again later")
            ended = True
        finally:
            if not ended and stopped is not None:
                stopped.set()  # whoever waits for another try gives up
            for future in list(waiting):  # what is on its way is paid for, also after an error or Ctrl-C
                if future.exception() is None:
                    take(future)
    return results
