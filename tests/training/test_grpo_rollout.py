"""Answers drawn to learn from (grpo_rollout.py) and the questions (grpo_data.py), against the model asked plainly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ecglm.models.checkpoint import from_pretrained
from ecglm.models.generate import Sampling, generate
from ecglm.prompts.data import EcgSource, EpochSampler
from ecglm.prompts.examples import IGNORE
from ecglm.store.reader import SegmentStore
from ecglm.training.grpo_data import InnerSampler, QuestionDataset, collate_prompts
from ecglm.training.grpo_rollout import Drawn, answer_batch, answer_logprobs, draw_answers, sequence
from ecglm.types import Turn


@pytest.fixture(scope="module", params=["signal_run", "symbols_run"])
def asked(request: Any, world: Any) -> tuple[Any, QuestionDataset]:
    bundle = from_pretrained(request.getfixturevalue(request.param) / "best")
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    return bundle, QuestionDataset(world.conversations("train")[:4], ecgs, bundle.prompter)


def drawn(asked: Any, *at: int, samples: int = 3, epoch: int = 0) -> tuple[list[Any], list[list[Drawn]]]:
    bundle, data = asked
    prompts = [data[i, epoch] for i in at]
    given = {"max_new_tokens": 12, "sampling": Sampling(1.3, 1.0, 7)}
    return prompts, draw_answers(bundle.elm, bundle.prompter, prompts, samples, **given)


def test_they_are_what_generate_gives(asked: Any) -> None:
    bundle, _ = asked
    prompts, found = drawn(asked, 0, 1)
    named = [replace(p, id=f"{p.id}/{k}") for p in prompts for k in range(3)]
    plain = generate(bundle.elm, bundle.prompter, named, max_new_tokens=12, sampling=Sampling(1.3, 1.0, 7))
    flat = [d for of in found for d in of]
    assert [(d.text, d.cut, len(d.tokens)) for d in flat] == [
        (p["text"], p["truncated"], p["num_tokens"]) for p in plain
    ]
    assert len({d.tokens for d in flat}) > 2


def test_an_answer_is_a_function_of_seed_epoch_and_question(asked: Any) -> None:
    _, together = drawn(asked, 0, 1, 2)
    _, alone = drawn(asked, 1)
    assert alone[0] == together[1]
    assert drawn(asked, 1, epoch=1)[1] != alone


def test_all_that_was_drawn_is_learned_and_nothing_else(asked: Any) -> None:
    bundle, data = asked
    prompt, end = data[0], bundle.prompter.end_id
    whole = sequence(prompt, Drawn((5, 6), False, ""), end)
    assert whole.input_ids.tolist() == [*prompt.input_ids.tolist(), 5, 6, end]
    assert whole.labels.tolist() == [IGNORE] * len(prompt.input_ids) + [5, 6, end]
    cut = sequence(prompt, Drawn((5, 6), True, ""), end)
    assert cut.input_ids.tolist()[-2:] == [5, 6] and cut.labels.tolist()[-2:] == [5, 6]


def by_hand(bundle: Any, prompt: Any, answer: Drawn, temperature: float) -> list[float]:
    """Log-probabilities one token after the other, each from a pass of its own over what stands before it."""
    found = []
    tokens = [*answer.tokens, *(() if answer.cut else (bundle.prompter.end_id,))]
    banned = set(bundle.prompter.ecg_ids) | {bundle.prompter.tokenizer.pad_token_id}
    for number, token in enumerate(tokens):
        ids = torch.tensor([*prompt.input_ids.tolist(), *tokens[:number]])[None]
        ecg = None if prompt.ecg is None else torch.from_numpy(prompt.ecg)
        with torch.no_grad():
            logits = bundle.elm(ids, torch.ones_like(ids), ecg=ecg)[0, -1].double() / temperature
        known = len(bundle.prompter.tokenizer)
        allowed = [i for i in range(min(known, len(logits))) if i not in banned - {bundle.prompter.end_id}]
        found.append(float(logits[token] - torch.logsumexp(logits[allowed], 0)))
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_log_probabilities_are_those_the_tokens_were_drawn_with(asked: Any, shared: bool) -> None:
    bundle, _ = asked
    prompts, found = drawn(asked, 0, 2)
    batch = answer_batch(prompts, found, bundle.prompter, shared=shared)
    with torch.no_grad():
        tokens = answer_logprobs(bundle.elm, batch, bundle.prompter, 1.3)
    expected = [by_hand(bundle, p, d, 1.3) for p, of in zip(prompts, found, strict=True) for d in of]
    assert tokens.tolist() == pytest.approx([v for one in expected for v in one], abs=2e-4)
    assert len(tokens) == sum(d.num_learned for of in found for d in of)


def test_questions_end_before_their_last_answer(asked: Any, world: Any) -> None:
    bundle, data = asked
    c = world.conversations("train")[0]
    tokenizer = bundle.prompter.tokenizer
    assert c.turns[-1].text not in tokenizer.decode(data[0].input_ids)
    assert data.conversation(data[0]) == c and data.conversation(data[3, 8]).id == world.conversations("train")[3].id
    talk = replace(c, turns=(*c.turns, Turn("user", "And why?"), Turn("assistant", "xyz")))
    text = tokenizer.decode(QuestionDataset([talk], data.ecgs, bundle.prompter)[0].input_ids)
    assert c.turns[-1].text in text and "And why?" in text and "xyz" not in text


def test_what_cannot_be_asked_is_counted(asked: Any, world: Any) -> None:
    bundle, data = asked
    good = world.conversations("train")[0]
    silent = replace(good, id="silent", turns=good.turns[:1])
    unknown = replace(good, id="unknown", ecgs=("nobody",))
    found = QuestionDataset([good, silent, unknown], data.ecgs, bundle.prompter)
    assert found.counts() == {"used": 1, "rejected:ecg_not_in_store": 1, "rejected:no_answer": 1}
    assert {r["id"] for r in found.rejected} == {"silent", "unknown"}


def test_inner_steps_show_the_same_questions_again() -> None:
    inner = EpochSampler([1] * 10, 4, seed=0)
    once, twice = InnerSampler(inner, 4, 1), InnerSampler(inner, 4, 2)
    order = list(inner)
    assert list(once) == order and len(once) == 10
    assert list(twice) == [*order[:4], *order[:4], *order[4:8], *order[4:8]] and len(twice) == 16
    twice.set_epoch(1)
    assert {epoch for _, epoch in twice} == {1}


def test_a_batch_holds_its_prompts(asked: Any) -> None:
    _, data = asked
    assert collate_prompts([data[0], data[1]])["prompts"][1].id == "1/val"
    assert np.array_equal(collate_prompts([data[0]])["prompts"][0].input_ids, data[0].input_ids)
