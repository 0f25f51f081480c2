"""Tints of waves lie where the geometry says, and the trace is seen through them."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.demo.measures import Mark
from ecglm.demo.overlay import TINTS, draw_marks
from ecglm.representations.paper import paper_geometry, signal_to_pixel


def drawn(layout: str, marks: list[Mark]) -> tuple[np.ndarray, object]:
    paper = paper_geometry(2500, 250, layout=layout, size=(1100, 850))
    image = np.full((paper.height, paper.width, 3), 255, np.uint8)
    draw_marks(image, paper, marks)
    return image, paper


@pytest.mark.parametrize("layout", ["3x4+1", "12x1", "3x4+3"])
def test_a_mark_covers_its_time_on_the_longest_strip_of_lead_ii(layout):
    image, paper = drawn(layout, [Mark("QRS", 4.0, 4.4, 0)])
    rows, columns = np.nonzero((image != 255).any(axis=2))
    strip = max((p for p in paper.panels if p.lead == "II"), key=lambda p: (p.stop - p.start, p.y))
    left, right = (signal_to_pixel(paper, strip, s * 250, 0)[0] for s in (4.0, 4.4))
    assert abs(columns.min() - left) <= 1 and abs(columns.max() + 1 - right) <= 1
    assert rows.min() < strip.y < rows.max() and rows.max() - rows.min() < 15 * paper.px_per_mm
    assert tuple(image[round(strip.y), round((left + right) / 2)]) == TINTS["QRS"]


def test_where_no_lead_ii_is_whole_the_part_that_is_shown_gets_its_marks():
    inside, _ = drawn("3x4", [Mark("P", 1.0, 1.1, 0)])
    outside, _ = drawn("3x4", [Mark("P", 6.0, 6.1, 0)])
    assert (inside != 255).any() and not (outside != 255).any()


def test_a_beat_without_boundaries_is_a_line():
    image, _ = drawn("3x4+1", [Mark("beat", 2.0, 2.0, 0)])
    assert len(np.unique(np.nonzero((image != 255).any(axis=2))[1])) == 1


def test_ink_stays_ink():
    paper = paper_geometry(2500, 250, size=(1100, 850))
    image = np.zeros((paper.height, paper.width, 3), np.uint8)
    draw_marks(image, paper, [Mark("T", 0.0, 10.0, 0)])
    assert not image.any()
