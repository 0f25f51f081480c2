"""A host of files on the loopback address that misbehaves as it is told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Host:
    """``files``: path → bytes; ``plan``: path → list of odd behaviours, one used up per request; ``seen``: requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plan: dict[str, list[Any]] = {}
        self.seen: list[tuple[str, str]] = []
        self.connections = 0
        self.ranges = self.etags = self.lengths = True
        self.pause = threading.Event()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                host.connections += 1
                super().setup()

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                host.answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """A client that hangs up is part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, path: str, data: bytes) -> str:
        self.files[path] = data
        return self.url + path

    def asked(self, path: str) -> int:
        return Counter(p for p, _ in self.seen)[path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path, request.headers.get("Range", "")
        self.seen.append((path, wanted))
        odd = self.plan[path].pop(0) if self.plan.get(path) else None
        if isinstance(odd, int):
            return self.send(request, odd, b"", {"Retry-After": "0"})
        if isinstance(odd, str):
            return self.send(request, 302, b"", {"Location": odd})
        data = self.files.get(path)
        if data is None:
            return self.send(request, 404, b"")
        headers = {"ETag": '"' + hashlib.md5(data).hexdigest() + '"'} if self.etags else {}
        status, body = 200, data
        if wanted and self.ranges and request.headers.get("If-Range") in (None, headers.get("ETag")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self.send(request, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
            status, body = 206, data[start:]
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = odd["cut"] if isinstance(odd, dict) and "cut" in odd else None
        self.send(request, status, body, headers, cut, slow=isinstance(odd, dict) and "slow" in odd)

    def send(
        self, request: Any, status: int, body: bytes, headers: Any = None, cut: Any = None, slow: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        if self.lengths or not body:
            request.send_header("Content-Length", str(len(body)))
        else:
            request.send_header("Connection", "close")
        request.end_headers()
        if slow:  # half of it, and the rest when the test says so
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            self.pause.wait(30)
            body = body[len(body) // 2 :]
        request.wfile.write(body if cut is None else body[:cut])
        if cut is not None or not self.lengths:
            request.close_connection = True


@pytest.fixture
def host():
    made = Host()
    yield made
    made.pause.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def physionet(host):
    """Publish files as a PhysioNet project on the host: ``publish(project, version, {name: bytes})``."""

    def publish(project: str, version: str, files: dict[str, bytes]) -> str:
        top = f"/files/{project}/{version}"
        for name, data in files.items():
            host.put(f"{top}/{name}", data)
        lines = [f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items()]
        host.put(f"{top}/SHA256SUMS.txt", "".join(lines).encode())
        return top

    return publish


@pytest.fixture
def as_json():
    return lambda value: json.dumps(value).encode()
