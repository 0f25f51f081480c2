"""A trained ELM as its user meets it: give it a recording and a question, get an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.generate import generate
from ecglm.signals.pipeline import pipeline_from_config
from ecglm.store.writer import to_microvolts
from ecglm.types import ECG_MARK, EcgInput, Record, Turn


@dataclass(frozen=True)
class Assistant:
    """``ask`` runs the same pipeline, representation and chat format that the model was trained with."""

    bundle: Bundle

    def segments(self, record: Record) -> np.ndarray:
        """The recording as the model's pipeline cuts it: float32 ``(num_segments, 12, seg_len)``, mV."""
        try:
            return pipeline_from_config(self.bundle.pipeline).run(record).signal
        except RejectedRecord as error:
            raise RejectedRecord(error.reason, f"{record.record_id}: {error.detail}") from error

    def segment(self, record: Record) -> np.ndarray:
        """The recording's first segment, in whole microvolts like those of a store: float32 ``(12, seg_len)``, mV."""
        return np.divide(to_microvolts(self.segments(record)[0]), 1000, dtype=np.float32)

    def encode(self, record: Record) -> EcgInput:
        """The recording's first segment as the model reads it."""
        return self.bundle.representation(self.segment(record), self.bundle.pipeline["rate"])

    def ask(
        self,
        record: Record | Sequence[Record],
        question: str,
        *,
        history: Sequence[Turn] = (),
        max_new_tokens: int = 128,
    ) -> str:
        """Answer to a question about one recording or several (their first segments).

        history: earlier turns of the talk; its first user turn then shows the ECGs. ECG marks in the question are
        placed as they stand when there are as many as ECGs, else the ECGs come first. Raises RejectedRecord when a
        recording cannot be used, EcglmError for an empty question.
        """
        if not question.strip():
            raise EcglmError("the question is empty; say what you want to know about the ECG")
        records = [record] if isinstance(record, Record) else list(record)
        turns = [*history, Turn("user", question.strip())]
        marks = sum(t.text.count(ECG_MARK) for t in turns if t.role == "user")
        if marks != len(records):
            if marks:
                raise EcglmError(f"{marks} {ECG_MARK} marks for {len(records)} recordings; give one each, or none")
            first = next(i for i, t in enumerate(turns) if t.role == "user")
            turns[first] = Turn("user", f"{ECG_MARK * len(records)}\n{turns[first].text}")
        prompter = self.bundle.prompter
        example = prompter.build("ask", turns, [self.encode(r) for r in records], generate=True)
        return str(generate(self.bundle.elm, prompter, [example], max_new_tokens=max_new_tokens)[0]["text"])


def load(source: str | Path) -> Assistant:
    """Load a checkpoint (folder or hub id) to ask it questions."""
    return Assistant(from_pretrained(source))
