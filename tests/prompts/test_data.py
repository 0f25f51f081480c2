"""The dataset: everything is used or counted, shared sequences teach the same, the order comes from a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource, ElmDataset, EpochSampler
from ecglm.prompts.examples import IGNORE
from ecglm.store.reader import SegmentStore
from ecglm.training.objectives.sft import answer_loss
from ecglm.types import Conversation, Turn


@pytest.fixture(scope="module", params=["signal", "symbols"])
def bundle(request) -> Bundle:
    return from_pretrained(request.getfixturevalue(f"{request.param}_run") / "best")


@pytest.fixture
def ecgs(bundle: Bundle, world) -> EcgSource:
    return EcgSource([SegmentStore(world.store)], bundle.representation)


def losses(bundle: Bundle, data: ElmDataset) -> tuple[float, int]:
    """Summed loss and number of answer tokens over a dataset, one sequence at a time."""
    with torch.no_grad():
        found = [answer_loss(bundle.elm, collate([data[i]], pad_id=0)) for i in range(len(data))]
    return sum(float(loss) for loss, _ in found), sum(n for _, n in found)


def talk(name: str, ecgs: tuple[str, ...], *turns: str) -> Conversation:
    roles = ("user", "assistant")
    made = tuple(Turn(roles[i % 2], text) for i, text in enumerate(turns))
    return Conversation(name, "own", "rhythm", "train", ecgs, tuple("p" for _ in ecgs), made)


def test_shared_sequences_have_the_loss_of_the_questions_apart(bundle: Bundle, ecgs: EcgSource, world) -> None:
    train = world.conversations("train")
    apart = ElmDataset(train, ecgs, bundle.prompter)
    shared = ElmDataset(train, ecgs, bundle.prompter, share_ecg=True)
    assert len(apart) == len(train) == 2 * len(shared)  # two questions an ECG
    assert apart.counts() == shared.counts() == {"used": len(train)}
    one, other = losses(bundle, apart), losses(bundle, shared)
    assert one[1] == other[1]
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    batch = collate([shared[i] for i in range(len(shared))], pad_id=0)  # the same padded, in one batch
    with torch.no_grad():
        assert float(answer_loss(bundle.elm, batch)[0]) == pytest.approx(one[0], rel=1e-5)


def test_sharing_works_where_the_questions_differ_before_the_ecg(bundle: Bundle, ecgs: EcgSource, world) -> None:
    record = SegmentStore(world.store).records()[0]
    talks = [
        talk("a", (record,), "What is the rhythm of <ecg>?", "sinus rhythm"),
        talk("b", (record,), "Is <ecg> normal?", "no"),
        talk("c", (record,), "Hello", "hi", "Now <ecg>", "no"),
        talk("d", (record,), "What is the rhythm of <ecg>? One word.", "sinus"),
    ]
    one = losses(bundle, ElmDataset(talks, ecgs, bundle.prompter))
    for some in (talks, talks[::3], talks[:2]):
        shared = ElmDataset(some, ecgs, bundle.prompter, share_ecg=True)
        assert len(shared) == 1
        wanted = losses(bundle, ElmDataset(some, ecgs, bundle.prompter))
        got = losses(bundle, shared)
        assert got[1] == wanted[1]
        assert got[0] == pytest.approx(wanted[0], rel=1e-5)
    assert one[1] > 8


def test_what_shows_two_ecgs_or_none_stays_alone(bundle: Bundle, ecgs: EcgSource, world) -> None:
    one, two = SegmentStore(world.store).records()[:2]
    talks = [
        talk("a", (one, two), "<ecg> <ecg> same?", "no"),
        talk("b", (one, two), "<ecg> <ecg> rhythm?", "no"),
        talk("c", (), "Hello", "hi"),
        talk("d", (one,), "<ecg> rhythm?", "no"),
        talk("e", (one,), "<ecg> axis?", "no"),
    ]
    shared = ElmDataset(talks, ecgs, bundle.prompter, share_ecg=True)
    assert sorted(len(group) for group in shared.items) == [1, 1, 1, 2]
    wanted = losses(bundle, ElmDataset(talks, ecgs, bundle.prompter))
    assert losses(bundle, shared)[0] == pytest.approx(wanted[0], rel=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_every_conversation_is_used_or_counted_with_its_reason(bundle: Bundle, ecgs, world, share: bool) -> None:
    record = SegmentStore(world.store).records()[0]
    long = " ".join(["word"] * 400)
    odd = [
        talk("long", (record,), f"<ecg> {long}", "no"),
        talk("gone", ("synthetic/nobody",), "<ecg> rhythm?", "no"),
        talk("mark", (record,), "rhythm?", "no"),
        talk("mute", (record,), "<ecg> rhythm?"),
    ]
    train = world.conversations("train")
    data = ElmDataset([*train, *odd], ecgs, bundle.prompter, share_ecg=share)
    assert {r["id"]: r["reason"] for r in data.rejected} == {
        "long": "sequence_too_long",
        "gone": "ecg_not_in_store",
        "mark": "ecg_mark_count",
        "mute": "no_answer",
    }
    counts = data.counts()
    assert counts["used"] == len(train) and sum(counts.values()) == len(train) + len(odd)
    used = [c.id for group in data.items for c in group]
    assert Counter(used) == Counter(c.id for c in train)
    assert data.lengths == [len(data[i].input_ids) for i in range(len(data))]
    for i in range(len(data)):
        assert (data[i].labels != IGNORE).any()


def test_too_small_a_window_rejects_everything_and_says_so(bundle: Bundle, ecgs: EcgSource, world) -> None:
    train = world.conversations("train")
    data = ElmDataset(train, ecgs, replace(bundle.prompter, max_len=12))
    assert len(data) == 0
    assert data.counts() == {"used": 0, "rejected:sequence_too_long": len(train)}


def test_what_the_length_policy_cut_is_counted(bundle: Bundle, ecgs: EcgSource, world) -> None:
    record = SegmentStore(world.store).records()[0]
    talks = [talk("a", (record,), "<ecg> " + "word " * 60, "no", "and the axis?", "no")]
    whole = ElmDataset(talks, ecgs, replace(bundle.prompter, max_len=2000))
    assert whole.truncated["dropped_oldest_turns"] == 0
    cut = ElmDataset(talks, ecgs, replace(bundle.prompter, max_len=whole.lengths[0] - 1))
    assert cut.truncated["dropped_oldest_turns"] == 1


def test_a_record_in_two_stores_is_refused(bundle: Bundle, world) -> None:
    store = SegmentStore(world.store)
    with pytest.raises(EcglmError, match="is in two of the given stores"):
        EcgSource([store, store], bundle.representation)
    assert store.records()[0] in EcgSource([store], bundle.representation)


def test_the_source_gives_a_records_first_segment(ecgs: EcgSource, world) -> None:
    store = SegmentStore(world.store)
    for record in store.records():
        first = min(store.segments_of(record), key=lambda i: store.row(i)["start_s"])
        assert np.array_equal(ecgs.segment(record), store[first])
        assert ecgs.rate(record) == store.rate
    with pytest.raises(RejectedRecord, match="ecg_not_in_store: nobody"):
        ecgs.segment("nobody")


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 17), st.integers(0, 5), st.integers(0, 5)
)
@settings(max_examples=150, deadline=None)
def test_an_epoch_is_a_permutation_given_by_seed_and_epoch(lengths, batch_size, seed, epoch) -> None:
    sampler = EpochSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths))) and len(sampler) == len(lengths)
    other = EpochSampler(lengths, batch_size, seed)
    other.set_epoch(epoch + 1)
    list(other)
    other.set_epoch(epoch)  # whatever was asked before
    assert list(other) == order
    pools = EpochSampler(lengths, batch_size, seed, pool=10**6)  # one pool: batches are runs of the sorted lengths
    rows = list(pools)
    batches = [sorted(lengths[i] for i in rows[k : k + batch_size]) for k in range(0, len(rows), batch_size)]
    assert sorted(v for b in batches for v in b) == sorted(lengths)
    full = sorted(b for b in batches if len(b) == batch_size)
    assert all(one[-1] <= two[0] for one, two in pairwise(full))


def test_epochs_and_seeds_differ_and_lengths_are_bucketed() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 512).tolist()
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = EpochSampler(lengths, 8, seed)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
    assert len({tuple(o) for o in orders.values()}) == 4
    for order in orders.values():
        batches = np.asarray(lengths)[order].reshape(-1, 8)
        padded = (batches.max(axis=1) * 8).sum() / sum(lengths)
        assert padded < 1.15  # in random order a batch of 8 pads by more than half
        assert np.corrcoef(np.arange(len(batches)), batches.mean(axis=1))[0, 1] < 0.5  # and not from short to long
