"""ECG paper: what was drawn is read back from the pixels, with the geometry worked out by hand."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import EcglmError
from ecglm.representations.render import LAYOUTS, paper_geometry, png_bytes, render, save_png, signal_to_pixel
from ecglm.types import LEADS

RATE = 250
SIZE = (1600, 1200)


def silence(seconds: float = 10.0) -> np.ndarray:
    return np.full((12, int(seconds * RATE)), np.nan, np.float32)


def ink(image: np.ndarray) -> np.ndarray:
    """How dark each pixel is in green, where the pink grid shows: 0 (white) to 1 (black), (H, W)."""
    return 1 - image[..., 1].astype(np.float32) / 255


def traces(segment: np.ndarray, **options: object) -> np.ndarray:
    """The ink of the traces alone: the picture less the empty paper."""
    drawn = ink(render(segment, RATE, size=SIZE, grid=False, **options))  # type: ignore[arg-type]
    empty = ink(render(silence(segment.shape[1] / RATE), RATE, size=SIZE, grid=False, **options))  # type: ignore[arg-type]
    return drawn - empty


def test_shape_type_and_determinism() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.3, (2, 12, 2500)).astype(np.float32)
    first, other, again = (render(x, RATE, size=(1000, 800)) for x in (a, b, a))
    assert first.shape == (800, 1000, 3) and first.dtype == np.uint8
    assert first.tobytes() == again.tobytes() and first.tobytes() != other.tobytes()
    assert first.flags.writeable


def test_a_second_is_25_mm_and_a_millivolt_10_mm() -> None:
    """A square wave of 1 mV and 1 s, measured in squares of the grid that is drawn beneath it."""
    segment = silence()
    second = np.arange(2500) // RATE
    segment[LEADS.index("II")] = second % 2
    drawn = traces(segment)
    bottom = drawn[drawn.shape[0] * 3 // 4 :]  # the rhythm strip
    rows = np.flatnonzero(bottom.sum(axis=1) > 0.3 * bottom.sum(axis=1).max())
    columns = bottom.sum(axis=0)
    edges = np.flatnonzero(columns > 0.6 * columns.max())
    edges = np.array([g.mean() for g in np.split(edges, np.flatnonzero(np.diff(edges) > 3) + 1)])
    grid = ink(render(silence(), RATE, size=SIZE))
    lines = grid[-60:-2].mean(axis=0)  # below every trace: vertical lines only, the heavy ones every 5 mm
    heavy = lines > 0.6 * lines.max() + 0.4 * np.median(lines)
    at = np.array(
        [g.mean() for g in np.split(np.flatnonzero(heavy), np.flatnonzero(np.diff(np.flatnonzero(heavy)) > 3) + 1)]
    )
    five_mm = np.median(np.diff(at))
    assert len(edges) == 9
    assert np.diff(edges).mean() / five_mm == pytest.approx(5, abs=0.05)  # 25 mm
    assert (rows.max() - rows.min()) / five_mm == pytest.approx(2, abs=0.15)  # 10 mm, plus the width of the pen


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_peaks_are_read_back_from_the_pixels(layout: str) -> None:
    """Every lead's peaks, as far as shown: ±1 pixel in time and ±0.05 mV."""
    rng = np.random.default_rng(3)
    geometry = paper_geometry(2500, RATE, layout, SIZE)
    for panel in geometry.panels:
        segment = silence()
        signal = segment[LEADS.index(panel.lead)]
        signal[:] = 0
        width = panel.stop - panel.start
        peaks = panel.start + (np.array([0.2, 0.5, 0.8]) * width).astype(int)
        heights = rng.uniform(0.4, 1.4, 3) * (1, -1, 1)
        for peak, height in zip(peaks, heights, strict=True):
            signal[peak - 6 : peak + 7] = height * (1 - np.abs(np.arange(-6, 7)) / 6)
        drawn = traces(segment, layout=layout)
        for peak, height in zip(peaks, heights, strict=True):
            x, y = signal_to_pixel(geometry, panel, peak, height)
            # by hand: 25 mm/s and 10 mm/mV at this scale
            assert x - panel.x == pytest.approx((peak - panel.start) / RATE * 25 * geometry.px_per_mm)
            assert panel.y - y == pytest.approx(height * 10 * geometry.px_per_mm)
            reach = int(0.02 * 25 * geometry.px_per_mm) + 3
            patch = drawn[:, round(x) - reach : round(x) + reach + 1]
            rows = np.flatnonzero(patch.max(axis=1) > 0.35)
            lane = rows[np.abs(rows - panel.y) < 16 * geometry.px_per_mm]
            tip = lane.min() if height > 0 else lane.max()
            pen = 0.125 * geometry.px_per_mm  # the tip lies half a pen's width beyond the value
            found = (panel.y - tip - np.sign(height) * pen) / (10 * geometry.px_per_mm)
            assert found == pytest.approx(height, abs=0.05), (layout, panel.lead)
            inside = round(y + np.sign(height) * 3)
            centre = np.average(np.arange(patch.shape[1]), weights=np.clip(patch[inside], 0, None)) + round(x) - reach
            assert abs(centre - x) <= 1


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_lead_is_drawn_and_named(layout: str) -> None:
    geometry = paper_geometry(2500, RATE, layout, SIZE)
    assert {p.lead for p in geometry.panels} == set(LEADS)
    empty = ink(render(silence(), RATE, size=SIZE, layout=layout, grid=False))
    mm = geometry.px_per_mm
    for panel in geometry.panels:
        name = empty[
            round(panel.name_y - 3 * mm) : round(panel.name_y), round(panel.x + 0.8 * mm) : round(panel.x + 9 * mm)
        ]
        assert name.max() > 0.7, panel.lead
        lone = silence()
        lone[LEADS.index(panel.lead)] = 0.0
        drawn = traces(lone, layout=layout)
        x0, _ = signal_to_pixel(geometry, panel, panel.start + 5, 0)
        x1, _ = signal_to_pixel(geometry, panel, panel.stop - 5, 0)
        assert (drawn[round(panel.y) - 1 : round(panel.y) + 2, round(x0) : round(x1)].max(axis=0) > 0.3).all()


