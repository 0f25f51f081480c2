"""Percentiles of a store against exact weighted ones, and against numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_fakes import make_store

from ecglm.errors import ConfigError, EcglmError, TornOutputError
from ecglm.store.percentiles import (
    lines,
    percentiles,
    quantile,
    rank_error,
    read_percentiles,
    write_percentiles,
)


def signals(num: int = 24, seed: int = 0, source: str = "arrays") -> dict[str, np.ndarray]:
    """Records of 1 to 6 segments, of amplitudes up to 66-fold: to weigh samples equally would be another number."""
    rng = np.random.default_rng(seed)
    return {
        f"{source}/{i:03d}": (0.02 * 1.2 ** (i % 24)) * rng.standard_t(5, (12, 250 * (1 + i % 6))).clip(-15, 15)
        for i in range(num)
    }


def shares_below(records: list[np.ndarray], x: float) -> tuple[float, float]:
    """The true shares below x and up to x: every record weighs the same, then each of its samples."""
    values = [np.rint(r.astype(np.float32).astype(np.float64) * 1000) for r in records]
    u = x * 1000
    return float(np.mean([(v < u - 1e-6).mean() for v in values])), float(
        np.mean([(v <= u + 1e-6).mean() for v in values])
    )


def test_they_are_the_percentiles_of_all_records_within_the_bound(tmp_path):
    made = signals()
    store = make_store(tmp_path / "s", made)
    for seed, num in ((0, 200_000), (1, 200_000), (2, 20_000)):
        result = percentiles(store, seed=seed, num_values=num)
        for name, share in (("p1", 0.01), ("p99", 0.99)):
            below, up_to = shares_below(list(made.values()), result[name])
            assert below <= share + result["rank_error"] and up_to >= share - result["rank_error"]
    pooled = np.percentile(np.concatenate([s.ravel() for s in made.values()]), 99)
    assert abs(result["p99"] - pooled) > 0.02  # another number: samples of long records would weigh more
    assert result["n_records"] == 24 and result["fs"] == 250 and result["dataset"] == "arrays"


def test_equal_records_give_numpys_percentiles(tmp_path):
    rng = np.random.default_rng(3)
    made = {f"arrays/{i:02d}": rng.normal(0.3, 1, (12, 500)) for i in range(12)}
    exact = np.percentile(np.stack(list(made.values())), [1, 99])
    result = percentiles(make_store(tmp_path / "s", made), num_values=400_000)
    # at p1 of a normal the density is 0.0267: a rank error of e moves it by e / 0.0267
    assert np.abs([result["p1"], result["p99"]] - exact).max() < result["rank_error"] / 0.0267


def test_the_bound_is_bernsteins():
    for num in (1000, 10**6):
        t = rank_error(num)
        variance = min((0.01 + t) * 0.99, 0.25)
        assert 2 * np.exp(-num * t**2 / (2 * (variance + t / 3))) == pytest.approx(1e-6, rel=1e-3)
    assert rank_error(10**6) < 5.6e-4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-32767, 32767), min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.99, 0.0, 1.0]))
def test_the_histograms_quantile_is_numpys(microvolts, share):
    histogram = np.bincount(np.array(microvolts) + 32767, minlength=65535)
    expected = np.quantile(np.array(microvolts, np.float64), share) / 1000
    assert quantile(histogram, share) == pytest.approx(expected, abs=1e-9)


def test_val_and_test_folds_and_other_splits_are_left_out(tmp_path):
    made = {f"arrays/{i:02d}": np.full((12, 250), float(i)) + np.linspace(0, 0.1, 250) for i in range(20)}
    folds = {key: i % 10 + 1 for i, key in enumerate(made)}
    store = make_store(tmp_path / "s", made, folds=folds)
    result = percentiles(store, num_values=5000)
    assert result["n_records"] == 16 and result["p99"] < 18  # 8, 9, 18 and 19 mV are folds 9 and 10
    assert percentiles(store, split="test", num_values=500)["p1"] >= 9
    by_hand = {f"{key}-patient": "train" if key == "arrays/05" else "test" for key in made}
    alone = percentiles(store, splits=by_hand, num_values=500)
    assert 5 <= alone["p1"] <= alone["p99"] <= 5.1 and alone["n_records"] == 1
    with pytest.raises(EcglmError, match="has no split"):
        percentiles(store, splits={"x": "train"})
    with pytest.raises(EcglmError, match="no segments of the split 'train'"):
        percentiles(store, splits=dict.fromkeys(by_hand, "val"))


def test_neither_order_nor_chunking_nor_folder_changes_them(tmp_path):
    made = signals(40)
    one = percentiles(make_store(tmp_path / "one", made), num_values=3000)
    backwards = percentiles(make_store(tmp_path / "two", dict(reversed(made.items()))), num_values=3000)
    items = list(made.items())
    parts = [make_store(tmp_path / f"p{i}", dict(items[i::2])) for i in range(2)]
    both, swapped = percentiles(parts, num_values=3000), percentiles(parts[::-1], num_values=3000)
    for other in (backwards, both, swapped):
        assert (other["p1"], other["p99"]) == (one["p1"], one["p99"])
    assert both == swapped
    assert percentiles(parts, num_values=3000, seed=1)["p1"] != one["p1"]
    assert both["fingerprint"] != percentiles(parts, num_values=3000, seed=1)["fingerprint"]


def test_nominal_units_are_not_mixed_silently(tmp_path):
    store = make_store(tmp_path / "s", signals(6))
    keys = list(signals(4, source="code15"))
    nominal = {key: {"unit_confidence": "nominal", "age": 3} for key in keys}
    code15 = make_store(tmp_path / "c", signals(4, source="code15"), name="code15", metadata=nominal)
    with pytest.raises(EcglmError, match=r"4 of 10 records .* nominal"):
        percentiles([store, code15], num_values=500)
    mixed = percentiles([store, code15], num_values=500, allow_nominal=True)
    assert mixed["n_nominal"] == 4 and mixed["dataset"] == "arrays+code15"
    assert any("only nominal" in line for line in lines(mixed))
    alone = percentiles(code15, num_values=500)
    assert alone["n_nominal"] == 4 and len(lines(alone)) == 2
    note = {"arrays/000": {"note": '"unit_confidence":"nominal"', "unit_confidence": "stated"}}
    told = make_store(tmp_path / "n", signals(2), metadata=note)
    assert percentiles(told, num_values=500)["n_nominal"] == 0


def test_the_file_is_the_spec_s_and_what_ecg_byte_reads(tmp_path):
    from ecglm.representations.normalise import percentile_range

    result = percentiles(make_store(tmp_path / "s", signals(6)), num_values=5000, seed=4)
    for name in ("a.json", "b.json"):
        write_percentiles(tmp_path / name, result)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    raw = json.loads((tmp_path / "a.json").read_text())
    assert {"p1", "p99", "n_values", "n_records", "dataset", "fs", "seed", "fingerprint"} <= set(raw)
    read = read_percentiles(tmp_path / "a.json")
    assert read["p1"] == result["p1"] and read["fingerprint"] == result["fingerprint"] and read["seed"] == 4
    assert percentile_range(read) == (result["p1"] - 0.5, result["p99"] + 0.5)


def test_torn_missing_and_foreign_files_are_refused(tmp_path):
    result = percentiles(make_store(tmp_path / "s", signals(3)), num_values=500)
    path = tmp_path / "p.json"
    write_percentiles(path, result)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(EcglmError, match="not valid JSON"):
        read_percentiles(path)
    for key, value in (("p1", None), ("p1", True), ("p99", "x"), ("p1", 1e9)):
        path.write_text(json.dumps({**json.loads(whole), key: value}))
        with pytest.raises(TornOutputError, match="again"):
            read_percentiles(path)
    path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "p99"}))
    with pytest.raises(TornOutputError, match="p99"):
        read_percentiles(path)
    with pytest.raises(EcglmError):
        read_percentiles(tmp_path / "no.json")
    with pytest.raises(EcglmError, match="percentiles is needed"):
        read_percentiles(tmp_path / "s" / "manifest.json")


def test_options_are_checked(tmp_path):
    store = make_store(tmp_path / "s", signals(3))
    with pytest.raises(ConfigError, match="num_values"):
        percentiles(store, num_values=99)
    with pytest.raises(ConfigError, match="seed"):
        percentiles(store, seed=-1)
    with pytest.raises(ConfigError, match=r"split: no 'trian' .did you mean 'train'"):
        percentiles(store, split="trian")
    with pytest.raises(ConfigError, match="at least one store"):
        percentiles([])
    with pytest.raises(EcglmError, match="stands in two of the stores"):
        percentiles([store, store])
    other = make_store(tmp_path / "o", signals(3, source="other"), rate=500)
    with pytest.raises(EcglmError, match="500 Hz"):
        percentiles([store, other])
    flat = make_store(tmp_path / "f", signals(3), flags={key: ["flat"] for key in signals(3)})
    with pytest.raises(EcglmError, match="carry one of the flags flat"):
        percentiles(flat, without_flags=["flat"])
