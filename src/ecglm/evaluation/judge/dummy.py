"""A judge without a model: word overlap with the reference. For trying the machinery; its scores mean nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ecglm.evaluation.chats import ChatReply, Llm, Messages, OnDone, Outcome
from ecglm.evaluation.judge.rubric import Rubric

_BLOCK = re.compile(r"\[The Start of ([^\]]+)\]\n(.*?)\n \[The End of \1\]", re.DOTALL)


class DummyJudge(Llm):
    """Gives every criterion the share of words that answer and reference have in common, on the criterion's scale."""

    concurrency = 1

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric

    def facts(self) -> dict[str, Any]:
        return {"provider": "dummy", "model": "dummy", "note": "word overlap, no judge: these scores mean nothing"}

    def chat_many(self, talks: Sequence[Messages], *, on_done: OnDone | None = None, **_: Any) -> list[Outcome]:
        results: list[Outcome] = []
        for position, talk in enumerate(talks):
            reply = ChatReply(
                self._answer(str(talk[-1]["content"])), "stop", {"prompt_tokens": 0, "completion_tokens": 0}
            )
            results.append(reply)
            if on_done is not None and on_done(position, reply):
                break
        return results + [None] * (len(talks) - len(results))

    def _answer(self, prompt: str) -> str:
        texts = {name.casefold(): text for name, text in _BLOCK.findall(prompt) if name != "Question"}
        reference, *answers = texts.values()
        shares = [overlap(reference, answer) for answer in answers]
        if len(shares) == 2:
            winner = "tie" if shares[0] == shares[1] else "A" if shares[0] > shares[1] else "B"
            return json.dumps({"Winner": winner, "Explanation": "word overlap"})
        grading: dict[str, Any] = {}
        for criterion in self.rubric.criteria:
            low, high = criterion.scale
            entry = {"Score": round(low + shares[0] * (high - low), 2), "Explanation": "word overlap"}
            grading[criterion.name] = [entry] * (criterion.total or 1) if criterion.entries == "many" else entry
        return json.dumps(grading)


def overlap(reference: str, answer: str) -> float:
    """F1 of the words two texts share, 0 to 1."""
    ours, theirs = (Counter(re.findall(r"\w+", text.casefold())) for text in (answer, reference))
    shared = sum((ours & theirs).values())
    return 2 * shared / max(1, ours.total() + theirs.total())
