"""Rewards together (rewards/mixture.py), and the rows they read (rewards/rows.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.rewards.mixture import Mixture
from ecglm.evaluation.rewards.rows import Measured, Rewarder, question_row
from ecglm.signals.measured import measure
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, Turn

ROW = {"reference": "yes", "metadata": {"question_type": "yes-no", "choices": ["yes", "no"]}}


@pytest.fixture
def own() -> Iterator[dict]:
    """A place for rewards that a test makes."""
    known = registry._things["rewards"]
    before = dict(known)
    yield known
    known.clear()
    known.update(before)


def test_a_weighted_sum_and_its_parts() -> None:
    answers = ["yes", "<think>a</think><answer>yes</answer>", "<think>a</think><answer>no</answer>"]
    total, parts = Mixture({"correct": 2.0, "think_format": 0.5})(["?"] * 3, answers, [ROW] * 3, 3)
    assert total.tolist() == [2.0, 2.5, 0.5]
    assert parts["correct"].tolist() == [1.0, 1.0, 0.0]
    assert parts["think_format"].tolist() == [0.0, 1.0, 1.0]


def test_a_reward_that_cannot_be_computed_drops_out_and_is_no_zero() -> None:
    total, parts = Mixture({"correct": 1.0, "near_number": 5.0})(["?"], ["yes"], [ROW])
    assert total.tolist() == [1.0]
    assert np.isnan(parts["near_number"]).all()
    nothing, _ = Mixture({"near_number": 5.0})(["?"], ["yes"], [ROW])
    assert np.isnan(nothing).all()


def test_it_drops_out_for_all_answers_to_a_question_or_for_none(own: dict) -> None:
    own["odd"] = lambda prompts, completions, rows: [math.nan if c == "b" else 1.0 for c in completions]
    total, parts = Mixture({"odd": 1.0, "correct": 1.0})(["?"] * 4, ["yes", "b", "yes", "no"], [ROW] * 4, 2)
    assert np.isnan(parts["odd"]).tolist() == [True, True, False, False]
    assert total.tolist() == [1.0, 0.0, 2.0, 1.0]


def test_a_plain_function_of_anybody_is_a_reward(own: dict) -> None:
    registry.register("rewards", "short")(lambda prompts, completions, rows: [float(len(c) < 3) for c in completions])
    assert Mixture.of(["short:2"])(["?"] * 2, ["no", "maybe"], [ROW] * 2)[0].tolist() == [2.0, 0.0]


@pytest.mark.parametrize("given", [[1.0], [1.0, math.inf]])
def test_a_reward_that_gives_no_number_each_is_named(own: dict, given: list[float]) -> None:
    own["bad"] = lambda prompts, completions, rows: given
    with pytest.raises(EcglmError, match=r"^reward bad: gives"):
        Mixture({"bad": 1.0})(["?"] * 2, ["a", "b"], [ROW] * 2)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], "no reward is named"),
        (["corect"], "no rewards named 'corect'; did you mean correct"),
        (["correct:no"], "NAME:WEIGHT"),
        (["correct:0"], "must be above 0"),
        (["correct:-1"], "must be above 0"),
        (["correct:nan"], "must be above 0"),
        (["correct", "correct:2"], "stands twice"),
    ],
)
def test_mistakes_are_told_in_one_line(texts: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mixture.of(texts)
    assert "\n" not in str(caught.value)
    assert told.split(";")[0] in str(caught.value)


def test_the_order_of_weights_changes_nothing() -> None:
    one, other = Mixture.of(["f1:2", "correct"]), Mixture.of(["correct", "f1:2"])
    assert one.weights == other.weights and list(one.weights) == list(other.weights)


def test_the_row_of_a_turn_is_that_of_predictions() -> None:
    turns = (Turn("user", "<ecg> a?"), Turn("assistant", "A"), Turn("user", "b?"), Turn("assistant", "B"))
    talk = Conversation("i", "c", "t", "train", ("r",), ("p",), turns, metadata={"k": 1})
    assert question_row(talk, 0)["prompt"] == "<ecg> a?"
    assert question_row(talk, 0)["reference"] == "A"
    last = question_row(talk)
    assert (last["prompt"], last["reference"], last["turn"], last["metadata"]) == ("b?", "B", 1, {"k": 1})


def test_measurements_are_those_of_the_ecg_the_question_is_about(world) -> None:
    store = SegmentStore(world.store)
    measured, record = Measured([world.store]), store.records()[0]
    found = measured({"ecgs": [record]})["measured"]
    rate = measure(store[store.segments_of(record)[0]], store.rate).heart_rate
    assert found["heart_rate"] == (None if rate is None else pytest.approx(rate, abs=5e-4))
    assert "measured" not in measured({"ecgs": []})
    assert "measured" not in measured({"ecgs": ["another"]})
    assert "measured" not in measured({"ecgs": store.records()[:2]})


def test_a_rewarder_rewards_answers_to_conversations(world) -> None:
    one, other = world.conversations("train")[:2]
    right = one.turns[-1].text
    score = Rewarder(Mixture({"correct": 1.0}), [world.store])
    total, _ = score([one, one, other, other], [right, "?", "?", other.turns[-1].text], 2)
    assert total.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert score.facts() == Rewarder(Mixture({"correct": 1.0}), []).facts()
    assert score.facts() != Rewarder(Mixture({"f1": 1.0}), []).facts()
    assert "measured" in Rewarder(Mixture({"grounded": 1.0}), [world.store]).facts()
    with pytest.raises(EcglmError, match="no answer to compare with"):
        score([Conversation("i", "c", "t", "train", (), (), (Turn("user", "a?"),))], ["a"])
