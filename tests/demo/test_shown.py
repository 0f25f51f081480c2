"""What people see of an ECG is what the model reads; pages, calipers and segments agree with the paper's geometry."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ecglm.demo.shown import DISPLAY, Origin, Shown, layouts
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.assistant import Assistant, load
from ecglm.records.synthetic import Synthetic
from ecglm.representations.render import render
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, Record


def pixels(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png), formats=["PNG"]))


@pytest.fixture(scope="module")
def record() -> Record:
    source = Synthetic(num_patients=1, seed=2, duration_s=25, artefacts=False)
    return source.read(source.keys()[0])


@pytest.fixture(scope="module")
def shown(record: Record) -> Shown:
    return Shown("x", record=record)


@pytest.fixture(scope="module")
def assistant(signal_run: Any) -> Assistant:
    return load(signal_run / "best")


def test_segments_are_the_pipelines_in_whole_microvolts(shown, record):
    wanted = get_pipeline("default", rate=250, seg_len=2500).run(record)
    assert shown.segments.shape == (2, 12, 2500) and shown.rate == 250 and shown.start_s == wanted.start_s
    np.testing.assert_allclose(shown.segments, wanted.signal, atol=5.1e-4)
    np.testing.assert_array_equal(shown.segments, (np.rint(shown.segments * 1000) / 1000).astype(np.float32))
    assert shown.titles() == ["0 to 10 s", "10 to 20 s"]


def test_the_display_pipeline_is_one_that_exists():
    assert get_pipeline("default", rate=250, seg_len=2500).config().items() >= DISPLAY.items()


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_is_a_page_of_the_width_asked_for(shown, layout):
    for width in (700, 1400):
        page = pixels(shown.page(layout, width, segment=1))
        assert page.shape[1] == width and page.dtype == np.uint8 and 0.7 < page.shape[0] / width < 1.2
    drawn = render(shown.segments[1], 250, layout=layout, size=(1400, page.shape[0]))
    np.testing.assert_array_equal(page, drawn)
    assert (pixels(shown.page(layout, 1400, segment=1, marks=True)) != page).any() == bool(shown.marks(1))


@pytest.mark.parametrize("layout", layouts())
def test_calipers_measure_what_is_drawn(record, layout):
    """A ramp of known size: where the trace is darkest must be where the calibration says."""
    time = np.arange(2500) / 250
    signal = np.tile(np.where((time % 2.5 > 1) & (time % 2.5 < 1.5), 0.8, 0.0), (12, 1)).astype(np.float32)
    square = Shown("x", prepared=signal[None])
    facts, page = square.calibration(layout, 1600), pixels(square.page(layout, 1600)).astype(int).sum(axis=2)
    assert (facts["width"], facts["height"]) == (page.shape[1], page.shape[0])
    assert facts["px_per_s"] == pytest.approx(25 * facts["px_per_mm"])
    assert facts["px_per_mv"] == pytest.approx(10 * facts["px_per_mm"])
    assert {box["lead"] for box in facts["boxes"]} == set(LEADS)
    assert all(
        0 <= b["left"] < b["right"] <= facts["width"] and b["top"] < b["y"] < b["bottom"] for b in facts["boxes"]
    )
    for box in facts["boxes"]:
        inside = next(
            (n for n in range(4) if box["start_s"] <= n * 2.5 + 1.05 and n * 2.5 + 1.45 <= box["stop_s"]), None
        )
        if inside is None:
            continue
        x = box["x"] + (inside * 2.5 + 1.25 - box["start_s"]) * facts["px_per_s"]
        y = box["y"] - 0.8 * facts["px_per_mv"]
        column = page[max(0, round(y) - 4) : round(y) + 5, round(x)]
        assert column.min() < 120, (layout, box["lead"])


def test_gain_and_speed_change_the_scale(shown):
    usual, other = shown.calibration(), shown.calibration(gain=20.0, speed=12.5)
    assert usual["px_per_mv"] / usual["px_per_mm"] == pytest.approx(10)
    assert other["px_per_mv"] / other["px_per_mm"] == pytest.approx(20)
    assert other["px_per_s"] / other["px_per_mm"] == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 5}, "480 to 4000"),
        ({"width": 100_000}, "480 to 4000"),
        ({"layout": "13x1"}, "no layout"),
        ({"gain": 7.0}, "gain"),
        ({"speed": float("nan")}, "speed"),
        ({"segment": 9}, "no segment 9"),
        ({"segment": -1}, "no segment -1"),
    ],
)
def test_options_out_of_range_are_one_line(shown, options, said):
    with pytest.raises(EcglmError, match=said):
        shown.page(**options)


def test_a_picture_is_shown_as_it_is_and_nothing_is_measured_of_it():
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    shown = Shown("x.png", picture=picture)
    np.testing.assert_array_equal(pixels(shown.page(marks=True)), picture)
    assert shown.is_picture and shown.calibration() == {} and shown.marks() == () and shown.titles() == []
    assert [(r.value, r.note) for r in shown.measurements()] == [
        ("not measured", "a picture holds no signal to measure")
    ]
    with pytest.raises(EcglmError, match="shown as it is"):
        shown.geometry()


def test_neither_text_nor_ids_of_a_record_are_in_what_is_shown(shown, record):
    private = dataclasses.replace(
        record, record_id="file/smith", patient_id="4711", metadata={"recorded": "12-May-2020"}
    )
    other = Shown("x", record=private, origin=Origin("store", "db/1", "f", ("db/p",), "test"))
    assert other.page() == shown.page()
    assert not any(word in repr(other) for word in ("smith", "4711", "May", "db/"))


def test_the_model_reads_what_people_see(assistant, record):
    shown = Shown("x", record=record, pipeline=dict(assistant.bundle.pipeline))
    np.testing.assert_array_equal(shown.segments[0], assistant.segment(record))
    for ours, theirs in zip(
        dataclasses.astuple(shown.input_for(assistant)), dataclasses.astuple(assistant.encode(record)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_another_segment_is_another_input(assistant, record):
    shown = Shown("x", record=record, pipeline=dict(assistant.bundle.pipeline))
    first, second = (shown.input_for(assistant, n).tensor for n in (0, 1))
    assert first is not None and second is not None and (first != second).any()


def test_a_model_that_cuts_otherwise_reads_its_own_segment_nearest_in_time(assistant, record):
    """Shown are 10 s at 250 Hz, the tiny model reads 5 s at 50 Hz."""
    shown = Shown("x", record=record)
    own = Shown("x", record=record, pipeline=dict(assistant.bundle.pipeline))
    wanted = own.input_for(assistant, own.start_s.index(10.0))
    np.testing.assert_array_equal(shown.input_for(assistant, 1).tensor, wanted.tensor)


def test_segments_of_a_store_are_read_as_they_are_or_not_at_all(assistant, world):
    store = SegmentStore(world.store)
    pipeline = dict(store.manifest["settings"]["pipeline"])
    shown = Shown("Sample 1", prepared=store.take([0, 1]), pipeline=pipeline)
    read = shown.input_for(assistant).tensor
    np.testing.assert_array_equal(read, assistant.bundle.representation(store[0], store.rate).tensor)
    other = Shown("Sample 1", prepared=np.zeros((1, 12, 2500), np.float32))
    with pytest.raises(EcglmError, match="prepared otherwise than this model reads"):
        other.input_for(assistant)


def test_sha256_is_of_the_microvolts(shown):
    import hashlib

    values = np.rint(shown.segments[1].astype(np.float64) * 1000).astype("<i2")
    assert shown.sha256(1) == hashlib.sha256(values.tobytes("C")).hexdigest() != shown.sha256(0)
    np.testing.assert_array_equal(shown.microvolts(1), values)


def test_a_recording_that_cannot_be_used_says_so():
    flat = Record("x", np.zeros((12, 5000), np.float32), 500.0, LEADS)
    with pytest.raises(RejectedRecord, match="flat"):
        _ = Shown("x", record=flat).segments


def test_memory_is_counted(shown, record):
    assert shown.num_bytes == record.signal.nbytes + shown.segments.nbytes
