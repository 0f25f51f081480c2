"""Judging a set of items: what is kept is not asked again, the rest is asked once, then one summary is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.judge.aggregate import summarise
from ecglm.evaluation.judge.ask import Asking, Llm, Paid, ask_each, estimate_tokens, too_little
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.judgements import (
    SUMMARY,
    Cache,
    Judged,
    ask_key,
    bind,
    graded,
    read_item,
    write_item,
)
from ecglm.evaluation.judge.prompts import judge_prompt
from ecglm.evaluation.judge.reply import parse_reply
from ecglm.evaluation.judge.rubric import Rubric

#: An item's state → that of its judgement, where no judge is asked.
UNSENT = {"empty": "empty", "failed": "failed_answer", "missing": "missing"}


@dataclass(frozen=True)
class Plan:
    """What judging would take. num_items: all; num_kept: judged before; num_cached: asked before elsewhere; num_unsent:
    without an answer; num_calls: prompts to ask; tokens: estimated, of those prompts; most_completion_tokens: a bound.
    """

    num_items: int
    num_kept: int
    num_cached: int
    num_unsent: int
    num_calls: int
    prompt_tokens: int
    most_completion_tokens: int

    def lines(self, asking: Asking) -> list[str]:
        """For people, without and with a price."""
        told = [
            f"{self.num_items} items: {self.num_kept} judged, {self.num_cached} in the cache, "
            f"{self.num_unsent} without an answer; {self.num_calls} prompts to ask",
            f"about {self.prompt_tokens:,} prompt tokens, at most {self.most_completion_tokens:,} completion tokens",
        ]
        if asking.price is not None:
            usage = {"prompt_tokens": self.prompt_tokens}
            most = {**usage, "completion_tokens": self.most_completion_tokens}
            told.append(f"cost: about {asking.cost(usage):.4f} for the prompts, at most {asking.cost(most):.4f} in all")
        return told


@dataclass(frozen=True)
class JudgeRun:
    """path: of judge.json; summary: its content; paid: what this command asked for."""

    path: Path
    summary: dict[str, Any]
    paid: Paid


class _Work:
    """Items sorted by what has to be done about them."""

    def __init__(
        self, items: Sequence[Item], rubric: Rubric, judge: Mapping[str, Any], out: Path, cache: Cache
    ) -> None:
        _check(items, out)
        self.prompts: dict[str, str] = {}  # key → prompt, of those to ask
        self.keys: dict[str, str] = {}  # item's key → prompt's key
        self.ready: dict[str, Judged] = {}  # item's key → what is known
        self.kept: set[str] = set()  # items whose file is as it must be
        self.spent: dict[str, Mapping[str, int]] = {}  # prompt's key → tokens of earlier attempts
        self.num_cached = 0
        for item in items:
            prompt = judge_prompt(rubric, item.turns)
            key = self.keys[item.key] = ask_key(judge, prompt)
            if item.state in UNSENT:
                self.ready[item.key] = Judged(UNSENT[item.state])
                continue
            found = read_item(out, item, key)
            if found is not None and found.state == "judged" and graded(found, rubric) is not None:
                self.ready[item.key] = found
                self.kept.add(item.key)
                continue
            if found is not None:
                self.spent[key] = found.usage
            cached = cache.get(key)
            if cached is not None and graded(cached, rubric) is not None:
                self.ready[item.key] = cached
                self.num_cached += 1
            else:
                self.prompts[key] = prompt


def plan_judging(items: Sequence[Item], rubric: Rubric, model: Llm, out: Path, cache: Path, asking: Asking) -> Plan:
    """Count what is to be asked, and ask nothing."""
    work = _Work(items, rubric, {**model.facts(), **asking.facts()}, out, Cache(cache))
    unsent = sum(item.state in UNSENT for item in items)
    return plan_of(len(items), len(work.kept), work.num_cached, unsent, work.prompts, asking)


def plan_of(
    num_items: int, num_kept: int, num_cached: int, num_unsent: int, prompts: Mapping[str, str], asking: Asking
) -> Plan:
    """A plan to ask these prompts."""
    tokens = sum(map(estimate_tokens, prompts.values()))
    return Plan(num_items, num_kept, num_cached, num_unsent, len(prompts), tokens, len(prompts) * asking.max_tokens)


def judge_items(
    items: Sequence[Item],
    rubric: Rubric,
    model: Llm,
    out: str | Path,
    *,
    cache: str | Path,
    asking: Asking | None = None,
    aggregate: str = "strict",
    inputs: Mapping[str, Any] | None = None,
    paid: Paid | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> JudgeRun:
    """Judge items, write one file each below ``out/items`` and the summary ``out/judge.json``.

    Valid judgements in ``out`` and in ``cache`` are used again, also after a kill; items that failed are asked again.
    aggregate: ``strict``, or also ``pulse``, ``gem_v1``, ``gem_v2`` (see ``aggregate.py``). inputs: facts of what is
    judged, for the summary. paid: counted on from there; max_cost is for all of it. Raises EcglmError when no item can
    be asked any more; what was answered is kept.
    """
    out, kept, asking = Path(out), Cache(Path(cache)), asking or Asking()
    judge = {**model.facts(), **asking.facts()}
    paid = paid or Paid()
    with files.folder_lock(out):
        bind(out, rubric.facts(), judge, inputs, overwrite)
        work = _Work(items, rubric, judge, out, kept)
        asked_of: dict[str, list[Item]] = {}
        for item in items:
            if item.key in work.ready:
                if item.key not in work.kept:
                    write_item(out, item, work.keys[item.key], rubric, judge, work.ready[item.key])
            else:
                asked_of.setdefault(work.keys[item.key], []).append(item)
        say(
            f"{len(items)} items: {len(work.kept)} judged before, {work.num_cached} in the cache, "
            f"{len(work.prompts)} prompts to ask"
        )
        done = Progress(len(work.prompts), say)
        if work.prompts:
            kept.check()

        def finish(key: str, judged: Judged) -> None:
            if judged.state == "judged":
                kept.put(key, judged)
            for item in asked_of[key]:
                write_item(out, item, key, rubric, judge, judged)
                work.ready[item.key] = judged
            done()

        left = ask_each(model, work.prompts, lambda text: parse_reply(text, rubric), finish, asking, paid, work.spent)
        if left:
            raise too_little(asking, left, done.number)
        found = [work.ready[item.key] for item in items]
        check_any(found)
        summary = summarise(items, found, rubric, judge, aggregate, num_resamples=num_resamples, seed=seed)
        summary["inputs"] = dict(inputs or {})
        summary["usage"] = usage_of({work.keys[i.key]: f for i, f in zip(items, found, strict=True)}, asking)
        summary["items"] = [item.file_name for item in items]
        files.write_json(out / SUMMARY, summary)
    return JudgeRun(out / SUMMARY, summary, paid)


def _check(items: Sequence[Item], out: Path) -> None:
    if not items:
        raise EcglmError(f"{out}: there is nothing to judge; the predictions hold no items")
    if len({item.key for item in items}) != len(items):
        raise EcglmError(f"{out}: two items have the same id, turn, seed and control; every item needs its own")


def check_any(found: Sequence[Judged]) -> None:
    """EcglmError where the judge failed at every item it was asked: that is no result."""
    failed = [judged for judged in found if judged.state == "failed"]
    if failed and not any(judged.state == "judged" for judged in found):
        detail = f" ({failed[0].detail})" if failed[0].detail else ""
        raise EcglmError(f"none of {len(failed)} items could be judged; the first: {failed[0].reason}{detail}")


def usage_of(found: Mapping[str, Judged], asking: Asking) -> dict[str, Any]:
    """Tokens behind the judgements, whoever paid for them: each prompt counts once."""
    total: dict[str, Any] = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0}
    for judged in found.values():
        for name, number in judged.usage.items():
            total[name] = total.get(name, 0) + number
    if asking.price is not None:
        total |= {"cost": round(asking.cost(total), 6), "price_per_million": list(asking.price)}
    return total


class Progress:
    """A line now and then."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.say, self.number = total, say, 0

    def __call__(self) -> None:
        self.number += 1
        if self.number % max(1, self.total // 10) == 0:
            self.say(f"{self.number} of {self.total} prompts answered")
