"""Connections that a deadline or a second Ctrl-C cuts, also while a server drips its headers."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ecglm.errors import ConfigError
from ecglm.evaluation.chats import ChatError
from ecglm.evaluation.endpoint import Endpoint
from ecglm.evaluation.endpoint_lines import Lines


@contextlib.contextmanager
def dripping(start: bytes):
    """A server that begins an answer and then sends a letter now and then, without end."""

    def serve():
        with contextlib.suppress(OSError):
            while True:
                held.append(place.accept()[0])
                threading.Thread(target=drip, args=(held[-1],), daemon=True).start()

    def drip(line):
        with contextlib.suppress(OSError):
            line.recv(65536)
            line.sendall(start)
            while True:
                line.sendall(b"a")
                time.sleep(0.05)

    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as place:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{place.getsockname()[1]}/v1", held
        place.shutdown(socket.SHUT_RDWR)  # else its thread waits for ever
    for line in held:
        line.close()


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"],
)
def test_an_answer_that_drips_ends_at_the_deadline(start):
    threads = threading.active_count()
    with dripping(start) as (url, _):
        begun = time.monotonic()
        with pytest.raises(ChatError, match="timeout"):
            Endpoint(url, "m", key_env=None, timeout=0.5, max_retries=0).chat(
                [{"role": "user", "content": "x"}], max_tokens=7
            )
    assert time.monotonic() - begun < 10 and threading.active_count() <= threads + 3


def test_a_second_interrupt_ends_the_wait_for_answers_on_their_way():
    with dripping(b"HTTP/1.1 200 OK\r\nX: ") as (url, held):
        code = (
            "import concurrent.futures._base as base, time\n"
            "def slow(self):\n"  # the moments in which an exception would leave the locks of futures held are long
            "    for future in self.futures: future._condition.acquire(); time.sleep(0.002)\n"
            "base._AcquireFutures.__enter__ = slow\n"
            "from ecglm.evaluation.endpoint import Endpoint\n"
            f"one = Endpoint({url!r}, 'm', key_env=None, timeout=60)\n"
            "print('asks', flush=True)\n"
            "one.chat_many([[{'role': 'user', 'content': 'x'}]] * 9, max_tokens=7)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)
        try:
            assert process.stdout.readline() == "asks\n"
            until = time.monotonic() + 60
            while len(held) < 8 and time.monotonic() < until:
                time.sleep(0.01)
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert "waiting for 8 answers" in process.stderr.readline() and process.poll() is None
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode and time.monotonic() - begun < 20


@pytest.mark.parametrize(("name", "value"), [("HTTPS_PROXY", "foo://bar"), ("SSL_CERT_FILE", "/nowhere/certificates")])
def test_an_environment_that_cannot_be_used_is_one_line(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="proxy or certificates") as error:
        Lines(headers={}, timeout=1.0, trust_env=True)
    assert "\n" not in str(error.value)
