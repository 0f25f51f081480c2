"""Token distributions: against plain counting, another fit, and what a table of them must add up to."""

import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize_scalar

from ecglm.analysis.results import result_folder
from ecglm.analysis.token_plots import write_pictures
from ecglm.analysis.tokens import lines, spread, summarise, token_source, token_stats, write_tables, zipf_exponent
from ecglm.errors import EcglmError, StaleOutputError
from ecglm.representations.ecg_byte import EcgByte
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS


@pytest.fixture(scope="module")
def store(world):
    return SegmentStore(world.store)


@pytest.fixture(scope="module")
def tokenizer(store):
    return EcgByte.train(store[:6], 60)


@pytest.fixture(scope="module")
def stats(store, tokenizer):
    return token_stats(token_source(tokenizer, store), range(len(store)))


@pytest.mark.parametrize("s", [0.4, 0.8, 1.0, 1.7])
def test_zipf_exponent_of_counts_that_follow_the_law(s):
    counts = np.round(1e9 * np.arange(1, 501) ** -s).astype(np.int64)
    assert zipf_exponent(np.random.default_rng(0).permutation(counts)) == pytest.approx(s, abs=1e-4)


def test_zipf_exponent_is_the_one_of_greatest_likelihood():
    counts = np.sort(np.random.default_rng(1).integers(0, 1000, 200))[::-1]
    used = counts[counts > 0]
    logs = np.log(np.arange(1, len(used) + 1))

    def minus_log_likelihood(s):
        return s * (used @ logs) + used.sum() * np.log(np.exp(-s * logs).sum())

    found = minimize_scalar(minus_log_likelihood, bounds=(0, 5), method="bounded", options={"xatol": 1e-9}).x
    assert zipf_exponent(counts) == pytest.approx(found, abs=1e-5)


def test_zipf_exponent_at_the_edges():
    assert zipf_exponent(np.array([5, 5, 5, 0])) == pytest.approx(0, abs=1e-6)
    assert zipf_exponent(np.array([5, 0])) is None
    assert zipf_exponent(np.zeros(3, int)) is None


def test_quantiles_of_counted_values_are_those_of_the_values():
    rng = np.random.default_rng(2)
    values, times = np.sort(rng.choice(1000, 50, replace=False)), rng.integers(0, 30, 50)
    every = np.repeat(values, times)
    found = spread(values, times)
    assert found["mean"] == pytest.approx(every.mean())
    for name, share in (("min", 0), ("median", 0.5), ("p95", 0.95), ("max", 1)):
        assert found[name] == np.quantile(every, share, method="inverted_cdf"), name


