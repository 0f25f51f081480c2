"""Samples of segments: even over morphologies, reproducible, of the training split alone, in a file that is checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sampling_fakes import beat_train, make_store

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.store.sampling import check_training, places, read_sample, sample, sampled_segments


def strips(num: int, seed: int = 0, length: int = 250) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"arrays/{i:04d}": beat_train(0, rng, length) for i in range(num)}


@pytest.fixture(scope="module")
def morphologies(tmp_path_factory):
    """A store of 1,600 segments of 5 s, 97/1/1/1 % of four morphologies, and the kind of each segment id."""
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(4), [1552, 16, 16, 16]))
    signals = {f"arrays/{i:04d}": beat_train(kind, rng, 1250) for i, kind in enumerate(kinds)}
    store = make_store(tmp_path_factory.mktemp("morphologies") / "s", signals, seg_len=1250)
    return store, {f"{key}#0": int(kind) for key, kind in zip(signals, kinds, strict=True)}


def test_d20_stratified_sampling_gives_rare_morphologies_their_share(morphologies, tmp_path):
    store, kind_of = morphologies
    seen = []
    drawn = sample(store, 56, method="stratified", seed=3, progress=lambda done, of: seen.append((done, of)))
    shares = np.bincount([kind_of[i] for i in drawn.segment_ids], minlength=4) / len(drawn)
    assert ((shares >= 0.2) & (shares <= 0.3)).all(), shares
    assert seen[-1] == (1600, 1600) and len(set(drawn.segment_ids)) == len(drawn) == 56
    again = sample(store, 56, method="stratified", seed=3)
    assert again == drawn
    for name, result in (("a", drawn), ("b", again)):
        result.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert drawn.clusters is not None and len(drawn.clusters) == 56
    assert drawn.facts["num_clusters"] == len(drawn.facts["cluster_sizes"]) and min(drawn.facts["cluster_sizes"]) >= 3
    assert sum(drawn.facts["cluster_sizes"]) == drawn.facts["num_pool"] == 1600
    assert str(drawn.facts["k"]) in drawn.facts["inertias"]
    assert any("clusters in" in line for line in drawn.lines())
    plain = sample(store, 56, seed=3)
    assert np.bincount([kind_of[i] for i in plain.segment_ids], minlength=4)[1:].sum() < 8  # 1.7 expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_d20_holds_for_other_signals_and_seeds(tmp_path, seed):
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(np.arange(4), [1940, 20, 20, 20]))
    signals = {f"arrays/{i:04d}": beat_train(kind, rng, 1250) for i, kind in enumerate(kinds)}
    drawn = sample(make_store(tmp_path / "s", signals, seg_len=1250), 60, method="stratified", seed=seed)
    shares = np.bincount([kinds[int(i[7:11])] for i in drawn.segment_ids], minlength=4) / len(drawn)
    assert ((shares >= 0.2) & (shares <= 0.3)).all(), shares


def test_random_is_uniform_without_replacement_and_seeded(tmp_path):
    store = make_store(tmp_path / "s", strips(40))
    hits = np.zeros(40)
    for seed in range(300):
        drawn = sample(store, 10, seed=seed)
        assert len(set(drawn.segment_ids)) == 10 and drawn.clusters is None
        assert list(drawn.segment_ids) == sorted(drawn.segment_ids)
        hits[[int(i[7:11]) for i in drawn.segment_ids]] += 1
    assert hits.min() > 45 and hits.max() < 105  # 75 expected, sd 7.5: within 4 sd
    assert sample(store, 10, seed=1) == sample(store, 10, seed=1) != sample(store, 10, seed=2)


def test_more_than_there_are_gives_all_and_says_so(tmp_path):
    store = make_store(tmp_path / "s", strips(7))
    for method in ("random", "stratified"):
        drawn = sample(store, 50, method=method)
        assert len(drawn) == 7 and any("only 7 of the 50" in line for line in drawn.lines())


def test_one_segment_flat_segments_and_equal_segments(tmp_path):
    one = make_store(tmp_path / "one", strips(1))
    assert sample(one, 5, method="stratified").segment_ids == ("arrays/0000#0",)
    flat = make_store(tmp_path / "flat", {f"arrays/{i:04d}": np.zeros((12, 250)) for i in range(9)})
    drawn = sample(flat, 4, method="stratified")
    assert len(drawn) == 4 and drawn.facts["cluster_sizes"] == [9] and set(drawn.clusters) == {0}
    same = strips(1)["arrays/0000"]
    equal = make_store(tmp_path / "equal", {f"arrays/{i:04d}": same for i in range(30)})
    assert len(sample(equal, 10, method="stratified")) == 10


def test_only_the_training_split_is_drawn_from(tmp_path):
    made = strips(40)
    folds = {key: i % 10 + 1 for i, key in enumerate(made)}
    store = make_store(tmp_path / "s", made, folds=folds)
    for method in ("random", "stratified"):
        drawn = sample(store, 100, method=method)
        assert len(drawn) == 32 and all(int(i[7:11]) % 10 < 8 for i in drawn.segment_ids)
        check_training(drawn, "tokenizer")
    tested = sample(store, 100, split="test")
    assert {int(i[7:11]) % 10 for i in tested.segment_ids} == {9}
    with pytest.raises(EcglmError, match="only train may be learnt from"):
        check_training(tested, "tokenizer")
    held = make_store(tmp_path / "held", strips(5), folds=dict.fromkeys(strips(5), 10))
    with pytest.raises(EcglmError, match="no segments of the split 'train'"):
        sample(held, 3)


def test_one_per_record_and_one_per_patient(tmp_path):
    made = strips(12, length=1000)  # four segments each
    store = make_store(tmp_path / "s", made, patients={key: f"arrays/p{i // 3}" for i, key in enumerate(made)})
    assert len(sample(store, 100)) == 48
    for method in ("random", "stratified"):
        per_record = sample(store, 100, method=method, per="record")
        assert len({i.partition("#")[0] for i in per_record.segment_ids}) == len(per_record) == 12
        per_patient = sample(store, 100, method=method, per="patient")
        assert len({int(i[7:11]) // 3 for i in per_patient.segment_ids}) == len(per_patient) == 4
    numbers = {
        i.partition("#")[2] for seed in range(9) for i in sample(store, 100, per="record", seed=seed).segment_ids
    }
    assert numbers == {"0", "1", "2", "3"}


def test_flags_keep_segments_out_and_are_counted(tmp_path):
    flags = {"arrays/0001": ["flat_lead"], "arrays/0004": ["nan", "saturated"], "arrays/0005": ["einthoven"]}
    store = make_store(tmp_path / "s", strips(6), flags=flags)
    drawn = sample(store, 9, without_flags=["saturated", "flat_lead"])
    assert [int(i[7:11]) for i in drawn.segment_ids] == [0, 2, 3, 5]
    assert drawn.facts["num_flagged"] == 2
    assert any(line == "2 left out for flat_lead, saturated" for line in drawn.lines())
    assert drawn.fingerprint != sample(store, 9).fingerprint and len(sample(store, 9)) == 6
    bad = make_store(tmp_path / "bad", strips(3), flags={key: ["flat"] for key in strips(3)})
    with pytest.raises(EcglmError, match="3 carry one of the flags flat, nan"):
        sample(bad, 9, without_flags=["flat", "nan"])


def test_neither_order_of_files_nor_of_stores_changes_the_draw(tmp_path):
    made = strips(60)
    items = list(made.items())
    one = make_store(tmp_path / "one", made)
    backwards = make_store(tmp_path / "two", dict(items[::-1]))
    parts = [make_store(tmp_path / f"part{i}", dict(items[i::2])) for i in range(2)]
    for method in ("random", "stratified"):
        drawn = sample(one, 20, method=method)
        for other in (backwards, parts, parts[::-1]):
            result = sample(other, 20, method=method)
            assert result.segment_ids == drawn.segment_ids and result.clusters == drawn.clusters
    assert sample(parts, 20).fingerprint == sample(parts[::-1], 20).fingerprint != sample(one, 20).fingerprint


def test_the_file_is_read_back_and_gives_the_segments(tmp_path):
    made = strips(30)
    items = list(made.items())
    parts = [make_store(tmp_path / f"part{i}", dict(items[i::2])) for i in range(2)]
    drawn = sample(parts, 12, method="stratified", seed=5)
    drawn.save(tmp_path / "sample.json")
    read = read_sample(tmp_path / "sample.json")
    assert read == drawn and read.seed == 5 and read.method == "stratified"
    raw = json.loads((tmp_path / "sample.json").read_text())
    assert raw["kind"] == "segment-sample" and raw["seed"] == 5 and raw["fingerprint"] == drawn.fingerprint
    assert len(raw["segment_ids"]) == len(raw["clusters"]) == 12
    found = list(sampled_segments(read, parts, batch=4))
    names = [s.index.column("segment_id")[int(i)].as_py() for s, at in places(read, parts) for i in at]
    assert sorted(names) == list(drawn.segment_ids)
    for name, segment in zip(names, found, strict=True):
        assert np.abs(segment - made[name.partition("#")[0]]).max() <= 0.5e-3 + 1e-6
    assert [len(at) for _, at in places(read, parts[::-1])] == [len(at) for _, at in places(read, parts)][::-1]


def test_a_sample_of_other_stores_is_stale(tmp_path):
    one, other = make_store(tmp_path / "one", strips(8)), make_store(tmp_path / "other", strips(9, seed=1))
    drawn = sample(one, 4)
    for stores in (other, [one, other]):
        with pytest.raises(StaleOutputError, match="drawn from other stores"):
            list(sampled_segments(drawn, stores))


def test_torn_altered_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "sample.json"
    sample(make_store(tmp_path / "s", strips(8)), 4).save(path)
    whole = path.read_text()
    for cut in (0, 1, len(whole) // 3, len(whole) - 3):
        path.write_text(whole[:cut])
        with pytest.raises(EcglmError, match="not valid JSON"):
            read_sample(path)
    raw = json.loads(whole)
    for key, value in (
        ("segment_ids", raw["segment_ids"][:-1]),
        ("segment_ids", None),
        ("clusters", [0, 1, 2, 3]),
        ("settings", {**raw["settings"], "seed": 9}),
        ("inputs", {"store": "0" * 64}),
        ("inputs", 3),
        ("fingerprint", "0" * 64),
    ):
        path.write_text(json.dumps({**raw, key: value}))
        with pytest.raises(TornOutputError, match="draw the sample again"):
            read_sample(path)
    for key in ("segment_ids", "clusters", "sha256", "facts", "settings"):
        path.write_text(json.dumps({k: v for k, v in raw.items() if k != key}))
        with pytest.raises(TornOutputError, match=key):
            read_sample(path)
    with pytest.raises(EcglmError, match="segment-sample is needed"):
        read_sample(tmp_path / "s" / files.MANIFEST)
    with pytest.raises(EcglmError):
        read_sample(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"n": -3}, "n must be at least 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"method": "stratfied"}, "did you mean 'stratified'"),
        ({"per": "pateint"}, "did you mean 'patient'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"pool": 100}, "pool 100: is for the method 'stratified'"),
        ({"pool": 3, "n": 4, "method": "stratified"}, "at least n"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, text):
    store = make_store(tmp_path / "s", strips(3))
    with pytest.raises(ConfigError, match=text):
        sample(store, **options)


def test_segments_too_short_for_features_are_refused_by_the_stratified_draw(tmp_path):
    store = make_store(tmp_path / "s", strips(3, length=200), seg_len=100)
    assert len(sample(store, 4)) == 4
    with pytest.raises(EcglmError, match="100 samples are too few"):
        sample(store, 4, method="stratified")
