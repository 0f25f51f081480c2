"""Batches of predictions: a function of the jobs alone, like beside like, no larger than the memory; picture files."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.pictures import blank_paper
from ecglm.evaluation.predict_answers import Answerer, Orders
from ecglm.evaluation.predict_checks import check_decoding
from ecglm.evaluation.predict_jobs import BATCH_TOKENS, Job, Work, lengths, make_batches, make_jobs
from ecglm.models.checkpoint import from_pretrained
from ecglm.prompts.data import EcgSource
from ecglm.representations.image import ImageRepresentation
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, Turn


def talk(name: str, ecg: str, question: str, task: str = "t", turns: int = 1) -> Conversation:
    text = (Turn("user", f"<ecg>\n{question}"), Turn("assistant", "no"))
    more = (Turn("user", "And the axis?"), Turn("assistant", "yes")) * (turns - 1)
    return Conversation(
        id=name, corpus="c", task=task, split="test", ecgs=(ecg,), patients=("p",), turns=(*text, *more)
    )


def some() -> list[Conversation]:
    return [talk(f"{e}/{q}", f"e{e}", "word " * (1 + 7 * q + e % 3), f"task{q}") for e in range(6) for q in range(4)]


def sizes(jobs: list[Job]) -> dict[str, tuple[int, int]]:
    return {j.conversation.id: (25, len(j.conversation.turns[0].text) // 4) for j in jobs}


def test_jobs_stand_in_the_order_of_the_rows() -> None:
    jobs = make_jobs(some(), ("real", "blank"), (3, 1))
    found = [(j.seed, j.control, j.conversation.task, j.conversation.id) for j in jobs]
    order = {3: 0, 1: 1}, {"real": 0, "blank": 1}
    assert found == sorted(found, key=lambda f: (order[0][f[0]], order[1][f[1]], f[2], f[3]))
    assert len(found) == len(set(found)) == 24 * 4


@pytest.mark.parametrize("batch_size", [1, 5, 12, 1000])
def test_every_job_is_in_one_batch_and_none_is_too_large(batch_size: int) -> None:
    jobs = make_jobs(some(), ("real", "swap", "blank", "no-ecg"), (0,))
    batches = make_batches(jobs, sizes(jobs), batch_size, 64)
    assert sorted(n for b in batches for n in b) == list(range(len(jobs)))
    assert max(map(len, batches)) <= batch_size
    shuffled = make_batches(jobs, dict(reversed(sizes(jobs).items())), batch_size, 64)
    assert shuffled == batches


def test_questions_about_one_ecg_stand_side_by_side_and_long_ones_first() -> None:
    jobs = make_jobs(some(), ("real", "swap"), (0,))
    order = [jobs[n] for batch in make_batches(jobs, sizes(jobs), 8, 64) for n in batch]
    shown = [(j.control, j.conversation.ecgs) for j in order]
    assert sum(a != b for a, b in itertools.pairwise(shown)) == len(set(shown)) - 1
    longest = [max(sizes(jobs)[j.conversation.id][1] for j in order[i : i + 4]) for i in range(0, len(order), 4)]
    assert longest == sorted(longest, reverse=True)


def test_equal_prompts_stand_side_by_side_where_all_see_the_same() -> None:
    """Under blank and without an ECG the question is the prompt."""
    talks = [talk(f"{e}/{q}", f"e{e}", q) for e in range(5) for q in ("rhythm", "the rate")]
    for control in ("blank", "no-ecg"):
        jobs = make_jobs(talks, (control,), (0, 1))
        order = [jobs[n] for batch in make_batches(jobs, sizes(jobs), 7, 64) for n in batch]
        texts = [j.conversation.turns[0].text for j in order]
        assert sum(a != b for a, b in itertools.pairwise(texts)) == 1


def test_long_prompts_make_small_batches_and_talks_stay_among_their_like() -> None:
    talks = [talk(f"a{i}", f"e{i}", "x") for i in range(40)]
    jobs = make_jobs(talks, ("real",), (0,))
    size = {t.id: (2000, 10) for t in talks}
    batches = make_batches(jobs, size, 128, 100)
    assert {len(b) for b in batches[:-1]} == {BATCH_TOKENS // 2110}
    huge = make_batches(jobs, {t.id: (10**6, 0) for t in talks}, 128, 100)
    assert [len(b) for b in huge] == [1] * 40
    mixed = make_jobs([*talks, *(talk(f"b{i}", f"e{i}", "x", turns=2) for i in range(3))], ("real", "no-ecg"), (0,))
    found = make_batches(mixed, sizes(mixed), 16, 64)
    for batch in found:
        assert len({mixed[n].num_answers for n in batch}) == 1
        assert len({mixed[n].control for n in batch}) == 1  # what shows an ECG is not beside what shows none
    assert [mixed[b[0]].num_answers for b in found] == sorted((mixed[b[0]].num_answers for b in found), reverse=True)


def test_lengths_count_the_tokens_of_ecgs_and_the_text(world, signal_run: Path) -> None:
    representation = from_pretrained(signal_run / "best").representation
    ecgs = EcgSource([SegmentStore(world.store)], representation)
    record = SegmentStore(world.store).records()[0]
    talks = [talk("a", record, "x" * 94), talk("b", "gone", "?")]
    assert lengths(talks, ecgs) == {"a": (4, 25), "b": (0, 1)}


def test_rows_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = make_jobs([talk("a", "e", "x", turns=2), talk("b", "e", "x")], ("real",), (0,))

    def row(job: Job, turn: int) -> dict[str, Any]:
        return {"id": job.conversation.id, "control": "real", "seed": 0, "turn": turn}

    work = Work(tmp_path, jobs, [[1], [0]])
    assert work.left == [0, 1]
    work.add(1, [[row(jobs[0], 0), row(jobs[0], 1)]])
    assert Work(tmp_path, jobs, [[1], [0]]).left == [0]
    work.add(0, [[row(jobs[1], 0)]])
    assert [(r["id"], r["turn"]) for r in work.rows()] == [("a", 0), ("a", 1), ("b", 0)]
    with pytest.raises(EcglmError, match="is not of these questions; use --overwrite"):
        Work(tmp_path, jobs, [[0], [1]])


def test_drawing_needs_a_temperature() -> None:
    check_decoding((), None, 1.0)
    check_decoding((0, 5), 0.7, 0.9)
    with pytest.raises(EcglmError, match="decoding is greedy"):
        check_decoding((0,), None, 1.0)


class Shows(Answerer):
    """What a model of pictures would be shown."""

    def __init__(self, representation: Any, orders: Orders) -> None:
        self.orders, self._kept = orders, {}
        self.bundle = type("Pictures", (), {"representation": representation})()
        self.ecgs = EcgSource([SegmentStore(s) for s in orders.stores], representation, orders.images)


def test_picture_files_are_shown_and_their_controls_change_pixels(world, tmp_path: Path) -> None:
    store = SegmentStore(world.store)
    records = store.records()[:2]
    drawn = np.random.default_rng(0)
    pages = {}
    for name in ("a.png", "b.png"):
        pages[name] = drawn.integers(0, 256, (60, 80, 3)).astype(np.uint8)
        Image.fromarray(pages[name]).save(tmp_path / name)
    representation = ImageRepresentation(image_size=(64, 64), num_tokens=4)
    partners = {"image/a.png": "image/b.png", "image/b.png": "image/a.png"}
    orders = Orders(model="", stores=(str(world.store),), images=(str(tmp_path),), partners=partners, seed=5)
    shows = Shows(representation, orders)
    asked = [replace(talk(n, r, "x"), metadata={"image": n}) for n, r in zip(("a.png", "b.png"), records, strict=True)]

    def shown(control: str, number: int = 0) -> Any:
        found = shows._show(Job(control, asked[number], 0))
        return found if isinstance(found, str) else [e.tensor for e in found]

    def page(picture: np.ndarray) -> Any:
        return representation.of_picture(picture).tensor

    np.testing.assert_array_equal(shown("real")[0], page(pages["a.png"]))
    np.testing.assert_array_equal(shown("swap")[0], page(pages["b.png"]))
    np.testing.assert_array_equal(shown("blank")[0], page(blank_paper(60, 80)))
    assert shown("no-ecg") == []
    noise, other = shown("noise")[0], shown("noise", 1)[0]
    assert (noise != other).any() and (noise != page(pages["a.png"])).any()
    assert "control_needs_signal" in shown("perturb-wander")
    plain = replace(asked[0], metadata={})  # names no picture: drawn from the store
    found = shows._show(Job("real", plain, 0))
    np.testing.assert_array_equal(found[0].tensor, representation(store[store.segments_of(records[0])[0]], 50).tensor)
    lost = replace(asked[0], metadata={"image": "c.png"})
    assert "image_missing" in shows._show(Job("real", lost, 0))
