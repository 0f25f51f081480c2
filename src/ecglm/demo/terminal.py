"""The chat in a terminal: one talk, answers as they come, commands that begin with a slash."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm.demo.engine import Engine
from ecglm.demo.export import NOTICE, as_json, as_markdown
from ecglm.demo.neighbours import neighbours_shown
from ecglm.demo.shown import Shown
from ecglm.demo.streams import Stream
from ecglm.demo.talk import ModelName, Placed, Talk
from ecglm.demo.texts import left_out, plain, safe_name, words_of
from ecglm.errors import EcglmError, RejectedRecord, nearest
from ecglm.files import write_text
from ecglm.interrupts import LOOK, counted_interrupts
from ecglm.models.assistant import Assistant
from ecglm.models.stream import Sampling
from ecglm.records.formats import read
from ecglm.records.picture_files import is_picture, read_picture
from ecglm.types import EcgInput, Neighbour, Turn

HELP = {
    "/ecg": "/ecg FILE [rate=500] [leads=standard] [units=mV] [dataset=NAME]: put an ECG into the talk",
    "/measure": "/measure [N]: what is measured of ECG N, the last one without a number",
    "/neighbours": "/neighbours: the training ECGs that the last answer was told of (with --rag)",
    "/save": "/save FILE: write the talk as Markdown (.md) or JSON (.json)",
    "/clear": "/clear: forget the ECGs and what was said",
    "/help": "/help: these lines",
    "/quit": "/quit: end the talk, as Ctrl-D does; Ctrl-C stops an answer",
}
_FACTS = ("rate", "leads", "units", "dataset")


def open_ecg(assistant: Assistant, file: Path, facts: Mapping[str, Any]) -> Shown:
    """A user's own file as an ECG of a talk. EcglmError where it cannot be read, or not by this model."""
    name = safe_name(file.name)
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise EcglmError(f"{file}: is a device or a pipe, not a file; give an ECG file")
    if is_picture(file):
        shown = Shown(name, picture=read_picture(file))
    else:
        shown = Shown(name, record=read(file, **facts), pipeline=dict(assistant.bundle.pipeline))
    try:
        shown.input_for(assistant)  # what the model cannot read is told now
    except RejectedRecord as error:
        raise RejectedRecord(error.reason, f"{file}: {error.detail}") from error
    return shown


