"""The engine: many talks at once, each answered as if it were alone; what leaves is freed, what fails fails alone."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ecglm.demo import engine as engine_module
from ecglm.demo.engine import Busy, Engine
from ecglm.demo.streams import Stream
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.assistant import Assistant, load
from ecglm.models.stream import Group, Sampling
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore
from ecglm.types import EcgInput, Neighbour, Turn

Talk = tuple[list[Turn], list[EcgInput]]


def talks_of(assistant: Assistant, world: Any) -> list[Talk]:
    """Thirty talks of different ECGs, lengths and numbers of turns; some about two ECGs, one about none."""
    store = SegmentStore(world.store)
    ecgs = EcgSource([store], assistant.bundle.representation)
    records = store.records()
    questions = ("What is the rhythm?", "And the axis?", "Is it normal? " * 4, "?", "Rate?")
    found: list[Talk] = []
    for n in range(30):
        turns = [Turn("user", questions[n % 5])]
        if n % 4 == 1:
            turns = [Turn("user", "What is this?"), Turn("assistant", "An ECG."), *turns]
        shown = [records[n % len(records)]] + ([records[(n + 1) % len(records)]] if n % 7 == 3 else [])
        found.append((turns, [] if n == 11 else [ecgs.encode(e) for e in shown]))
    return found


def alone(assistant: Assistant, talks: list[Talk], sampling: Any = None, most: int = 20) -> list[str]:
    return [assistant.answer([t], max_new_tokens=most, sampling=sampling, ids=["ask"])[0]["text"] for t in talks]


def free(engine: Engine, seconds: float = 10.0) -> bool:
    """Whether nothing waits or runs any more, soon."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and (any(engine.load.values()) or engine._groups):
        time.sleep(0.005)
    return not any(engine.load.values()) and not engine._groups


@pytest.fixture(scope="module")
def signal(signal_run: Any) -> Assistant:
    return load(signal_run / "best")


@pytest.fixture(scope="module")
def symbols(symbols_run: Any) -> Assistant:
    return load(symbols_run / "best")


@pytest.fixture
def endless(signal: Assistant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assistant]:
    """A model whose answers end by their limit alone, a few milliseconds per token."""
    advance = Group.advance
    prompter = replace(signal.bundle.prompter)
    prompter.__dict__["end_id"] = -1
    bundle = replace(signal.bundle, prompter=prompter)

    def slowly(group: Group) -> Any:
        time.sleep(0.003)
        return advance(group)

    monkeypatch.setattr(Group, "advance", slowly)
    yield Assistant(bundle)


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.4, top_p=0.9, seed=7)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_thirty_talks_at_once_get_the_answers_they_get_alone(
    kind: str, sampling: Sampling | None, world: Any, request: Any
) -> None:
    assistant: Assistant = request.getfixturevalue(kind)
    talks = talks_of(assistant, world)
    expected = alone(assistant, talks, sampling)
    assert len(set(expected)) > 3

    def ask(talk: Talk) -> tuple[str, str]:
        stream = engine.submit(*talk, max_new_tokens=20, sampling=sampling)
        return "".join(stream), stream.text

    with Engine(assistant, max_batch=8) as engine, ThreadPoolExecutor(30) as threads:
        found = list(threads.map(ask, talks))
        assert [joined for joined, _ in found] == [text for _, text in found] == expected
        assert free(engine) and engine.num_answered == 30
        one_by_one = [engine.submit(*t, max_new_tokens=20, sampling=sampling).result() for t in talks[:5]]
        assert one_by_one == expected[:5]


def test_a_stream_says_how_it_ended_and_counts_tokens(world: Any, signal: Assistant) -> None:
    talks = talks_of(signal, world)
    answers = signal.answer(talks, max_new_tokens=3)
    with Engine(signal) as engine:
        streams = [engine.submit(*t, max_new_tokens=3) for t in talks]
        for stream, answer, talk in zip(streams, answers, talks, strict=True):
            assert stream.result(30) == answer["text"] and stream.num_tokens == answer["num_tokens"]
            assert stream.finish_reason == ("length" if answer["truncated"] else "stop")
            prompt = signal.bundle.prompter.build("x", _marked(talk), talk[1], generate=True)
            assert stream.num_prompt_tokens == len(prompt.input_ids)
            assert list(stream) == [answer["text"]] * bool(answer["text"])  # late, all in one piece


