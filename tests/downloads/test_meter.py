from __future__ import annotations

import pytest

from ecglm.downloads import meter as module
from ecglm.downloads.meter import Meter, human


@pytest.mark.parametrize(
    "number, text",
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2.5e6, "2.5 MB"), (34e9, "34.0 GB"), (2e12, "2.0 TB")],
)
def test_sizes_for_people(number, text):
    assert human(number) == text


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_count_what_came_now(clock):
    meter = Meter("x", 4, 10_000_000, enabled=False)
    meter.found(4_000_000)
    clock[0] = 2.0
    meter.tick(2_000_000)
    meter.file_done()
    assert meter.line() == "x: 1/4 files, 6.0 MB, 1.0 MB/s, 00:00:04 left"
    meter.tick(-1_000_000)
    assert meter.line() == "x: 1/4 files, 5.0 MB, 1.0 MB/s, 00:00:05 left"


def test_time_left_by_files_where_sizes_are_unknown(clock):
    meter = Meter("x", 4, None, enabled=False)
    clock[0] = 3661.0
    meter.tick(3661)
    meter.file_done()
    assert meter.line() == "x: 1/4 files, 3.7 kB, 1 bytes/s, 03:03:03 left"


def test_lines_in_a_log(clock, capsys):
    meter = Meter("x", 1, 100)
    meter.tick(10)
    clock[0] = 6.0
    meter.tick(10)
    meter.tick(80)
    meter.note("a line")
    meter.close()
    assert capsys.readouterr().err.splitlines() == [
        "x: 0/1 files, 20 bytes, 3 bytes/s, 00:00:24 left",
        "a line",
        "x: 0/1 files, 100 bytes, 17 bytes/s",
    ]
