"""The dataset: everything is used or counted, shared sequences teach the same, the order comes from a seed."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource, ElmDataset, EpochSampler
from ecglm.prompts.examples import IGNORE
from ecglm.representations.augment import Augmentation, augment_signal
from ecglm.representations.image import ImageRepresentation
from ecglm.representations.image_augment import augment_image
from ecglm.store.reader import SegmentStore
from ecglm.training.objectives.sft import answer_loss
from ecglm.types import Conversation, EcgInput, Example, Turn


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


STRONG = {"noise": {"p": 0.5, "sd": 0.5}, "lead-dropout": {"p": 0.5}, "time-shift": {}}


@pytest.fixture
def augmented(bundle: Bundle, ecgs: EcgSource, world) -> ElmDataset:
    plan = Augmentation.from_plain(STRONG)
    train = world.conversations("train")
    return ElmDataset(train, ecgs, bundle.prompter, share_ecg=True, augmentation=plan, seed=5)


def shown(example: Example) -> bytes:
    """All that a model is given of an item."""
    return example.input_ids.tobytes() + b"|" + (b"" if example.ecg is None else example.ecg.tobytes())


def _row(examples: list[Example]) -> tuple[str, bytes]:
    return examples[0].id, shown(examples[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_augmentation_is_the_same_for_any_number_of_workers_and_changes_with_the_epoch(augmented, workers) -> None:
    """Workers live on from epoch to epoch, as a long training has them."""
    sampler = EpochSampler(augmented.lengths, 1, seed=0)
    options = {"batch_size": 1, "sampler": sampler, "collate_fn": _row}
    loaders = [
        DataLoader(augmented, **options),
        DataLoader(augmented, num_workers=workers, persistent_workers=True, **options),
    ]
    epochs = []
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        one, other = (list(loader) for loader in loaders)
        assert one == other
        epochs.append(dict(one))
    again = DataLoader(augmented, **options)  # a resumed run begins in the middle
    sampler.set_epoch(2)
    assert dict(again) == epochs[2]
    plain = {augmented[i].id: shown(augmented[i]) for i in range(len(augmented))}
    changed = [sum(rows[k] != plain[k] for k in plain) for rows in epochs]
    assert all(len(plain) / 3 < n <= len(plain) for n in changed)  # 1 in 8 is left as it is
    assert sum(epochs[0][k] != epochs[1][k] for k in plain) > len(plain) / 2


def test_without_an_epoch_nothing_is_changed(augmented, bundle: Bundle, ecgs: EcgSource, world) -> None:
    plain = ElmDataset(world.conversations("train"), ecgs, bundle.prompter, share_ecg=True)
    assert [shown(augmented[i]) for i in range(len(augmented))] == [shown(plain[i]) for i in range(len(plain))]
    assert [shown(plain[i, 3]) for i in range(len(plain))] == [shown(plain[i]) for i in range(len(plain))]
    assert augmented.lengths == plain.lengths


def test_what_is_shown_is_the_augmented_segment_read_by_the_representation(bundle, ecgs, world) -> None:
    """One ECG, one augmentation, whichever of its questions are asked; apart, each question has its own."""
    record = world.conversations("train")[0].ecgs[0]
    talks = [talk(name, (record,), f"<ecg> rhythm {name}?", "no") for name in "abc"]
    plan = Augmentation.from_plain({"noise": {"p": 1, "sd": 0.5}})

    def wanted(row: str) -> EcgInput:
        segment = augment_signal(ecgs.segment(record), ecgs.rate(record), plan, seed=7, row_id=row, epoch=4)
        return bundle.representation(segment, ecgs.rate(record))

    def check(example: Example, row: str) -> None:
        inputs = wanted(row)
        if inputs.tensor is not None:
            np.testing.assert_array_equal(example.ecg, inputs.tensor[None])
        else:
            ids = [bundle.prompter.ecg_ids[t] for t in inputs.token_ids]
            assert [i for i in example.input_ids.tolist() if i in set(bundle.prompter.ecg_ids)] == ids

    options = {"augmentation": plan, "seed": 7}
    for some in (talks, talks[1:], talks[:1]):
        (example,) = (ElmDataset(some, ecgs, bundle.prompter, share_ecg=True, **options)[0, 4],)
        check(example, f"ecg/{record}/0")
    apart = ElmDataset(talks, ecgs, bundle.prompter, **options)
    for i, name in enumerate("abc"):
        check(apart[i, 4], f"conversation/{name}/0")
    both = ElmDataset([talk("two", (record, record), "<ecg> <ecg> same?", "no")], ecgs, bundle.prompter, **options)
    if both[0].ecg is not None:  # two pictures of one recording are two
        first, second = both[0, 4].ecg
        assert (first != second).any()


def test_pictures_are_varied_in_training_alone(world, signal_run: Path) -> None:
    prompter = from_pretrained(signal_run / "best").prompter
    paper = ImageRepresentation(num_tokens=2, image_size=(64, 64))
    source = EcgSource([SegmentStore(world.store)], paper)
    record = world.conversations("train")[0].ecgs[0]
    talks = [talk("a", (record,), "<ecg> rhythm?", "no")]
    plan = Augmentation.from_plain({"image": {"p": 1, "each": 1, "rotation": [3, 5]}, "noise": {"p": 1}})
    data = ElmDataset(talks, source, prompter, augmentation=plan, seed=2)
    segment, rate = source.segment(record), source.rate(record)
    np.testing.assert_array_equal(data[0].ecg[0], paper(segment, rate).tensor)
    for epoch in (0, 1):
        options = {"seed": 2, "row_id": "conversation/a/0", "epoch": epoch}
        clean = paper(augment_signal(segment, rate, plan, **options), rate).tensor
        wanted = augment_image(np.ascontiguousarray(clean.transpose(1, 2, 0)), plan.image, **options)
        np.testing.assert_array_equal(data[0, epoch].ecg[0], wanted.transpose(2, 0, 1))
    assert (data[0, 0].ecg != data[0, 1].ecg).any() and data[0, 0].ecg.dtype == np.uint8


def test_an_augmented_ecg_that_does_not_fit_is_shown_as_it_is(world, symbols_run: Path) -> None:
    bundle = from_pretrained(symbols_run / "best")
    long = copy.copy(bundle.representation)
    long.max_ecg_tokens = None  # noise compresses badly
    source = EcgSource([SegmentStore(world.store)], long)
    plan = Augmentation.from_plain({"noise": {"p": 1, "sd": 3.0, "at": "electrodes"}})
    train = world.conversations("train")
    lengths = ElmDataset(train, source, replace(bundle.prompter, max_len=9999)).lengths
    tight = replace(bundle.prompter, max_len=max(lengths) + 1)
    data = ElmDataset(train, source, tight, augmentation=plan)
    marked = [i for i in range(len(data)) if "augmentation" in data[i, 0].truncated]
    assert marked and all(shown(data[i, 0]) == shown(data[i]) for i in marked)
    assert all(len(data[i, 0].input_ids) <= tight.max_len for i in range(len(data)))


def test_an_effect_that_the_store_cannot_show_is_told_at_the_start(bundle: Bundle, ecgs: EcgSource, world) -> None:
    with pytest.raises(EcglmError, match="'mains': 60 Hz cannot be shown at 50 samples"):
        plan = Augmentation.from_plain({"mains": {"p": 0.001}})
        ElmDataset(world.conversations("train"), ecgs, bundle.prompter, augmentation=plan)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 17), st.integers(0, 5), st.integers(0, 5)
)
@settings(max_examples=150, deadline=None)
def test_an_epoch_is_a_permutation_given_by_seed_and_epoch(lengths, batch_size, seed, epoch) -> None:
    sampler = EpochSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == [(i, epoch) for i in range(len(lengths))] and len(sampler) == len(lengths)
    other = EpochSampler(lengths, batch_size, seed)
    other.set_epoch(epoch + 1)
    list(other)
    other.set_epoch(epoch)  # whatever was asked before
    assert list(other) == order
    pools = EpochSampler(lengths, batch_size, seed)
    pools.pool = 10**6  # one pool: batches are runs of the sorted lengths
    rows = [i for i, _ in pools]
    batches = [sorted(lengths[i] for i in rows[k : k + batch_size]) for k in range(0, len(rows), batch_size)]
    assert sorted(v for b in batches for v in b) == sorted(lengths)
    full = sorted(b for b in batches if len(b) == batch_size)
    assert all(one[-1] <= two[0] for one, two in pairwise(full))


@pytest.mark.parametrize("num_batches", [6, 20, 60, 400])
def test_small_data_is_mixed_too(num_batches: int) -> None:
    """Items near in length are batch mates in turn: in one pool the same eight would meet in every epoch."""
    size, epochs = 8, 40
    lengths = np.arange(num_batches * size)  # all differ: a sort leaves nothing to chance
    together = np.zeros((len(lengths), len(lengths)), int)
    for epoch in range(epochs):
        sampler = EpochSampler(lengths.tolist(), size, 0)
        sampler.set_epoch(epoch)
        for batch in np.array([i for i, _ in sampler]).reshape(-1, size):
            together[np.ix_(batch, batch)] += 1
    np.fill_diagonal(together, 0)
    mates = (together > 0).sum(axis=1).mean()
    assert mates > 25, mates  # of 280 seats; in one pool of six batches they are always the same 7
    assert together.max() <= 0.6 * epochs


def test_epochs_and_seeds_differ_and_lengths_are_bucketed() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 512).tolist()
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = EpochSampler(lengths, 8, seed)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = [i for i, _ in sampler]
    assert len({tuple(o) for o in orders.values()}) == 4
    for order in orders.values():
        batches = np.asarray(lengths)[order].reshape(-1, 8)
        padded = (batches.max(axis=1) * 8).sum() / sum(lengths)
        assert padded < 1.2  # in random order a batch of 8 pads by more than half
        assert np.corrcoef(np.arange(len(batches)), batches.mean(axis=1))[0, 1] < 0.5  # and not from short to long