@dataclass
class Terminal:
    """One talk with one model. facts: rate, leads, units and dataset for files that do not say. search: finds
    neighbours where an index was given. write, tell: where answers go, and where everything else does. fingerprint: of
    the model's checkpoint, for saved talks.
    """

    engine: Engine
    name: str
    max_new_tokens: int = 128
    sampling: Sampling | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    search: Callable[[Sequence[Shown]], tuple[Neighbour, ...]] | None = None
    write: Callable[[str], None] = lambda text: print(text, end="", flush=True)
    tell: Callable[[str], None] = lambda text: print(text, flush=True)
    history: bool = True
    fingerprint: str = ""

    def __post_init__(self) -> None:
        self.talk = Talk((ModelName(self.name, self.fingerprint),), history=self.history)
        self.hits: tuple[Neighbour, ...] | None = None

    def add(self, file: Path, facts: Mapping[str, Any] | None = None) -> Placed:
        """Put a file's ECG into the talk."""
        placed = self.talk.add_ecg(open_ecg(self.engine.assistant, file, {**self.facts, **(facts or {})}))
        shown = placed.shown
        what = "picture" if shown.is_picture else f"{len(shown.segments)} x {shown.titles()[0].partition('to ')[2]}"
        self.tell(f"ECG {placed.number}: {shown.name} ({what})")
        return placed

    def run(self, lines: Iterator[str]) -> None:
        """Answer line by line until they end or ``/quit``; a mistake is told in one line and the talk goes on."""
        self.tell(f"{self.name}. {NOTICE}")
        self.tell("/help lists the commands")
        for line in lines:
            line = line.strip()
            if line in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self._ask(line)
            except EcglmError as error:
                self.tell(f"error: {' '.join(plain(words_of(error)).split())}")
            except KeyboardInterrupt:
                self.tell("(stopped)")

    def _ask(self, text: str) -> None:
        if not self.talk.ecgs:
            raise EcglmError("there is no ECG in this talk yet; give one with /ecg FILE")
        answer = self.talk.ask(text).answers[0][0]
        try:
            turns, placed = self.talk.shown_to(answer.id)
            shown = [p.shown for p in placed]
            self.hits = self.search(shown) if self.search is not None else None
            ecgs = [p.shown.input_for(self.engine.assistant, p.segment) for p in placed]
            stream = self._write_answer(turns, ecgs)
        except (EcglmError, KeyboardInterrupt) as error:
            self.talk.failed(answer.id, str(error) or "stopped")
            raise
        self.talk.answered(answer.id, stream.text, stream.finish_reason or "", stream.truncated)
        ends = {"cancelled": " (stopped)", "length": f" (cut at {self.max_new_tokens} tokens)"}
        said = "" if plain(stream.text).strip() or stream.finish_reason == "cancelled" else "(the model said nothing)"
        self.write(said + ends.get(stream.finish_reason or "", "") + "\n")
        if note := left_out(stream.truncated):
            self.tell(f"({note})")

    def _write_answer(self, turns: Sequence[Turn], ecgs: Sequence[EcgInput]) -> Stream:
        """Write an answer as it comes; Ctrl-C cancels it. Raises the EcglmError of the request."""
        with counted_interrupts() as ctrl_c:
            stream = self.engine.submit(
                turns,
                ecgs,
                max_new_tokens=self.max_new_tokens,
                sampling=self.sampling,
                retrieved=self.hits or (),
            )
            with stream:
                for piece in stream.pieces(LOOK):
                    self.write(plain(piece))
                    if ctrl_c.count:
                        stream.cancel()
        return stream

    def _command(self, line: str) -> None:
        try:
            name, *rest = shlex.split(line)
        except ValueError as error:
            raise EcglmError(f"the line cannot be read ({error}); quote names that hold blanks") from error
        if name not in HELP:
            raise EcglmError(f"no command {name}{nearest(name, HELP)}; /help lists them")
        {
            "/ecg": self._ecg,
            "/measure": self._measure,
            "/neighbours": self._neighbours,
            "/save": self._save,
            "/clear": self._clear,
            "/help": self._help,
        }[name](rest)

    def _ecg(self, rest: Sequence[str]) -> None:
        given = [part.partition("=") for part in rest[1:]]
        wrong = next((key for key, equals, _ in given if not equals or key not in _FACTS), None)
        if not rest or wrong is not None:
            raise EcglmError(HELP["/ecg"])
        facts: dict[str, Any] = {key: value for key, _, value in given}
        if "rate" in facts:
            try:
                facts["rate"] = float(facts["rate"])
            except ValueError as error:
                raise EcglmError(f"rate must be a number of Hz, found {facts['rate']}") from error
        self.add(Path(rest[0]).expanduser(), facts)

    def _measure(self, rest: Sequence[str]) -> None:
        ecgs = self.talk.ecgs
        wanted = rest[0] if rest else str(len(ecgs))
        found = next((p for p in ecgs if str(p.number) == wanted), None)
        if found is None:
            raise EcglmError(f"no ECG {wanted} in this talk; it has {len(ecgs)}")
        for row in found.shown.measurements(found.segment):
            note = f"  ({row.note})" if row.note else ""
            self.tell(f"  {row.name:28} {row.value} {row.unit}".rstrip() + note)

    def _neighbours(self, rest: Sequence[str]) -> None:
        if self.search is None:
            raise EcglmError("no index to search; start the chat with --rag INDEX")
        if self.hits is None:
            raise EcglmError("nothing was asked yet; neighbours are searched for with a question")
        for hit in neighbours_shown(self.hits):
            self.tell(f"  {hit.title}, distance {hit.distance:.3g}: {', '.join(hit.labels)}".rstrip(": "))
            if hit.report:
                self.tell(f"    {' '.join(hit.report.split())}")
        if not self.hits:
            self.tell("  nothing was found")

    def _save(self, rest: Sequence[str]) -> None:
        if len(rest) != 1 or Path(rest[0]).suffix not in (".md", ".json"):
            raise EcglmError(HELP["/save"])
        file = Path(rest[0]).expanduser()
        if file.exists():
            raise EcglmError(f"{file} exists; choose another name")
        if not file.parent.is_dir():
            raise EcglmError(f"{file.parent} is no folder; make it first")
        try:
            write_text(file, as_json(self.talk) if file.suffix == ".json" else as_markdown(self.talk))
        except OSError as error:
            raise EcglmError(f"{file} cannot be written ({error.strerror})") from error
        self.tell(f"saved: {plain(str(file))}")

    def _clear(self, rest: Sequence[str]) -> None:
        self.talk.clear()
        self.hits = None
        self.tell("cleared")

    def _help(self, rest: Sequence[str]) -> None:
        for line in HELP.values():
            self.tell(f"  {line}")


def typed(prompt: str = "> ") -> Iterator[str]:
    """Lines as they are typed, with a prompt where somebody sits there; they end with the input. Bytes that are no
    UTF-8 stay halves of characters: a file's name may hold them, and a question loses them.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # input() then has a history
    while True:
        try:
            yield input(prompt)
        except KeyboardInterrupt:
            print("\n(/quit ends the talk)", flush=True)
        except EOFError:
            print(flush=True)
            return
