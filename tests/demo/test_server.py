"""The server: what other programs send is answered as the model answers it alone (src/ecglm/demo/server.py)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import scipy.io

from ecglm.demo.engine import Engine
from ecglm.demo.server_requests import Served
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.endpoint import Endpoint
from ecglm.models.assistant import Assistant, load
from ecglm.models.stream import Group, Sampling, Text
from ecglm.records.formats import read
from ecglm.types import Record, Turn
from serving_tools import FACTS, Running, csv, ecg_part, npy, serving, signal_of, text, url, write_wfdb

QUESTION = "What is the rhythm?"


@pytest.fixture(scope="module")
def signal(signal_run: Any) -> Assistant:
    return load(signal_run / "best")


@pytest.fixture(scope="module")
def running(signal: Assistant, symbols_run: Any) -> Iterator[Running]:
    symbols = Served("symbols", Engine(load(symbols_run / "best")))
    models = [Served("signal", Engine(signal), fingerprint="f00d"), symbols]
    with serving(models) as found:
        yield found


@pytest.fixture
def endless(signal: Assistant, monkeypatch: pytest.MonkeyPatch) -> Assistant:
    """A model whose answers end by their limit alone, a few milliseconds per token."""
    advance = Group.advance
    prompter = replace(signal.bundle.prompter)
    prompter.__dict__["end_id"] = -1

    def slowly(group: Group) -> Any:
        time.sleep(0.003)
        return advance(group)

    monkeypatch.setattr(Group, "advance", slowly)
    return Assistant(replace(signal.bundle, prompter=prompter))


def record(array: np.ndarray) -> Record:
    from ecglm.types import LEADS

    return Record("x", array, 50.0, LEADS)


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream, which must end as OpenAI's do."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *found, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(e.removeprefix("data: ")) for e in found]


def test_health_and_models(running: Running) -> None:
    health = running.client.get(f"http://127.0.0.1:{running.port}/health")
    assert health.status_code == 200 and health.json()["status"] == "ok"
    assert health.json()["models"]["signal"] == {"waiting": 0, "running": 0, "tokens": 0}
    models = running.client.get(f"{running.url}/models").json()
    assert models["object"] == "list" and [m["id"] for m in models["data"]] == ["signal", "symbols"]
    assert models["data"][0]["object"] == "model" and models["data"][0]["reads"] == ["recordings"]
    assert running.client.get(f"{running.url}/models/symbols").json()["id"] == "symbols"
    assert running.client.get(f"{running.url}/models/other").json()["error"]["code"] == "model_not_found"


def test_an_answer_is_that_of_ask_and_has_openais_shape(world: Any, running: Running, signal: Assistant) -> None:
    array = signal_of(world)
    response = running.chat([text(QUESTION), ecg_part(array)])
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["id"].startswith("chatcmpl-") and body["object"] == "chat.completion" and body["model"] == "signal"
    assert isinstance(body["created"], int) and body["system_fingerprint"] == "f00d"
    (choice,) = body["choices"]
    wanted = signal.ask(record(array), QUESTION)
    assert choice["message"] == {"role": "assistant", "content": wanted, "refusal": None}
    assert choice["index"] == 0 and choice["finish_reason"] == "stop"
    answer = signal.answer([([Turn("user", QUESTION)], [signal.encode(record(array))])])[0]
    prompt = signal.bundle.prompter.build(
        "x", [Turn("user", f"<ecg>\n{QUESTION}")], [signal.encode(record(array))], generate=True
    )
    usage = {"prompt_tokens": len(prompt.input_ids), "completion_tokens": answer["num_tokens"]}
    assert body["usage"] == {**usage, "total_tokens": sum(usage.values())}
    assert running.chat([ecg_part(array), text(QUESTION)]).json()["choices"] == body["choices"]  # ECGs come first


def test_pieces_join_to_the_whole(world: Any, running: Running) -> None:
    parts = [ecg_part(signal_of(world, 2)), text(QUESTION)]
    whole = running.chat(parts).json()
    found = events(running.chat(parts, stream=True))
    assert {e["object"] for e in found} == {"chat.completion.chunk"} and len({e["id"] for e in found}) == 1
    assert {e["system_fingerprint"] for e in found} == {"f00d"}
    first, *middle, last = [e["choices"][0] for e in found]
    assert first["delta"] == {"role": "assistant", "content": ""} and last["delta"] == {}
    assert "".join(c["delta"]["content"] for c in middle) == whole["choices"][0]["message"]["content"]
    assert [c["finish_reason"] for c in (first, *middle)] == [None] * (len(middle) + 1)
    assert last["finish_reason"] == "stop" and "usage" not in found[0]
    *others, usage = events(running.chat(parts, stream=True, stream_options={"include_usage": True}))
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert all(e["usage"] is None for e in others)


def test_every_kind_of_file(world: Any, running: Running, signal: Assistant, tmp_path: Path) -> None:
    array = np.round(signal_of(world, 3), 3)
    wanted = signal.ask(record(array), QUESTION)
    header, data = write_wfdb(tmp_path, "ecg 1", array, 50)
    v4, v5 = tmp_path / "v4.mat", tmp_path / "v5.mat"
    scipy.io.savemat(v4, {"val": array}, format="4")
    scipy.io.savemat(v5, {"val": array}, format="5", do_compression=True)
    (tmp_path / "r.hea").write_bytes(header.replace(b"ecg 1", b"r"))
    (tmp_path / "r.dat").write_bytes(data)
    assert np.allclose(read(tmp_path / "r.hea").signal, array)
    octets = "application/octet-stream"
    ways = [
        {"file_data": url(npy(array.astype(np.float64))), **FACTS},
        {"file_data": url(npy(array)), **FACTS, "leads": list(signal_leads())},
        {"file_data": url(npy(array * 1000)), **FACTS, "units": "uV"},
        {"file_data": url(csv(array), "text/csv"), "rate": 50, "units": "mV"},
        {"filename": "x.mat", "file_data": url(v4.read_bytes(), octets), **FACTS},
        {"file_data": url(v5.read_bytes(), "application/x-matlab-data"), **FACTS},
        {
            "files": [
                {"filename": "r.dat", "file_data": url(data, octets)},
                {"filename": "r.hea", "file_data": url(header.replace(b"ecg 1", b"r"), "text/plain")},
            ]
        },
    ]
    for way in ways:
        for kind in ("input_ecg", "file"):
            response = running.chat([{"type": kind, kind: way}, text(QUESTION)])
            assert response.status_code == 200, (way.get("filename"), response.text)
            assert response.json()["choices"][0]["message"]["content"] == wanted


def signal_leads() -> tuple[str, ...]:
    from ecglm.types import LEADS

    return LEADS


def test_a_talk_of_several_turns_and_ecgs(world: Any, running: Running, signal: Assistant) -> None:
    one, two = signal_of(world, 0), signal_of(world, 5)
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": [ecg_part(one), text("What is the rhythm?")]},
        {"role": "assistant", "content": "sinus rhythm"},
        {"role": "user", "content": [text("And now?"), ecg_part(two)]},
    ]
    turns = [
        Turn("system", "Answer briefly."),
        Turn("user", "<ecg>\nWhat is the rhythm?"),
        Turn("assistant", "sinus rhythm"),
        Turn("user", "<ecg>\nAnd now?"),
    ]
    wanted = signal.answer([(turns, [signal.encode(record(e)) for e in (one, two)])])[0]["text"]
    assert running.chat(messages).json()["choices"][0]["message"]["content"] == wanted
    assert "prompt_truncated" not in running.chat(messages).json()
    messages[0]["role"] = "developer"
    assert running.chat(messages).json()["choices"][0]["message"]["content"] == wanted


def test_a_talk_that_is_shortened_says_so(world: Any, running: Running) -> None:
    long = "What is the rhythm? " * 20
    pairs = [[{"role": "user", "content": long}, {"role": "assistant", "content": "sinus rhythm"}] for _ in range(6)]
    pairs[0][0]["content"] = [ecg_part(signal_of(world)), text(long)]
    messages = [*(m for pair in pairs for m in pair), {"role": "user", "content": QUESTION}]
    assert running.chat(messages).json()["prompt_truncated"] == ["dropped_oldest_turns"]
    lines = running.chat(messages, stream=True).text.splitlines()
    last = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-1]
    assert last["prompt_truncated"] == ["dropped_oldest_turns"] and last["choices"][0]["finish_reason"]


def test_typed_marks_and_control_words_are_plain_text(world: Any, running: Running) -> None:
    response = running.chat([ecg_part(signal_of(world)), text("What is <ecg> and <|im_end|> </s> <signal>?\0\x1b[31m")])
    assert response.status_code == 200, response.text
    assert running.chat("What is <ecg>?").status_code == 200  # and no ECG at all may be asked about


def test_sampling_length_and_stop(world: Any, running: Running, signal: Assistant) -> None:
    array = signal_of(world)
    parts = [ecg_part(array), text(QUESTION)]
    talk = ([Turn("user", QUESTION)], [signal.encode(record(array))])

    def content(**fields: Any) -> str:
        response = running.chat(parts, **fields)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def wanted(sampling: Any, most: int = 128) -> str:
        return str(signal.answer([talk], sampling=sampling, ids=["ask"], max_new_tokens=most)[0]["text"])

    assert content(temperature=1.5, seed=3, top_p=0.9, max_tokens=12) == wanted(Sampling(1.5, 0.9, 3), 12)
    assert content(temperature=1.5, max_completion_tokens=12) == wanted(Sampling(1.5), 12)
    assert len({content(temperature=1.9, seed=n, max_tokens=12) for n in range(8)}) > 2
    assert content(top_p=0.99, max_tokens=12) == wanted(Sampling(1.0, 0.99), 12)
    whole = wanted(None)
    assert content(temperature=0) == content() == content(temperature=0.0, top_p=0.5, seed=9) == whole
    short = running.chat(parts, max_tokens=1).json()
    assert short["choices"][0]["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 1
    cut = whole[len(whole) // 2 :]
    stopped = running.chat(parts, stop=cut).json()["choices"][0]
    assert stopped["message"]["content"] == whole[: whole.index(cut)].rstrip() and stopped["finish_reason"] == "stop"
    neutral = {"n": 1, "user": "me", "presence_penalty": 0, "logprobs": None, "response_format": {"type": "text"}}
    assert content(**neutral) == whole


def test_our_own_endpoint_asks_our_server(world: Any, running: Running, signal: Assistant) -> None:
    array = signal_of(world)
    endpoint = Endpoint(running.url, "signal", key_env=None, concurrency=4, max_retries=0)
    messages = [{"role": "user", "content": [ecg_part(array), text(QUESTION)]}]
    replies = endpoint.chat_many([messages] * 6, max_tokens=64, seed=1)
    assert {r.text for r in replies} == {signal.ask(record(array), QUESTION)}  # type: ignore[union-attr]
    assert endpoint.chat([{"role": "user", "content": "Hello?"}], max_tokens=8, json=True).text is not None
    with pytest.raises(ConfigError, match="no model 'other' there"):
        Endpoint(running.url, "other", key_env=None).chat(messages, max_tokens=4)


def test_many_at_once_answer_as_one(world: Any, running: Running, signal: Assistant) -> None:
    talks = [(signal_of(world, n % 12), QUESTION if n % 2 else "Is the axis normal?") for n in range(40)]
    wanted = [signal.ask(record(array), question) for array, question in talks]

    def ask(number: int) -> str:
        array, question = talks[number]
        with httpx.Client(timeout=60, trust_env=False) as client:
            body = {"model": "signal", "messages": [{"role": "user", "content": [ecg_part(array), text(question)]}]}
            response = client.post(f"{running.url}/chat/completions", json=body)
            return str(response.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(40) as threads:
        assert list(threads.map(ask, range(40))) == wanted
    assert running.quiet()


def test_pictures_for_a_model_of_recordings_are_refused_with_the_mend(running: Running) -> None:
    import cv2

    png = cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    part = {"type": "image_url", "image_url": {"url": url(png, "image/png"), "detail": "low"}}
    error = running.chat([part, text("?")]).json()["error"]
    assert "reads recordings, not pictures" in error["message"] and error["param"] == "messages[0].content[0]"


def test_a_model_of_pictures_reads_them_and_recordings(world: Any, tmp_path: Path) -> None:
    import cv2

    from ecglm.models.checkpoint import ModelConfig, TinyConfig, create
    from ecglm.representations.image import ImageRepresentation
    from ecglm.store.reader import SegmentStore

    options = {"size": "nano", "config": {"image_size": 96, "patch_size": 32}}
    config = ModelConfig(tiny=TinyConfig(hidden=32, num_layers=1, num_heads=2), encoder="vit", encoder_options=options)
    pipeline = SegmentStore(world.store).manifest["settings"]["pipeline"]
    show = ImageRepresentation(image_size=(96, 96), num_tokens=9, size=(900, 700))
    assistant = Assistant(create(config, show, pipeline, [QUESTION, "sinus rhythm"], 0))
    picture = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    data = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    with serving([Served("paper", Engine(assistant))]) as running:
        assert running.client.get(f"{running.url}/models").json()["data"][0]["reads"] == ["recordings", "pictures"]
        wanted = assistant.ask(picture, QUESTION, max_new_tokens=9)
        for link in ({"url": url(data, "image/png"), "detail": "high"}, url(data, "image/png")):
            found = running.chat([{"type": "image_url", "image_url": link}, text(QUESTION)], "paper", max_tokens=9)
            assert found.status_code == 200, found.text
            assert found.json()["choices"][0]["message"]["content"] == wanted
        drawn = running.chat([ecg_part(signal_of(world)), text(QUESTION)], "paper", max_tokens=9).json()
        expected = assistant.ask(record(signal_of(world)), QUESTION, max_new_tokens=9)
        assert drawn["choices"][0]["message"]["content"] == expected
        broken = {"type": "image_url", "image_url": {"url": url(data[:300], "image/png")}}
        svg = {"type": "image_url", "image_url": {"url": url(b"<svg/>", "image/png")}}
        for part in (broken, svg, {"type": "image_url", "image_url": {"url": url(npy(picture))}}):
            assert running.chat([part, text("?")], "paper").status_code == 400


def test_a_client_that_leaves_frees_its_place(world: Any, endless: Assistant) -> None:
    with serving([Served("signal", Engine(endless))], max_tokens=100_000) as running:
        body = {"model": "signal", "messages": [{"role": "user", "content": "?"}], "max_tokens": 100_000}
        address = f"{running.url}/chat/completions"
        with running.client.stream("POST", address, json={**body, "stream": True}) as response:
            pieces = response.iter_raw()  # kept: its end would end the line
            next(pieces)
            assert running.engines["signal"].load["running"] == 1
        assert running.quiet()
        with pytest.raises(httpx.ReadTimeout):
            running.client.post(address, json=body, timeout=0.3)
        assert running.quiet()
        assert running.chat("?", max_tokens=3).status_code == 200


def test_a_full_queue_is_429_and_says_when_to_come_back(world: Any, endless: Assistant) -> None:
    with serving([Served("signal", Engine(endless, max_batch=1, max_queue=1))], max_tokens=100_000) as running:
        body = {
            "model": "signal",
            "messages": [{"role": "user", "content": "?"}],
            "max_tokens": 100_000,
            "stream": True,
        }
        address = f"{running.url}/chat/completions"
        with running.client.stream("POST", address, json=body) as first:
            pieces = first.iter_raw()  # kept: its end would end the line
            next(pieces)
            with httpx.Client(timeout=60, trust_env=False) as other:
                waiting = threading.Thread(target=lambda: other.post(address, json={**body, "max_tokens": 2}))
                waiting.start()
                until = time.monotonic() + 10
                while running.engines["signal"].load["waiting"] < 1 and time.monotonic() < until:
                    time.sleep(0.005)
                refused = running.chat("?")
                assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
                assert refused.json()["error"]["code"] == "queue_full"
                assert httpx.get(f"http://127.0.0.1:{running.port}/health", trust_env=False).status_code == 200
                first.close()
                waiting.join(30)
        assert running.quiet() and running.chat("?", max_tokens=2).status_code == 200


def test_errors_while_an_answer_is_written(world: Any, endless: Assistant, monkeypatch: Any) -> None:
    """A broken engine: before the first piece a status, later an event; never an open end."""
    with serving([Served("signal", Engine(endless, timeout=0.4))], max_tokens=100_000) as running:
        slow = running.chat("?", max_tokens=100_000)
        assert slow.status_code == 504 and slow.json()["error"]["code"] == "timeout"
        streamed = running.chat("?", max_tokens=100_000, stream=True)
        last = streamed.text.rstrip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        monkeypatch.setattr(threading, "excepthook", lambda args: None)

        def broken(group: Group) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(Group, "advance", broken)
        assert running.chat("?").status_code == 503
        assert running.chat("?").json()["error"]["code"] == "closed"
        assert running.client.get(f"http://127.0.0.1:{running.port}/health").status_code == 503


def test_a_client_that_stops_reading_its_stream_is_cut_and_frees_its_place(
    endless: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides' buffers are small and the pieces long, so that they are soon full."""
    monkeypatch.setattr(Text, "more", lambda *_, **__: "word " * 2000)
    with serving([Served("signal", Engine(endless))], send_seconds=0.3, max_tokens=20_000, buffer=4096) as running:
        body = {"model": "signal", "messages": [{"role": "user", "content": "?"}], "stream": True, "max_tokens": 20_000}
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", running.port))
            line.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
            assert b" 200 " in line.recv(256).split(b"\r\n")[0]
            assert running.quiet(20), "its place is not free"
            line.settimeout(10)
            found = b""
            with contextlib.suppress(ConnectionResetError):
                while block := line.recv(65536):
                    found += block
            assert b"word" in found and not found.endswith(b"0\r\n\r\n"), "cut, not ended as if it were whole"
        assert running.chat("?", max_tokens=3).json()["choices"][0]["finish_reason"] == "length"


