"""The geometry of ECG paper, worked out by hand: millimetres, seconds, millivolts, rows and columns."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ecglm.errors import EcglmError
from ecglm.representations.paper import GAINS, LAYOUTS, MAX_PIXELS, SPEEDS, paper_geometry, rows_of, signal_to_pixel
from ecglm.types import LEADS


@pytest.mark.parametrize("dpi", [96, 100, 200, 300])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_dpi_is_exact_and_the_paper_as_large_as_the_layout_needs(layout: str, dpi: int) -> None:
    geometry = paper_geometry(2500, 250, layout=layout, dpi=dpi)
    mm = dpi / 25.4
    assert geometry.px_per_mm == mm and geometry.dpi == pytest.approx(dpi)
    # 3 mm margins, pulse: 1 mm foot, 5 mm, 5 mm to the trace of 250 mm; names at the left with twelve rows
    wide = 3 + (9 if layout == "12x1" else 0) + 1 + 5 + 5 + 250 + 3
    rows, pitch = {
        "3x4+1": (4, 25),
        "3x4+3": (6, 20),
        "3x4": (3, 25),
        "6x2": (6, 20),
        "2x6": (2, 25),
        "12x1": (12, 15),
    }[layout]
    high = 3 + 18 + (rows - 1) * pitch + 12 + 5 + 3
    assert geometry.width - wide * mm == pytest.approx(0.5, abs=0.5001)
    assert geometry.height - high * mm == pytest.approx(0.5, abs=0.5001)


def test_the_us_letter_of_image_sets_fits_at_200_dpi() -> None:
    for layout in LAYOUTS:
        geometry = paper_geometry(5000, 500, layout=layout, size=(2200, 1700), dpi=200)
        assert (geometry.width, geometry.height) == (2200, 1700) and geometry.dpi == pytest.approx(200)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("size", [(1000, 800), (703, 1009), (2200, 1700), (417, 333)])
def test_everything_lies_inside_and_on_the_grid(layout: str, size: tuple[int, int]) -> None:
    geometry = paper_geometry(2500, 250, layout=layout, size=size)
    mm, first = geometry.px_per_mm, geometry.panels[0]
    assert mm <= size[0] / 267 + 1e-9
    for panel in geometry.panels:
        x1, _ = signal_to_pixel(geometry, panel, panel.stop, 0)
        assert panel.name_x > 0 and 0 < panel.x < x1 < size[0]
        assert 15 * mm < panel.y < size[1] - 15 * mm  # 1.5 mV on either side
        assert (panel.y - first.y) / (5 * mm) == pytest.approx(round((panel.y - first.y) / (5 * mm)), abs=1e-6)
    for x, y in geometry.pulses:
        assert (first.x - x) / mm == pytest.approx(10)
        assert y in {p.y for p in geometry.panels}
    assert len(geometry.pulses) == len(LAYOUTS[layout])


def test_columns_take_turns_or_show_the_same() -> None:
    turns = paper_geometry(2500, 250, layout="3x4+1")
    assert [(p.lead, p.start, p.stop) for p in turns.panels[:4]] == [
        ("I", 0, 625),
        ("aVR", 625, 1250),
        ("V1", 1250, 1875),
        ("V4", 1875, 2500),
    ]
    same = paper_geometry(2500, 250, layout="3x4+1", simultaneous=True)
    assert {(p.start, p.stop) for p in same.panels[:12]} == {(0, 625)}
    assert (same.panels[12].start, same.panels[12].stop) == (0, 2500)
    assert [p.x for p in same.panels] == [p.x for p in turns.panels]
    step = turns.panels[1].x - turns.panels[0].x
    assert step == pytest.approx(2.5 * 25 * turns.px_per_mm)


def test_samples_that_do_not_divide_are_all_shown_once() -> None:
    for layout in LAYOUTS:
        panels = paper_geometry(2503, 250, layout=layout).panels
        for y in {p.y for p in panels}:
            row = [p for p in panels if p.y == y]
            assert row[0].start == 0 and row[-1].stop == 2503
            assert all(a.stop == b.start for a, b in pairwise(row))


def test_layouts_name_all_leads_and_their_rows() -> None:
    for name, rows in LAYOUTS.items():
        assert {lead for row in rows for lead in row} == set(LEADS), name
        shape, _, strips = name.partition("+")
        high, wide = map(int, shape.split("x"))
        assert len(rows) == high + int(strips or 0)
        assert {len(row) for row in rows[:high]} == {wide} and {len(row) for row in rows[high:]} <= {1}
        # down the columns, or along the two rows, the leads stand in their order
        read = (
            [lead for row in rows for lead in row]
            if name == "2x6"
            else [r[c] for c in range(wide) for r in rows[:high]]
        )
        assert tuple(read) == LEADS


def test_rhythm_leads_can_be_chosen() -> None:
    assert [row[0] for row in rows_of("3x4+3")[3:]] == ["II", "V1", "V5"]
    assert rows_of("3x4+1", ("V1",))[-1] == ("V1",)
    assert rows_of("3x4+3", ("V6", "I", "aVF"))[3:] == (("V6",), ("I",), ("aVF",))
    for layout, leads, words in [
        ("3x4", ("II",), "none"),
        ("3x4+1", ("II", "V1"), "1 lead"),
        ("3x4+3", ("II",), "3 leads"),
        ("3x4+1", ("V7",), "V7"),
    ]:
        with pytest.raises(EcglmError, match=words):
            rows_of(layout, leads)


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("gain", GAINS)
def test_speed_and_gain(speed: float, gain: float) -> None:
    geometry = paper_geometry(2500, 250, dpi=254, speed=speed, gain=gain)  # 10 pixels per mm
    panel = geometry.panels[-1]
    x, y = signal_to_pixel(geometry, panel, 250, 1.0)
    assert x - panel.x == pytest.approx(speed * 10) and panel.y - y == pytest.approx(gain * 10)
    assert panel.x - geometry.pulses[-1][0] == pytest.approx({12.5: 100, 25: 100, 50: 150}[speed])


def test_the_pulse_stands_right_or_nowhere() -> None:
    right = paper_geometry(2500, 250, dpi=254, pulse="right")
    ends = right.panels[-1].x + 2500
    assert right.pulses[0][0] - ends >= 20 and (right.pulses[0][0] - right.panels[0].x) % 50 == pytest.approx(0)
    assert right.pulses[0][0] + 50 + 10 <= right.width
    assert paper_geometry(2500, 250, pulse="none").pulses == ()


@pytest.mark.parametrize("size", [(1000, 800), (620, 400), (2200, 1700)])
@pytest.mark.parametrize("words", [1, 12, 60, 3000])
def test_a_header_of_any_length_leaves_the_traces_their_room(words: int, size: tuple[int, int]) -> None:
    bare = paper_geometry(2500, 250, size=size)
    geometry = paper_geometry(2500, 250, size=size, header="Sinus rhythm, " * words)
    assert geometry.header and bare.header == () and bare.top == 0
    mm = geometry.px_per_mm
    assert geometry.header[0][1] - geometry.capital > 0
    assert geometry.header[-1][1] + 0.35 * geometry.capital < geometry.top
    assert geometry.panels[0].y - geometry.top > 15 * mm
    assert geometry.header[-1][0].endswith("…") == (words == 3000)  # a word is only cut where nothing else helps


def test_a_short_header_is_printed_large_and_a_long_one_smaller() -> None:
    short = paper_geometry(2500, 250, size=(1100, 850), header="Sinus rhythm")
    long = paper_geometry(2500, 250, size=(1100, 850), header="Sinus rhythm, normal axis. " * 60)
    assert short.capital == pytest.approx(3.0 * short.px_per_mm)
    assert 1.6 * long.px_per_mm - 1e-6 <= long.capital < short.capital
    assert len(paper_geometry(2500, 250, header="one\ntwo\nthree").header) == 3


@pytest.mark.parametrize(
    "options, words",
    [
        ({"layout": "3x5"}, "did you mean '3x4'"),
        ({"layout": "standard"}, "known: 3x4\\+1"),
        ({"dpi": 0}, "dpi must be between"),
        ({"dpi": -1}, "dpi must be between"),
        ({"dpi": float("nan")}, "dpi must be between"),
        ({"size": (0, 800)}, "size is"),
        ({"size": (1000.5, 800)}, "size is"),
        ({"size": (-1000, -800)}, "size is"),
        ({"size": 1000}, "size is"),
        ({"size": ("a", "b")}, "size is"),
        ({"size": (1000,)}, "size is"),
        ({"size": (120, 90)}, "too small; at least 201x"),
        ({"size": (1000, 800), "dpi": 300}, "too small at 300 dpi; at least 3154x"),
        ({"size": (10**6, 10**6)}, "smaller size or dpi"),
        ({"dpi": 2400}, "smaller size or dpi"),
        ({"speed": 30}, "speed must be one of 12.5, 25, 50"),
        ({"gain": 0}, "gain must be one of"),
        ({"pulse": "both"}, "known: left, right, none"),
        ({"rhythm": ("V1", "V2")}, "1 lead, one per strip"),
        ({"rhythm": "V9"}, "no lead 'V9'"),
        ({"rate": 0}, "whole number of Hz"),
        ({"rate": 499.5}, "whole number of Hz"),
    ],
)
def test_bad_options_are_one_line_with_the_mend(options: dict, words: str) -> None:
    with pytest.raises(EcglmError, match=words) as error:
        paper_geometry(2500, **{"rate": 250, **options})
    assert "\n" not in str(error.value)


def test_the_size_named_as_needed_is_enough() -> None:
    for options in ({"layout": "12x1"}, {"layout": "2x6", "pulse": "right"}, {"dpi": 150, "layout": "3x4+3"}):
        with pytest.raises(EcglmError) as error:
            paper_geometry(2500, 250, size=(150, 100), **options)
        width, height = map(int, str(error.value).split("at least ")[1].split(" ")[0].split("x"))
        assert paper_geometry(2500, 250, size=(width, height), **options).width == width
        with pytest.raises(EcglmError):
            paper_geometry(2500, 250, size=(width - 1, height), **options)


def test_the_largest_picture() -> None:
    side = int(MAX_PIXELS**0.5)
    assert paper_geometry(2500, 250, size=(side, side)).width == side
