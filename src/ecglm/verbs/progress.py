"""Progress of a long verb on stderr: a bar per stage on a terminal; in a log, a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

#: Seconds between two lines where stderr is no terminal; work that takes less says nothing.
LINE_EVERY = 5.0

#: Called with the name of a stage, how many are done, of how many, and what is counted.
Tell = Callable[[str, int, int, str], None]


@contextlib.contextmanager
def stages() -> Iterator[Tell]:
    """A function that shows how far a stage has come: done, total, time left. Stages follow each other."""
    if sys.stderr.isatty():
        with _bars() as tell:
            yield tell
    else:
        yield _lines()


@contextlib.contextmanager
def counted(stage: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """The same for work of one stage: a function to call with how many of ``total`` are done."""
    with stages() as tell:
        yield lambda done: tell(stage, done, total, unit)


@contextlib.contextmanager
def _bars() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def tell(stage: str, done: int, total: int, unit: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, unit=unit)
            bars.update(tasks[stage], completed=done)

        yield tell


def _lines() -> Tell:
    began: dict[str, float] = {}
    last = time.monotonic()

    def tell(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal last
        now = time.monotonic()
        began.setdefault(stage, now)
        if now - last >= LINE_EVERY:
            last = now
            rate = done / max(now - began[stage], 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if done else ""
            print(f"{stage}: {done}/{total} {unit}{left}", file=sys.stderr, flush=True)

    return tell
