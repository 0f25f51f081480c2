"""The pen: strokes against a brute-force reference, rules against the lengths they must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.representations.pen import blank_cover, ink_over, line_cover, rule, stroke

HEIGHT, WIDTH = 40, 60


def drawn(x: list[float], y: list[float], width: float, top: int = 0, bottom: int = HEIGHT) -> np.ndarray:
    cover, _ = blank_cover(HEIGHT, WIDTH)
    stroke(cover, np.array(x, float), np.array(y, float), width, top, bottom)
    return cover.astype(float) / 255


def area(x: list[float], y: list[float], width: float, fine: int = 12) -> np.ndarray:
    """The share of each pixel that lies within half a pen's width of the polyline, by counting points."""
    rows = (np.arange(HEIGHT * fine) + 0.5) / fine - 0.5
    columns = (np.arange(WIDTH * fine) + 0.5) / fine - 0.5
    inside = np.zeros((len(rows), len(columns)), bool)
    for (x0, y0), (x1, y1) in zip(zip(x, y, strict=True), zip(x[1:], y[1:], strict=True), strict=False):
        dx, dy = x1 - x0, y1 - y0
        px, py = columns[None] - x0, rows[:, None] - y0
        t = np.clip((px * dx + py * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        inside |= (px - t * dx) ** 2 + (py - t * dy) ** 2 <= (width / 2) ** 2
    return inside.reshape(HEIGHT, fine, WIDTH, fine).mean(axis=(1, 3))


@given(
    st.lists(st.tuples(st.floats(0.2, 6), st.floats(-2, HEIGHT + 2)), min_size=2, max_size=12),
    st.floats(1.0, 4.0),
)
@settings(max_examples=25, deadline=None)
def test_a_stroke_covers_what_a_round_pen_covers(points: list[tuple[float, float]], width: float) -> None:
    x = np.cumsum([p[0] for p in points]).tolist()
    y = [p[1] for p in points]
    found, true = drawn(x, y, width), area(x, y, width)
    assert np.abs(found - true).mean() < 0.01
    # a ramp over one pixel stands for the area under a straight edge: never far off but where edges meet
    assert np.quantile(np.abs(found - true), 0.98) < 0.2
    assert found[true == 0].max(initial=0) < 0.25
    assert found[true == 1].min(initial=1) > 0.4  # two strokes may share a pixel, half each: the larger half counts


@pytest.mark.parametrize("y", [10.0, 10.25, 10.5, 10.9])
@pytest.mark.parametrize("width", [1.0, 1.3, 2.6])
def test_a_level_line_lies_at_its_height(y: float, width: float) -> None:
    column = drawn([5, 55], [y, y], width)[:, 30]
    assert column.sum() == pytest.approx(width, abs=0.02)  # its thickness
    assert np.average(np.arange(HEIGHT), weights=column) == pytest.approx(y, abs=0.07)


def test_a_peak_is_drawn_however_dense_the_samples_are() -> None:
    x = np.linspace(5, 55, 20_000)
    y = np.full(x.shape, 30.0)
    y[10_000] = 5.0  # one sample in 400 per pixel
    tip = drawn(x.tolist(), y.tolist(), 1.2)[:, 30]
    assert tip[5] > 0.9 and tip[6:30].min() > 0.9 and tip[:4].max() == 0


def test_a_stroke_is_the_same_as_its_pieces() -> None:
    rng = np.random.default_rng(4)
    x = np.linspace(3, 57, 400)
    y = 20 + 8 * np.sin(x / 4) + rng.normal(0, 0.05, 400)
    whole, _ = blank_cover(HEIGHT, WIDTH)
    for i in range(399):  # each with two round ends, of which the whole stroke draws one
        stroke(whole, x[i : i + 2].copy(), y[i : i + 2].copy(), 1.4, 0, HEIGHT)
    found = drawn(x.tolist(), y.tolist(), 1.4)
    assert np.abs(found - whole / 255).max() <= 1 / 255


def test_missing_points_lift_the_pen_and_a_lone_point_is_a_dot() -> None:
    nan = float("nan")
    found = drawn([5, 10, 11, 20, 21, 30, 40], [20, 20, nan, 20, nan, 20, 20], 2.0)
    assert found[20, 5:11].min() == 1 and found[20, 13:18].max() == 0
    assert found[20, 20] == 1 and found[:, 20].sum() == pytest.approx(2, abs=0.5)
    assert found[20, 23:28].max() == 0 and found[20, 30:41].min() == 1
    assert drawn([nan, nan], [nan, nan], 2.0).sum() == 0


def test_rows_outside_the_bounds_stay_empty_and_wild_points_do_no_harm() -> None:
    found = drawn([5, 30, 55], [-1e30, 1e30, 20], 2.0, top=10, bottom=30)
    assert found[10:30].sum() > 0 and found[:10].sum() == 0 and found[30:].sum() == 0
    assert drawn([-1e9, 1e9], [20, 20], 2.0)[20].min() == 1


def test_a_crossing_is_no_darker_than_a_line() -> None:
    cover, _ = blank_cover(HEIGHT, WIDTH)
    stroke(cover, np.array([5.0, 55]), np.array([20.4, 20.4]), 1.0, 0, HEIGHT)
    before = cover.copy()
    stroke(cover, np.array([5.0, 55]), np.array([20.4, 20.4]), 1.0, 0, HEIGHT)
    assert np.array_equal(cover, before)


@pytest.mark.parametrize("shape", [(3, 5), (7, 8), (1, 1)])
def test_ink_is_laid_in_proportion(shape: tuple[int, int]) -> None:
    cover, memory = blank_cover(*shape)
    rng = np.random.default_rng(1)
    cover[...] = rng.integers(0, 256, shape)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = image + (np.array((16, 40, 200)) - image.astype(float)) * (cover[..., None] / 255)
    ink_over(image, memory, (16, 40, 200))
    assert np.abs(image - expected).max() <= 0.51


@pytest.mark.parametrize("step, width", [(3.7, 0.6), (18.6, 1.2), (1.5, 1.5), (7.874015748, 0.9448)])
def test_rules_cover_their_width_at_their_place(step: float, width: float) -> None:
    phase, length = 0.37 * step, 200
    fine = (np.arange(length * 1000) + 0.5) / 1000 - 0.5
    inside = np.abs((fine - phase + step / 2) % step - step / 2) <= width / 2
    expected = inside.reshape(length, 1000).mean(axis=1)
    assert line_cover(length, phase, step, width) == pytest.approx(expected, abs=0.005)


def test_the_grid_is_paper_then_thin_then_thick_lines() -> None:
    colours = np.array([[250, 250, 250], [200, 100, 50], [10, 20, 30]], float)
    image = np.zeros((3, 3, 3), np.uint8)
    none, thin, thick = np.zeros(3), np.array([0, 0.5, 0]), np.array([0, 0, 1.0])
    rule(image, colours, thin, none, none, thick)
    assert image[0, 0].tolist() == [250, 250, 250]
    assert image[0, 1].tolist() == [225, 175, 150]
    assert image[2].tolist() == [[10, 20, 30]] * 3
