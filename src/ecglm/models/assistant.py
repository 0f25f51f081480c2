"""A trained ELM as its user meets it: give it a recording or a picture and a question, get an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.generate import Sampling, generate
from ecglm.representations.base import WithWords
from ecglm.signals.pipeline import pipeline_from_config
from ecglm.store.writer import to_microvolts
from ecglm.types import ECG_MARK, EcgInput, Example, Neighbour, Record, Turn

Talk = tuple[Sequence[Turn], Sequence[EcgInput]]


@dataclass(frozen=True)
class Assistant:
    """``ask`` runs the same pipeline, representation and chat format that the model was trained with."""

    bundle: Bundle

    @property
    def reads_pictures(self) -> bool:
        """Whether a picture of an ECG can be shown to the model, as well as a recording."""
        representation = self.bundle.representation
        return not isinstance(representation, WithWords) and hasattr(representation, "of_picture")

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
        """The recording's first segment as the model reads it; a model of pictures sees it drawn as in training."""
        return self.bundle.representation(self.segment(record), self.bundle.pipeline["rate"])

    def encode_picture(self, picture: np.ndarray) -> EcgInput:
        """A picture uint8 ``(height, width, 3)`` RGB (``records.picture_files.read_picture``) as the model reads it.
        EcglmError for a model that reads none.
        """
        if not self.reads_pictures:
            name = self.bundle.representation.name
            raise EcglmError(f"this model reads recordings ({name}), not pictures; give the ECG as a signal file")
        found: EcgInput = self.bundle.representation.of_picture(picture)
        return found

    def ask(
        self,
        ecg: Record | np.ndarray | Sequence[Record | np.ndarray],
        question: str,
        *,
        history: Sequence[Turn] = (),
        max_new_tokens: int = 128,
        retrieved: Sequence[Neighbour] = (),
    ) -> str:
        """Answer to a question about one ECG or several: recordings (their first segments), or pictures uint8
        ``(height, width, 3)`` where the model reads them.

        history: earlier turns of the talk; its first user turn then shows the ECGs. ECG marks in the question are
        placed as they stand when there are as many as ECGs, else the ECGs come first. retrieved: ECGs like them, found
        in an index, nearest first: the prompt tells of them in the manner the model learned. Raises RejectedRecord when
        a recording cannot be used, EcglmError for an empty question.
        """
        if not question.strip():
            raise EcglmError("the question is empty; say what you want to know about the ECG")
        ecgs = [ecg] if isinstance(ecg, Record | np.ndarray) else list(ecg)
        turns = mark_ecgs([*history, Turn("user", question.strip())], len(ecgs))
        prompter = self.bundle.prompter
        shown = [self.encode(e) if isinstance(e, Record) else self.encode_picture(e) for e in ecgs]
        example = prompter.build("ask", turns, shown, generate=True, retrieved=retrieved)
        return str(generate(self.bundle.elm, prompter, [example], max_new_tokens=max_new_tokens)[0]["text"])

    def answer(
        self,
        talks: Sequence[Talk],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 8,
        sampling: Sampling | None = None,
        ids: Sequence[str] | None = None,
        retrieved: Sequence[Sequence[Neighbour]] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers to many talks, in order: ``{"text", "truncated", "num_tokens"}`` each, or ``{"text": None, "error"}``
        where a talk cannot be shown to the model (too long, say, or another number of marks than ECGs).

        talks: turns that end with the user's, and the ECGs they show (``encode``, ``encode_picture``), marks as in
        ``ask``. Talks of like length are answered together; an answer does not depend on which. sampling: draw the
        tokens; a talk's draws are a function of the seed and of its name in ``ids``, or of its number. retrieved: for
        each talk, as in ``ask``.
        """
        examples: dict[int, Example] = {}
        found: list[dict[str, Any]] = [{} for _ in talks]
        for number, (turns, ecgs) in enumerate(talks):
            try:
                marked, name = mark_ecgs(turns, len(ecgs)), str(number) if ids is None else ids[number]
                told = () if retrieved is None else retrieved[number]
                examples[number] = self.bundle.prompter.build(name, marked, ecgs, generate=True, retrieved=told)
            except EcglmError as error:
                found[number] = {"text": None, "error": str(error)}
        order = sorted(examples, key=lambda number: (-len(examples[number].input_ids), number))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            answers = generate(
                self.bundle.elm,
                self.bundle.prompter,
                [examples[number] for number in batch],
                max_new_tokens=max_new_tokens,
                sampling=sampling,
            )
            for number, answer in zip(batch, answers, strict=True):
                found[number] = answer
        return found


def mark_ecgs(turns: Sequence[Turn], num_ecgs: int) -> list[Turn]:
    """Turns with a mark for every ECG: as they are where they have so many, else, without any, ahead of the first
    user's text. EcglmError for another number of marks, and without a user's turn.
    """
    turns = list(turns)
    asked = [i for i, t in enumerate(turns) if t.role == "user"]
    if not asked:
        raise EcglmError("a talk without a user's turn; ask something")
    marks = sum(turns[i].text.count(ECG_MARK) for i in asked)
    if marks == num_ecgs:
        return turns
    if marks:
        raise EcglmError(f"{marks} {ECG_MARK} marks for {num_ecgs} recordings; give one each, or none")
    first = asked[0]
    turns[first] = Turn("user", f"{ECG_MARK * num_ecgs}\n{turns[first].text}")
    return turns


def load(source: str | Path) -> Assistant:
    """Load a checkpoint (folder or hub id) to ask it questions."""
    return Assistant(from_pretrained(source))
