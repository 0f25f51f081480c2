"""What the server refuses by name while it stays up: hostile bodies, addresses, files, hosts, clients without a key."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.demo import server_door
from ecglm.demo.contents import Limits
from ecglm.demo.engine import Engine
from ecglm.demo.server_ecgs import BadRequest
from ecglm.demo.server_requests import Served, read_request
from ecglm.demo.server_run import bind, hosts_of, is_loopback
from ecglm.errors import EcglmError
from ecglm.models.assistant import load
from serving_tools import FACTS, Running, csv, ecg_part, npy, serving, signal_of, text, url, write_wfdb

KEY = "sk-our-own-key"


@pytest.fixture(scope="module")
def running(signal_run: Any) -> Iterator[Running]:
    with serving([Served("signal", Engine(load(signal_run / "best")))], max_body=1 << 20) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(signal_run: Any) -> Iterator[Running]:
    with serving([Served("signal", Engine(load(signal_run / "best")))], key=KEY) as found:
        yield found


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error, in OpenAI's form: one line, no trace, no folder of the server."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and isinstance(error["message"], str)
    assert "\n" not in error["message"] and "Traceback" not in response.text and "/tmp" not in response.text
    return dict(error)


def ask(running: Running, part: Any) -> httpx.Response:
    return running.chat([part, text("What is the rhythm?")])


BODIES = {
    "no JSON": (b"{", "bad_json"),
    "NaN": (b'{"model": "signal", "temperature": NaN}', "bad_json"),
    "no object": (b"[1]", "bad_json"),
    "nested": (b"[" * 100_000, "bad_json"),
    "not text": (b"\xff\xfe\x00", "bad_json"),
    "twice": (b'{"model": "signal", "model": "other"}', "bad_json"),
    "5,000 digits": (b'{"seed": ' + b"9" * 5000 + b"}", "bad_json"),
    "half a character": (b'{"\\ud800": 1}', "unknown_parameter"),
    "no model": (b'{"messages": []}', "invalid_value"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_requests(name: str, running: Running) -> None:
    body, code = BODIES[name]
    headers = {"content-type": "application/json"}
    assert (
        refused(running.client.post(f"{running.url}/chat/completions", content=body, headers=headers))["code"] == code
    )


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"temprature": 1}, "unknown_parameter"),
    "n": ({"n": 2}, "unsupported_value"),
    "tools": ({"tools": [{"type": "function"}]}, "unsupported_parameter"),
    "response_format": ({"response_format": {"type": "json_object"}}, "unsupported_parameter"),
    "temperature": ({"temperature": 3}, "invalid_value"),
    "huge": ({"temperature": 1e308}, "invalid_value"),
    "top_p": ({"top_p": 0}, "invalid_value"),
    "seed": ({"seed": 1.5}, "invalid_value"),
    "max_tokens": ({"max_tokens": 0}, "invalid_value"),
    "max_completion_tokens": ({"max_completion_tokens": "9"}, "invalid_value"),
    "stop": ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value"),
    "stream": ({"stream": "yes"}, "invalid_value"),
    "stream_options": ({"stream_options": 3, "stream": True}, "invalid_value"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_cannot_be_are_named(name: str, running: Running) -> None:
    fields, code = FIELDS[name]
    error = refused(running.chat("?", **fields))
    assert error["code"] == code and error["param"] == next(iter(fields))


MESSAGES: dict[str, Any] = {
    "none": [],
    "no list": "hello",
    "no object": ["hello"],
    "role": [{"role": "tool", "content": "x"}],
    "role that is a list": [{"role": ["user"], "content": "x"}],
    "late system": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}],
    "ends with an answer": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
    "empty": [{"role": "user", "content": "  "}],
    "null": [{"role": "user", "content": None}],
    "part": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}],
    "part without text": [{"role": "user", "content": [{"type": "text"}]}],
    "too many": [{"role": "user", "content": "x"}] * 201,
    "too long": [{"role": "user", "content": "x" * 200_000}],
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_are_no_talk(name: str, running: Running) -> None:
    body = {"model": "signal", "messages": MESSAGES[name]}
    assert refused(running.client.post(f"{running.url}/chat/completions", json=body))["param"].startswith("messages")


def test_another_model_is_404(running: Running) -> None:
    assert refused(running.chat("?", model="gpt-4"), 404)["code"] == "model_not_found"
    assert refused(running.client.get(f"{running.url}/files"), 404)["code"] == "not_found"
    assert refused(running.client.get(f"{running.url}/chat/completions"), 405)["code"] == "not_found"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://x/y",
        "//x/y",
    ],
)
def test_no_address_is_ever_fetched(address: str, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_line(*args: Any, **options: Any) -> Any:
        raise AssertionError("the server reaches out")

    picture = {"type": "image_url", "image_url": {"url": address}}
    ecg = {"type": "input_ecg", "input_ecg": {"filename": "x.npy", "file_data": address, **FACTS}}
    models = {"signal": Served("signal", running.engines["signal"])}
    for part in (picture, {"type": "image_url", "image_url": address}, ecg):
        assert refused(ask(running, part))["code"] == "url_refused"
        body = {"model": "signal", "messages": [{"role": "user", "content": [part, text("?")]}]}
        with monkeypatch.context() as patch, pytest.raises(BadRequest, match="nothing is fetched"):
            patch.setattr(socket, "create_connection", no_line)
            patch.setattr(socket.socket, "connect", no_line)
            read_request(json.dumps(body).encode(), models, Limits(), 8, 8)


def objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}, None], dtype=object), allow_pickle=bool(1))
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("signal.npy", npy(np.zeros((12, 1 << 22), np.float32)))
    return out.getvalue()


def larger_than_it_is() -> bytes:
    found = npy(np.zeros((12, 500), np.float32))
    return found.replace(b"(12, 500)", b"(12, 5000000)".ljust(9))


def test_files_that_are_no_ecgs(world: Any, running: Running, tmp_path: Path) -> None:
    array = signal_of(world)
    lost = array.copy()
    lost[3] = np.nan
    header, data = write_wfdb(tmp_path, "r", array, 50)
    outside = header.replace(b"r.dat", b"../../etc/passwd")
    octets = "application/octet-stream"

    def pair(head: bytes, name: str = "r.hea", other: str = "r.dat") -> list[dict[str, str]]:
        return [{"filename": name, "file_data": url(head)}, {"filename": other, "file_data": url(data)}]

    cases: dict[str, tuple[dict[str, Any], str]] = {
        "objects": ({"file_data": url(objects()), **FACTS}, "refused"),
        "declares more": ({"file_data": url(larger_than_it_is()), **FACTS}, "refused"),
        "bomb": ({"file_data": url(bomb(), "application/x-npz"), **FACTS}, "refused"),
        "a pickle": ({"filename": "x.npy", "file_data": url(b"\x80\x04K\x01."), **FACTS}, "refused"),
        "a page": ({"filename": "x.csv", "file_data": url(b"<html><script>"), **FACTS}, "refused"),
        "a kind unknown": ({"filename": "x.exe", "file_data": url(b"MZ"), **FACTS}, "refused"),
        "a kind unsaid": ({"file_data": url(b"x", octets)}, "invalid_value"),
        "empty": ({"file_data": url(b""), **FACTS}, "empty"),
        "a lead lost": ({"file_data": url(npy(lost)), **FACTS}, ""),
        "all lost": ({"file_data": url(npy(array * np.nan)), **FACTS}, ""),
        "infinite": ({"file_data": url(npy(np.full_like(array, np.inf))), **FACTS}, ""),
        "three dimensions": ({"file_data": url(npy(np.zeros((2, 12, 250)))), **FACTS}, ""),
        "eleven leads": ({"file_data": url(npy(array[:11])), **FACTS}, ""),
        "two leads": ({"file_data": url(npy(array[:2])), **FACTS, "leads": ["I", "II"]}, ""),
        "leads that are none": ({"file_data": url(npy(array)), **FACTS, "leads": ["X"] * 12}, ""),
        "a lead twice": ({"file_data": url(npy(array)), **FACTS, "leads": ["I"] * 12}, ""),
        "text": ({"file_data": url(npy(np.full((12, 250), "x"))), **FACTS}, ""),
        "short": ({"file_data": url(npy(array[:, :20])), **FACTS}, ""),
        "no rate": ({"file_data": url(npy(array)), "leads": "standard", "units": "mV"}, "ecg_unreadable"),
        "rate 0": ({"file_data": url(npy(array)), **FACTS, "rate": 0}, ""),
        "rate true": ({"file_data": url(npy(array)), **FACTS, "rate": True}, "invalid_value"),
        "rate of text": ({"file_data": url(npy(array)), **FACTS, "rate": "50"}, "invalid_value"),
        "rate without end": ({"file_data": url(npy(array)), **FACTS, "rate": 1e308}, ""),
        "units": ({"file_data": url(npy(array)), **FACTS, "units": "furlong"}, "invalid_value"),
        "leads of numbers": ({"file_data": url(npy(array)), **FACTS, "leads": [1, 2]}, "invalid_value"),
        "field": ({"file_data": url(npy(array)), **FACTS, "path": "/etc/passwd"}, "invalid_value"),
        "no base64": ({"file_data": "data:text/csv;base64,%%%", **FACTS}, "invalid_value"),
        "half base64": ({"file_data": "data:text/csv;base64,QUJ", **FACTS}, "invalid_value"),
        "no base64 at all": ({"file_data": "data:text/csv,1", **FACTS}, "invalid_value"),
        "data that are a number": ({"file_data": 7, **FACTS}, "invalid_value"),
        "csv of words": ({"file_data": url(csv(array).replace(b"0.", b"x."), "text/csv"), **FACTS}, ""),
        "header alone": ({"filename": "r.hea", "file_data": url(header)}, ""),
        "data elsewhere": ({"files": pair(outside)}, "refused"),
        "another's data": ({"files": pair(header, other="q.dat")}, ""),
        "twice the same": ({"files": pair(header, other="r.hea")}, "invalid_value"),
        "cut short": ({"files": [*pair(header)[:1], {"filename": "r.dat", "file_data": url(data[:99])}]}, ""),
        "too many files": ({"files": pair(header) * 3}, "invalid_value"),
        "names that lead out": ({"filename": "../../x.npy\0", "file_data": url(npy(array)), **FACTS}, "invalid_value"),
    }
    for name, (given_part, code) in cases.items():
        error = refused(ask(running, {"type": "input_ecg", "input_ecg": given_part}))
        assert error["param"] == "messages[0].content[0]", name
        assert error["code"] == code or (not code and error["code"]), (name, error)
    good = ask(running, {"type": "input_ecg", "input_ecg": {"filename": "../../x.npy", **ecg_part(array)["input_ecg"]}})
    assert good.status_code == 200  # a name is a name, and leads nowhere
    assert running.quiet()


def test_a_prompt_too_long_is_told(world: Any, running: Running) -> None:
    error = refused(running.chat([ecg_part(signal_of(world)), text("why? " * 1000)]))
    assert error["code"] == "sequence_too_long"
    assert refused(running.chat([text("why? " * 1000)], stream=True))["code"] == "sequence_too_long"


def test_large_bodies_are_refused_before_they_are_read(running: Running) -> None:
    address, headers = f"{running.url}/chat/completions", {"content-type": "application/json"}
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n{"
        )
        assert b" 413 " in line.recv(4096).split(b"\r\n")[0]

    def endless() -> Iterator[bytes]:
        for _ in range(24):
            yield b" " * (1 << 16)

    with contextlib.suppress(httpx.TransportError):  # the server may hang up before all was sent
        assert refused(running.client.post(address, content=endless(), headers=headers), 413)
    assert running.chat("?").status_code == 200
    assert running.client.get(f"http://127.0.0.1:{running.port}/health").status_code == 200


def test_an_early_answer_is_read_by_clients_that_send_all_first(running: Running, guarded: Running) -> None:
    """A line closed with bytes unread is reset, and with it goes the answer: too large, no key, a full queue."""
    data = b" " * (6 << 20)  # more than both sides' buffers take
    for place, status in ((running, b"413"), (guarded, b"401")):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        with socket.create_connection(("127.0.0.1", place.port), timeout=20) as line:
            line.sendall(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + data)
            found = b"".join(iter(lambda: line.recv(65536), b""))
            assert found.split()[1] == status and found.endswith(b"}")


def test_all_bodies_together_are_bounded(signal_run: Any) -> None:
    with serving([Served("signal", Engine(load(signal_run / "best")))], max_held=1000) as running:
        error = running.chat("x" * 2000)
        assert error.status_code == 429 and error.headers["retry-after"] == "1"
        assert running.chat("?").status_code == 200


def test_pages_of_others_cannot_ask(running: Running) -> None:
    """DNS rebinding, forms, scripts of other sites: no answer, and no header that would let them read one."""
    body = {"model": "signal", "messages": [{"role": "user", "content": "?"}]}
    address = f"{running.url}/chat/completions"
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "",
        "localhost@evil.example",
        "[::1",
        f"evil:{running.port}",
    ):
        for method, where in (("POST", address), ("GET", f"{running.url}/models")):
            found = running.client.request(method, where, json=body, headers={"host": host})
            assert found.status_code in (400, 421), host
    for host in ("localhost", f"127.0.0.1:{running.port}", f"LOCALHOST:{running.port}"):
        assert running.client.get(f"{running.url}/models", headers={"host": host}).status_code == 200
    refused(running.client.post(address, json=body, headers={"origin": "http://evil.example"}), 403)
    refused(running.client.post(address, json=body, headers={"origin": "null"}), 403)
    form = running.client.post(address, content=json.dumps(body), headers={"content-type": "text/plain"})
    assert refused(form, 415)["code"] == "bad_content_type"
    for response in (
        running.client.options(address, headers={"origin": "http://evil.example"}),
        running.chat("?"),
        running.client.get(f"{running.url}/models"),
    ):
        assert not [h for h in response.headers if h.startswith("access-control")]


def test_a_key_is_asked_for_and_never_told(guarded: Running, capfd: pytest.CaptureFixture[str]) -> None:
    for header in ("", "Bearer wrong", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xe9"):
        found = guarded.client.get(f"{guarded.url}/models", headers={"authorization": header.encode("latin-1")})
        assert refused(found, 401)["code"] == "invalid_api_key" and KEY not in found.text
    right = {"authorization": f"Bearer {KEY}"}
    assert guarded.client.get(f"{guarded.url}/models", headers=right).status_code == 200
    assert guarded.client.get(f"http://127.0.0.1:{guarded.port}/health").status_code == 200
    assert KEY not in "".join(capfd.readouterr())


def test_where_it_listens() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EcglmError, match=f"127.0.0.1:{port} cannot be listened on .*another --host or --port"):
            bind("127.0.0.1", port)
    with pytest.raises(EcglmError, match="cannot be listened on"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(EcglmError, match="--port must be from 0 to 65535"):
        bind("127.0.0.1", 70000)
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "x")] == [True] * 3 + [
        False
    ] * 3
    assert hosts_of("0.0.0.0") is None and "localhost" in (hosts_of("127.0.0.1") or ())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "role",
    "content",
    "type",
    "text",
    "image_url",
    "input_ecg",
    "file",
    "url",
    "file_data",
    "files",
    "filename",
    "rate",
    "leads",
)
shaped = st.dictionaries(st.sampled_from(NAMES), json_values | st.sampled_from(["user", "text", "file"]), max_size=5)
parts = st.lists(shaped | json_values, max_size=3)
messages = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": parts | json_values}) | shaped, max_size=3
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=messages | json_values,
    fields=st.dictionaries(st.sampled_from(["stop", "seed", "n", "tools", "x", "stream"]), json_values, max_size=2),
)
def test_whatever_is_sent_is_answered_or_refused(messages: Any, fields: dict[str, Any], running: Running) -> None:
    models = {"signal": Served("signal", running.engines["signal"])}
    body = json.dumps({"model": "signal", "messages": messages, **fields}).encode()
    try:
        asked = read_request(body, models, Limits(), 8, 8)
    except BadRequest as error:
        assert str(error) and error.code and "\n" not in str(error)
    else:
        assert asked.turns[-1].role == "user" and asked.max_new_tokens == 8


def test_a_data_url_is_read_whatever_its_case(world: Any, running: Running) -> None:
    data = base64.b64encode(npy(signal_of(world))).decode()
    for head in ("DATA:Application/X-NPY;base64,", "data:application/x-npy;name=x.npy;base64,"):
        assert ask(running, {"type": "file", "file": {"file_data": head + data, **FACTS}}).status_code == 200


def test_slow_clients_are_let_go(signal_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_door, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(server_door, "REST_SECONDS", 0.3)
    monkeypatch.setattr(server_door, "FIRST_SECONDS", 1.4)
    with serving([Served("signal", Engine(load(signal_run / "best")))], body_seconds=0.3) as running:

        def ended(sent: bytes, drip: bytes = b"") -> bytes:
            with socket.create_connection(("127.0.0.1", running.port), timeout=10) as line:
                line.sendall(sent)
                found = b""
                line.settimeout(0.1)
                for _ in range(100):
                    try:
                        block = line.recv(4096)
                        if not block:
                            return found
                        found += block
                    except TimeoutError:
                        try:
                            line.sendall(drip)
                        except OSError:
                            return found
                    except OSError:
                        return found
                raise AssertionError("the connection stays open")

        assert ended(b"") == ended(b"GET /health HTTP/1.1\r\nHost: loc", drip=b"x") == b""
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as line:
            time.sleep(0.4)  # a busy client writes later than the head may take
            line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in line.recv(4096).split(b"\r\n")[0]
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for drip in (b" ", b""):
            assert b" 408 " in ended(head + b"Content-Length: 1000\r\n\r\n{", drip=drip).split(b"\r\n")[0]
        assert running.chat("?").status_code == 200 and running.quiet()
