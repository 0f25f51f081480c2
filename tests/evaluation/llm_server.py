"""A local server that speaks as an OpenAI-compatible endpoint does: it answers, delays, refuses, truncates and lies.

    with LlmServer([Status(429), "hello"]) as server:
        Endpoint(server.url, "judge", key_env=None).chat(…)

A script is a list of steps, one per request of the same chat; its last step is repeated. Or it is a function from the
request's JSON body and the number of earlier requests of the same chat to a step. A step is a text, which is the
answer, or one of: ``Status``, ``Delay``, ``Reset()``, ``Cut()``, ``Raw(bytes)``, ``Reply(text, …)``.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Status:
    """An HTTP status with a message, and a Retry-After header or others."""

    code: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delay:
    seconds: float
    then: Any


@dataclass(frozen=True)
class Reset:
    """The connection is reset before an answer."""


@dataclass(frozen=True)
class Cut:
    """The body ends in the middle of what its length says."""

    text: str = "half"


@dataclass(frozen=True)
class Raw:
    """200 with these bytes as the body."""

    body: bytes


@dataclass(frozen=True)
class Reply:
    """A chat completion with everything that may differ."""

    text: Any
    finish_reason: str = "stop"
    usage: Any = None
    model: str = "judge-2026"


Step = Any
Script = str | Sequence[Step] | Callable[[dict[str, Any], int], Step]


class LlmServer:
    """``url``: the base URL; ``requests``: (path, headers, body) of each; ``paid``: answers with status 200 sent."""

    def __init__(self, script: Script = "ok") -> None:
        self.script = script
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.paid = 0
        self.at_once = self.most_at_once = 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> LlmServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def prompts(self) -> list[str]:
        """The last message's text of each request."""
        return [body["messages"][-1]["content"] for _, _, body in self.requests]

    def step(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Step:
        with self._lock:
            self.requests.append((path, headers, body))
            key = json.dumps(body.get("messages"))
            turn = self._seen[key] = self._seen.get(key, -1) + 1
        if callable(self.script):
            return self.script(body, turn)
        steps = [self.script] if isinstance(self.script, str) else self.script
        return steps[min(turn, len(steps) - 1)]

    def count(self, paid: int, at_once: int) -> None:
        with self._lock:
            self.paid += paid
            self.at_once += at_once
            self.most_at_once = max(self.most_at_once, self.at_once)


class _Handler(BaseHTTPRequestHandler):
    owner: LlmServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.count(0, 1)
        try:
            self._play(self.owner.step(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.owner.count(0, -1)

    def _play(self, step: Step) -> None:
        if isinstance(step, Delay):
            time.sleep(step.seconds)
            self._play(step.then)
        elif isinstance(step, Reset):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif isinstance(step, Status):
            self._send(step.code, json.dumps({"error": {"message": step.message}}).encode(), step.headers)
        elif isinstance(step, Raw):
            self._send(200, step.body)
        elif isinstance(step, Cut):
            data = json.dumps(completion(Reply(step.text))).encode()
            self._send(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
            self.close_connection = True
        else:
            reply = step if isinstance(step, Reply) else Reply(step)
            self._send(200, json.dumps(completion(reply)).encode())
            self.owner.count(1, 0)

    def _send(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


def completion(reply: Reply) -> dict[str, Any]:
    """A chat completion as an endpoint sends it."""
    return {
        "id": "x",
        "object": "chat.completion",
        "model": reply.model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish_reason}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        if reply.usage is None
        else reply.usage,
    }
