"""Packing: every item once an epoch, hardly a token empty, and an order that only seed and epoch decide."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError
from ecglm.prompts import packing
from ecglm.prompts.packing import PackedRows, PackedSampler, fill_rows, padding_share, rows_of

LENGTHS = {
    "placeholders": (40, 95, 512),
    "symbols": (600, 1300, 2048),
    "symbols in long rows": (600, 1300, 4096),
    "reports": (60, 700, 1024),
}


@given(st.lists(st.integers(1, 64), max_size=200), st.integers(64, 200))
@settings(max_examples=150, deadline=None)
def test_rows_hold_every_position_once_and_no_more_than_fits(lengths: list[int], pack_len: int) -> None:
    rows = fill_rows(lengths, pack_len)
    assert sorted(p for row in rows for p in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[p] for p in row) <= pack_len for row in rows)
    # no two rows would fit into one: at most one row is half empty
    assert sum(2 * sum(lengths[p] for p in row) <= pack_len for row in rows) <= 1


def test_rows_of_what_fits_exactly_are_full() -> None:
    lengths = [7, 3, 6, 4, 5, 5, 9, 1]
    assert [sum(lengths[p] for p in row) for row in fill_rows(lengths, 10)] == [10] * 4
    assert fill_rows([], 10) == []
    for wrong in ([11], [0, 3]):
        with pytest.raises(ValueError, match="do not fit rows of 10"):
            fill_rows(wrong, 10)


@pytest.mark.parametrize("name", LENGTHS)
def test_under_three_percent_is_empty(name: str) -> None:
    low, high, pack_len = LENGTHS[name]
    lengths = np.random.default_rng(1).integers(low, high + 1, 6000)
    sampler = PackedSampler(lengths, pack_len, seed=0, num_rows=1)
    for epoch in (0, 1):
        rows = list(sampler.rows(epoch))
        used = sum(int(lengths[list(row)].sum()) for row in rows)
        assert padding_share(lengths, rows, pack_len) == pytest.approx(1 - used / (len(rows) * pack_len))
        assert 1 - used / (len(rows) * pack_len) < 0.01


@given(st.lists(st.integers(1, 50), min_size=1, max_size=120), st.integers(0, 5), st.integers(0, 3), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_an_epoch_shows_every_item_once_in_an_order_of_seed_and_epoch(lengths, seed, epoch, window) -> None:
    before, packing.WINDOW = packing.WINDOW, window
    try:
        sampler = PackedSampler(lengths, 50, seed, 1)
        rows = list(sampler.rows(epoch))
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
        list(sampler.rows(epoch + 1))  # whatever was asked before
        assert list(PackedSampler(lengths, 50, seed, 9).rows(epoch)) == rows
    finally:
        packing.WINDOW = before


def test_epochs_differ_and_go_on_without_a_border() -> None:
    lengths = np.random.default_rng(0).integers(5, 30, 200)
    sampler = PackedSampler(lengths, 64, seed=3, num_rows=150)
    shown = list(sampler)
    assert len(shown) == len(sampler) == 150
    per_epoch = [len(list(sampler.rows(e))) for e in range(3)]
    assert rows_of(lengths, 64, 3, 2) == per_epoch[0] + per_epoch[1]
    assert [e for _, e in shown] == sorted(e for _, e in shown)
    for epoch in (0, 1):
        assert [row for row, e in shown if e == epoch] == list(sampler.rows(epoch))[
            : Counter(e for _, e in shown)[epoch]
        ]
    assert list(sampler.rows(0)) != list(sampler.rows(1))
    mates = [{frozenset(row) for row in sampler.rows(e)} for e in range(2)]
    assert len(mates[0] & mates[1]) < len(mates[0]) / 4  # the same items do not meet in every epoch
    assert list(sampler) == shown
    sampler.set_epoch(7)  # what a trainer may call changes nothing
    assert list(sampler) == shown


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_one_order(world: int) -> None:
    """Rank r takes every world-th batch: together they show what one process shows, in its order."""
    accelerate = pytest.importorskip("accelerate.data_loader")
    from torch.utils.data import BatchSampler

    sampler = PackedSampler(np.random.default_rng(0).integers(5, 30, 100), 64, seed=3, num_rows=16)
    alone = list(BatchSampler(sampler, 4, drop_last=False))
    size = 4 // world
    ranks = [
        list(accelerate.BatchSamplerShard(BatchSampler(sampler, size, drop_last=False), world, rank))
        for rank in range(world)
    ]
    assert [[row for rank in ranks for row in rank[step]] for step in range(4)] == alone


def test_what_does_not_fit_is_said_at_the_start() -> None:
    with pytest.raises(EcglmError, match=r"train\.pack_len is 64, but the longest sequence has 65 tokens; raise it"):
        PackedSampler([3, 65], 64, 0, 1)
    with pytest.raises(EcglmError, match="no sequences to pack"):
        PackedSampler([], 64, 0, 1)


def test_rows_are_made_of_the_items_asked_for() -> None:
    class Data:
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index):
            return index

    rows = PackedRows(Data())  # type: ignore[arg-type]
    assert rows[(4, 1, 2), 3] == [(4, 3), (1, 3), (2, 3)] and len(rows) == 9
    planned = PackedRows(Data(), [[4, 1], [2]])  # type: ignore[arg-type]
    assert planned[0] == [4, 1] and len(planned) == 2
