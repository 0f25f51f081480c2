"""Neighbours are shown by picture, report and distance, without whom they are of."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ecglm.demo.neighbours import neighbours_shown
from ecglm.demo.samples import Samples
from ecglm.representations.render import render
from ecglm.store.reader import SegmentStore
from ecglm.types import Neighbour


def test_hits_are_shown_in_their_order_with_their_pictures(world: Any):
    store = SegmentStore(world.store)
    rows = [store.row(n) for n in (3, 1)]
    hits = [
        Neighbour(r["segment_id"], r["record_id"], r["patient_id"], 0.25 * n, f"Report {n}", ("rhythm:AF", "odd"))
        for n, r in enumerate(rows)
    ]
    found = neighbours_shown(hits, Samples([store]), width=800)
    assert [(f.title, f.distance, f.report) for f in found] == [
        ("Neighbour 1", 0.0, "Report 0"),
        ("Neighbour 2", 0.25, "Report 1"),
    ]
    assert found[0].labels == ("AF", "odd")
    for place, one in zip((3, 1), found, strict=True):
        assert one.picture is not None
        picture = np.array(Image.open(io.BytesIO(one.picture)))
        drawn = render(store[place], store.rate, size=(800, picture.shape[0]))
        np.testing.assert_array_equal(picture, drawn)
    assert not any(str(rows[0][k]) in repr(found) for k in ("record_id", "patient_id", "segment_id"))


def test_p23_a_report_is_text_of_bounded_length_and_a_closed_store_no_picture():
    report = "<script>alert(1)</script>\u202e![x](http://a/b)\0\x1b]0;" + "x" * 10_000
    [one] = neighbours_shown([Neighbour("s", "r", "p", 1.5, report)])
    assert one.picture is None and len(one.report) < 4100
    assert one.report.startswith("<script>alert(1)</script>![x](http://a/b)]0;")  # the page escapes it as any text
    assert not any(c in one.report for c in "\u202e\0\x1b")
