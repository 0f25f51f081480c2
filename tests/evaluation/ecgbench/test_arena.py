"""The arena's second round: what the model sees of the first, and how PULSE's published code wrote it."""

from __future__ import annotations

import pytest

from ecglm import registry
from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.base import Reply, Request
from ecglm.evaluation.ecgbench.arena import PulseBug, Talk, hold
from ecglm.prompts.turns import ChatFormat
from ecglm.types import Turn

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
Q1, A1 = Turn("user", "<ecg>\nQ1"), Turn("assistant", "A1")
Q2, A2, Q3 = Turn("user", "Q2"), Turn("assistant", "A2"), Turn("user", "Q3")


def llava() -> ChatFormat:
    return registry.get("chat_formats", "llava_v1")


def written(chat: ChatFormat, *turns: Turn) -> str:
    pieces = chat.pieces(turns, generate=True)
    return "".join("<image>" if p.kind == "ecg" else p.text for p in pieces).removeprefix("<s>")


def test_p13_the_prompt_of_the_second_round_is_literally_this():
    first = f"{SYSTEM} USER: <image>\nQ1 ASSISTANT:"
    correct, bug = llava(), PulseBug.of(llava())
    assert written(correct, Q1) == first
    assert written(correct, Q1, A1, Q2) == f"{first} A1</s>USER: Q2 ASSISTANT:"
    assert written(bug, Q1) == first
    assert written(bug, Q1, A1, Q2) == f"{first}ASSISTANT: A1 USER: Q2</s>ASSISTANT:"


def test_p13_the_bug_goes_on_in_a_third_round_as_its_separators_do():
    """Eight messages, the third of which is the first answer; " " and "</s>" by turns, empty messages without."""
    found = written(PulseBug.of(llava()), Q1, A1, Q2, A2, Q3)
    assert found.endswith("ASSISTANT:ASSISTANT: A1 USER: Q2</s>ASSISTANT:ASSISTANT: A2</s>USER: Q3 ASSISTANT:")


def test_a_system_text_stands_where_the_format_has_it():
    told = written(PulseBug.of(llava()), Turn("system", "Be brief."), Q1, A1, Q2)
    assert told == "Be brief. USER: <image>\nQ1 ASSISTANT:ASSISTANT: A1 USER: Q2</s>ASSISTANT:"


@pytest.mark.parametrize("name", ["vicuna", "llama3", "chatml"])
def test_other_formats_have_no_such_bug(name):
    with pytest.raises(EcglmError, match=f"a bug of the chat format llava_v1, this model writes {name}; use correct"):
        PulseBug.of(registry.get("chat_formats", name))


class Echo:
    """Answers with the texts it was shown; fails on what contains ``bad``."""

    name = "echo"

    def __init__(self):
        self.seen = []

    def answer(self, requests):
        self.seen.append([r.id for r in requests])
        said = [" / ".join(t.text for t in r.turns) for r in requests]
        return [Reply(None, "bad: no") if s.endswith("bad") else Reply(f"[{s}]") for s in said]


def talk(name, *questions):
    first, *later = [Turn("user", q) for q in questions]
    return Talk(Request(name, (first,)), tuple(later))


def test_each_round_sees_the_models_own_answers():
    echo = Echo()
    replies = hold(echo, [talk("a", "1", "2", "3"), talk("b", "x"), talk("c", "p", "q")])
    assert [[r.text for r in told] for told in replies] == [
        ["[1]", "[1 / [1] / 2]", "[1 / [1] / 2 / [1 / [1] / 2] / 3]"],
        ["[x]"],
        ["[p]", "[p / [p] / q]"],
    ]
    assert echo.seen == [["a", "b", "c"], ["a", "c"], ["a"]]


def test_a_round_that_failed_ends_its_talk_alone():
    replies = hold(Echo(), [talk("a", "bad", "2"), talk("b", "1", "bad"), talk("c", "1", "2")])
    assert [[r.error for r in told] for told in replies] == [["bad: no"], [None, "bad: no"], [None, None]]
    assert hold(Echo(), []) == []
