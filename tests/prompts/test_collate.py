"""Batches: padding is never learned, rows keep their own ECGs, packed rows teach what the questions apart teach."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.packed_attention import prepare_packing
from ecglm.prompts.collate import branch_positions, collate, collate_packed, token_counts
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.examples import IGNORE
from ecglm.prompts.packing import is_document_table
from ecglm.store.reader import SegmentStore
from ecglm.training.objectives.sft import answer_loss
from ecglm.types import Conversation, Example, Turn


@pytest.fixture(scope="module", params=["signal", "symbols"])
def bundle(request) -> Bundle:
    made = from_pretrained(request.getfixturevalue(f"{request.param}_run") / "best")
    prepare_packing(made.elm.llm)
    return made


@pytest.fixture
def questions(bundle: Bundle, world) -> list[Example]:
    """One ECG, two ECGs, none, several turns; then some with a shared ECG."""
    store = SegmentStore(world.store)
    ecgs = EcgSource([store], bundle.representation)
    one, two, three = store.records()[:3]

    def talk(name: str, shown: tuple[str, ...], *texts: str) -> Conversation:
        turns = tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
        return Conversation(name, "own", "rhythm", "train", shown, tuple("p" for _ in shown), turns)

    talks = [
        talk("both", (one, two), "ECG 1: <ecg>\nECG 2: <ecg>\nSame rhythm?", "yes"),
        talk("none", (), "Hello", "hi there"),
        talk("turns", (three,), "<ecg> Rhythm?", "sinus rhythm", "And the axis?", "left axis deviation"),
        talk("plain", (two,), "<ecg> Is it normal?", "no"),
        talk("twins", (two, two), "<ecg> <ecg> Same?", "yes"),
    ]
    data = ElmDataset(talks, ecgs, bundle.prompter)
    shared = ElmDataset(world.conversations("train"), ecgs, bundle.prompter, share_ecg=True)
    assert shared[0].branches is not None
    return [data[i] for i in range(len(data))] + [shared[i] for i in range(3)]


def loss_of(bundle: Bundle, batch: dict) -> tuple[float, int]:
    with torch.no_grad():
        loss, count = answer_loss(bundle.elm, batch)
    return float(loss), count


def test_packed_loss_is_the_loss_apart_with_several_ecgs_a_row_and_shared_ones(bundle, questions) -> None:
    apart = [loss_of(bundle, collate([e], pad_id=0)) for e in questions]
    for order in (range(len(questions)), reversed(range(len(questions)))):
        rows = [questions[i] for i in order]
        total, count = loss_of(bundle, collate_packed([rows[:3], rows[3:]]))
        assert count == sum(n for _, n in apart)
        assert total == pytest.approx(sum(loss for loss, _ in apart), rel=1e-5)


def test_d05_packed_documents_equal_single_forwards_whatever_lies_beside(bundle: Bundle, questions) -> None:
    """Every document keeps its own ECGs: its logits are those of its single forward."""
    batch = collate_packed([questions])
    with torch.no_grad():
        packed = bundle.elm(batch["input_ids"], batch["attention_mask"], batch["position_ids"], batch.get("ecg"))[0]
        at = 0
        for example in questions:
            single = collate([example], pad_id=0)
            alone = bundle.elm(**{k: v for k, v in single.items() if k != "labels"})[0]
            torch.testing.assert_close(packed[at : at + len(alone)], alone, rtol=1e-4, atol=1e-4)
            at += len(alone)
    assert at == packed.shape[0]


@pytest.mark.parametrize("left", [False, True])
def test_d04_padding_is_never_learned(bundle: Bundle, questions, left: bool) -> None:
    pad = bundle.prompter.tokenizer.pad_token_id
    whole = [e for e in questions if e.branches is None]
    batch = collate(whole, pad_id=pad, left=left)
    is_pad = batch["attention_mask"] == 0
    assert is_pad.any() and (batch["input_ids"][is_pad] == pad).all()
    assert int((batch["labels"][is_pad] != IGNORE).sum()) == 0
    assert int((batch["labels"] != IGNORE).sum()) == sum(int((e.labels != IGNORE).sum()) for e in whole)


def test_d04_a_packed_row_has_no_padding_and_learns_what_its_documents_learn(bundle: Bundle, questions) -> None:
    batch = collate_packed([questions[:2], questions[2:]])
    assert torch.equal(batch["input_ids"][0], torch.from_numpy(np.concatenate([e.input_ids for e in questions])))
    assert torch.equal(batch["labels"][0], torch.from_numpy(np.concatenate([e.labels for e in questions])))
    positions = np.concatenate([branch_positions(e) for e in questions])
    assert torch.equal(batch["position_ids"][0], torch.from_numpy(positions))
    assert token_counts(batch) == (len(positions), len(positions))
    assert is_document_table(batch["attention_mask"])
    ecgs = [e.ecg for e in questions if e.ecg is not None]
    if ecgs:
        assert torch.equal(batch["ecg"], torch.from_numpy(np.concatenate(ecgs)))
    else:
        assert "ecg" not in batch


def test_without_a_table_positions_alone_tell_documents_apart(bundle: Bundle, questions) -> None:
    plain = [e for e in questions if e.branches is None]
    batch = collate_packed([plain], table=False)
    assert "attention_mask" not in batch
    starts = torch.nonzero(batch["position_ids"][0] == 0)[:, 0]
    assert starts.tolist() == np.cumsum([0, *(len(e.input_ids) for e in plain[:-1])]).tolist()
    with pytest.raises(ValueError, match="need a document table"):
        collate_packed([questions], table=False)


def test_a_first_token_cannot_be_learned() -> None:
    one = Example("a", np.array([5, 6]), np.array([5, 6]))
    with pytest.raises(ValueError, match="first token"):
        collate_packed([[one, one]])


def test_tokens_and_padding_are_counted(questions) -> None:
    plain = [e for e in questions if e.branches is None]
    for rows in (plain, questions):
        sizes = [len(e.input_ids) for e in rows]
        assert token_counts(collate(rows, pad_id=0)) == (sum(sizes), max(sizes) * len(sizes))


def test_a_batch_without_an_answer_has_no_loss_but_a_graph(bundle: Bundle, questions) -> None:
    batch = collate_packed([questions])
    batch["labels"] = torch.full_like(batch["labels"], IGNORE)
    loss, count = answer_loss(bundle.elm, batch)
    assert count == 0 and loss.item() == 0 and loss.requires_grad


def test_tokens_of_one_ecg_see_each_other_in_packed_rows_too(signal_run, world) -> None:
    """At the ECG's own places the logits are those of the single forward, and not those of causal attention."""
    bundle = from_pretrained(signal_run / "best")
    source = EcgSource([SegmentStore(world.store)], bundle.representation)
    data = ElmDataset(world.conversations("train")[:4], source, bundle.prompter)
    examples = [data[i] for i in range(len(data))]
    prepare_packing(bundle.elm.llm)
    packed = collate_packed([examples])
    inputs = {k: v for k, v in packed.items() if k != "labels"}
    with torch.no_grad():
        causal = bundle.elm(**inputs)
        bundle.elm.bidirectional = True
        found = bundle.elm(**inputs)
        singles = [collate([e], pad_id=0) for e in examples]
        alone = torch.cat([bundle.elm(**{k: v for k, v in b.items() if k != "labels"}) for b in singles], dim=1)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)
    shown = packed["input_ids"][0] == bundle.elm.placeholder_id
    assert not torch.allclose(found[0, shown], causal[0, shown], atol=1e-3)
