"""The chat in a terminal: answers as they come, several ECGs, commands, and mistakes that do not end the talk."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecglm.demo.engine import Engine
from ecglm.demo.export import NOTICE
from ecglm.demo.terminal import HELP, Terminal, typed
from ecglm.demo.texts import plain
from ecglm.errors import EcglmError
from ecglm.models.assistant import Assistant, load
from ecglm.models.stream import Sampling, Text
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, Neighbour, Record, Turn

FACTS = {"rate": 50.0, "leads": "standard", "units": "mV", "dataset": None}
QUESTION = "What is the rhythm?"


@pytest.fixture(scope="module")
def assistant(signal_run: Any) -> Assistant:
    return load(signal_run / "best")


@pytest.fixture
def engine(assistant: Assistant) -> Iterator[Engine]:
    with Engine(assistant) as found:
        yield found


@pytest.fixture(scope="module")
def files(world: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("my ecgs")
    store = SegmentStore(world.store)
    for n in range(3):
        np.save(folder / f"ecg {n}.npy", np.asarray(store[n]))
    return [folder / f"ecg {n}.npy" for n in range(3)]


def record(file: Path) -> Record:
    return Record("x", np.load(file), 50.0, LEADS)


def talk(engine: Engine, lines: list[str], **options: Any) -> tuple[list[str], Terminal]:
    """The lines that are shown, those of answers begin with ``A``."""
    shown: list[str] = []
    terminal = Terminal(engine, "tiny", 20, facts=FACTS, **options)
    terminal.write = lambda text: shown.append(f"A {text}")
    terminal.tell = shown.append
    terminal.run(iter(lines))
    return shown, terminal


def answers(shown: list[str]) -> list[str]:
    """Whole answers: their pieces joined."""
    return "".join(line[2:] for line in shown if line.startswith("A ")).splitlines()


def test_a_talk_of_several_ecgs_and_turns(engine: Engine, assistant: Assistant, files: list[Path]) -> None:
    escaped = str(files[1]).replace(" ", "\\ ")
    lines = [f"/ecg '{files[0]}'", QUESTION, f"/ecg {escaped}", "And this one?"]
    shown, _ = talk(engine, lines)
    first = assistant.ask(record(files[0]), QUESTION, max_new_tokens=20)
    turns = [
        Turn("user", f"<ecg>\n{QUESTION}"),
        Turn("assistant", first),
        Turn("user", "ECG 2: <ecg>\nAnd this one?"),
    ]
    second = assistant.answer([(turns, [assistant.encode(record(f)) for f in files[:2]])], max_new_tokens=20)[0]
    assert [a.replace(" (cut at 20 tokens)", "") for a in answers(shown)] == [first, second["text"]]
    assert shown[0] == f"tiny. {NOTICE}" and sum(NOTICE in line for line in shown) == 1
    assert "ECG 1: ecg 0.npy (1 x 5 s)" in shown and "ECG 2: ecg 1.npy (1 x 5 s)" in shown


def test_mistakes_are_one_line_and_the_talk_goes_on(engine: Engine, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "x.png").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "pipe")
    lines = [
        QUESTION,
        f"/ecg {tmp_path / 'pipe'}",
        "/ecg",
        "/ecg /no/such.hea",
        f"/ecg {tmp_path / 'bad.npy'}",
        f"/ecg {tmp_path / 'x.png'}",
        f"/ecg '{files[0]}' rate=fast",
        f"/ecg '{files[0]}' hertz=50",
        f"/ecg '{files[0]}' leads=I,II",
        "/ecg 'half",
        "/mesure",
        "/measure",
        "/neighbours",
        "/save",
        "/save talk.txt",
        f"/ecg '{files[0]}'",
        "/measure 7",
        "why? " * 900,
        "x" * 9000,
        QUESTION,
    ]
    shown, _ = talk(engine, lines)
    errors = [line for line in shown if line.startswith("error: ")]
    assert len(errors) == len(lines) - 2 and not any("\n" in e for e in errors)
    for told in (
        "there is no ECG in this talk yet; give one with /ecg FILE",
        "/no/such.hea: no such file",
        "rate must be a number of Hz, found fast",
        HELP["/ecg"],
        "no command /mesure (did you mean '/measure'?)",
        "no index to search; start the chat with --rag INDEX",
        "no ECG 7 in this talk; it has 1",
        "longer than the model can read",
        "pipe: is a device or a pipe, not a file",
    ):
        assert any(told in e for e in errors), told
    assert len(answers(shown)) == 1


def test_a_talk_that_outgrows_the_model_loses_its_oldest_questions_and_says_so(
    engine: Engine, assistant: Assistant, files: list[Path], tmp_path: Path
) -> None:
    long = "What is the rhythm? " * 20
    shown, terminal = talk(engine, [f"/ecg '{files[0]}'", *[long] * 6, f"/save {tmp_path / 't.json'}"])
    notes = [line for line in shown if "without its oldest questions: the talk is longer than this model" in line]
    cut = ["dropped_oldest_turns" in a.truncated for q in terminal.talk.questions for of in q.answers for a in of]
    assert not cut[0] and cut[-1] and len(notes) == sum(cut) and cut == sorted(cut)
    saved = json.loads((tmp_path / "t.json").read_text())
    assert saved["questions"][-1]["answers"][0][0]["truncated"] == ["dropped_oldest_turns"]


def test_ctrl_c_stops_the_answer_and_not_the_program(
    engine: Engine, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    terminal = Terminal(engine, "tiny", 20, facts=FACTS)
    pressed: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        if not pressed and text.strip():
            pressed.append(text)
            signal.raise_signal(signal.SIGINT)

    terminal.write, terminal.tell = write, shown.append
    monkeypatch.setattr(engine, "_round", lambda round=engine._round: (time.sleep(0.05), round()))
    terminal.run(iter([f"/ecg '{files[0]}'", QUESTION, QUESTION]))
    one, two = [q.answers[0][0] for q in terminal.talk.questions]
    assert one.state == "cancelled" and " (stopped)\n" in shown
    assert two.state == "done" and two.text


def test_ctrl_c_at_a_command_stops_that(engine: Engine, files: list[Path], monkeypatch: Any) -> None:
    def pressed(self: Terminal, rest: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, "_measure", pressed)
    shown, _ = talk(engine, [f"/ecg '{files[0]}'", "/measure", QUESTION])
    assert "(stopped)" in shown and len(answers(shown)) == 1


def test_controls_in_what_models_and_reports_say_are_inert(engine: Engine, files: list[Path], monkeypatch: Any) -> None:
    evil = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eabc\x00 <b>"
    hit = Neighbour("s/1#0", "s/secret-1", "s/p1", 0.5, report=f"sinus {evil}\nrhythm", labels=(f"rhythm:{evil}",))

    class Said:
        text, finish_reason, truncated = evil, "stop", ()

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def pieces(self, every: float) -> Any:
            return iter([evil[:4], evil[4:]])

    with monkeypatch.context() as patch:
        patch.setattr(engine, "submit", lambda *a, **k: Said())
        shown, _ = talk(
            engine, [f"/ecg '{files[0]}'", QUESTION, "/neighbours", f"/ecg /x{evil}"], search=lambda s: (hit,)
        )
    said = "\n".join(shown)
    assert "[2J" in said and "Neighbour 1, distance 0.5" in said and "sinus" in said
    assert not any(c in said for c in "\x1b\x07\x9b\u202e\x00") and "secret" not in said


def test_an_answer_without_words_is_told(engine: Engine, files: list[Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "more", lambda *_, **__: "")
        shown, _ = talk(engine, [f"/ecg '{files[0]}'", QUESTION])
    assert answers(shown)[0].startswith("(the model said nothing)")


def test_neighbours_reach_the_prompt_and_can_be_seen(engine: Engine, assistant: Assistant, files: list[Path]) -> None:
    hit = Neighbour("s/1#0", "s/1", "s/p1", 0.25, report="left axis, sinus rhythm", labels=("rhythm:SR",))
    asked: list[int] = []

    def search(shown: Any) -> Any:
        asked.append(len(shown))
        return (hit,)

    lines = ["/neighbours", f"/ecg '{files[0]}'", QUESTION, "/neighbours"]
    shown, _ = talk(engine, lines, search=search)
    wanted = assistant.ask(record(files[0]), QUESTION, max_new_tokens=20, retrieved=[hit])
    assert asked == [1] and answers(shown)[0].replace(" (cut at 20 tokens)", "") == wanted
    assert "error: nothing was asked yet; neighbours are searched for with a question" in shown
    assert "  Neighbour 1, distance 0.25: SR" in shown and "    left axis, sinus rhythm" in shown


def test_commands(engine: Engine, files: list[Path], tmp_path: Path) -> None:
    lines = [f"/ecg '{files[0]}' units=mV", QUESTION, "/measure", f"/save {tmp_path}/t.json", f"/save {tmp_path}/t.md"]
    lines += [f"/save {tmp_path}/t.md", "/save /no/such/folder/t.md", "/help", "/clear", QUESTION, "", "/quit", "never"]
    shown, terminal = talk(engine, lines, fingerprint="f00d")
    assert any(line.startswith("  Heart rate") for line in shown) and "cleared" in shown
    saved = json.loads((tmp_path / "t.json").read_text())
    assert saved["questions"][0]["question"] == QUESTION and len(saved["ecgs"]) == 1
    assert saved["models"] == [{"name": "tiny", "fingerprint": "f00d"}]
    assert f"error: {tmp_path}/t.md exists; choose another name" in shown
    assert "error: /no/such/folder is no folder; make it first" in shown
    assert all(f"  {line}" in shown for line in HELP.values())
    assert terminal.talk.questions == () and "error: there is no ECG in this talk yet; give one with /ecg FILE" in shown


def test_bytes_that_are_no_text_end_no_talk(engine: Engine, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data = f"/ecg '{files[0]}'\ncaf\xe9?\n/ecg \xe9.npy\n{QUESTION}".encode("latin-1")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8", errors="strict"))
    shown, terminal = talk(engine, list(typed()))
    assert [q.text for q in terminal.talk.questions] == ["caf?", QUESTION]
    assert "error: .npy: no such file" in shown
    "".join(shown).encode()


def test_drawn_answers(engine: Engine, assistant: Assistant, files: list[Path]) -> None:
    sampling = Sampling(1.4, 0.9, 3)
    _, terminal = talk(engine, [f"/ecg '{files[0]}'", QUESTION], sampling=sampling)
    turns = [Turn("user", f"<ecg>\n{QUESTION}")]
    (wanted,) = assistant.answer(
        [(turns, [assistant.encode(record(files[0]))])], max_new_tokens=20, sampling=sampling, ids=["ask"]
    )
    assert terminal.talk.questions[0].answers[0][0].text == plain(wanted["text"])


def test_an_engine_that_ended_is_told(assistant: Assistant, files: list[Path]) -> None:
    engine = Engine(assistant)
    engine.close()
    shown, terminal = talk(engine, [f"/ecg '{files[0]}'", QUESTION])
    assert "closed" in shown[-1] and terminal.talk.questions[0].answers[0][0].state == "failed"


def test_a_file_the_model_cannot_read_is_told(engine: Engine, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.zeros((12, 20)))
    terminal = Terminal(engine, "tiny", facts=FACTS)
    with pytest.raises(EcglmError, match=r"short\.npy"):
        terminal.add(tmp_path / "short.npy")
