"""Between a talk and the models: ask what is waiting, hand texts on as they grow, say how the page shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ecglm.demo.house import House, Visit
from ecglm.demo.markup import Bubble, Exchange
from ecglm.demo.streams import Stream
from ecglm.demo.talk import Answer, Question
from ecglm.demo.texts import left_out, words_of
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.stream import Sampling
from ecglm.retrieval.neighbours import by_turns

#: How another answer to the same question is drawn; the seed is how many came before it.
TEMPERATURE, TOP_P = 0.8, 0.95


@dataclass(eq=False)
class Running:
    """The answers that are being written in a visit. ask: submits one. streams: answer id → stream."""

    visit: Visit
    ask: Callable[[Answer], Stream]
    streams: dict[str, Stream] = field(default_factory=dict)
    over: bool = False

    def settled(self) -> bool:
        """Write what is complete into the talk; whether all is."""
        for answer_id, stream in list(self.streams.items()):
            if stream.done:
                self._settle(answer_id, stream)
        return not self.streams

    def end(self) -> None:
        """Nobody waits any longer: what is not complete is stopped."""
        self.over = True
        for stream in list(self.streams.values()):
            stream.cancel()
        self.settled()

    def _settle(self, answer_id: str, stream: Stream) -> None:
        del self.streams[answer_id]
        self.visit.writing.pop(answer_id, None)
        try:
            if not self.over and _is_too_long(stream.error) and self.visit.talk.start_later(answer_id):
                self.begin(self.visit.talk.answer(answer_id))
            elif stream.error is not None:
                self.visit.talk.failed(answer_id, words_of(stream.error))
            else:
                self.visit.talk.answered(answer_id, stream.text, stream.finish_reason or "stop", stream.truncated)
        except EcglmError:
            return  # the talk was cleared meanwhile: there is nothing to write it into

    def begin(self, answer: Answer) -> None:
        """Submit an answer; what cannot be asked (a queue that is full, an ECG that a model cannot read) becomes its
        failure.
        """
        try:
            stream = self.ask(answer)
        except EcglmError as error:
            self.visit.talk.failed(answer.id, words_of(error))
            return
        self.streams[answer.id] = self.visit.writing[answer.id] = stream


def _is_too_long(error: BaseException | None) -> bool:
    return isinstance(error, RejectedRecord) and error.reason == "sequence_too_long"


def ask_models(house: House, visit: Visit, listen: Callable[[], None]) -> Running:
    """Submit every answer that the last question waits for. listen: called whenever a text has grown.

    A talk that is longer than a model reads is asked again without its oldest ECGs (``Talk.start_later``).
    """
    running = Running(visit, lambda answer: _submit(house, visit, answer, listen))
    for answers in visit.talk.questions[-1].answers:
        if answers[-1].state == "waiting":
            running.begin(answers[-1])
    return running


def _submit(house: House, visit: Visit, answer: Answer, listen: Callable[[], None]) -> Stream:
    model = answer.model
    engine = house.engines[model]
    turns, placed = visit.talk.shown_to(answer.id)
    for one in placed:
        house.find_neighbours(visit, one)
    told = house.told_neighbours(model)
    retrieved = by_turns([visit.hits[p.number][:told] for p in placed if p.number in visit.hits])
    ecgs = [one.shown.input_for(engine.assistant, one.segment) for one in placed]
    seed = len(visit.talk.questions[-1].answers[model]) - 1
    return engine.submit(
        turns,
        ecgs,
        max_new_tokens=house.max_new_tokens,
        sampling=Sampling(TEMPERATURE, TOP_P, seed) if answer.sampled else None,
        retrieved=retrieved,
        listen=listen,
    )


def exchanges(visit: Visit) -> list[Exchange]:
    """The talk as the page shows it: of two models the last answer each, of one model its last two, to be compared."""
    talk, found = visit.talk, []
    for index, question in enumerate(talk.questions):
        shown = tuple(f"ECG {p.number}" for p in talk.ecgs if p.question == index)
        pair = beside(question)
        bubbles = tuple(
            _bubble(visit, answer, talk.models[answer.model].name, side)
            for answer, side in zip(pair, "AB" if len(pair) > 1 else ("",), strict=True)
        )
        found.append(Exchange(question.text, shown, bubbles, visit.better.get(question.id, "")))
    return found


def beside(question: Question) -> Sequence[Answer]:
    """The answers that stand beside each other: the last of each model, or the last two of one."""
    if len(question.answers) > 1:
        return [of_model[-1] for of_model in question.answers]
    return question.answers[0][-2:]


_STATES = {"waiting": "writing", "cancelled": "stopped", "failed": "failed", "done": "done"}


def _bubble(visit: Visit, answer: Answer, name: str, side: str) -> Bubble:
    text, state = answer.text, _STATES[answer.state]
    stream = visit.writing.get(answer.id)  # it may go meanwhile
    if answer.state == "waiting" and stream is not None:
        text = stream.text
    if state == "done" and answer.finish == "length":
        state = "cut"
    thumb, corrected = visit.thumbs.get(answer.id, 0), visit.corrections.get(answer.id, "")
    name += " · another try" if answer.sampled else ""
    note = ""
    if state != "failed":
        note = left_out(answer.truncated)
        if numbers := visit.talk.left_out(answer):
            gone = ", ".join(map(str, numbers))
            note = f"without ECG {gone} and what was said of it: the talk is longer than this model reads"
    return Bubble(answer.id, name, text, state, side, thumb, corrected, note)
