"""A talk about ECGs with one model or two: what was asked, what each answered, what each is shown next."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ecglm.demo.shown import Shown
from ecglm.demo.texts import plain, question_text
from ecglm.errors import EcglmError
from ecglm.types import ECG_MARK, Turn

#: ECGs and questions of one talk.
MAX_ECGS, MAX_QUESTIONS = 8, 100


@dataclass(frozen=True)
class ModelName:
    """A model as a talk knows it: its name for people, and the fingerprint of its files."""

    name: str
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class Placed:
    """An ECG in a talk. number: 1 for the first; segment: the one that is shown; question: index of the question it
    came with, None until there is one.
    """

    number: int
    shown: Shown
    segment: int = 0
    question: int | None = None


@dataclass(frozen=True)
class Answer:
    """One answer. state: ``waiting``, ``done``, ``cancelled`` or ``failed`` (text is then the reason, for people).
    sampled: drawn, not the likeliest. finish: the engine's word (``stop``, ``length`` …). start: index of the first
    question that the model is shown; what was before, ECGs and all, does not fit. truncated: what else did not, as
    ``Example.truncated`` names it.
    """

    id: str
    question: str
    model: int
    text: str = ""
    state: str = "waiting"
    finish: str = ""
    sampled: bool = False
    start: int = 0
    truncated: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it is a text that a model can be shown as its own."""
        return self.state in ("done", "cancelled") and bool(self.text.strip())


@dataclass(frozen=True)
class Question:
    """One question. text: without ECG marks. answers: of each model in the order they came; the last counts."""

    id: str
    text: str
    answers: tuple[tuple[Answer, ...], ...]