def test_draining_answers_what_runs(world: Any, endless: Assistant) -> None:
    found: list[Any] = []
    with serving([Served("signal", Engine(endless))], drain=20.0) as running:
        body = {"model": "signal", "messages": [{"role": "user", "content": "?"}], "max_tokens": 100}
        address = f"{running.url}/chat/completions"
        thread = threading.Thread(
            target=lambda: found.append(httpx.post(address, json=body, timeout=30, trust_env=False))
        )
        thread.start()
        until = time.monotonic() + 10
        while not running.engines["signal"].load["running"] and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.05)
        # leaving the block tells the server to end
    thread.join(30)
    assert found and found[0].status_code == 200 and found[0].json()["choices"][0]["finish_reason"] == "length"


def test_neighbours_are_searched_for_and_told(world: Any, signal: Assistant) -> None:
    from ecglm.types import Neighbour

    asked: list[Any] = []

    def search(shown: Any) -> Any:
        if len(shown) > 1:
            raise EcglmError("the index is not for these")
        asked.append([s.record.signal.shape for s in shown])
        return (Neighbour("s/1#0", "s/1", "s/p1", 0.5, report="sinus rhythm, left axis"),)

    with serving([Served("signal", Engine(signal), search)]) as running:
        array = signal_of(world)
        told = running.chat([ecg_part(array), text(QUESTION)]).json()
        assert asked == [[array.shape]]
        prompt = signal.bundle.prompter.build(
            "x",
            [Turn("user", f"<ecg>\n{QUESTION}")],
            [signal.encode(record(array))],
            generate=True,
            retrieved=search([]),
        )
        assert told["usage"]["prompt_tokens"] == len(prompt.input_ids)
        error = running.chat([ecg_part(array), ecg_part(array), text(QUESTION)]).json()["error"]
        assert error["code"] == "not_searchable"


def test_a_real_index_is_searched_and_the_ecg_itself_is_never_a_hit(
    world: Any, signal: Assistant, tmp_path: Path
) -> None:
    from ecglm.demo.server_ecgs import searcher
    from ecglm.demo.shown import Shown
    from ecglm.retrieval.index import build_index

    build_index([world.store], tmp_path / "index", data=[world.data], by="features", say=lambda text: None)
    search = searcher(tmp_path / "index", signal)
    shown = Shown("x", record=record(signal_of(world)), pipeline=dict(signal.bundle.pipeline))
    (hit,) = search([shown])
    assert hit.segment_id and hit.distance > 0 and search([]) == ()
    with pytest.raises(EcglmError, match="a picture has none"):
        search([Shown("x", picture=np.zeros((9, 9, 3), np.uint8))])
    with serving([Served("signal", Engine(signal), search)]) as running:
        told = running.chat([ecg_part(signal_of(world)), text(QUESTION)]).json()
        wanted = signal.ask(record(signal_of(world)), QUESTION, retrieved=[hit])
        assert told["choices"][0]["message"]["content"] == wanted
