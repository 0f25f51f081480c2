"""The linear probe: shares of patients, what is skipped and why, and features that tell everything or nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation import probe as linear
from ecglm.evaluation.labelled import Labelled, features, read_labelled
from ecglm.evaluation.probe import draw_share, probe, table
from ecglm.store.audit_table import digest
from ecglm.types import EcgInput


class Told:
    """An EcgSource whose ECGs are the labels themselves, in noise."""

    def __init__(self, labelled: Labelled, classes: list[str]) -> None:
        self.at = {r: i for i, r in enumerate(labelled.records)}
        rng = np.random.default_rng(0)
        told = 10 * np.array([[f"g:{c}" in labels for c in classes] for labels in labelled.labels], np.float32)
        self.x = np.repeat(told[:, :, None], 4, 2) + 0.01 * rng.normal(size=(*told.shape, 4)).astype(np.float32)

    def encode(self, record: str) -> EcgInput:
        return EcgInput(np.zeros(1, np.int64), self.x[self.at[record]])


class Reads(nn.Module):
    """Tokens are the leads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)[:, None]


class Blind(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2, 3)


def made(num: int = 200) -> Labelled:
    """Two records a patient, classes a and b at random and c rare; d in the test split alone; some without a label."""
    rng = np.random.default_rng(1)
    splits = ["train"] * (num // 2) + ["val"] * (num // 4) + ["test"] * (num // 4)
    labels = []
    for i in range(num):
        own = {f"g:{c}" for c, p in (("a", 0.5), ("b", 0.4)) if rng.random() < p}
        own |= {"g:c"} if i in (0, 1, 2, num - 3) else set()
        own |= {"g:d"} if i == num - 1 else set()
        labels.append(frozenset(own | {"other:z"}) if i % 10 else frozenset({"other:z"}))
    return Labelled(
        tuple(f"r{i}" for i in range(num)), tuple(f"p{i // 2}" for i in range(num)), tuple(splits), tuple(labels)
    )


def run(labelled: Labelled, **options):
    ecgs = Told(labelled, ["a", "b", "c"])
    encoders = {"encoder": Reads(), "random": Blind()}
    given = {"groups": ["g"], "shares": (0.1, 1.0), "num_resamples": 50, "say": lambda t: None, **options}
    return probe(encoders, ecgs, labelled, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["logistic", "adam"])
def test_features_that_tell_the_label_and_features_that_tell_nothing(solver):
    rows = run(made(), shares=(1.0,), solver=solver)
    systems = rows[0].systems
    # a hundred epochs of small steps leave something of the layer's random start
    assert systems["encoder"].macro.value > (0.99 if solver == "logistic" else 0.65)
    assert systems["random"].macro.value == 0.5
    assert systems["encoder"].difference.value == pytest.approx(systems["encoder"].macro.value - 0.5)
    assert systems["encoder"].undefined == {"d": "absent from the training split"}
    assert set(systems["encoder"].classes) == {"a", "b", "c"}
    assert rows[0].num_test == sum(any(x.startswith("g:") for x in made().labels[i]) for i in made().at("test"))


def test_a_share_that_leaves_a_class_empty_is_skipped_and_names_it():
    rows = run(made())
    small, whole = rows
    assert (small.share, whole.share) == (0.1, 1.0)
    kept = draw_share(np.arange(90), np.array([f"p{i // 2}" for i in range(90)]), 0.1, 0)[0]
    assert small.systems is None and small.skipped.startswith("classes without a positive or a negative ECG: ")
    assert "c" in small.skipped and len(kept) == 8
    assert whole.systems is not None
    lines = table(rows)
    assert "skipped: classes without" in lines[2] and "3 of 4" in lines[3]
    assert lines[0].startswith("| labels | share | patients / ECGs | classes | encoder | random | encoder − random |")


def test_shares_are_of_patients_and_one_is_part_of_the_next():
    people = np.array([f"p{i // 3}" for i in range(300)])
    train = np.arange(300)
    shares = [draw_share(train, people, share, 7) for share in (0.01, 0.1, 0.5, 1.0)]
    assert [count for _, count in shares] == [1, 10, 50, 100]
    for (small, _), (large, _) in itertools.pairwise(shares):
        assert set(small) < set(large)
    assert all(len(rows) == 3 * count for rows, count in shares)  # all ECGs of a patient, or none
    assert set(draw_share(train, people, 0.1, 7)[0]) != set(draw_share(train, people, 0.1, 8)[0])


def test_twice_the_same_and_batches_do_not_matter():
    first, again = run(made()), run(made(), batch_size=7)
    assert [r.as_dict() for r in first] == [r.as_dict() for r in again]
    assert "skipped" in first[0].as_dict() and first[1].as_dict()["systems"]["random"]["difference"] is None


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="shares must be above 0"):
        run(made(), shares=(0.0,))
    with pytest.raises(ConfigError, match="solver 'svm'"):
        run(made(), solver="svm")
    with pytest.raises(EcglmError, match="no record has a label of the group 'h'"):
        run(made(), groups=["h"])


def test_pooled_features_are_the_encoders_own_where_it_has_them():
    class Own(Reads):
        def pooled(self, x: torch.Tensor) -> torch.Tensor:
            return x.amax(-1)

    labelled = made()
    ecgs = Told(labelled, ["a", "b"])
    assert np.allclose(features(Own(), ecgs, ["r3"]), ecgs.x[[3]].max(-1))  # type: ignore[arg-type]
    assert np.allclose(features(Reads(), ecgs, ["r3", "r4"]), ecgs.x[[3, 4]].mean(-1), atol=1e-6)  # type: ignore[arg-type]
    ecgs.x[4] = np.nan
    with pytest.raises(EcglmError, match="r4: the encoder's features are not finite"):
        features(Reads(), ecgs, ["r3", "r4"])  # type: ignore[arg-type]


def test_records_of_a_store_by_patient_and_none_the_encoder_knows(world):
    from ecglm.store.reader import SegmentStore
    from ecglm.store.splits import assign_splits

    store = SegmentStore(world.store)
    seed = next(s for s in range(50) if min(assign_splits(store, seed=s).counts.values()) >= 2)
    splits = assign_splits(store, seed=seed)
    found = read_labelled([store], split_seed=seed)
    assert set(found.records) == set(store.records())
    assert all(splits[p] == s for p, s in zip(found.patients, found.splits, strict=True))
    assert "rhythm" in found.groups() and found.classes("rhythm")
    assert len(read_labelled([store], split_seed=seed, limit=1)) == 3
    train = next(p for p, s in splits.items() if s == "train")
    read_labelled([store], split_seed=seed, trained_on=[digest(train)])
    test = next(p for p, s in splits.items() if s == "test")
    for known in (test, found.records[found.at("test")[0]]):
        with pytest.raises(EcglmError, match="this encoder was trained on"):
            read_labelled([store], split_seed=seed, trained_on=[digest(known)])
    with pytest.raises(EcglmError, match="is in two of the given stores"):
        read_labelled([store, store], split_seed=seed)


def test_the_random_encoder_has_its_name():
    assert linear.RANDOM == "random"
