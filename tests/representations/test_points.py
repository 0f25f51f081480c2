"""Where a picture shows a sample, as ``points`` say it, is where the picture changes when that sample does."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.representations.image import ImageRepresentation
from ecglm.representations.pictures import FITS, fit, fitted_point
from ecglm.representations.stacked import MODES, StackedRepresentation

SIZES = [(224, 224), (96, 120)]


def smooth(num_samples: int = 1000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples)
    phase = rng.uniform(0, 6, size=(12, 1))
    return (0.5 * np.sin(t / 25 + phase) + 0.2 * np.sin(t / 9 + 2 * phase)).astype(np.float32)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("layout", ["3x4+1", "12x1", "2x6"])
@pytest.mark.parametrize("size", SIZES)
def test_a_sample_of_the_image_lies_on_ink(how: str, layout: str, size: tuple[int, int]) -> None:
    segment = smooth()
    shown = ImageRepresentation(fit=how, layout=layout, grid=False, image_size=size)
    grey = shown.picture(segment, 100).min(axis=2).astype(float)
    lead, sample, x, y = shown.points(segment, 100)
    inside = (x > 0) & (x < size[1] - 1) & (y > 0) & (y < size[0] - 1)
    assert (inside.mean() == 1.0) if how != "crop" else (0.3 < inside.mean() < 1.0)
    assert set(lead.tolist()) == set(range(12)) and sample.min() == 0 and sample.max() == 999
    ink = grey[np.round(y[inside]).astype(int), np.round(x[inside]).astype(int)]
    assert np.mean(ink < 200) > 0.97  # paper is 255; the trace is about a pixel wide
    if how != "crop":
        counts = np.bincount(lead, minlength=12)
        expected = {"3x4+1": 250, "12x1": 1000, "2x6": 166}[layout]
        assert all(n in (expected, expected + 1, 1000 + expected, 1001 + expected) for n in counts.tolist())


def test_missing_samples_are_nowhere() -> None:
    segment = smooth()
    segment[3, 100:110] = np.nan
    lead, sample, _, _ = ImageRepresentation(layout="12x1").points(segment, 100)
    assert not ((lead == 3) & (sample >= 100) & (sample < 110)).any()
    assert ((lead == 3) & (sample == 110)).any() and len(lead) == 12 * 1000 - 10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_samples", [250, 1000, 2500])
def test_a_sample_of_the_stacked_picture_is_where_an_impulse_shows(mode, size, num_samples) -> None:
    shown = StackedRepresentation(mode=mode, image_size=size, normalise="percentile", percentiles=(-0.5, 0.5))
    blank = np.zeros((12, num_samples), np.float32)
    before = shown.picture(blank, 100).astype(int)
    points = shown.points(blank, 100)
    assert np.array_equal(np.unique(points[0]), np.arange(12))
    if mode != "crop":  # all there is, and every pixel row shows something
        assert len(np.unique(points[0] * num_samples + points[1])) == 12 * num_samples
        assert set(points[3].tolist()) == set(range(size[0]))
    rng = np.random.default_rng(1)
    for lead, sample in zip(rng.integers(0, 12, 8), rng.integers(0, num_samples, 8), strict=True):
        impulse = blank.copy()
        impulse[lead, sample] = 1.0
        change = np.abs(shown.picture(impulse, 100).astype(int) - before).sum(axis=2)
        mine = (points[0] == lead) & (points[1] == sample)
        x, y = points[2][mine], points[3][mine]
        if not change.any():
            assert mode == "crop" and not len(x)
            continue
        strong = np.nonzero(change >= 0.6 * change.max())
        if not len(x):  # just outside the cut: its edge still shows a little of it
            assert mode == "crop" and {int(strong[1].min()), int(strong[1].max())} & {0, size[1] - 1}
            continue
        slack = 1.5 if num_samples >= size[1] and mode != "crop" else 0.5 * size[1] / num_samples + size[0] / 12
        assert abs(np.mean(strong[1]) - np.mean(x)) <= slack
        assert abs(np.mean(strong[0]) - np.mean(y)) <= 1.5
        assert set(y.astype(int).tolist()) <= set(np.nonzero(change.any(axis=1))[0].tolist())


@pytest.mark.parametrize("how", FITS)
def test_a_dot_is_found_where_fit_moves_it(how: str) -> None:
    page = np.full((300, 500, 3), 255, np.uint8)
    for x, y in ((250, 150), (180, 60), (300, 280)):
        dotted = page.copy()
        dotted[y - 3 : y + 4, x - 3 : x + 4] = 0
        dark = 255 - fit(dotted, (112, 96), how).astype(float).mean(axis=2)
        rows, columns = np.indices(dark.shape)
        centre = [float((where * dark).sum() / dark.sum()) for where in (columns, rows)]
        found = fitted_point(np.array([x]), np.array([y]), (300, 500), (112, 96), how)
        assert centre == pytest.approx([float(found[0][0]), float(found[1][0])], abs=0.35)
