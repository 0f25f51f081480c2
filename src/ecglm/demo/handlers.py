"""What happens when somebody drops, picks, asks, rates or clears: each event → what of the page changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ecglm.demo import markup
from ecglm.demo.answering import ask_models, beside, exchanges
from ecglm.demo.doors import cookie_of
from ecglm.demo.events import Changes, told, told_of
from ecglm.demo.house import House, Visit
from ecglm.demo.shown import Shown, layouts
from ecglm.demo.texts import words_of
from ecglm.demo.uploads import SUFFIXES, NeedsFacts, discard, each_ecg, read_upload
from ecglm.errors import EcglmError

#: Times per second that an answer being written is shown anew, at most.
FRAMES = 15


class Handlers:
    """The events of a page. part: its components by name, set when the page is laid out."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.part: dict[str, Any] = {}
        self.rating = house.log is not None
        self.pictures = house.pictures
        self.hint = "Ask about the ECG: its rhythm, rate, axis, what is abnormal. Answers appear here."

    def visit_of(self, request: gr.Request) -> Visit:
        """The visit of an event's tab."""
        return self.house.visit(cookie_of(request.headers.get("cookie", "")), str(request.session_hash))

    def run(self, method: Callable[..., Changes], request: gr.Request, *values: Any) -> Changes:
        """What an event changes; the line of an error where it could not be done."""
        try:
            visit = self.visit_of(request)
            with visit.lock:
                return method(self, visit, *values)
        except EcglmError as error:
            return {self.part["status"]: markup.status(words_of(error), wrong=True)}

    # --- the page opens and closes

    def open(self, request: gr.Request) -> Changes:
        """A tab opens: a fresh visit."""
        try:
            visit = self.house.open(cookie_of(request.headers.get("cookie", "")), str(request.session_hash))
        except EcglmError as error:
            return {self.part["status"]: markup.status(str(error), wrong=True)}
        return {self.part["drop"]: self._drop(visit)}

    def close(self, request: gr.Request) -> None:
        """A tab closes: everything of it is forgotten."""
        self.house.close(cookie_of(request.headers.get("cookie", "")), str(request.session_hash))

    def _drop(self, visit: Visit) -> str:
        kinds = "WFDB (.hea + .dat), .mat, .npy, .npz, .csv, .h5" + (", or a photo or scan" if self.pictures else "")
        return markup.drop(visit.token, SUFFIXES, kinds, self.house.limits.max_bytes)

    # --- ECGs come in

    @told_of
    def files(self, visit: Visit, found: dict[str, Any]) -> Changes:
        """Files were dropped."""
        if found.get("talk") != visit.token:
            raise EcglmError("this page is no longer connected; load it again")
        named = found.get("sent")
        if found.get("failed"):
            if isinstance(named, list):  # what was sent before the one that failed waits for nothing
                discard(visit.sent([str(name) for name in named]), folder=visit.folder)
            raise EcglmError(str(found["failed"])[:500])
        if not isinstance(named, list) or not all(isinstance(n, str) for n in named):
            raise EcglmError("no file was dropped; give an ECG file")
        ecgs = each_ecg(visit.take(named))
        return self._read(visit, ecgs[0]) if len(ecgs) == 1 else self._read_each(visit, ecgs)

    def _read_each(self, visit: Visit, ecgs: Sequence[Sequence[Path]]) -> Changes:
        """Several ECGs of one drop, one after another; what cannot be read is told, and keeps no other out."""
        discard(visit.pending, folder=visit.folder)
        visit.pending, before = (), len(visit.talk.ecgs)
        wrong: list[str] = []
        for paths in ecgs:
            try:
                self.house.add(visit, self._shown(visit, paths))
            except NeedsFacts as error:
                wrong.append(f"{error}: drop it by itself")
            except EcglmError as error:
                wrong.append(words_of(error))
            finally:
                discard(paths, folder=visit.folder)
        added = len(visit.talk.ecgs) - before
        told = [f"{added} of {len(ecgs)} ECGs are part of the talk; your next question shows them."] if added else []
        line = markup.status(" ".join([*told, *wrong]), wrong=bool(wrong))
        return self._view(visit) | {self.part["facts"]: gr.update(visible=False), self.part["status"]: line}

    def _shown(self, visit: Visit, paths: Sequence[Path], **facts: Any) -> Shown:
        house = self.house
        return read_upload(
            paths, folder=visit.folder, limits=house.limits, pipeline=house.pipeline, pictures=self.pictures, **facts
        )

    @told
    def files_again(self, visit: Visit, rate: str, leads: str, units: str) -> Changes:
        """The user said what the file does not."""
        if not visit.pending:
            raise EcglmError("the file is not here any more; drop it again")
        return self._read(visit, visit.pending, _rate(rate), leads.strip() or None, units or None)

    def _read(
        self,
        visit: Visit,
        paths: Sequence[Path],
        rate: float | None = None,
        leads: str | None = None,
        units: str | None = None,
    ) -> Changes:
        if set(visit.pending) != set(paths):
            discard(visit.pending, folder=visit.folder)
        visit.pending = ()
        kept = False
        try:
            shown = self._shown(visit, paths, rate=rate, leads=leads, units=units)
        except NeedsFacts as error:
            visit.pending, kept = tuple(paths), True
            asked = error.facts
            return {
                self.part["facts"]: gr.update(visible=True),
                self.part["rate"]: gr.update(visible="rate" in asked),
                self.part["leads"]: gr.update(visible="leads" in asked),
                self.part["units"]: gr.update(visible="units" in asked),
                self.part["status"]: markup.status(str(error), wrong=True),
            }
        except EcglmError:
            if rate or leads or units:  # another try with other words
                visit.pending, kept = tuple(paths), True
            raise
        finally:
            if not kept:
                discard(paths, folder=visit.folder)
        return self._added(visit, shown)

    @told
    def pick(self, visit: Visit, name: str) -> Changes:
        """A sample was picked."""
        return self._added(visit, self.house.samples.get(str(name)))

    def _added(self, visit: Visit, shown: Shown) -> Changes:
        placed = self.house.add(visit, shown)
        discarded = {self.part["facts"]: gr.update(visible=False)}
        line = markup.status(f"ECG {placed.number}, {shown.name}, is part of the talk; your next question shows it.")
        return self._view(visit) | discarded | {self.part["status"]: line}

    # --- what is shown

    @told
    def switch(self, visit: Visit, number: int | None) -> Changes:
        """Another ECG of the talk is looked at."""
        if isinstance(number, int) and 0 < number <= len(visit.talk.ecgs):
            visit.current = number
        return self._view(visit)

    @told
    def show(self, visit: Visit, number: int | None, layout: str, segment: int | None, marks: bool) -> Changes:
        """Another layout, part or marks."""
        if layout in layouts():
            visit.layout = layout
        visit.marks = bool(marks)
        placed = visit.placed
        if placed is not None and isinstance(segment, int) and segment != placed.segment:
            visit.talk.choose_segment(placed.number, segment)
            visit.forget_neighbours()
        return self._view(visit)

    @told
    def remove(self, visit: Visit) -> Changes:
        """The ECG that is shown leaves the talk."""
        placed = visit.placed
        if placed is None:
            raise EcglmError("there is no ECG to remove")
        visit.talk.remove_ecg(placed.number)
        visit.forget_neighbours()
        visit.current = min(placed.number, len(visit.talk.ecgs))
        return self._view(visit) | {self.part["status"]: markup.status(f"{placed.shown.name} was removed.")}

    def _view(self, visit: Visit) -> Changes:
        """Everything about the ECG that is shown."""
        placed, ecgs, part = visit.placed, visit.talk.ecgs, self.part
        chooser = gr.update(
            choices=[(f"{p.number}: {p.shown.name}", p.number) for p in ecgs],
            value=visit.current or None,
            visible=len(ecgs) > 1,
        )
        if placed is None:
            return {
                part["ecgs"]: chooser,
                part["view"]: gr.update(visible=False),
                part["paper"]: markup.no_paper(self.pictures),
                part["table"]: "",
                part["neighbours"]: "",
            }
        shown = placed.shown
        titles = [] if shown.is_picture else shown.titles()
        return {
            part["ecgs"]: chooser,
            part["view"]: gr.update(visible=True),
            part["layout"]: gr.update(value=visit.layout, visible=not shown.is_picture),
            part["marks"]: gr.update(value=visit.marks, visible=not shown.is_picture),
            part["segment"]: gr.update(
                choices=[(title, number) for number, title in enumerate(titles)],
                value=placed.segment if titles else None,
                visible=len(titles) > 1,
            ),
            part["paper"]: markup.paper(visit.token, placed, layout=visit.layout, marks=visit.marks),
            part["table"]: markup.table(shown.measurements(placed.segment)),
            part["neighbours"]: self._neighbours(visit),
        }

    def _neighbours(self, visit: Visit) -> str:
        placed = visit.placed
        if placed is None:
            return ""
        self.house.find_neighbours(visit, placed)
        told = max(self.house.told_neighbours(number) for number in range(len(self.house.engines)))
        return markup.neighbours(visit.token, placed.number, visit.neighbours.get(placed.number, ()), told)

    # --- questions and answers

    def ask(self, request: gr.Request, question: str) -> Iterator[Changes]:
        """A question: its answers as they come."""
        yield from self._answers(request, lambda visit: visit.talk.ask(str(question)))

    def again(self, request: gr.Request) -> Iterator[Changes]:
        """Other answers to the last question."""
        yield from self._answers(request, lambda visit: again_all(visit))

    def _answers(self, request: gr.Request, begin: Callable[[Visit], Any]) -> Iterator[Changes]:
        part, changed = self.part, threading.Event()
        try:
            visit = self.visit_of(request)
            with visit.lock:
                begin(visit)
                running = ask_models(self.house, visit, changed.set)
        except EcglmError as error:
            yield {part["status"]: markup.status(words_of(error), wrong=True)}
            return
        yield self._talk(visit) | {
            part["question"]: "", part["stop"]: gr.update(visible=True), part["status"]: markup.status(),
        }  # fmt: skip
        try:
            while not running.settled():
                changed.wait(1.0)
                changed.clear()
                yield {part["talk"]: self._log(visit)}
                threading.Event().wait(1 / FRAMES)
        finally:  # also when the tab was closed meanwhile
            running.end()
        yield self._talk(visit) | {part["stop"]: gr.update(visible=False)}

    @told
    def stop(self, visit: Visit) -> Changes:
        """Stop the answers that are being written; what is there stays."""
        visit.stop()
        return {self.part["stop"]: gr.update(visible=False)}

    @told
    def clear(self, visit: Visit) -> Changes:
        """Forget the talk, its ECGs and uploads."""
        self.house.clear(visit)
        line = markup.status("Everything of this talk was deleted here. Ratings already given stay in the file.")
        if not self.rating:
            line = markup.status("Everything of this talk was deleted here.")
        hidden = {self.part[name]: gr.update(visible=False) for name in ("facts", "correcting", "stop")}
        blank = {self.part[name]: "" for name in ("question", "correction", "rate", "leads")}
        return self._view(visit) | self._talk(visit) | hidden | blank | {self.part["status"]: line}

    def _log(self, visit: Visit) -> str:
        return markup.transcript(exchanges(visit), rating=self.rating, hint=self.hint)

    def _talk(self, visit: Visit) -> Changes:
        return {
            self.part["talk"]: self._log(visit),
            self.part["exports"]: markup.exports(visit.token, bool(visit.talk.questions)),
        }

    # --- what the user thinks of them

    @told_of
    def act(self, visit: Visit, event: dict[str, Any], keep: bool) -> Changes:
        """A button inside the talk."""
        log, found = self.house.log, {name: str(event.get(name, "")) for name in ("act", "answer", "choice")}
        if log is None:
            raise EcglmError("ratings are not stored here; start the demo with --preferences FILE")
        act, answer = found["act"], visit.talk.answer(found["answer"])
        if act == "correct":
            visit.correcting = answer.id
            text = visit.corrections.get(answer.id, answer.text)
            return {self.part["correcting"]: gr.update(visible=True), self.part["correction"]: text}
        if act in ("up", "down"):
            thumb = 1 if act == "up" else -1
            kept = None if visit.thumbs.get(answer.id) == thumb else thumb
            row = log.thumb(visit.talk, answer.id, kept, keep=bool(keep))
            visit.thumbs[answer.id] = kept or 0
            line = _thanks("rating", row) if kept else "Your rating is taken back."
        elif act == "better" and found["choice"] in ("A", "B", "both", "neither"):
            pair = [a.id for a in beside(next(q for q in visit.talk.questions if q.id == answer.question))]
            if len(pair) < 2:
                raise EcglmError("there is one answer; try again for another, then compare")
            if found["choice"] in ("A", "B"):
                better, worse = pair if found["choice"] == "A" else pair[::-1]
                row = log.compare(visit.talk, better, worse, keep=bool(keep))
            else:
                for one in pair:
                    row = log.thumb(visit.talk, one, 1 if found["choice"] == "both" else -1, keep=bool(keep))
                    visit.thumbs[one] = 1 if found["choice"] == "both" else -1
            visit.better[answer.question] = found["choice"]
            line = _thanks("choice", row)
        else:
            raise EcglmError("no such button")
        return {self.part["talk"]: self._log(visit), self.part["status"]: markup.status(line)}

    @told
    def correct(self, visit: Visit, text: str, keep: bool) -> Changes:
        """The user's own answer, instead of the model's."""
        if self.house.log is None or not visit.correcting:
            raise EcglmError("there is no answer to correct; choose one with Correct")
        row = self.house.log.correct(visit.talk, visit.correcting, text, keep=bool(keep))
        visit.corrections[visit.correcting] = text
        visit.correcting = ""
        return {
            self.part["correcting"]: gr.update(visible=False),
            self.part["talk"]: self._log(visit),
            self.part["status"]: markup.status(_thanks("correction", row)),
        }

    @told
    def leave(self, visit: Visit) -> Changes:
        """No correction after all."""
        visit.correcting = ""
        return {self.part["correcting"]: gr.update(visible=False)}


def again_all(visit: Visit) -> None:
    """Another answer of every model to the last question."""
    if not visit.talk.questions:
        raise EcglmError("nothing was asked yet")
    for answers in visit.talk.questions[-1].answers:
        visit.talk.again(answers[-1].id)


def _thanks(what: str, row: dict[str, Any]) -> str:
    """What was said is stored; and whether training can find the ECG that it was said of."""
    line = f"Thank you: your {what} is stored."
    lost = [ecg for ecg in row["ecgs"] if not ecg["file"] and not ecg["record"]]
    if any(ecg["rate"] is None for ecg in lost):
        return f"{line} ecglm align cannot learn from it: pictures are not kept."
    return f"{line} Without a copy of the ECG ecglm align cannot learn from it." if lost else line


def _rate(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise EcglmError(f"the sampling rate is a number in Hz, such as 500, not {text.strip()[:20]!r}") from None
