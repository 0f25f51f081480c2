"""ECG-Byte: the quantiser's formula and bound, round trips, spans, files good and hostile."""

import json
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecglm.errors import EcglmError
from ecglm.representations.ecg_byte import EcgByte, EcgTokens


def ecg_like(num_segments=6, num_leads=12, num_samples=200, seed=0):
    """Peaks on a wandering line: enough structure for merges."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples)
    x = 0.05 * np.cumsum(rng.normal(size=(num_segments, num_leads, num_samples)), axis=-1)
    return (x + 1.2 * np.exp(-(((t % 60) - 30) ** 2) / 8)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizers():
    x = ecg_like()
    return {
        (boundary, mode): EcgByte.train(x, 120, boundary=boundary, encode_mode=mode)
        for boundary in ("none", "segment", "lead")
        for mode in ("greedy", "ranked")
    }


segments = arrays(np.float32, (3, 40), elements=st.floats(-16, 16, width=32))


@settings(deadline=None, max_examples=100)
@given(segments)
def test_symbols_follow_the_formula(x):
    tok = EcgByte([])
    x64 = x.astype(np.float64)
    z = np.clip((x64 - x64.min()) / (x64.max() - x64.min() + 1e-6), 0, 1)
    expected = "".join(chr(97 + q) for q in np.minimum(np.floor(26 * z), 25).astype(int).ravel())
    assert tok.decode_symbols(tok.encode(x).ids) == expected


@settings(deadline=None, max_examples=100)
@given(segments)
def test_round_trip_error_is_at_most_half_a_bin(x):
    tok = EcgByte([[97, 97], [256, 97]])
    tokens = tok.encode(x)
    assert (tokens.low, tokens.high) == (float(x.min()), float(x.max()))
    bound = (np.float64(x.max()) - x.min()) / 52 + 1e-6
    assert np.abs(tok.decode(tokens).astype(np.float64) - x).max() <= bound


@settings(deadline=None, max_examples=50)
@given(segments)
def test_percentile_mode_keeps_one_range_and_the_bound_inside_it(x):
    tok = EcgByte([], normalise="percentile", percentiles={"p1": -1.0, "p99": 2.0})
    tokens = tok.encode(x)
    assert (tokens.low, tokens.high) == (-1.5, 2.5)
    inside = (x >= -1.5) & (x <= 2.5)
    assert np.abs(tok.decode(tokens) - x)[inside].max(initial=0) <= 4 / 52 + 1e-6
    assert (tok.decode(tokens)[x > 2.5] > 2.4).all()


def test_encoded_segments_decode_in_every_mode(tokenizers):
    for tok in tokenizers.values():
        for x in ecg_like(seed=5):
            tokens = tok.encode(x)
            assert tokens.ids.dtype == np.uint16
            assert len(tokens) < x.size / 2  # the merges do something
            assert np.abs(tok.decode(tokens) - x).max() <= (x.max() - x.min()) / 52 + 1e-6


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=300), text=st.text(alphabet="abcdefghijklmnopqrstuvwxyz", max_size=300))
def test_decode_of_encode_is_the_identity_for_any_bytes(tokenizers, data, text):
    for tok in tokenizers.values():
        assert tok.decode_symbols(tok.encode_symbols(data)).encode("latin-1") == data
        assert tok.decode_symbols(tok.encode_symbols(text)) == text


def test_d18_spans_tile_the_sequence_and_decode_to_it(tokenizers):
    for tok in tokenizers.values():
        x = ecg_like(1, seed=3)[0]
        tokens = tok.encode(x)
        symbols = tok.symbolise(x)[0].tobytes()
        assert tokens.spans[0, 0] == 0
        assert tokens.spans[-1, 1] == x.size
        np.testing.assert_array_equal(tokens.spans[1:, 0], tokens.spans[:-1, 1])
        for token, (start, end) in zip(tokens.ids.tolist(), tokens.spans.tolist(), strict=True):
            assert tok.decode_symbols([token]).encode() == symbols[start:end]
        spans = tok.encode_spans("mmmmnnmm")
        assert "".join("mmmmnnmm"[a:b] for _, a, b in spans) == "mmmmnnmm"


def test_d32_with_boundary_lead_no_token_spans_two_leads(tokenizers):
    for boundary in ("segment", "lead"):
        crossing = 0
        for x in [*ecg_like(), np.zeros((12, 200), np.float32)]:
            spans = tokenizers[boundary, "greedy"].encode(x).spans
            crossing += int((spans[:, 0] // 200 != (spans[:, 1] - 1) // 200).sum())
        assert (crossing == 0) == (boundary == "lead")


def test_boundaries_decide_what_is_counted():
    # two segments of two leads, each lead "az"; after the merge az = 256 the pair (256, 256) occurs never within a
    # lead, once in each of the two segments, three times (overlapping) in all of it joined
    x = np.tile(np.array([[0.0, 1.0]], np.float32), (2, 2, 1))
    for boundary, number in (("lead", 0), ("segment", 2), ("none", 3)):
        for min_count in (1, 2, 3, 4):
            merges = EcgByte.train(x, 2, boundary=boundary, min_count=min_count).merges.tolist()
            assert merges == [[97, 122], [256, 256]][: 2 if number >= min_count else 1], (boundary, min_count)


def test_training_reads_an_array_or_an_iterator_alike_and_twice_alike(tmp_path):
    x = ecg_like()
    a, b, c = EcgByte.train(x, 50, seed=3), EcgByte.train(iter(list(x)), 50, seed=3), EcgByte.train(x[:3], 50, seed=3)
    a.save(tmp_path / "a.json")
    b.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert a.trained_on["n_segments"] == 6
    assert a.trained_on["fingerprint"] != c.trained_on["fingerprint"]


def test_a_constant_segment_is_all_a_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tok = EcgByte.train(np.full((1, 12, 30), 0.7, np.float32), 3)
        tokens = tok.encode(np.full((12, 30), -2.0, np.float32))
        assert tok.decode_symbols(tokens.ids) == "a" * 360
        np.testing.assert_allclose(tok.decode(tokens), -2.0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_errors(bad):
    x = ecg_like(1)[0]
    x[3, 7] = bad
    with pytest.raises(EcglmError, match="NaN or infinity"):
        EcgByte([]).encode(x)
    with pytest.raises(EcglmError, match="NaN or infinity"):
        EcgByte.train([x], 3)


@pytest.mark.parametrize("x", [np.zeros(12), np.zeros((1, 12, 5)), np.zeros((12, 0)), np.array([["a"]])])
def test_other_shapes_and_types_are_errors(x):
    with pytest.raises(EcglmError, match=r"num_leads|empty"):
        EcgByte([]).encode(x)


def test_one_sample_encodes():
    tok = EcgByte([])
    assert tok.decode(tok.encode(np.array([[0.25]], np.float32))) == pytest.approx(0.25, abs=1e-6)


def test_batch_equals_one_by_one_for_any_iterable_and_any_number_of_threads(tokenizers):
    x = ecg_like(150, num_leads=3, seed=9)
    mixed = [*x[:3], *x[3:5].astype(np.float64), x[5, :2], x[6, :, :50], (x[7] * 1000).astype(np.int16), *x[8:]]
    for key in (("segment", "greedy"), ("lead", "greedy"), ("lead", "ranked")):
        tok = tokenizers[key]
        for segments in (x, list(x), mixed, x[::2], x[:, ::2], x[:0], []):
            expected = [tok.encode(s) for s in segments]
            for threads in (1, 2, 3):
                for many in (tok.encode_batch(segments, threads=threads), tok.encode_batch(iter(segments))):
                    assert len(many) == len(expected)
                    for a, b in zip(expected, many, strict=True):
                        np.testing.assert_array_equal(a.ids, b.ids)
                        np.testing.assert_array_equal(a.spans, b.spans)
                        assert (a.low, a.high, a.shape) == (b.low, b.high, b.shape)
                        assert b.ids.dtype == np.uint16


def test_batch_errors_name_the_segment(tokenizers):
    tok = tokenizers["segment", "greedy"]
    x = ecg_like(70, num_leads=2, num_samples=40)
    x[67, 1, 3] = np.nan
    for segments in (x, list(x)):
        for threads in (1, 2):
            with pytest.raises(EcglmError, match=r"segment 67: .*NaN or infinity"):
                tok.encode_batch(segments, threads=threads)
    with pytest.raises(EcglmError, match="segment 1: a segment is an array"):
        tok.encode_batch([x[0], np.zeros(12)])
    with pytest.raises(EcglmError, match="empty"):
        tok.encode_batch(np.zeros((2, 12, 0), np.float32))
    with pytest.raises(EcglmError, match="threads"):
        tok.encode_batch(x, threads=0)


def test_training_holds_one_segment_at_a_time():
    alive: list[weakref.ref] = []
    most = 0

    def stream():
        nonlocal most
        for x in ecg_like(20, num_leads=2, num_samples=50):
            segment = x.copy()
            alive.append(weakref.ref(segment))
            most = max(most, sum(ref() is not None for ref in alive))
            yield segment

    EcgByte.train(stream(), 10)
    assert most <= 3


def test_training_on_nothing_is_an_error():
    with pytest.raises(EcglmError, match="no segments"):
        EcgByte.train(iter([]), 10)


def test_compat_decoding_is_at_25ths_of_the_range(tokenizers):
    tok = tokenizers["segment", "greedy"]
    tokens = tok.encode(ecg_like(1, seed=2)[0])
    q = np.frombuffer(tok.decode_symbols(tokens.ids).encode(), np.uint8).reshape(tokens.shape) - 97.0
    expected = tokens.low + q / 25 * (tokens.high - tokens.low)
    np.testing.assert_allclose(tok.decode(tokens, compat=True), expected, atol=2e-6)


def test_a_range_beyond_numbers_is_an_error():
    with pytest.raises(EcglmError, match="NaN or infinity"):
        EcgByte([]).encode(np.array([[-1.7e308, 1.7e308]]))


def test_more_than_65536_ids_are_of_32_bits(tmp_path):
    merges = [(left, right) for left in range(256) for right in range(256)][:65_300]
    tok = EcgByte(merges)
    tokens = tok.encode(ecg_like(1)[0])
    assert tokens.ids.dtype == np.uint32
    assert tok.decode(tokens).shape == (12, 200)
    assert EcgByte(merges[:65_280]).id_type is np.uint16


def test_save_and_load_keep_everything(tmp_path, tokenizers):
    fingerprints = set()
    for tok in [*tokenizers.values(), EcgByte([], normalise="percentile", percentiles={"p1": -1, "p99": 1})]:
        tok.save(tmp_path / "t.json")
        again = EcgByte.load(tmp_path / "t.json")
        assert again.to_dict() == tok.to_dict()
        assert again.fingerprint == tok.fingerprint
        x = ecg_like(1, seed=4)[0]
        np.testing.assert_array_equal(again.encode(x).ids, tok.encode(x).ids)
        fingerprints.add(tok.fingerprint)
    assert len(fingerprints) == 7


def test_the_file_has_the_fields_of_the_format(tmp_path, tokenizers):
    tokenizers["lead", "greedy"].save(tmp_path / "t.json")
    values = json.loads((tmp_path / "t.json").read_text())
    assert set(values) == {
        "format", "version", "symbols", "normalise", "boundary", "encode_mode", "merges", "num_merges", "trained_on",
    }  # fmt: skip
    assert (values["format"], values["symbols"], values["boundary"]) == ("ecglm-bpe", 26, "lead")
    assert values["num_merges"] == len(values["merges"]) == 120
    assert set(values["trained_on"]) == {"fingerprint", "n_segments", "seed"}


GOOD = {
    "format": "ecglm-bpe",
    "version": 1,
    "symbols": 26,
    "normalise": "instance",
    "boundary": "segment",
    "encode_mode": "greedy",
    "merges": [[97, 97], [256, 98]],
    "num_merges": 2,
    "trained_on": {},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "no ECG-Byte tokenizer"),
        ({"version": 2}, "version 2"),
        ({"symbols": 25}, "symbols"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"merge": []}, "did you mean 'merges'"),
        ({"merges": None}, "merges"),
        ({"merges": [[97, 256]], "num_merges": 1}, "does not exist before it"),
        ({"merges": [[256, 97]], "num_merges": 1}, "does not exist before it"),
        ({"merges": [[97, -1]], "num_merges": 1}, "does not exist before it"),
        (
            {"merges": [[97, 97], [258, 98], [257, 97]], "num_merges": 3},
            "merge 1 .* does not exist before it",
        ),  # a cycle
        ({"merges": [[97, 97], [97, 1 << 70]]}, "does not exist before it"),
        ({"merges": [[97, 97], None]}, "pair of ids"),
        ({"merges": {"0": [97, 97]}}, "list of pairs"),
        ({"legacy_vocab_order": [*range(256), 258, 258]}, "legacy_vocab_order"),
        ({"legacy_vocab_order": [*range(257), 258]}, "legacy_vocab_order"),  # a gap
        ({"normalise": "percentile", "percentiles": {"p1": 2, "p99": 1}}, "percentiles"),
        ({"merges": [[97, 97], [97, 97]]}, "stands twice"),
        ({"merges": [[97, 97, 97], [97, 98]]}, "pair of ids"),
        ({"merges": [[97, "98"], [97, 98]]}, "pair of ids"),
        ({"merges": [[97, 1.5], [97, 98]]}, "pair of ids"),
        ({"merges": [[97, True], [97, 98]]}, "pair of ids"),
        ({"merges": [[97, 97]] + [[i, i] for i in range(256, 300)], "num_merges": 45}, "expansions exceed"),
        ({"merges": [[97, 97]] * 140_000}, "at most"),
        ({"num_merges": 3}, "num_merges"),
        ({"num_merges": "2"}, "num_merges"),
        ({"normalise": "lead_zscore"}, "normalise"),
        ({"normalise": ["instance"]}, "normalise"),
        ({"normalise": "percentile"}, "percentiles"),
        ({"normalise": "percentile", "percentiles": {"p1": "x", "p99": 1}}, "percentiles"),
        ({"percentiles": {"p1": 0, "p99": 1}}, "percentiles"),
        ({"boundary": "leads"}, "did you mean 'lead'"),
        ({"encode_mode": "fast"}, "encode_mode"),
        ({"trained_on": "x"}, "trained_on"),
        ({"legacy_vocab_order": [0, 1]}, "legacy_vocab_order"),
        ({"legacy_vocab_order": ["a"]}, "legacy_vocab_order"),
    ],
)
def test_hostile_and_damaged_files_are_errors_that_name_file_and_field(tmp_path, change, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(EcglmError, match=message) as error:
        EcgByte.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", list(GOOD))
def test_a_missing_field_is_an_error(tmp_path, key):
    (tmp_path / "t.json").write_text(json.dumps({k: v for k, v in GOOD.items() if k != key}))
    with pytest.raises(EcglmError, match=r"missing|format|version"):
        EcgByte.load(tmp_path / "t.json")


def test_a_truncated_file_is_an_error(tmp_path):
    text = json.dumps(GOOD)
    for size in (0, 1, len(text) // 2, len(text) - 1):
        (tmp_path / "t.json").write_text(text[:size])
        with pytest.raises(EcglmError, match="JSON"):
            EcgByte.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("[1]")
    with pytest.raises(EcglmError, match="no ECG-Byte tokenizer"):
        EcgByte.load(tmp_path / "t.json")


def test_foreign_ids_and_shapes_are_errors_on_decode(tokenizers):
    tok = tokenizers["segment", "greedy"]
    tokens = tok.encode(ecg_like(1)[0])
    for ids in ([tok.vocab_size], [-1], [0.5]):
        with pytest.raises(EcglmError, match="token ids"):
            tok.decode_symbols(ids)
    with pytest.raises(EcglmError, match="shape"):
        tok.decode(EcgTokens(tokens.ids, 0.0, 1.0, (12, 100), tokens.spans))
    with pytest.raises(EcglmError, match="outside"):
        tok.decode(EcgTokens(np.array([65]), 0.0, 1.0, (1, 1), np.array([[0, 1]])))
    with pytest.raises(EcglmError, match="no byte"):
        tok.encode_symbols("ab→")


def test_no_ids_and_no_symbols():
    tok = EcgByte([])
    assert tok.encode_symbols("") == []
    assert tok.decode_symbols([]) == ""


def test_reachable_ids_are_made_of_letters_alone():
    tok = EcgByte([[97, 98], [65, 97], [256, 257], [256, 122]])
    assert tok.reachable.tolist() == [*range(97, 123), 256, 259]


@pytest.mark.realdata
def test_real_ecgs_compress_and_come_back(ptb_xl):
    raw = [np.fromfile(f, "<i2") for f in sorted((ptb_xl / "records100" / "00000").glob("*.dat"))[:60]]
    x = np.stack([r.reshape(-1, 12).T / 1000 for r in raw]).astype(np.float32)
    tok = EcgByte.train(x[:40], 1000)
    assert len(tok.merges) == 1000
    ranked = EcgByte(tok.merges, encode_mode="ranked")
    num_greedy = num_ranked = 0
    for segment in x[40:]:
        tokens = tok.encode(segment)
        num_greedy, num_ranked = num_greedy + len(tokens), num_ranked + len(ranked.encode(segment))
        assert len(tokens) < segment.size / 3
        bound = (segment.max() - segment.min()) / 52 + 1e-6
        assert np.abs(tok.decode(tokens) - segment).max() <= bound
    assert num_greedy < num_ranked  # longest match gives somewhat fewer tokens on ECGs
