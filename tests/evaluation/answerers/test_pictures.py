"""Pictures of requests, and what controls show in their place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.answerers.base import PictureRef
from ecglm.evaluation.answerers.pictures import blank_paper, noise_picture, shown_picture


@pytest.fixture
def file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def test_a_picture_is_the_files_pixels(file):
    assert np.array_equal(shown_picture(PictureRef(file)), np.asarray(Image.open(file)))


@pytest.mark.parametrize("size", [(1700, 2200), (336, 337), (7, 900), (1, 1)])
def test_blank_paper_has_the_size_and_is_the_same_along_each_line(size):
    page = blank_paper(*size)
    assert page.shape == (*size, 3) and page.dtype == np.uint8
    if min(size) > 1000:  # row and column 3 lie between lines: each pixel is the darker of its row and its column
        assert np.array_equal(page, np.minimum(page[3:4], page[:, 3:4]))
        rows = page[:, 3].sum(axis=-1, dtype=int)
        assert len(set(rows)) == 3 and (rows == rows.max()).mean() > 0.8  # paper, fine lines, bold lines
        assert len(np.flatnonzero(np.diff(rows) < 0)) == 216  # a line every mm of 1700 / 2200 * 280 mm, but the first


def test_blank_keeps_the_size_and_nothing_of_the_picture(file, tmp_path):
    Image.new("RGB", (70, 40)).save(tmp_path / "black.png")
    one, other = (shown_picture(PictureRef(p, "blank")) for p in (file, tmp_path / "black.png"))
    assert np.array_equal(one, other) and one.shape == (40, 70, 3)


def test_noise_has_the_colours_mean_and_spread_and_is_seeded_by_row():
    flat = np.zeros((200, 300, 3), np.uint8)
    flat[:, ::2] = (200, 120, 90)
    found = noise_picture(flat, np.random.default_rng(1)).astype(float)
    clipped = [np.clip(np.random.default_rng(2).normal(m, m, 10**6), 0, 255) for m in (100, 60, 45)]
    for channel, draws in enumerate(clipped):
        assert found[..., channel].mean() == pytest.approx(draws.mean(), abs=1)
        assert found[..., channel].std() == pytest.approx(draws.std(), abs=1)


def test_noise_differs_by_seed_and_row_alone(file):
    shown = {k: shown_picture(PictureRef(file, "noise", *k)).tobytes() for k in [(0, "a"), (0, "b"), (1, "a")]}
    assert len(set(shown.values())) == 3
    assert shown_picture(PictureRef(file, "noise", 0, "a")).tobytes() == shown[0, "a"]


def test_what_cannot_be_shown_is_said(file, tmp_path):
    with pytest.raises(RejectedRecord, match="image_missing"):
        shown_picture(PictureRef(tmp_path / "none.png", "blank"))
    with pytest.raises(EcglmError, match="control 'perturb-wander' is not for pictures"):
        shown_picture(PictureRef(file, "perturb-wander"))
