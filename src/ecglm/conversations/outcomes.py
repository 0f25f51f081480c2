"""What a mapper yields for each item of its corpus, and the counting of it: in = mapped + every reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ecglm.types import Conversation


@dataclass(frozen=True)
class Reject:
    """An item that cannot be used: its place in the source, a stable reason, words for people."""

    item: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class SetAside:
    """An item counted under its own heading that is no reject, such as a question whose ECG is in no store."""

    item: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class NotAsked:
    """Items that were never a question (no label to ask for): counted, not listed."""

    reason: str
    count: int = 1


#: What a mapper yields, one for each item of its corpus.
Outcome = Conversation | Reject | SetAside | NotAsked


@dataclass(frozen=True)
class MapResult:
    """What mapping a small corpus gives, all in memory.

    counts: ``in`` = ``mapped`` + every reason; each reason is counted once per item. rejected, set_aside: one
    ``{"item", "reason", "detail"}`` each; what was never a question is only in ``counts``.
    """

    conversations: list[Conversation]
    counts: dict[str, int]
    rejected: list[dict[str, str]] = field(default_factory=list)
    set_aside: list[dict[str, str]] = field(default_factory=list)

    def outcomes(self) -> Iterator[Outcome]:
        """The same as a stream."""
        rest = Counter({name: n for name, n in self.counts.items() if name not in ("in", "mapped")})
        yield from self.conversations
        for kind, rows in ((Reject, self.rejected), (SetAside, self.set_aside)):
            for row in rows:
                rest[row["reason"]] -= 1
                yield kind(**row)
        yield from (NotAsked(reason, count) for reason, count in rest.items() if count > 0)


def collect(outcomes: Iterable[Outcome]) -> MapResult:
    """A mapper's stream as one MapResult: for small corpora, notebooks and tests."""
    tally = Tally()
    result = MapResult([], tally.counts)
    for outcome in outcomes:
        tally.add(outcome)
        if isinstance(outcome, Conversation):
            result.conversations.append(outcome)
        elif not isinstance(outcome, NotAsked):
            log = result.rejected if isinstance(outcome, Reject) else result.set_aside
            log.append(vars(outcome))
    return result


class Tally:
    """Counts of a stream of outcomes: ``in`` = ``mapped`` + every reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {"in": 0, "mapped": 0}
        self.rejected: dict[str, int] = {}
        self.splits: dict[str, int] = {}
        self.firsts: dict[type, Outcome] = {}

    def add(self, outcome: Outcome) -> None:
        number = outcome.count if isinstance(outcome, NotAsked) else 1
        reason = "mapped" if isinstance(outcome, Conversation) else outcome.reason
        self.counts["in"] += number
        self.counts[reason] = self.counts.get(reason, 0) + number
        if isinstance(outcome, Conversation):
            self.splits[outcome.split] = self.splits.get(outcome.split, 0) + 1
        self.firsts.setdefault(type(outcome), outcome)
        if isinstance(outcome, Reject):
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
