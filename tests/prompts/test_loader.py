"""Batches from workers: the same bytes for any number of them, errors that name their item, nobody left behind."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.checkpoint import from_pretrained
from ecglm.prompts.collate import collate, collate_packed
from ecglm.prompts.data import EcgSource, ElmDataset, EpochSampler
from ecglm.prompts.loader import LoadError, end_workers, make_loader
from ecglm.prompts.packing import PackedRows, PackedSampler
from ecglm.representations.augment import Augmentation
from ecglm.store.reader import SegmentStore
from ecglm.store.writer import shard_name


@pytest.fixture(scope="module")
def data(signal_run, world) -> ElmDataset:
    bundle = from_pretrained(signal_run / "best")
    plan = Augmentation.from_plain({"noise": {"p": 0.5, "sd": 0.5}})
    source = EcgSource([SegmentStore(world.store)], bundle.representation)
    return ElmDataset(world.conversations("train"), source, bundle.prompter, augmentation=plan, seed=5)


def packed_loader(data: ElmDataset, **options):
    sampler = PackedSampler(data.lengths, 200, seed=1, num_rows=12)  # over two epochs
    return make_loader(PackedRows(data), collate_packed, batch_size=2, sampler=sampler, **options)


def padded_loader(data: ElmDataset, **options):
    sampler = EpochSampler(data.lengths, 2, seed=1)
    return make_loader(data, functools.partial(collate, pad_id=0), batch_size=2, sampler=sampler, **options)


def content(loader) -> list[bytes]:
    return [b"".join(batch[name].numpy().tobytes() for name in sorted(batch)) for batch in loader]


@pytest.mark.parametrize("make", [packed_loader, padded_loader])
def test_the_same_bytes_for_any_number_of_workers_and_no_draw_from_the_models_numbers(data, make) -> None:
    before = torch.get_rng_state()
    found = []
    for workers in (0, 1, 2):
        loader = make(data, num_workers=workers)
        found.append(content(loader))
        found.append(content(loader))  # workers live on
        end_workers(loader)
    assert all(other == found[0] for other in found)
    assert len(set(found[0])) > len(found[0]) / 2
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_sees_the_batches_that_were_left(data) -> None:
    accelerate = pytest.importorskip("accelerate.data_loader")
    whole = content(packed_loader(data))
    for workers in (0, 2):
        rest = accelerate.skip_first_batches(packed_loader(data, num_workers=workers), 4)
        assert content(rest) == whole[4:]


def test_everything_a_worker_needs_can_be_sent_to_it(data) -> None:
    """Spawned workers get copies: of the settings, not of the store's samples."""
    rows = PackedRows(data)
    sent = pickle.dumps(rows)
    copy = pickle.loads(sent)  # our own bytes
    one, other = (r[(0, 2), 1] for r in (rows, copy))
    assert [e.input_ids.tolist() for e in one] == [e.input_ids.tolist() for e in other]
    np.testing.assert_array_equal(one[1].ecg, other[1].ecg)


@pytest.mark.slow
def test_spawned_workers_give_the_same_bytes(data) -> None:
    assert content(packed_loader(data, num_workers=1, context="spawn")) == content(packed_loader(data))


class Broken(Dataset):
    """Three items of which the second cannot be read."""

    rows = ("conversation/a", "conversation/b", "conversation/c")

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise self.error
        return index


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EcglmError("shard-00000.bin: the index points at row 9"), "shard-00000.bin: the index points at row 9"),
        (RejectedRecord("ecg_not_in_store", "ptb-xl/00001"), "ecg_not_in_store: ptb-xl/00001"),
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (EcglmError("two\nlines"), "two lines"),
    ],
)
def test_d15_an_item_that_cannot_be_read_ends_the_training_with_its_name_in_one_line(workers, error, told) -> None:
    loader = make_loader(Broken(error), list, batch_size=1, num_workers=workers)
    with pytest.raises(LoadError) as found:
        list(loader)
    assert str(found.value) == f"conversation/b: {told}"
    assert isinstance(found.value, EcglmError)
    end_workers(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_d15_a_shard_that_breaks_during_training_is_named(signal_run, world, tmp_path, workers) -> None:
    """What is broken before training is refused or counted when the store is opened; this breaks afterwards."""
    shutil.copytree(world.store, tmp_path / "store")
    bundle = from_pretrained(signal_run / "best")
    source = EcgSource([SegmentStore(tmp_path / "store")], bundle.representation)
    data = ElmDataset(world.conversations("train"), source, bundle.prompter)
    shard = tmp_path / "store" / shard_name(0)
    shard.unlink()
    source.stores[0]._forget()  # as a process that has not opened it yet
    source._last = None
    loader = packed_loader(data, num_workers=workers)
    with pytest.raises(LoadError, match=rf"^conversation/.*{shard.name}: cannot be read .* store verify") as got:
        list(loader)
    assert "\n" not in str(got.value)
    end_workers(loader)


def test_workers_end_at_once(data) -> None:
    loader = packed_loader(data, num_workers=2)
    next(iter(loader))
    begun = time.monotonic()
    end_workers(loader)
    assert time.monotonic() - begun < 4  # left to the collector they may wait for 5 s each
    assert not [p for p in multiprocessing.active_children() if p.name.startswith("Process-")]
    assert len(content(loader)) == 6  # and it begins anew
    end_workers(loader)
