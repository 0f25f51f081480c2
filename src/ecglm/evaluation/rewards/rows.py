"""The rows that rewards read: questions of conversations as ``predictions.jsonl`` has them, with measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError
from ecglm.evaluation.measured_rows import measure_record
from ecglm.evaluation.metrics.base import Row
from ecglm.evaluation.rewards.mixture import Mixture
from ecglm.files import fingerprint
from ecglm.store.features import VERSION as MEASURED_VERSION
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation


def question_row(conversation: Conversation, turn: int = -1) -> dict[str, Any]:
    """What rewards know of answer number ``turn`` of a conversation (the last): question, reference, metadata."""
    places = [i for i, t in enumerate(conversation.turns) if t.role == "assistant"]
    place = places[turn]
    asked = [t.text for t in conversation.turns[:place] if t.role == "user"]
    return {
        "id": conversation.id,
        "ecgs": list(conversation.ecgs),
        "task": conversation.task,
        "turn": places.index(place),
        "prompt": asked[-1] if asked else "",
        "reference": conversation.turns[place].text,
        "patient_id": conversation.patients[0] if conversation.patients else "",
        "metadata": dict(conversation.metadata),
    }


class Measured:
    """Measurements of ECGs of some stores, each made when it is first asked for. Calling it with a row gives the row
    with ``measured``, where it is about one ECG that a store holds.
    """

    def __init__(self, stores: Sequence[str | Path]) -> None:
        opened = [SegmentStore(path) for path in stores]
        self._where = {record: store for store in reversed(opened) for record in store.records()}
        self._known: dict[str, dict[str, Any]] = {}

    def __call__(self, row: Row) -> dict[str, Any]:
        records = list(dict.fromkeys(map(str, row.get("ecgs") or ())))
        if len(records) != 1 or records[0] not in self._where:
            return dict(row)
        record = records[0]
        if record not in self._known:
            self._known[record] = measure_record(self._where[record], record)
        return {**row, "measured": self._known[record]}


class Rewarder:
    """A mixture for answers to conversations: ``(conversations, completions, num_samples) → (total, parts)``, the
    reward of each completion as answer number ``turn`` of its conversation, the last unless given (``Mixture``).
    EcglmError for a conversation without an answer.
    """

    def __init__(self, mixture: Mixture, stores: Sequence[str | Path]) -> None:
        self.mixture = mixture
        self._measured = Measured(stores) if mixture.needs_measured else None

    def facts(self) -> dict[str, Any]:
        """What tells its numbers from those of another."""
        facts: dict[str, Any] = {"weights": self.mixture.weights, "sha256": fingerprint(self.mixture.sources())}
        return facts if self._measured is None else {**facts, "measured": MEASURED_VERSION}

    def __call__(
        self, conversations: Sequence[Conversation], completions: Sequence[str], num_samples: int = 1, turn: int = -1
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rows = []
        for conversation in conversations[::num_samples]:
            if not any(t.role == "assistant" for t in conversation.turns):
                raise EcglmError(f"{conversation.id}: no answer to compare with")
            row = question_row(conversation, turn)
            rows += [row if self._measured is None else self._measured(row)] * num_samples
        return self.mixture([row["prompt"] for row in rows], completions, rows, num_samples)
