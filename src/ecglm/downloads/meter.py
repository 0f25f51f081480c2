"""Progress of downloads on stderr: files, bytes, rate, time left; a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import threading
import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

#: Seconds between two lines where stderr is no terminal.
LINE_EVERY = 5.0


class Meter:
    """Counts files (of ``num_files``) and bytes (of ``total``, None if unknown); may be told from any thread."""

    def __init__(self, label: str, num_files: int, total: int | None, enabled: bool = True) -> None:
        self.label, self.num_files, self.total, self.enabled = label, num_files, total, enabled
        self.files = self.bytes = self.transferred = 0
        self.started = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        if enabled and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()

    def found(self, num_bytes: int) -> None:
        """Bytes that were there before."""
        self._add(num_bytes, 0)

    def tick(self, num_bytes: int) -> None:
        """Bytes that came in; negative for bytes thrown away."""
        self._add(num_bytes, max(0, num_bytes))

    def file_done(self) -> None:
        """One more file is whole."""
        with self._lock:
            self.files += 1

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.enabled:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """The last line."""
        if self._bar is not None:
            self._bar.stop()
        elif self.enabled and self.transferred:
            self._line()

    def _add(self, num_bytes: int, transferred: int) -> None:
        with self._lock:
            self.bytes += num_bytes
            self.transferred += transferred
            due = self.enabled and time.monotonic() - self._last >= LINE_EVERY
            if due:
                self._last = time.monotonic()
        if self._bar is not None:
            label = f"{self.label} {self.files}/{self.num_files} files"
            self._bar.update(self._task, completed=self.bytes, description=label)
        elif due:
            self._line()

    def line(self) -> str:
        """``"ptb-xl: 3/20 files, 12.0 MB, 4.1 MB/s, 00:07 left"``."""
        rate = self.transferred / max(time.monotonic() - self.started, 1e-9)
        if self.total is not None:
            left = (self.total - self.bytes) / rate if rate else 0.0
        else:  # by the number of files, which are of one kind
            left = (self.num_files - self.files) / self.files * (time.monotonic() - self.started) if self.files else 0.0
        text = f"{self.label}: {self.files}/{self.num_files} files, {human(self.bytes)}, {human(rate)}/s"
        return f"{text}, {int(left) // 3600:02d}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left" if left else text

    def _line(self) -> None:
        print(self.line(), file=sys.stderr, flush=True)


def human(num_bytes: float) -> str:
    """``"3.4 GB"``."""
    if abs(num_bytes) < 1000:
        return f"{num_bytes:.0f} bytes"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if abs(num_bytes) >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
