"""Progress of long work on stderr: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

#: Seconds between two lines where stderr is no terminal.
LINE_EVERY = 5.0
#: Seconds between two changes of a bar: it is told of every record, and drawing costs more than reading one.
BAR_EVERY = 0.1


class RecordProgress:
    """``update(done, rejected)`` shows how many of ``total`` records are done, the rate, the time left, the rejects.

    ``before``: records that an earlier run had finished; the rate is of this run's records alone.
    """

    def __init__(self, label: str, total: int, before: int = 0, enabled: bool = True) -> None:
        self.label, self.total, self.before, self.enabled = label, total, before, enabled
        self.done, self.rejected = before, 0
        self.started = time.monotonic()
        self._last_line = self.started
        self._bar: RichProgress | None = None

    def __enter__(self) -> RecordProgress:
        if self.enabled and sys.stderr.isatty():
            fields = TextColumn("{task.fields[rate]} rec/s · {task.fields[rejected]} rejected ·")
            columns = (TextColumn(self.label), BarColumn(), MofNCompleteColumn(), fields)
            self._bar = RichProgress(
                *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.before, rate="-", rejected=0)
            self._bar.start()
        elif self.enabled:
            self._print(f"{self.label}: {self.total} records" + (f", {self.before} done before" * (self.before > 0)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.enabled:
            self._line()

    @property
    def rate(self) -> float:
        """Records per second of this run."""
        return (self.done - self.before) / max(time.monotonic() - self.started, 1e-9)

    def update(self, done: int, rejected: int) -> None:
        """``done`` counts the records of earlier runs too; ``rejected`` those of this run."""
        self.done, self.rejected = done, rejected
        if not self.enabled:
            return
        now = time.monotonic()
        if self._bar is not None:
            if now - self._last_line >= BAR_EVERY or done >= self.total:
                self._last_line = now
                self._bar.update(self._task, completed=done, rate=f"{self.rate:.0f}", rejected=rejected)
        elif done < self.total and now - self._last_line >= LINE_EVERY:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        left = f", {(self.total - self.done) / self.rate:.0f} s left" if self.done < self.total and self.rate else ""
        self._print(
            f"{self.label}: {self.done}/{self.total} records, {self.rate:.0f} records/s, {self.rejected} rejected{left}"
        )

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
