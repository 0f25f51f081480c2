"""Asking a judge: each prompt once, replies checked, bad ones asked again, everything kept at once, money bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.chats import ChatError, ChatReply, Llm
from ecglm.evaluation.judge.judgements import Judged
from ecglm.evaluation.judge.reply import BadReply

#: A token is about so many characters of English; only for estimates.
CHARACTERS_PER_TOKEN = 4
#: What an unlucky tokenizer makes of a text; for bounds that must hold.
_FEW_CHARACTERS = 2


@dataclass(frozen=True)
class Asking:
    """How a judge is asked. price: money per million prompt and completion tokens; max_cost: what may be spent.

    temperature: None leaves it to the endpoint, for models that take no other than their own.
    """

    max_tokens: int = 2048
    attempts: int = 3
    temperature: float | None = 0.0
    price: tuple[float, float] | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.attempts < 1:
            raise ConfigError("judge: --max-tokens and --attempts must be 1 or more")
        if self.price is not None and not all(math.isfinite(p) and p >= 0 for p in self.price):
            raise ConfigError("judge: --price must be two numbers, 0 or more: per million prompt and completion tokens")
        if self.max_cost is not None and self.price is None:
            raise ConfigError("judge: --max-cost needs --price, else nothing is known about cost")
        if self.max_cost is not None and not self.max_cost > 0:
            raise ConfigError("judge: --max-cost must be above 0")

    def facts(self) -> dict[str, Any]:
        """What of it shapes an answer."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "json": True}

    def cost(self, usage: Mapping[str, int]) -> float:
        prompt, completion = self.price or (0.0, 0.0)
        return (usage.get("prompt_tokens", 0) * prompt + usage.get("completion_tokens", 0) * completion) / 1e6

    def most(self, prompt: str) -> float:
        """What one call may cost at most."""
        other = sum(len(c.encode(errors="replace")) for c in prompt if not c.isascii())  # a token a byte, at worst
        tokens = len(prompt) // _FEW_CHARACTERS + other + 100  # and the note of a second try
        return self.cost({"prompt_tokens": tokens, "completion_tokens": self.max_tokens})


@dataclass
class Paid:
    """Counted over one command: calls that were answered, and their tokens."""

    usage: dict[str, int] = field(default_factory=dict)
    calls: int = 0


def estimate_tokens(text: str) -> int:
    """About how many tokens an English text is."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def ask_each(
    model: Llm,
    prompts: Mapping[str, str],
    check: Callable[[str], object],
    done: Callable[[str, Judged], None],
    asking: Asking,
    paid: Paid,
    before: Mapping[str, Mapping[str, int]] | None = None,
) -> int:
    """Ask every prompt (by its key) until a reply passes ``check``, which raises BadReply, or attempts are used up.

    ``done`` gets each prompt's end as soon as it is known. before: tokens already spent on a key in earlier runs.
    Returns how many prompts were left out because ``max_cost`` would have been passed; those are not failed.
    """
    work = _Asking(prompts, check, done, asking, paid, before or {})
    for _ in range(asking.attempts):
        keys, work.again = list(work.notes), {}
        while keys:
            now = _affordable(keys, prompts, asking, paid)
            if not now:
                return len(keys) + len(work.again)
            keys = keys[len(now) :]
            talks = [[{"role": "user", "content": prompts[key] + work.notes[key]}] for key in now]
            model.chat_many(
                talks,
                max_tokens=asking.max_tokens,
                temperature=asking.temperature,
                json=True,
                on_done=partial(work.finish, now),
            )
        work.notes = work.again
    return 0


class _Asking:
    """What is known of each prompt while it is asked. notes: what is added to those to be asked in this round."""

    def __init__(
        self,
        prompts: Mapping[str, str],
        check: Callable[[str], object],
        done: Callable[[str, Judged], None],
        asking: Asking,
        paid: Paid,
        before: Mapping[str, Mapping[str, int]],
    ) -> None:
        self.prompts, self.check, self.done, self.asking, self.paid = prompts, check, done, asking, paid
        self.usage = {key: dict(before.get(key, {})) for key in prompts}
        self.tries = dict.fromkeys(prompts, 0)
        self.notes: dict[str, str] = dict.fromkeys(prompts, "")
        self.again: dict[str, str] = {}

    def finish(self, keys: Sequence[str], position: int, outcome: ChatReply | ChatError) -> None:
        """One call's end: a judgement, a failure, or another try in the next round."""
        key = keys[position]
        self.tries[key] += 1
        if isinstance(outcome, ChatError):
            self.done(
                key, Judged("failed", None, outcome.reason, self.usage[key], self.tries[key], detail=outcome.detail)
            )
            return
        _count(outcome, self.prompts[key], self.usage[key], self.paid)
        served = outcome.raw.get("model")
        served = served if isinstance(served, str) else None
        try:
            self.check(outcome.text)
        except BadReply as error:
            reason = "truncated" if outcome.truncated else error.reason
            if self.tries[key] >= self.asking.attempts:
                usage, tries = self.usage[key], self.tries[key]
                self.done(key, Judged("failed", outcome.text, reason, usage, tries, served, error.detail))
            else:
                self.again[key] = f"\n\nYour last reply could not be used ({error}). Reply with the JSON object only."
            return
        self.done(key, Judged("judged", outcome.text, None, self.usage[key], self.tries[key], served))


def _affordable(keys: list[str], prompts: Mapping[str, str], asking: Asking, paid: Paid) -> list[str]:
    """The first of these prompts that together cannot pass what is left of the money."""
    if asking.max_cost is None:
        return keys
    left, now = asking.max_cost - asking.cost(paid.usage), []
    for key in keys:
        left -= asking.most(prompts[key])
        if left < 0:
            break
        now.append(key)
    return now


def _count(reply: ChatReply, prompt: str, usage: dict[str, int], paid: Paid) -> None:
    told = {"prompt_tokens": estimate_tokens(prompt), "completion_tokens": estimate_tokens(reply.text)}
    if not told.keys() <= reply.usage.keys():
        usage["estimated"] = usage.get("estimated", 0) + 1
    told |= reply.usage
    paid.calls += 1
    usage["calls"] = usage.get("calls", 0) + 1
    for total in (usage, paid.usage):
        for name, tokens in told.items():
            total[name] = total.get(name, 0) + tokens


def too_little(asking: Asking, left_out: int, kept: int) -> EcglmError:
    """The end of the money, as a user is told."""
    return EcglmError(
        f"stopped before --max-cost {asking.max_cost:g} would be passed: {left_out} prompts are not asked yet, {kept} "
        "answers of this run are kept; run the same command again with more"
    )
