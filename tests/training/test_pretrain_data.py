"""What pretraining reads: splits by patient, texts of the store or of a file, and ECGs that depend on nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.prompts.people import people
from ecglm.representations.augment import Augmentation
from ecglm.representations.signal import SignalRepresentation
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.objectives.base import Pretraining
from ecglm.training.pretrain_data import PretrainDataset, Row, people_of, read_rows
from ecglm.types import ECG_MARK, Turn
from pretrain_world import RATE, SEG_LEN, PretrainWorld, make_pretrain_world


class Plain(Pretraining):
    """Gives what it is shown."""

    reads_text = True

    def __init__(self) -> None:
        self.model = torch.nn.Identity()

    def collate(self, rows):
        return {}

    def __call__(self, model, batch, num_items=None):
        return torch.zeros(())


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> PretrainWorld:
    return make_pretrain_world(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def store(small) -> SegmentStore:
    return SegmentStore(small.store)


SHOW = SignalRepresentation(num_samples=SEG_LEN)


def test_every_segment_of_training_and_validation_patients_and_none_of_the_test(store):
    rows = read_rows([store], [], split_seed=0, texts=True)
    splits = assign_splits(store)
    patients = store.index.column("patient_id").to_pylist()
    for split in ("train", "val"):
        assert [r.position for r in rows[split]] == [i for i, p in enumerate(patients) if splits[p] == split]
    row = rows["train"][0]
    assert row.text == store.row(row.position)["report_en"]
    assert {r.text for r in read_rows([store], [], split_seed=0, texts=False)["train"]} == {""}
    assert read_rows([store], [], split_seed=1, texts=True)["train"] != rows["train"]


def test_texts_of_a_conversations_file_in_its_own_splits(store, tmp_path):
    splits = dict(assign_splits(store, seed=4))
    map_corpus("labels", [store], tmp_path / "r.parquet", tasks=["report"], splits=splits, seed=0)
    rows = read_rows([store], [str(tmp_path / "r.parquet")], split_seed=0, texts=True)
    told = {c.ecgs[0]: c for c in read_conversations(tmp_path / "r.parquet")}
    for split, found in rows.items():
        assert all(told[r.record_id].split == split and r.text == told[r.record_id].turns[-1].text for r in found)
    map_corpus("labels", [store], tmp_path / "two.parquet", tasks=["report", "rhythm"], splits=splits, seed=0)
    with pytest.raises(EcglmError, match="has several texts"):
        read_rows([store], [str(tmp_path / "two.parquet")], split_seed=0, texts=True)


def test_a_file_that_puts_a_patient_into_two_splits_is_refused(store, tmp_path):
    map_corpus("labels", [store], tmp_path / "r.parquet", tasks=["report"], splits=dict(assign_splits(store)), seed=0)
    rows = read_conversations(tmp_path / "r.parquet")
    twice = next(p for p in {c.patients[0] for c in rows} if sum(c.patients[0] == p for c in rows) > 1)
    first = next(i for i, c in enumerate(rows) if c.patients[0] == twice)
    rows[first] = type(rows[first])(
        **{**rows[first].__dict__, "split": "val" if rows[first].split != "val" else "train"}
    )
    write_conversations(tmp_path / "bad.parquet", rows, {"by": "test"}, {})
    with pytest.raises(EcglmError, match=f"patient {twice} is in"):
        read_rows([store], [str(tmp_path / "bad.parquet")], split_seed=0, texts=True)


def test_a_store_given_twice_is_refused(store):
    with pytest.raises(EcglmError, match="is in two of the given stores"):
        read_rows([store, store], [], split_seed=0, texts=True)


def test_people_are_hashed_as_conversations_hash_them(store, tmp_path):
    map_corpus("labels", [store], tmp_path / "r.parquet", tasks=["report"], splits=dict(assign_splits(store)), seed=0)
    train = [c for c in read_conversations(tmp_path / "r.parquet") if c.split == "train"]
    rows = read_rows([store], [], split_seed=0, texts=True)["train"]
    assert np.array_equal(people_of(rows), people(train))


def test_what_is_shown_depends_on_seed_epoch_and_segment_alone(store):
    rows = read_rows([store], [], split_seed=0, texts=True)["train"]
    noise = Augmentation.from_plain({"noise": {"p": 1.0, "sd": 0.1}}, "augment")
    data = PretrainDataset(rows, [store], SHOW, Plain(), augmentation=noise, seed=3)
    other = PretrainDataset(rows[5:], [store], SHOW, Plain(), augmentation=noise, seed=3)
    a, b = data[5, 2], other[0, 2]
    assert np.array_equal(a.input.tensor, b.input.tensor) and a.rng.random() == b.rng.random()
    assert not np.array_equal(a.input.tensor, data[5, 1].input.tensor)
    assert np.array_equal(data[5].input.tensor, store[rows[5].position])  # as it is outside of training
    assert data[5, 2].rng.random() != data[5, 1].rng.random()


def test_equal_texts_share_a_number_and_rows_without_one_are_rejected(store):
    rows = read_rows([store], [], split_seed=0, texts=True)["train"][:4]
    texts = ["same", "other", "same", ""]
    rows = [
        Row(r.store, r.position, r.segment_id, r.record_id, r.patient_id, t) for r, t in zip(rows, texts, strict=True)
    ]
    data = PretrainDataset(rows, [store], SHOW, Plain())
    assert [data[i].text_id for i in range(3)] == [0, 1, 0]
    assert [r["reason"] for r in data.rejected] == ["no_report"]
    assert data.counts() == {"used": 3, "texts": 2, "rejected:no_report": 1}


def test_items_that_are_too_long_are_rejected_before_training(store):
    class Short(Plain):
        has_length = True

        def item(self, row):
            if len(row.text) > 3:
                raise RejectedRecord("sequence_too_long", row.id)
            return type("Item", (), {"input_ids": np.zeros(len(row.text))})()

    rows = read_rows([store], [], split_seed=0, texts=True)["train"][:2]
    rows = [
        Row(r.store, r.position, r.segment_id, r.record_id, r.patient_id, t)
        for r, t in zip(rows, ["abc", "abcd"], strict=True)
    ]
    data = PretrainDataset(rows, [store], SHOW, Short())
    assert data.lengths == [3] and [r["reason"] for r in data.rejected] == ["sequence_too_long"]
    assert store.rate == RATE


def test_what_is_not_read_of_a_file_is_counted(store, tmp_path):
    map_corpus("labels", [store], tmp_path / "r.parquet", tasks=["report"], splits=dict(assign_splits(store)), seed=0)
    rows = read_conversations(tmp_path / "r.parquet")
    train = next(c for c in rows if c.split == "train")
    plain = train.__dict__
    absent = type(train)(**{**plain, "id": "absent", "ecgs": ("nowhere",), "patients": ("nobody",)})
    turns = (Turn("user", f"{ECG_MARK}{ECG_MARK} The same?"), Turn("assistant", "yes"))
    two = type(train)(**{**plain, "id": "two", "ecgs": train.ecgs * 2, "patients": train.patients * 2, "turns": turns})
    write_conversations(tmp_path / "more.parquet", [*rows, absent, two], {"by": "test"}, {})
    told: Counter[str] = Counter()
    files = [str(tmp_path / "more.parquet")]
    found = read_rows([store], files, split_seed=0, texts=True, left_out=told)
    assert told == {"ecg_not_in_store": 1, "not_one_ecg": 1}
    assert found == read_rows([store], [str(tmp_path / "r.parquet")], split_seed=0, texts=True)


def test_an_objective_without_texts_reads_any_conversations(store, tmp_path):
    splits = dict(assign_splits(store))
    map_corpus("labels", [store], tmp_path / "two.parquet", tasks=["report", "rhythm"], splits=splits, seed=0)
    rows = read_rows([store], [str(tmp_path / "two.parquet")], split_seed=0, texts=False)
    assert {r.text for found in rows.values() for r in found} == {""}
    assert all(splits[r.patient_id] == split for split, found in rows.items() for r in found)
