"""Windows tile the signal; the remainder is dropped or padded as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.errors import RejectedRecord
from ecglm.signals.segment import cut_segments, require_length


@given(n=st.integers(0, 300), seg_len=st.integers(1, 60), hop=st.one_of(st.none(), st.integers(1, 80)))
def test_windows_are_slices_of_the_signal(n, seg_len, hop):
    x = np.arange(2 * n, dtype=np.float32).reshape(2, n)
    segments, starts, fills = cut_segments(x, seg_len, hop)
    step = hop or seg_len
    assert starts == [k * step for k in range(n) if k * step + seg_len <= n]
    assert fills == [1.0] * len(starts)
    assert segments.shape == (len(starts), 2, seg_len)
    for segment, start in zip(segments, starts, strict=True):
        assert np.array_equal(segment, x[:, start : start + seg_len])


@pytest.mark.parametrize(("seg_len", "count"), [(500, 5), (1250, 2), (2500, 1), (2501, 0)])
def test_counts_of_a_ten_second_record(seg_len, count):
    assert len(cut_segments(np.zeros((12, 2500)), seg_len)[0]) == count


def test_a_part_filled_end_is_padded_when_asked():
    segments, starts, fills = cut_segments(np.ones((12, 1800)), 1000, min_fill=0.8)
    assert (starts, fills) == ([0, 1000], [1.0, 0.8])
    assert segments[1].sum() == 12 * 800
    assert not segments[1, :, 800:].any()
    assert len(cut_segments(np.ones((12, 1799)), 1000, min_fill=0.8)[0]) == 1


def test_too_short():
    require_length(2500, 250, 2500)
    require_length(2000, 250, 2500, min_fill=0.8)
    for samples in (2499, 1, 0):
        with pytest.raises(RejectedRecord, match=r"^too_short"):
            require_length(samples, 250, 2500)
