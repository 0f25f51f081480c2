"""The format: rounding, limits, layout, shard sizes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_fakes import SEG_LEN, signal_of

from ecglm.errors import RejectedRecord
from ecglm.store import writer

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


@pytest.mark.parametrize(("num", "size", "shards"), [(1, 16, 1), (40, 16, 3), (2048, 16, 128), (2049, 17, 121)])
def test_there_are_never_more_shards_than_a_reader_may_map(num, size, shards):
    assert writer.shard_records(num) == size
    assert -(-num // size) == shards <= 128
