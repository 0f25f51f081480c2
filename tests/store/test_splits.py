"""Splits and folds: by patient, official where official, the same whoever asks."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_fakes import FakePipeline, FakeSource

from ecglm.errors import ConfigError, EcglmError
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits, fold_splits, parse_fold, patient_folds


def row(patient: str, fold: int | None = None, split: str = "", record: str = "r", known: bool = True) -> dict:
    return {"record_id": record, "patient_id": patient, "patient_known": known, "fold": fold, "split": split}


def test_ptb_xl_folds_are_train_val_test():
    splits = assign_splits([row(f"p{fold}", fold) for fold in range(1, 11)])
    assert splits == {**{f"p{n}": "train" for n in range(1, 9)}, "p9": "val", "p10": "test"}
    assert splits.official == 10 and splits.counts == {"train": 8, "val": 1, "test": 1}


def test_a_records_own_split_comes_before_its_fold_and_the_hash():
    assert assign_splits([row("a", 1, "test"), row("b", None, "val")]) == {"a": "test", "b": "val"}


def test_the_hash_is_sha256_of_seed_and_patient():
    patients = [f"src/{n}" for n in range(500)]
    expected = {}
    for patient in patients:
        draw = int(hashlib.sha256(f"7:{patient}".encode()).hexdigest()[:16], 16) / 16**16
        expected[patient] = "train" if draw < 0.6 else "val" if draw < 0.8 else "test"
    splits = assign_splits([row(p) for p in patients], seed=7, fractions=(0.6, 0.2, 0.2))
    assert splits == expected
    assert 250 <= splits.counts["train"] <= 350  # 300 ± 4.5 standard deviations
    alone = assign_splits([row("src/3")], seed=7, fractions=(0.6, 0.2, 0.2))
    assert alone["src/3"] == expected["src/3"]
    assert assign_splits([row(p) for p in patients], seed=8, fractions=(0.6, 0.2, 0.2)) != expected


def test_official_can_be_set_aside():
    rows = [row(f"p{n}", 10) for n in range(50)]
    assert set(assign_splits(rows).values()) == {"test"}
    assert assign_splits(rows, official=False) == assign_splits([row(f"p{n}") for n in range(50)])


def test_records_that_disagree_send_the_patient_away_from_train_and_say_so():
    rows = [row("a", 1), row("a", 10), row("b", 3), row("b", 9), row("c", 2), row("c", None)]
    splits = assign_splits(rows)
    assert splits == {"a": "test", "b": "val", "c": "train"}
    assert splits.conflicts == ("a", "b")
    assert any("2 patients have records in two official splits" in line for line in splits.lines())


def test_records_without_patient_are_counted():
    splits = assign_splits([row("x/1", known=False), row("x/2", known=False), row("", record="x/3", known=False)])
    assert set(splits) == {"x/1", "x/2", "x/3"} and splits.num_unknown == 3
    assert "3 records have no patient id" in "\n".join(splits.lines())


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.4, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_must_be_shares_of_one(fractions):
    with pytest.raises(ConfigError, match="add up to 1"):
        assign_splits([row("a")], fractions=fractions)


@pytest.mark.parametrize(
    ("bad", "message"), [(row("a", 11), "fold 11"), (row("a", 0), "fold 0"), (row("a", None, "dev"), "'dev'")]
)
def test_unknown_folds_and_splits_are_errors(bad, message):
    with pytest.raises(EcglmError, match=message):
        assign_splits([bad])


def test_d01_no_patient_and_no_record_is_in_two_splits(tmp_path):
    prepare(FakeSource(num=200), FakePipeline(), tmp_path / "hash", progress=False)
    prepare(FakeSource(num=40, folds=True), FakePipeline(), tmp_path / "folds", progress=False)
    for store in (SegmentStore(tmp_path / "hash"), SegmentStore(tmp_path / "folds")):
        splits = assign_splits(store)
        rows = [store.row(i) for i in range(len(store))]
        seen: dict[str, dict[str, set]] = {"train": {}, "val": {}, "test": {}}
        for item in rows:
            for name in ("patient_id", "record_id"):
                seen[splits[item["patient_id"]]].setdefault(name, set()).add(item[name])
        for name in ("patient_id", "record_id"):
            parts = [seen[split].get(name, set()) for split in seen]
            assert sum(map(len, parts)) == len(set.union(*parts)) == len({item[name] for item in rows})
            assert all(parts)


def test_several_stores_are_one_assignment(tmp_path):
    prepare(FakeSource(num=30, folds=True), FakePipeline(), tmp_path / "a", progress=False)
    store = SegmentStore(tmp_path / "a")
    assert assign_splits([store, row("fake/p0", 10)])["fake/p0"] == "test"  # train by the store, test by the row


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=300), st.integers(2, 6), st.integers(0, 5))
def test_d02_folds_are_a_partition_balanced_by_count(numbers, k, seed):
    patients = [f"p{n}" for n in numbers]
    counts = Counter(patients)
    if k > len(counts):
        with pytest.raises(ConfigError, match="number of patients"):
            patient_folds(patients, k, seed)
        return
    folds = patient_folds(patients, k, seed)
    tests = [{p for p, fold in folds.items() if fold == f} for f in range(k)]
    assert set.union(*tests) == set(counts) and sum(map(len, tests)) == len(counts)
    loads = [sum(counts[p] for p in test) for test in tests]
    assert max(loads) - min(loads) <= max(counts.values())  # what placing the largest first promises
    assert patient_folds(sorted(patients), k, seed) == folds  # whatever the order they come in


def test_d02_the_largest_patient_is_not_always_in_the_same_fold():
    patients = ["big"] * 50 + [f"p{n}" for n in range(100)]
    assert len({patient_folds(patients, 5, seed)["big"] for seed in range(20)}) == 5


@pytest.mark.parametrize("k", [3, 5, 10])
def test_d02_over_the_runs_every_patient_is_tested_once_and_validated_once(k):
    rows = [row(f"p{n}", fold=n % 10 + 1, record=f"r{n}.{m}", known=n % 7 > 0) for n in range(40) for m in range(n % 4)]
    patients = {item["patient_id"] for item in rows}
    runs = [fold_splits(rows, k, fold, seed=1) for fold in range(k)]
    for split in ("test", "val"):
        parts = [{p for p, s in run.items() if s == split} for run in runs]
        assert set.union(*parts) == patients and sum(map(len, parts)) == len(patients)
    for fold, run in enumerate(runs):
        assert set(run) == patients and run.counts["train"] > 0
        assert run.plan == {"by": "folds", "k": k, "fold": fold, "seed": 1}
        assert f"fold {fold} of {k}" in run.lines()[0]
        assert run.num_unknown == len({item["patient_id"] for item in rows if not item["patient_known"]})


@pytest.mark.parametrize(("k", "fold"), [(2, 0), (5, 5), (5, -1), (41, 0)])
def test_d02_a_fold_that_is_none_is_refused(k, fold):
    with pytest.raises(ConfigError):
        fold_splits([row(f"p{n}") for n in range(40)], k, fold)


def test_folds_are_named_by_number_and_count():
    assert parse_fold("0/5") == (0, 5)
    for bad in ("5", "a/b", "1/5/2", "-1/5", "/", "٣/5"):
        with pytest.raises(ConfigError, match="FOLD/K"):
            parse_fold(bad)
