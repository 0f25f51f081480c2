"""Ctrl-C that is counted (src/ecglm/interrupts.py)."""

from __future__ import annotations

import signal
import threading

import pytest

from ecglm.interrupts import counted_interrupts


def test_it_is_counted_inside_and_raised_again_outside() -> None:
    with counted_interrupts() as ctrl_c:
        assert ctrl_c.count == 0
        signal.raise_signal(signal.SIGINT)
        with counted_interrupts() as inner:
            signal.raise_signal(signal.SIGINT)
        assert inner is ctrl_c and ctrl_c.count == 2
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_leaves_the_handler_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), counted_interrupts():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with counted_interrupts() as ctrl_c:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] and ctrl_c.count == 0


def test_another_thread_counts_nothing_and_sets_no_handler() -> None:
    found: list[object] = []

    def run() -> None:
        with counted_interrupts() as ctrl_c:
            found.append((ctrl_c.count, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(0, signal.default_int_handler)]