def test_leads_of_a_row_share_the_time() -> None:
    geometry = paper_geometry(2500, RATE, "3x4+1", SIZE)
    assert [(p.lead, p.start, p.stop) for p in geometry.panels[:4]] == [
        ("I", 0, 625),
        ("aVR", 625, 1250),
        ("V1", 1250, 1875),
        ("V4", 1875, 2500),
    ]
    assert (geometry.panels[-1].lead, geometry.panels[-1].start, geometry.panels[-1].stop) == ("II", 0, 2500)


def test_a_flat_lead_is_a_line_and_a_missing_one_a_gap() -> None:
    flat = np.zeros((12, 2500), np.float32)
    assert traces(flat).sum() > 1000 and np.abs(traces(silence())).sum() == 0
    gap = flat.copy()
    gap[LEADS.index("II"), 1000:1500] = np.nan
    geometry = paper_geometry(2500, RATE, "3x4+1", SIZE)
    strip = geometry.panels[-1]
    x0, x1 = (signal_to_pixel(geometry, strip, s, 0)[0] for s in (1010, 1490))
    lane = slice(round(strip.y) - 2, round(strip.y) + 3)
    assert (
        traces(gap)[lane, round(x0) : round(x1)].max()
        < 0.02
        < traces(flat)[lane, round(x0) : round(x1)].min(axis=1).max()
    )


def test_calibration_pulse_is_one_millivolt() -> None:
    geometry = paper_geometry(2500, RATE, "3x4+1", SIZE)
    panel = geometry.panels[-1]
    empty = ink(render(silence(), RATE, size=SIZE, grid=False))
    mm = geometry.px_per_mm
    pulse = empty[
        round(panel.y - 14 * mm) : round(panel.y + 3 * mm), round(panel.x - 7 * mm) : round(panel.x - 0.5 * mm)
    ]
    rows = np.flatnonzero(pulse.max(axis=1) > 0.5)
    assert (rows.max() - rows.min()) / mm == pytest.approx(10, abs=0.5)


def test_colour_grid_and_header() -> None:
    segment = np.zeros((12, 2500), np.float32)
    grey = render(segment, RATE, color=False).astype(int)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    pink = render(segment, RATE).astype(int)
    assert (pink[..., 0] > pink[..., 2] + 30).any()
    assert np.median(render(segment, RATE, grid=False)) == 255
    headed = ink(render(segment, RATE, grid=False, header="Sinus rhythm, 72 bpm " * 10))
    assert headed[:30].max() > 0.5 and headed[:, -2:].max() < 0.1  # there, and shrunk until it fits


def test_wild_values_do_no_harm() -> None:
    segment = np.zeros((12, 2500), np.float32)
    segment[0, 100], segment[1, 50], segment[2, 60] = 1e30, np.inf, -np.inf
    assert render(segment, RATE).shape == (850, 1100, 3)


@pytest.mark.parametrize(
    "segment, options, word",
    [
        (np.zeros((11, 2500)), {}, r"\(12, samples\)"),
        (np.zeros((2500, 12)), {}, r"\(12, samples\)"),
        (np.zeros(2500), {}, r"\(12, samples\)"),
        (np.zeros((12, 0)), {}, r"\(12, samples\)"),
        (np.full((12, 10), "a"), {}, r"\(12, samples\)"),
        (np.zeros((12, 2500)), {"layout": "3x4+2"}, "3x4"),
        (np.zeros((12, 2500)), {"size": (100, 80)}, "too small"),
        (np.zeros((12, 2500)), {"rate": 0}, "rate"),
        (np.zeros((12, 2500)), {"rate": float("nan")}, "rate"),
        (np.zeros((12, 2500)), {"rate": 0.5}, "rate"),
    ],
)
def test_bad_input_is_one_clear_line(segment: np.ndarray, options: dict, word: str) -> None:
    with pytest.raises(EcglmError, match=word) as error:
        render(segment, **options)
    assert "\n" not in str(error.value)


def test_png_is_lossless_and_rgb(tmp_path: Path) -> None:
    image = render(np.zeros((12, 1250), np.float32), RATE, size=(700, 600))
    save_png(tmp_path / "ecg.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "ecg.png").convert("RGB")), image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(image)))), image)
    with pytest.raises(EcglmError, match="picture"):
        save_png(tmp_path / "bad.png", np.zeros((4, 4)))


def test_two_hundred_pictures_a_second() -> None:
    segment = np.random.default_rng(0).normal(0, 0.1, (12, 2500)).astype(np.float32)
    render(segment, RATE, size=(1000, 800))

    def once() -> float:
        start = time.thread_time()
        for _ in range(10):
            render(segment, RATE, size=(1000, 800))
        return (time.thread_time() - start) / 10

    assert min(once() for _ in range(5)) < 0.005
