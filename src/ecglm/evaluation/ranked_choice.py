"""From several answers to one question to the better and the worse of them: by rewards, or by a judge's verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import files
from ecglm.evaluation.judge.ask import Asking, Llm, Paid
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.judgements import ITEMS
from ecglm.evaluation.judge.pairwise import OURS, THEIRS, TIE, plan_preferring, prefer
from ecglm.evaluation.judge.prompts import Exchange
from ecglm.evaluation.judge.rubric import Rubric
from ecglm.evaluation.judge.run import Plan

#: Why a question gives no pair.
ALL_EQUAL, TIED, NONE, ALL_CUT = "all_equal", "tie", "no_answer", "all_cut"
NO_REWARD, UNDECIDED = "no_reward", "judge_failed"
#: Rewards that differ by no more than this are the same.
_SAME = 1e-9


@dataclass(frozen=True)
class Asked:
    """One question with its different answers. id: of the conversation; turn: which of its answers. cut: of each text,
    whether the length limit ended it: such an answer is never the better one, since it teaches not to end.
    """

    id: str
    turn: int
    question: str
    reference: str
    patient_id: str
    texts: tuple[str, ...]
    cut: tuple[bool, ...]

    @property
    def name(self) -> str:
        return f"{self.id}/{self.turn}"


@dataclass(frozen=True)
class Choice:
    """chosen, rejected: numbers of texts; scores: of all texts. reason: why there is no pair, else empty."""

    chosen: int = -1
    rejected: int = -1
    reason: str = ""
    scores: tuple[float, ...] = ()


def by_rewards(asked: Asked, rewards: Sequence[float]) -> Choice:
    """The whole answer of the highest reward against that of the lowest; the first of several that are alike."""
    if len(asked.texts) < 2:
        return Choice(reason=ALL_EQUAL if asked.texts else NONE)
    if np.isnan(rewards).any():
        return Choice(reason=NO_REWARD)
    scores = tuple(float(r) for r in rewards)
    whole = [i for i, cut in enumerate(asked.cut) if not cut]
    if not whole:
        return Choice(reason=ALL_CUT, scores=scores)
    best = max(whole, key=lambda i: (scores[i], -i))
    worst = min(range(len(scores)), key=lambda i: (scores[i], i))
    if scores[best] - scores[worst] <= _SAME:
        return Choice(reason=ALL_EQUAL, scores=scores)
    return Choice(best, worst, scores=scores)


def duels(asked: Asked) -> list[tuple[int, int]]:
    """Which answers a judge compares: each with each."""
    return list(combinations(range(len(asked.texts)), 2))


def by_verdicts(asked: Asked, verdicts: Mapping[tuple[int, int], str]) -> Choice:
    """The whole answer with the most won duels (a tie is half of one) against that with the fewest, if it has also won
    the duel between them.
    """
    if len(asked.texts) < 2:
        return Choice(reason=ALL_EQUAL if asked.texts else NONE)
    known = {duel: verdict for duel, verdict in verdicts.items() if verdict in (OURS, THEIRS, TIE)}
    if len(known) < len(duels(asked)):
        return Choice(reason=UNDECIDED)
    wins = [0.0] * len(asked.texts)
    for (one, other), verdict in known.items():
        wins[one] += {OURS: 1.0, TIE: 0.5, THEIRS: 0.0}[verdict]
        wins[other] += {OURS: 0.0, TIE: 0.5, THEIRS: 1.0}[verdict]
    whole = [i for i, cut in enumerate(asked.cut) if not cut]
    if not whole:
        return Choice(reason=ALL_CUT, scores=tuple(wins))
    best = max(whole, key=lambda i: (wins[i], -i))
    worst = min((i for i in range(len(wins)) if i != best), key=lambda i: (wins[i], i))
    won = known.get((best, worst)) == OURS or known.get((worst, best)) == THEIRS
    if wins[best] <= wins[worst] or not won:
        return Choice(reason=TIED, scores=tuple(wins))
    return Choice(best, worst, scores=tuple(wins))


@dataclass(frozen=True)
class Judge:
    """Who compares, by what, with which money. cache: of paid replies; out: where the verdicts lie."""

    model: Llm
    rubric: Rubric
    asking: Asking
    out: Path
    cache: Path

    def facts(self) -> dict[str, Any]:
        return {"judge": {**self.model.facts(), **self.asking.facts()}, "rubric": self.rubric.facts()}

    def plan(self, asked: Sequence[Asked]) -> Plan:
        """What comparing them would take; nothing is asked."""
        ours, theirs = _sides(asked)
        return plan_preferring(ours, theirs, self.rubric, self.model, self.out, self.cache, self.asking)

    def choices(self, asked: Sequence[Asked], *, overwrite: bool, paid: Paid, say: Any) -> list[Choice]:
        """Ask about every duel in both orders; what was paid for before is not asked again."""
        ours, theirs = _sides(asked)
        verdicts: dict[str, str] = {}
        if ours:
            prefer(
                ours,
                theirs,
                self.rubric,
                self.model,
                self.out,
                cache=self.cache,
                asking=self.asking,
                paid=paid,
                num_resamples=0,
                overwrite=overwrite,
                say=say,
            )
            verdicts = {i.id: files.read_json(self.out / ITEMS / i.file_name)["verdict"] for i in ours}
        return [by_verdicts(a, {d: verdicts[_duel_id(a, d)] for d in duels(a)}) for a in asked]


def _duel_id(asked: Asked, duel: tuple[int, int]) -> str:
    return f"{asked.name}#{duel[0]}-{duel[1]}"


def _sides(asked: Sequence[Asked]) -> tuple[list[Item], list[Item]]:
    """All duels as a judge's items, the one side and the other."""
    sides: tuple[list[Item], list[Item]] = ([], [])
    for question in asked:
        for duel in duels(question):
            for side, number in zip(sides, duel, strict=True):
                turns = (Exchange(question.question, question.reference, question.texts[number]),)
                side.append(Item(_duel_id(question, duel), turns, question.patient_id or None, question.turn))
    return sides
