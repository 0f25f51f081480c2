"""The format: rounding, limits, layout, shard sizes."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_fakes import RATE, SEG_LEN, FakePipeline, FakeSource, signal_of

from ecglm.errors import RejectedRecord
from ecglm.signals.pipeline import get_pipeline
from ecglm.signals.quality import MEASURES
from ecglm.store import writer
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore

LIMIT = float(np.nextafter(np.float32(32.767), np.float32(0)))
MILLIVOLTS = st.floats(-LIMIT, LIMIT, width=32)


@settings(deadline=None, max_examples=200)
@given(hnp.arrays(np.float32, (12, 5), elements=MILLIVOLTS))
def test_rounding_error_is_at_most_half_a_microvolt(segment):
    stored = writer.to_microvolts(segment)
    assert stored.dtype == np.dtype("<i2")
    assert np.abs(stored.astype(np.float64) - 1000.0 * segment.astype(np.float64)).max() <= 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_missing_sample_is_refused(value):
    segment = np.zeros((12, 4), np.float32)
    segment[5, 1] = value
    with pytest.raises(RejectedRecord) as caught:
        writer.to_microvolts(segment)
    assert caught.value.reason == "nan_in_segment"


@pytest.mark.parametrize(("value", "kept"), [(32.767, True), (-32.767, True), (32.768, False), (-32.768, False)])
def test_the_range_of_int16_microvolts(value, kept):
    segment = np.full((12, 4), value, np.float64)
    if kept:
        assert (writer.to_microvolts(segment) == round(value * 1000)).all()
    else:
        with pytest.raises(RejectedRecord) as caught:
            writer.to_microvolts(segment)
        assert caught.value.reason == "amplitude_overflow"
        assert "32.768 mV" in caught.value.detail


def test_a_shard_is_raw_little_endian_microvolts_segment_by_segment(fake_store):
    data = (fake_store.path / "shards/00000.i16").read_bytes()
    assert len(data) == 16 * 2 * 12 * SEG_LEN * 2  # 16 records, 2 segments each
    lead, sample = 4, 11
    offset = ((2 * 3 + 1) * 12 * SEG_LEN + lead * SEG_LEN + sample) * 2  # record 3, its second segment
    assert struct.unpack_from("<h", data, offset)[0] == round(1000 * float(signal_of(3)[lead, SEG_LEN + sample]))


@pytest.mark.parametrize(
    ("num", "size", "shards"),
    [
        (1, 16, 1),
        (40, 16, 3),
        (128, 16, 8),
        (200, 64, 4),
        (2048, 256, 8),
        (32768, 256, 128),
        (32769, 257, 128),
        (800_000, 6250, 128),
    ],
)
def test_there_are_never_more_shards_than_a_reader_may_map(num, size, shards):
    assert writer.shard_records(num) == size
    assert -(-num // size) == shards <= 128


class Measuring(FakePipeline):
    """The fake pipeline with measures that tell segment and lead, some of them missing."""

    def run(self, record):
        segments = super().run(record)
        number = int(record.record_id[-3:])
        told = 100.0 * number + 10 * np.arange(2)[:, None] + np.arange(12) / 100
        return dataclasses.replace(segments, lead_quality={"snr_db": told.astype(np.float32)})


def test_the_index_has_the_columns_of_format_2(tmp_path):
    prepare(FakeSource(num=20), Measuring(), tmp_path / "store", progress=False)
    table = pq.read_table(tmp_path / "store/index.parquet")
    assert json.loads((tmp_path / "store/manifest.json").read_text())["settings"]["format_version"] == 2
    assert table.schema.names == [
        *("segment_id", "record_id", "patient_id", "patient_known", "source", "start_s", "fold", "split", "report"),
        *("report_en", "report_origin", "labels", "metadata", "quality", "flags", "nan_share", "flat_share"),
        *("clip_share", "baseline_mv", "mains_share", "snr_db", "shard", "row"),
    ]
    assert writer.LEAD_COLUMNS == MEASURES
    assert all(table.schema.field(name).type.value_type == pa.float32() for name in MEASURES)
    snr = np.array(table.column("snr_db").to_pylist())
    assert snr.shape == (40, 12)
    assert snr[2 * 7 + 1, 3] == pytest.approx(710.03)
    assert np.isnan(np.array(table.column("nan_share").to_pylist())).all()  # this pipeline does not measure it
    assert set(table.column("report_en").to_pylist()) == {""}


def test_english_reports_reach_the_index(tmp_path):
    class Translated(FakeSource):
        def read(self, key):
            return dataclasses.replace(super().read(key), report_en="finding", report_origin="phrases")

    prepare(Translated(num=3), FakePipeline(), tmp_path / "store", progress=False)
    row = SegmentStore(tmp_path / "store").row(0)
    assert (row["report"], row["report_en"], row["report_origin"]) == ("Befund Nr. 0 – größer", "finding", "phrases")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faulty(FakeSource):
    """Record 1 is flat in V3, 2 saturated in II, 3 a hundred times too large, 4 has a missing sample, 5 is noise."""

    def read(self, key):
        record = super().read(key)
        signal = np.random.default_rng(int(key[-3:])).normal(0, 0.3, (12, 2 * SEG_LEN)).astype(np.float32)
        number = int(key[-3:])
        if number == 1:
            signal[8] = 0.25
        elif number == 2:
            signal[1, 40:50] = 2.0
        elif number == 3:
            signal *= 10
        elif number == 4:
            signal[3, 20] = np.nan
        return dataclasses.replace(record, signal=signal)


@pytest.mark.parametrize("on_bad", ["keep", "reject"])
def test_on_bad_from_prepare(tmp_path, on_bad):
    pipeline = get_pipeline("default", rate=RATE, seg_len=SEG_LEN, on_bad=on_bad)
    summary = prepare(Faulty(num=6), pipeline, tmp_path / on_bad, max_reject=1.0, progress=False)
    store = SegmentStore(tmp_path / on_bad)
    flags = {store.row(i)["record_id"][-1]: store.row(i)["flags"] for i in range(len(store))}
    always = {"0": ["einthoven"], "4": ["nan", "einthoven"], "5": ["einthoven"]}
    if on_bad == "reject":
        assert summary.reasons == {"flat_lead": 1, "saturated": 1, "amplitude_implausible": 1}
        assert flags == always
        return
    assert summary.reasons == {}
    named = {
        "1": ["flat_lead", "einthoven"],
        "2": ["saturated", "einthoven"],
        "3": ["amplitude_implausible", "einthoven"],
    }
    assert flags == {**always, **named}
    first = {name: store.row(2)[name] for name in ("flat_share", "clip_share")}
    assert first["flat_share"][8] == 1 and sum(first["flat_share"]) == 1
    assert store.row(4)["clip_share"][1] == pytest.approx(0.2)
    assert store.row(8)["nan_share"][3] == pytest.approx(1 / SEG_LEN)
