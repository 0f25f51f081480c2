"""Round trips: errors against a quantiser of one's own, clipping, failures that are noticed, the overlaid picture."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecglm.analysis.roundtrip import draw_round_trip, lines, round_trips, speed, summarise, write_round_trips
from ecglm.analysis.tokens import token_source
from ecglm.errors import EcglmError
from ecglm.representations import ecg_byte
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.render import render
from ecglm.store.reader import SegmentStore


@pytest.fixture(scope="module")
def store(world):
    return SegmentStore(world.store)


@pytest.fixture(scope="module")
def tokenizer(store):
    return EcgByte.train(store[:6], 60, boundary="lead")


def test_errors_are_those_of_bin_centres(store, tokenizer):
    trips = round_trips(token_source(tokenizer, store), range(len(store)))
    for row in range(len(store)):
        x = store[row].astype(np.float64)
        low, width = x.min(), x.max() - x.min() + 1e-6
        centre = low + (np.minimum(np.floor(26 * (x - low) / width), 25) + 0.5) / 26 * width
        assert trips.max_error[row] == pytest.approx(np.abs(centre - x).max(), abs=1e-5)
        assert trips.mean_error[row] == pytest.approx(np.abs(centre - x).mean(), abs=1e-5)
        assert trips.bound[row] == pytest.approx((x.max() - x.min()) / 52, abs=1e-5)
        assert trips.num_tokens[row] == len(tokenizer.encode(store[row]))
    found = summarise(trips)
    assert trips.held and found["failed"] == []
    assert found["symbols_exact"] == found["within_half_a_bin"] == found["num_segments"] == len(store)
    assert found["clipped_share"] == 0 and found["max_error_mv"] == trips.max_error.max()
    assert found["symbols_per_token"] == pytest.approx(len(store) * 12 * 250 / trips.num_tokens.sum())
    assert "ms to encode" in speed(trips) and any("came back exactly" in line for line in lines(found))
    json.dumps(found, allow_nan=False)


def test_what_lies_outside_the_percentiles_is_counted_and_no_failure(store):
    tokenizer = EcgByte([], normalise="percentile", percentiles={"p1": 0.0, "p99": 0.1})
    trips = round_trips(token_source(tokenizer, store), [0, 1, 2])
    x = store[:3]
    expected = ((x < -0.5) | (x > 0.6)).sum(axis=(1, 2))
    assert trips.clipped.tolist() == expected.tolist() and expected.sum() > 0
    assert trips.held
    assert any(line.startswith("clipped: ") for line in lines(summarise(trips)))


def test_a_tokenizer_that_is_wrong_is_found_out(store, tokenizer, monkeypatch):
    right = ecg_byte.dequantise
    monkeypatch.setattr(ecg_byte, "dequantise", lambda *a, **k: right(*a, **k) + np.float32(0.3))
    found = summarise(round_trips(token_source(tokenizer, store), [4, 7]))
    assert found["symbols_exact"] == 2 and found["within_half_a_bin"] == 0 and found["failed"] == [4, 7]
    monkeypatch.undo()
    monkeypatch.setattr(EcgByte, "decode_symbols", lambda self, ids: "a" * 3000)
    found = summarise(round_trips(token_source(tokenizer, store), [4]))
    assert found["symbols_exact"] == 0 and found["failed"] == [4]
    assert "FAILED: segments 4" in lines(found)


def test_rows_and_pictures(tmp_path, store, tokenizer):
    trips = round_trips(token_source(tokenizer, store), [2, 5, 8, 9, 11])
    write_round_trips(trips, tmp_path, 3)
    rows = pq.read_table(tmp_path / "segments.parquet").to_pandas()
    assert rows["position"].tolist() == [2, 5, 8, 9, 11]
    assert rows["segment_id"].tolist() == [store.row(i)["segment_id"] for i in (2, 5, 8, 9, 11)]
    assert rows["exact"].all() and rows["within"].all()
    drawn = {int(p.stem.split("-")[1]) for p in tmp_path.glob("roundtrip-*.png")}
    worst, most = rows.loc[rows["max_error"].idxmax(), "position"], rows.loc[rows["num_tokens"].idxmax(), "position"]
    assert len(drawn) == 3 and {worst, most} <= drawn <= {2, 5, 8, 9, 11}


def test_the_picture_keeps_the_ecg_and_lays_the_decoded_one_below(store):
    tokenizer = EcgByte([], trained_on={"leads": ["I", "V2"]})
    trips = round_trips(token_source(tokenizer, store), [3])
    image = draw_round_trip(trips, 0).astype(int)
    red = (image[..., 0] - image[..., 1] > 100) & (image[..., 2] < 120)
    assert red.sum() > 300
    # the same picture without the decoded trace: what is black there is black here
    full = np.full((12, 250), np.nan, np.float32)
    full[[0, 7]] = store[3][[0, 7]]
    header = f"black: ECG; red: decoded ({trips.num_tokens[0]} tokens, within {trips.max_error[0]:.3f} mV)"
    plain = render(full, 50, dpi=200, header=header, line_width=0.2, color="mono").astype(int)
    assert plain.shape == image.shape
    assert np.abs(image - plain)[plain.max(axis=2) < 30].max() <= 16


def test_no_segment_is_an_error(store, tokenizer):
    with pytest.raises(EcglmError, match="no segment"):
        round_trips(token_source(tokenizer, store), [])
