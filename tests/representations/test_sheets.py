"""Contact sheets and header texts: every picture at its place, every fact as the record has it."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.representations.paper import LAYOUTS
from ecglm.representations.sheets import contact_sheet, header_text, layout_sheet


def test_every_picture_stands_whole_below_its_title() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40 + 7 * i, 90 - 5 * i, 3)).astype(np.uint8) for i in range(5)]
    sheet = contact_sheet(pictures, ["one", "two", "three", "four", "five"], columns=2)
    places = []
    for picture in pictures:
        high, wide = picture.shape[:2]
        first = np.argwhere((sheet[:, :, 0] == picture[0, 0, 0]) & (sheet[:, :, 1] == picture[0, 0, 1]))
        found = [(y, x) for y, x in first.tolist() if np.array_equal(sheet[y : y + high, x : x + wide], picture)]
        assert len(found) == 1
        y, x = found[0]
        places.append((y, x))
        assert sheet[y - 24 : y - 2, x : x + 40].min() < 90  # its title
    assert places == sorted(places) and places[0][0] == places[1][0] != places[2][0]
    assert contact_sheet(pictures[:1], ["one"], columns=4).shape[1] < 120


def test_a_sheet_needs_pictures_titles_and_a_bearable_size() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    for pictures, titles in (([], []), ([picture], [])):
        with pytest.raises(EcglmError, match="one title each"):
            contact_sheet(pictures, titles)
    with pytest.raises(EcglmError, match="too many"):
        contact_sheet([np.broadcast_to(np.uint8(0), (9000, 9000, 3))] * 2, ["a", "b"])


def test_the_layout_sheet_shows_every_layout() -> None:
    segment = np.zeros((12, 2500), np.float32)
    sheet = layout_sheet(segment, 250, size=(400, 330))
    rows = -(-len(LAYOUTS) // 2)
    assert sheet.shape == (rows * (330 + 42), 2 * 412 + 12, 3)


def test_header_text_prints_what_the_record_tells_and_nothing_else() -> None:
    source = Synthetic(num_patients=1)
    record = source.read(source.keys()[0])
    text = header_text(record.record_id, record.metadata, record.report, patient_id=record.patient_id).splitlines()
    measured = record.metadata["measurements"]
    assert record.record_id in text[0] and f"{record.metadata['age']} years" in text[0]
    assert f"QRS {measured['qrs_ms']:.0f} ms" in text[1] and text[2] == record.report
    assert header_text("a/1", {}) == "a/1"
    assert header_text("a/1", {"age": None, "sex": 3, "measurements": [1]}, " Sinus. ") == "a/1\nSinus."
    assert (
        header_text("a/1", {"measurements": {"qrs_ms": "x", "heart_rate": 61.4, "qt_ms": True}}) == "a/1\nRate 61 bpm"
    )
    assert header_text("a/1", {}, patient_id="a/p7", start_s=5.0) == "a/1   patient p7   from 5 s"