def test_counts_are_those_of_plain_counting(store, tokenizer, stats):
    counted = [Counter() for _ in LEADS]
    for row in range(len(store)):
        tokens = tokenizer.encode(store[row])
        per_lead = Counter()
        for token, (start, _) in zip(tokens.ids.tolist(), tokens.spans.tolist(), strict=True):
            counted[start // store.seg_len][token] += 1
            per_lead[start // store.seg_len] += 1
        assert stats.per_ecg[row].tolist() == [per_lead[lead] for lead in range(12)]
    for lead in range(12):
        assert {i: n for i, n in enumerate(stats.counts[lead].tolist()) if n} == dict(counted[lead])


def test_the_summary_adds_up(store, tokenizer, stats):
    found = summarise(stats)
    num_symbols = len(store) * 12 * store.seg_len
    assert found["num_tokens"] == stats.per_ecg.sum() and found["num_segments"] == len(store)
    assert found["num_tokens"] * found["token_length"]["mean"] == pytest.approx(num_symbols)
    assert found["symbols_per_token"] == pytest.approx(found["token_length"]["mean"])
    assert found["tokens_per_ecg"]["max"] == stats.per_ecg.sum(axis=1).max()
    assert found["vocab_size"] == 256 + len(tokenizer.merges) and found["reachable"] == 26 + len(tokenizer.merges)
    used = set(np.flatnonzero(stats.counts.sum(axis=0)).tolist())
    assert found["used"] == len(used) and found["used_share"] == pytest.approx(len(used) / found["reachable"])
    assert set(found["per_lead"]) == set(LEADS)
    assert sum(v["tokens_per_ecg"] for v in found["per_lead"].values()) == pytest.approx(
        found["tokens_per_ecg"]["mean"]
    )
    assert any(f"{found['num_tokens']} in {len(store)} ECGs" in line for line in lines(found))
    json.dumps(found, allow_nan=False)


def test_tables_and_pictures(tmp_path, store, tokenizer, stats):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tables(stats, tmp_path / name)
        write_pictures(stats, tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    pictures = ["lengths.png", "per_ecg.png", "per_lead.png", "zipf.png"]
    assert names == sorted([*pictures, "ecgs.parquet", "tokens.parquet"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    table = pq.read_table(tmp_path / "a" / "tokens.parquet").to_pandas()
    assert table["count"].sum() == stats.per_ecg.sum() and table["share"].sum() == pytest.approx(1)
    assert (table["count"] == table[[f"count_{lead}" for lead in LEADS]].sum(axis=1)).all()
    assert table["symbols"][97] == "a" and table["symbols"][256] == tokenizer.decode_symbols([256])
    assert (table["length"] == table["symbols"].str.len()).all()
    used = table[table["count"] > 0].sort_values("rank")
    assert used["rank"].tolist() == list(range(1, len(used) + 1)) and used["count"].is_monotonic_decreasing
    assert table["rank"].isna().sum() == (table["count"] == 0).sum()
    ecgs = pq.read_table(tmp_path / "a" / "ecgs.parquet").to_pandas()
    assert ecgs["segment_id"].tolist() == store.index.column("segment_id").to_pylist()
    assert (ecgs["num_tokens"] == ecgs[[f"tokens_{lead}" for lead in LEADS]].sum(axis=1)).all()
    for name in pictures:
        assert cv2.imread(str(tmp_path / "a" / name)).std() > 10


def test_one_ecg_of_one_token_gives_tables_and_pictures(tmp_path, store):
    """No law to fit, one bar in every histogram."""
    # 2040 times a, as 8 · 255: eight, then that to 2, 4, … 128 times, and the sum of these
    merges = [[97, 97], [256, 256], [257, 257]] + [[258 + i, 258 + i] for i in range(7)]
    merges += [[265, 264], [266, 263], [267, 262], [268, 261], [269, 260], [270, 259], [271, 258]]
    source = replace(token_source(EcgByte(merges), store), store=Flat())
    found = token_stats(source, [0])
    assert found.per_ecg.tolist() == [[1] + [0] * 11] and found.counts.sum() == 1
    write_tables(found, tmp_path)
    write_pictures(found, tmp_path)
    summary = summarise(found)
    assert summary["zipf_exponent"] is None and summary["token_length"]["median"] == 2040
    assert summary["per_lead"]["V6"]["zipf_exponent"] is None
    assert "Zipf" not in lines(summary)[2]


class Flat:
    """A store of one flat segment, twelve leads of 170 samples."""

    rate, seg_len, path = 50, 170, "flat"
    index = pa.table({"segment_id": ["flat/0"]})

    def take(self, positions):
        return np.zeros((len(positions), 12, self.seg_len), np.float32)


def test_a_source_reads_what_the_tokenizer_was_trained_on(store):
    tokenizer = EcgByte([], trained_on={"leads": ["V1", "I"], "rate": 25})
    source = token_source(tokenizer, store)
    assert (source.leads, source.rate, source.num_samples) == (("V1", "I"), 25, 125)
    assert source[3].shape == (2, 125)
    for position, segment in source.read([3, 1]):
        np.testing.assert_array_equal(segment, source[position])
    other = token_source(tokenizer, store, ["II"], store.rate)
    np.testing.assert_array_equal(other[3], store[3][1:2])
    plain = token_source(EcgByte([]), store)
    np.testing.assert_array_equal(plain[3], store[3])


@pytest.mark.parametrize(
    ("trained_on", "options", "message"),
    [
        ({"rate": 100}, {}, "50 Hz cannot be reduced to the 100 Hz that the tokenizer was trained on"),
        ({"rate": 20}, {}, "cannot be reduced to the 20 Hz"),
        ({}, {"rate": 40}, "40 Hz asked for"),
        ({}, {"rate": 0}, "0 Hz asked for"),
        ({}, {"leads": ["VX"]}, "no lead 'VX'"),
        ({"leads": ["I", "I"]}, {}, "stands twice"),
        ({"leads": "I"}, {}, "trained_on.leads"),
        ({"leads": [1]}, {}, "trained_on.leads"),
        ({"rate": "25"}, {}, "trained_on.rate"),
        ({"rate": True}, {}, "trained_on.rate"),
        ({"rate": -5}, {}, "trained_on.rate"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(store, trained_on, options, message):
    with pytest.raises(EcglmError, match=message) as error:
        token_source(EcgByte([], trained_on=trained_on), store, **options)
    assert "\n" not in str(error.value)


def test_no_segment_is_an_error(store):
    with pytest.raises(EcglmError, match="no segment"):
        token_stats(token_source(EcgByte([]), store), [])


def test_results_are_made_once_and_torn_ones_anew(tmp_path):
    made = []

    def make(folder):
        made.append(1)
        (folder / "x.txt").write_text("x")
        if len(made) == 1:
            raise KeyboardInterrupt
        return {"n": len(made)}

    def run(**change):
        return result_folder(tmp_path / "r", "kind", {"a": change.get("a", 1)}, {"in": "f"}, make, "o" in change)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "r" / "manifest.json").exists()
    (tmp_path / "r" / "half").mkdir()
    assert run() == {"n": 2} == run()
    assert {p.name for p in (tmp_path / "r").iterdir()} == {"x.txt", "summary.json", "manifest.json", "plan.json"}
    with pytest.raises(StaleOutputError, match="other settings"):
        run(a=2)
    assert run(a=2, o=True) == {"n": 3}