@dataclass(eq=False)
class Talk:
    """models: one, or two for A/B. The ids of the talk, its questions and answers cannot be guessed. history: whether a
    model is shown the earlier questions and its answers; without, each question is asked anew about all ECGs so far.

    Threads may share it. Every model has a history of its own; what failed is not part of it.
    """

    models: tuple[ModelName, ...]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    history: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.models) <= 2:
            raise EcglmError(f"a talk has one model or two, not {len(self.models)}")
        self._lock = threading.RLock()
        self._ecgs: list[Placed] = []
        self._questions: list[Question] = []

    # --- ECGs

    @property
    def ecgs(self) -> tuple[Placed, ...]:
        """All ECGs in the order they came."""
        return tuple(self._ecgs)

    def add_ecg(self, shown: Shown, segment: int = 0) -> Placed:
        """Put an ECG into the talk; the next question shows it. EcglmError for a segment it lacks, or too many ECGs."""
        with self._lock:
            if len(self._ecgs) >= MAX_ECGS:
                raise EcglmError(f"a talk holds {MAX_ECGS} ECGs at most; clear it to begin another")
            if not shown.is_picture and not 0 <= segment < len(shown.segments):
                raise EcglmError(f"{shown.name}: no segment {segment}; it has {len(shown.segments)}")
            self._ecgs.append(Placed(len(self._ecgs) + 1, shown, segment))
            return self._ecgs[-1]

    def choose_segment(self, number: int, segment: int) -> Placed:
        """Show another segment of an ECG that no question has shown yet."""
        with self._lock:
            placed = self._ecg(number)
            if placed.question is not None:
                raise EcglmError(f"ECG {number} has been asked about already; add the ECG again to show another part")
            if placed.shown.is_picture or not 0 <= segment < len(placed.shown.segments):
                raise EcglmError(f"{placed.shown.name}: no segment {segment}")
            self._ecgs[number - 1] = replace(placed, segment=segment)
            return self._ecgs[number - 1]

    def remove_ecg(self, number: int) -> None:
        """Take out an ECG that no question has shown yet; those behind it move up."""
        with self._lock:
            if self._ecg(number).question is not None:
                raise EcglmError(f"ECG {number} has been asked about already; clear the talk instead")
            left = [p for p in self._ecgs if p.number != number]
            self._ecgs = [replace(p, number=n) for n, p in enumerate(left, 1)]

    def _ecg(self, number: int) -> Placed:
        if not 1 <= number <= len(self._ecgs):
            raise EcglmError(f"no ECG {number} in this talk; it has {len(self._ecgs)}")
        return self._ecgs[number - 1]

    # --- questions and answers

    @property
    def questions(self) -> tuple[Question, ...]:
        """All questions in order, each with its answers."""
        return tuple(self._questions)

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return any(a.state == "waiting" for q in self._questions for answers in q.answers for a in answers)

    def ask(self, text: str) -> Question:
        """A question to all models; each has one answer ``waiting`` from now on. The ECGs added since the last question
        are shown with it. EcglmError for an empty text, while an answer is waiting, and without any ECG.
        """
        text = question_text(text)
        with self._lock:
            if self.waiting:
                raise EcglmError("an answer is still to come; wait for it or stop it")
            if not self._ecgs:
                raise EcglmError("there is no ECG in this talk yet; drop one or pick a sample")
            if len(self._questions) >= MAX_QUESTIONS:
                raise EcglmError(f"a talk has {MAX_QUESTIONS} questions at most; clear it to begin another")
            index, question = len(self._questions), secrets.token_urlsafe(12)
            answers = tuple((Answer(secrets.token_urlsafe(12), question, m),) for m in range(len(self.models)))
            self._questions.append(Question(question, text, answers))
            self._ecgs = [replace(p, question=index) if p.question is None else p for p in self._ecgs]
            return self._questions[-1]

    def again(self, answer_id: str) -> Answer:
        """Another, sampled answer of the same model to the last question; the former stays and can be compared."""
        with self._lock:
            old = self.answer(answer_id)
            if self._questions[-1].id != old.question:
                raise EcglmError("only the last question can be answered again")
            if self._questions[-1].answers[old.model][-1].state == "waiting":
                raise EcglmError("an answer is still to come; wait for it or stop it")
            new = Answer(secrets.token_urlsafe(12), old.question, old.model, sampled=True)
            question = self._questions[-1]
            answers = tuple((*a, new) if m == old.model else a for m, a in enumerate(question.answers))
            self._questions[-1] = replace(question, answers=answers)
            return new

    def answered(self, answer_id: str, text: str, finish: str = "stop", truncated: tuple[str, ...] = ()) -> Answer:
        """The answer is there; ``finish`` as the engine says it (``cancelled`` keeps what had come)."""
        state = "cancelled" if finish == "cancelled" else "done"
        return self._change(answer_id, text=plain(text), state=state, finish=finish, truncated=truncated)

    def failed(self, answer_id: str, reason: str) -> Answer:
        """No answer came; the reason, one line for people."""
        return self._change(answer_id, text=" ".join(plain(reason).split()), state="failed", finish="")

    def start_later(self, answer_id: str) -> bool:
        """Show the model of an answer that waits less: without the oldest question that brought an ECG, up to the next
        that did. False where the ECGs it would be shown came with one question.
        """
        with self._lock:
            found = self.answer(answer_id)
            now = next(n for n, q in enumerate(self._questions) if q.id == found.question)
            later = [p.question for p in self._ecgs if p.question is not None and found.start < p.question <= now]
            if later:
                self._change(answer_id, start=min(later))
            return bool(later)

    def left_out(self, answer: Answer) -> list[int]:
        """Numbers of the ECGs before the question that an answer's model is shown first."""
        return [p.number for p in self._ecgs if p.question is not None and p.question < answer.start]

    def _change(self, answer_id: str, **what: Any) -> Answer:
        with self._lock:
            found = self.answer(answer_id)
            if found.state != "waiting":
                raise EcglmError("this answer is complete already")
            new = replace(found, **what)
            number = next(n for n, q in enumerate(self._questions) if q.id == found.question)
            question = self._questions[number]
            answers = tuple(tuple(new if a.id == answer_id else a for a in of_model) for of_model in question.answers)
            self._questions[number] = replace(question, answers=answers)
            return new

    def answer(self, answer_id: str) -> Answer:
        """An answer by its id. EcglmError for one that this talk does not have."""
        for question in self._questions:
            for answers in question.answers:
                for answer in answers:
                    if secrets.compare_digest(answer.id.encode(), answer_id.encode()):
                        return answer
        raise EcglmError("no such answer in this talk; it was cleared, or belongs to another")

    # --- what a model is shown

    def shown_to(self, answer_id: str) -> tuple[list[Turn], list[Placed]]:
        """What the model of an answer is shown to give it: turns that end with the user's, ``<ecg>`` where an ECG comes
        in, and those ECGs in the order of their marks, from ``Answer.start`` on. A question without a usable answer is
        left out, and its ECGs come in with the next one.
        """
        with self._lock:
            wanted = self.answer(answer_id)
            turns: list[Turn] = []
            ecgs: list[Placed] = []
            pending: list[Placed] = []
            for index, question in enumerate(self._questions):
                if index < wanted.start:
                    continue
                pending += [p for p in self._ecgs if p.question == index]
                current = question.id == wanted.question
                said = next((a for a in reversed(question.answers[wanted.model]) if a.usable), None)
                if not current and (said is None or not self.history):
                    continue
                turns.append(Turn("user", _marked(question.text, pending)))
                ecgs += pending
                pending = []
                if current:
                    return turns, ecgs
                assert said is not None
                turns.append(Turn("assistant", said.text))
        raise AssertionError("an answer belongs to a question of its talk")

    def clear(self) -> None:
        """Forget everything: ECGs, questions, answers. The id changes as well."""
        with self._lock:
            self._ecgs, self._questions, self.id = [], [], secrets.token_urlsafe(24)


def _marked(text: str, ecgs: Sequence[Placed]) -> str:
    """The text with a mark ahead for each ECG, as training data show them; several are numbered as people see them."""
    if not ecgs:
        return text
    if len(ecgs) == 1 and ecgs[0].number == 1:
        return f"{ECG_MARK}\n{text}"
    return "".join(f"ECG {p.number}: {ECG_MARK}\n" for p in ecgs) + text