def _marked(talk: Talk) -> list[Turn]:
    first, *rest = talk[0]
    return [Turn("user", "<ecg>" * len(talk[1]) + f"\n{first.text}"), *rest] if talk[1] else talk[0]


def test_later_requests_do_not_wait_for_earlier_ones(world: Any, endless: Assistant) -> None:
    talks = talks_of(endless, world)
    with Engine(endless) as engine:
        long = engine.submit(*talks[0], max_new_tokens=10_000)
        next(long)
        short = [engine.submit(*t, max_new_tokens=4) for t in talks[1:4]]
        texts = [s.result(30) for s in short]
        assert not long.done
        long.cancel()
        assert texts == alone(endless, talks[1:4], most=4)
        assert [s.finish_reason for s in (long, *short)] == ["cancelled"] + ["length"] * 3
    begun = alone(endless, talks[:1], most=long.num_tokens)[0]
    assert begun.startswith(long.text) and long.text


def test_what_cannot_join_takes_turns(world: Any, endless: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "join", lambda self, other: False)
    talks = talks_of(endless, world)
    (wanted,) = alone(endless, talks[2:3], most=4)
    with Engine(endless) as engine:
        long = engine.submit(*talks[0], max_new_tokens=10_000)
        next(long)
        short = engine.submit(*talks[2], max_new_tokens=4)
        assert short.result(30) == wanted and not long.done
        until = time.monotonic() + 10
        while len(engine._groups) != 1 and time.monotonic() < until:
            time.sleep(0.002)
        assert len(engine._groups) == 1 and not long.done
        long.cancel()
    begun = alone(endless, talks[:1], most=long.num_tokens)[0]
    assert begun.startswith(long.text) and long.text


