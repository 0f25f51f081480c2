"""Text on pictures: wrapped without losing a word, never wider than asked, legible letter for letter."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from ecglm.representations.lettering import clean_lines, cut, text_width, wrap, write

WORDS = st.text("abcdeWij fgh.,-°äµ", min_size=0, max_size=160)


@given(WORDS, st.floats(4, 14), st.integers(60, 400))
@settings(max_examples=60, deadline=None)
def test_wrapping_keeps_every_letter_and_the_width(text: str, capital: float, width: int) -> None:
    lines = wrap(text, capital, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(text_width(line, capital) <= width for line in lines)


def test_width_is_that_of_the_font() -> None:
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(file), 20 / 0.729, layout_engine=ImageFont.Layout.BASIC)
    assert text_width("aVR 12 mm", 20.0) == pytest.approx(font.getlength("aVR 12 mm"), abs=0.5)


def test_lines_are_kept_and_control_characters_go() -> None:
    assert clean_lines("a\x00b\n\tc \n\n") == ["a b", " c"]
    assert wrap("first\nsecond line", 8, 1000) == ["first", "second line"]


def test_what_is_cut_says_so() -> None:
    lines = wrap("word " * 50, 8, 100)
    kept = cut(lines, 3, 8, 100)
    assert kept[:2] == lines[:2] and kept[2].endswith("…") and len(kept) == 3
    assert text_width(kept[2], 8) <= 100
    assert cut(lines[:2], 3, 8, 100) == lines[:2]


@pytest.mark.parametrize("capital", [6.0, 11.3, 24.0])
def test_capitals_have_their_height_and_stand_on_the_line(capital: float) -> None:
    image = np.full((80, 200, 3), 255, np.uint8)
    write(image, "HEI", (20, 50), capital, (0, 0, 0))
    rows = np.flatnonzero(image[..., 0].min(axis=1) < 128)
    columns = np.flatnonzero(image[..., 0].min(axis=0) < 250)
    assert rows.max() == 49 and len(rows) == pytest.approx(capital, abs=1)
    assert 20 <= columns.min() <= 20 + capital / 2


def test_text_is_left_out_where_the_picture_ends() -> None:
    image = np.full((20, 30, 3), 255, np.uint8)
    for at in ((-15, 10), (25, 10), (5, 2), (5, 40), (-500, 10), (500, 10)):
        write(image, "aVR", at, 10, (0, 0, 0))
    assert image.min() < 100
    before = image.copy()
    write(image, " ", (5, 10), 10, (0, 0, 0))
    write(image, "", (5, 10), 10, (0, 0, 0))
    assert np.array_equal(image, before)


def test_middle_anchor() -> None:
    image = np.full((40, 200, 3), 255, np.uint8)
    write(image, "no signal", (100, 30), 9, (0, 0, 0), anchor="m")
    columns = np.flatnonzero(image[..., 0].min(axis=0) < 200)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(100, abs=1.5)
