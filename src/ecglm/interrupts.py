"""Ctrl-C as a number to look at, while threads share locks with the main one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds that a wait may take before Ctrl-C is looked for again.
LOOK = 0.1


class Interrupts:
    """count: how often Ctrl-C came."""

    def __init__(self) -> None:
        self.count = 0

    def hear(self, *_: object) -> None:
        """The signal's handler."""
        self.count += 1


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Count Ctrl-C inside the block instead of raising KeyboardInterrupt.

    An exception that comes between any two steps of the main thread may leave a lock held that it had just taken (that
    of a future, of a condition), and whoever needs it then waits for ever. The block waits with limits, looks at
    ``count`` in between and does what is to be done. Outside the main thread, and where somebody else handles the
    signal, nothing is counted; a block inside a block shares its count.
    """
    found = Interrupts()
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield found
    elif isinstance(outer := getattr(handler, "__self__", None), Interrupts):
        yield outer
    elif handler is not signal.default_int_handler:
        yield found
    else:
        signal.signal(signal.SIGINT, found.hear)
        try:
            yield found
        finally:
            signal.signal(signal.SIGINT, handler)