def test_requests_that_arrive_together_are_read_together(
    world: Any, signal: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks, sizes = talks_of(signal, world), []
    read = Group.read.__func__  # type: ignore[attr-defined]

    def noting(cls: Any, elm: Any, prompter: Any, rows: Any) -> Any:
        sizes.append(len(rows))
        return read(cls, elm, prompter, rows)

    monkeypatch.setattr(Group, "read", classmethod(noting))
    monkeypatch.setattr(engine_module, "GATHER", 0.5)
    with Engine(signal, max_batch=10) as engine:
        streams = [engine.submit(*t, max_new_tokens=5) for t in talks]
        assert all(isinstance(s.result(30), str) for s in streams)
    assert sizes[0] == 10 and sum(sizes) == 30 and max(sizes) == 10


def test_the_token_budget_bounds_what_runs_and_lets_a_giant_run_alone(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    size = len(endless.bundle.prompter.build("x", _marked(talk), talk[1], generate=True).input_ids) + 30
    most = 0
    with Engine(endless, max_tokens=3 * size + 1) as engine:
        streams = [engine.submit(*talk, max_new_tokens=30) for _ in range(8)]
        giant = engine.submit(*talk, max_new_tokens=5 * size)
        while not all(s.done for s in streams):
            load = engine.load
            most = max(most, load["tokens"])
            time.sleep(0.002)
        assert 2 * size <= most <= 3 * size + 1
        next(giant)
        assert engine.load["running"] == 1
        giant.cancel()


def test_a_full_queue_refuses_and_those_who_wait_are_not_lost(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    with Engine(endless, max_batch=1, max_queue=3) as engine:
        running = engine.submit(*talk, max_new_tokens=10_000)
        next(running)
        waiting = [engine.submit(*talk, max_new_tokens=2) for _ in range(3)]
        with pytest.raises(Busy, match="3 requests wait already; try again in a moment"):
            engine.submit(*talk)
        waiting[1].cancel()  # makes room at once
        waiting.append(engine.submit(*talk, max_new_tokens=2))
        running.cancel()
        assert len({s.result(30) for n, s in enumerate(waiting) if n != 1}) == 1
        assert waiting[1].finish_reason == "cancelled" and waiting[1].result() == ""


def test_those_for_whom_there_is_a_place_fill_no_queue(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    with Engine(endless, max_batch=4, max_queue=1) as engine:
        streams = [engine.submit(*talk, max_new_tokens=10_000) for _ in range(5)]  # together, before any is read
        with pytest.raises(Busy, match="try again in a moment"):
            engine.submit(*talk)
        for stream in streams[:4]:
            next(stream)
        assert engine.load["running"] == 4 and engine.load["waiting"] == 1


def test_cancel_frees_the_row_and_its_keys_and_values(world: Any, endless: Assistant) -> None:
    talks = talks_of(endless, world)
    with Engine(endless) as engine:
        streams = [engine.submit(*t, max_new_tokens=10_000) for t in talks[:4]]
        for stream in streams:
            next(stream)
        assert engine.load["running"] == 4 and engine.load["tokens"] > 40_000
        group = engine._groups[0][0]
        streams[0].cancel()
        text = streams[0].text
        until = time.monotonic() + 10
        while len(group.rows) != 3 and time.monotonic() < until:
            time.sleep(0.002)
        assert group.past.cache.layers[0].keys.shape[0] == len(group.rows) == 3
        known = [weakref.ref(o) for o in (group, group.rows[0], group.past.cache.layers[0])]
        del group
        for stream in streams[1:]:
            with stream:
                pass  # leaving it cancels
        assert free(engine)
        gc.collect()
        assert [ref() for ref in known] == [None] * 3
        assert streams[0].text == text and [s.finish_reason for s in streams] == ["cancelled"] * 4
        assert engine.submit(*talks[0], max_new_tokens=3).result(30) == alone(endless, talks[:1], most=3)[0]


def test_cancelled_while_it_is_read_a_row_is_free_as_well(world: Any, endless: Assistant, monkeypatch: Any) -> None:
    read, streams = Group.read.__func__, []  # type: ignore[attr-defined]

    def reading(cls: Any, *args: Any) -> Any:
        found = read(cls, *args)
        streams[0].cancel()
        return found

    monkeypatch.setattr(Group, "read", classmethod(reading))
    monkeypatch.setattr(engine_module, "GATHER", 0.5)
    with Engine(endless, max_batch=2) as engine:
        streams += [engine.submit(*t, max_new_tokens=10_000) for t in talks_of(endless, world)[:2]]
        next(streams[1])
        until = time.monotonic() + 10
        while len(engine._groups[0][0].rows) != 1 and time.monotonic() < until:
            time.sleep(0.002)
        assert len(engine._groups[0][0].rows) == 1
        streams[1].cancel()
        assert free(engine)


def test_without_memory_to_join_groups_take_turns(world: Any, endless: Assistant, monkeypatch: Any) -> None:
    def lacking(group: Group, other: Group) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Group, "join", lacking)
    talks = talks_of(endless, world)
    with Engine(endless) as engine:
        long = engine.submit(*talks[0], max_new_tokens=60)
        next(long)
        short = engine.submit(*talks[2], max_new_tokens=4)
        assert short.result(30) == alone(endless, talks[2:3], most=4)[0]
        assert long.result(30) == alone(endless, talks[:1], most=60)[0]


def test_the_error_of_one_request_is_its_own(world: Any, signal: Assistant) -> None:
    talks = talks_of(signal, world)[:6]
    expected = alone(signal, talks)
    turns, (ecg,) = talks[0]
    assert ecg.tensor is not None
    lost = replace(ecg, tensor=np.full_like(ecg.tensor, np.nan))
    other = replace(ecg, tensor=ecg.tensor[:5].copy())
    with Engine(signal) as engine:
        bad = [
            engine.submit(turns, [lost]),
            engine.submit(turns, [other]),
            engine.submit([Turn("user", "why? " * 500)], [ecg]),
            engine.submit([Turn("user", "<ecg> <ecg>")], [ecg]),
            engine.submit([Turn("assistant", "I say")], [ecg]),
        ]
        good = [engine.submit(*t, max_new_tokens=20) for t in talks]
        told = []
        for stream in bad:
            with pytest.raises(EcglmError) as error:
                "".join(stream)
            told.append(error.value)
            assert stream.finish_reason is None and stream.done
        assert [s.result(30) for s in good] == expected
    assert "no numbers (NaN)" in str(told[0])
    assert "cannot answer this request" in str(told[1]) and "\n" not in str(told[1])
    assert isinstance(told[2], RejectedRecord) and told[2].reason == "sequence_too_long"
    assert "marks for 1 recordings" in str(told[3]) and "without a user's turn" in str(told[4])


@pytest.mark.parametrize("where", ["read", "advance"])
def test_where_memory_lacks_groups_are_halved(
    where: str, world: Any, signal: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds two rows at a time: all are answered, with the texts they have."""
    talks = talks_of(signal, world)[:9]
    expected, raised = alone(signal, talks), []
    read, advance = Group.read.__func__, Group.advance  # type: ignore[attr-defined]

    def checked(rows: Any) -> None:
        if len(rows) > 2:
            raised.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    def reading(cls: Any, elm: Any, prompter: Any, rows: Any) -> Any:
        if where == "read":
            checked(rows)
        return read(cls, elm, prompter, rows)

    def advancing(group: Group) -> Any:
        found = advance(group)
        checked(group.rows)  # after the tokens were taken, as in the pass that follows them
        return found

    monkeypatch.setattr(Group, "read", classmethod(reading))
    monkeypatch.setattr(Group, "join", lambda self, other: False)
    if where == "advance":
        monkeypatch.setattr(Group, "advance", advancing)
    with Engine(signal) as engine:
        streams = [engine.submit(*t, max_new_tokens=20) for t in talks]
        assert [s.result(30) for s in streams] == expected
    assert raised


def test_a_request_too_large_for_the_device_is_told_so(world: Any, signal: Assistant, monkeypatch: Any) -> None:
    def lacking(cls: Any, *args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with Engine(signal) as engine, monkeypatch.context() as patch:
        patch.setattr(Group, "read", classmethod(lacking))
        with pytest.raises(EcglmError, match="not enough memory for this request"):
            engine.submit(*talks_of(signal, world)[0]).result(30)


def test_a_request_that_takes_too_long_ends(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    with Engine(endless, max_batch=1, timeout=0.2) as engine:
        streams = [engine.submit(*talk, max_new_tokens=10_000) for _ in range(2)]  # one runs, one waits
        for stream in streams:
            with pytest.raises(EcglmError, match=r"no complete answer within 0\.2 s"):
                stream.result(30)
        assert free(engine)


def test_result_gives_up_waiting_without_ending_the_answer(world: Any, endless: Assistant) -> None:
    with Engine(endless) as engine:
        stream = engine.submit(*talks_of(endless, world)[0], max_new_tokens=10_000)
        with pytest.raises(EcglmError, match="no complete answer within"):
            stream.result(0.01)
        assert next(stream) and next(stream) and not stream.done


def test_closing_tells_everybody_who_waits(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    engine = Engine(endless, max_batch=2)
    streams = [engine.submit(*talk, max_new_tokens=10_000) for _ in range(5)]
    next(streams[0])
    engine.close()
    for stream in streams:
        with pytest.raises(EcglmError, match="closed before the answer was complete"):
            stream.result(5)
    with pytest.raises(EcglmError, match="closed"):
        engine.submit(*talk)
    engine.close()
    assert not engine._thread.is_alive() and not any(engine.load.values())


def test_draining_answers_what_was_asked_and_takes_no_more(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    engine = Engine(endless, max_batch=2)
    streams = [engine.submit(*talk, max_new_tokens=20) for _ in range(5)]
    closing = threading.Thread(target=engine.close, kwargs={"drain": 30.0})
    closing.start()
    until = time.monotonic() + 10
    with pytest.raises(EcglmError, match="closing"):
        while time.monotonic() < until:
            streams.append(engine.submit(*talk, max_new_tokens=2))
            time.sleep(0.001)
    closing.join(30)
    assert all(s.finish_reason == "length" for s in streams) and not engine._thread.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_of_the_thread_fails_everybody_loudly(world: Any, endless: Assistant, monkeypatch: Any) -> None:
    talk, seen = talks_of(endless, world)[0], []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    engine = Engine(endless, max_batch=2)
    streams = [engine.submit(*talk, max_new_tokens=10_000) for _ in range(5)]
    next(streams[0])

    def broken(group: Group) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Group, "advance", broken)
    for stream in streams:
        with pytest.raises(EcglmError, match="the engine's thread failed"):
            stream.result(5)
    with pytest.raises(EcglmError, match="the engine's thread failed"):
        engine.submit(*talk)
    engine._thread.join(5)
    assert seen == [KeyError]
    engine.close()


def test_two_engines_do_not_mix(world: Any, signal: Assistant, symbols: Assistant) -> None:
    sides = [(a, talks_of(a, world)[:8]) for a in (signal, symbols)]
    expected = [alone(a, talks, most=10) for a, talks in sides]
    with Engine(signal) as one, Engine(symbols) as two:
        streams = [
            [e.submit(*t, max_new_tokens=10) for t in talks] for e, (_, talks) in zip((one, two), sides, strict=True)
        ]
        assert [[s.result(30) for s in side] for side in streams] == expected


def test_retrieved_neighbours_are_in_the_prompt(world: Any, signal: Assistant) -> None:
    turns, ecgs = talks_of(signal, world)[0]
    hits = (Neighbour("s/1#0", "s/1", "s/p1", 0.5, report="sinus rhythm, left axis"),)
    prompt = signal.bundle.prompter.build("ask", _marked((turns, ecgs)), ecgs, generate=True, retrieved=hits)
    with Engine(signal) as engine:
        plain, told = (engine.submit(turns, ecgs, retrieved=r, max_new_tokens=3) for r in ((), hits))
        told.result(30)
        plain.result(30)
    assert told.num_prompt_tokens == len(prompt.input_ids) > plain.num_prompt_tokens


@pytest.mark.parametrize(
    ("pieces", "stop", "found"),
    [
        (["sinus", " rhy", "thm, 72", " bpm"], ("rhythm",), "sinus"),
        (["sinus", " rhy", "thm, 72", " bpm"], ("rhythm,  ", "bpm"), "sinus rhythm, 72"),
        (["sinus", " rhyme"], ("rhythm",), "sinus rhyme"),
        (["a", "a", "b"], ("aab",), ""),
        (["a", "\n", "User:"], ("\nUser:",), "a"),
        (["sinus rh"], ("rhythm", "x"), "sinus rh"),
    ],
)
def test_an_answer_ends_before_a_stop_text(pieces: list[str], stop: tuple[str, ...], found: str) -> None:
    stream, given = Stream(stop), []
    for piece in pieces:
        if stream.give(piece):
            break
        given.append(stream.take())
    stream.end("stop")
    given.append(stream.take())
    assert stream.text == "".join(given) == found
    assert not any(s in part for part in given for s in stop)


def test_a_stop_text_frees_the_row(world: Any, endless: Assistant) -> None:
    talk = talks_of(endless, world)[0]
    whole = alone(endless, [talk], most=40)[0]
    stop = whole[len(whole) // 2 :][:3]
    with Engine(endless) as engine:
        stream = engine.submit(*talk, max_new_tokens=40, stop=[stop])
        assert stream.result(30) == whole[: whole.index(stop)].rstrip() and stream.finish_reason == "stop"
        assert stream.num_tokens < 40 and free(engine)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"max_new_tokens": 0}, "max_new_tokens must be 1 or more"), ({"stop": "x"}, "list"), ({"stop": [""]}, "empty")],
)
def test_options_that_cannot_be_are_told_at_once(options: dict[str, Any], told: str, signal: Assistant) -> None:
    with Engine(signal) as engine, pytest.raises(EcglmError, match=told):
        engine.submit([Turn("user", "?")], [], **options)


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_queue": 0}, {"timeout": 0.0}, {"max_tokens": 0}])
def test_engines_that_cannot_be_are_told(options: dict[str, Any], signal: Assistant) -> None:
    with pytest.raises(EcglmError, match="must be 1 or more, timeout above 0"):
        Engine(signal, **options)


def test_listeners_hear_of_every_change(world: Any, signal: Assistant) -> None:
    heard = threading.Semaphore(0)
    listen: Callable[[], None] = heard.release
    with Engine(signal) as engine:
        stream = engine.submit(*talks_of(signal, world)[0], max_new_tokens=10, listen=listen)
        text = ""
        while not stream.done:
            assert heard.acquire(timeout=30)
            text += stream.take()
    assert text + stream.take() == stream.text
