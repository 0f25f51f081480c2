"""A Hugging Face hub of one's own: the few addresses that pushing and pulling a dataset needs, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    """files: name → bytes of the one repository. seen: (method, path, token) of every request."""

    files: ClassVar[dict[str, bytes]] = {}
    seen: ClassVar[list[tuple[str, str, str]]] = []
    created: ClassVar[list[dict[str, Any]]] = []
    token = "hf_right"
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def _answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None, data: bytes = b"") -> None:
        data = data if value is None else json.dumps(value).encode()
        self.send_response(status)
        given = headers or {}
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **given}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _note(self) -> bool:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen.append((self.command, self.path, token))
        return token == self.token

    def do_POST(self) -> None:
        body, right = self._body(), self._note()
        if not right:
            self._answer(401, {"error": "Invalid username or password."}, {"X-Error-Message": "Invalid token"})
        elif self.path.startswith("/api/repos/create"):
            self.created.append(json.loads(body))
            self._answer(
                200, {"url": f"http://{self.headers['Host']}/datasets/me/ecg", "id": "me/ecg", "name": "me/ecg"}
            )
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in asked]
            self._answer(200, {"files": told, "commitOid": COMMIT})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                step = json.loads(line)
                if step["key"] == "file":
                    self.files[step["value"]["path"]] = base64.b64decode(step["value"]["content"])
                elif step["key"] == "deletedFile":
                    self.files.pop(step["value"]["path"])
            host = f"http://{self.headers['Host']}/datasets/me/ecg"
            self._answer(200, {"success": True, "commitUrl": f"{host}/commit/{COMMIT}", "commitOid": COMMIT})
        elif "validate-yaml" in self.path:
            self._answer(200, {"errors": [], "warnings": []})
        else:
            self._answer(404, {"error": self.path})

    def do_GET(self) -> None:
        right = self._note()
        path = self.path.partition("?")[0]
        if not right:
            self._answer(401, {"error": "Repository Not Found"}, {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in path and (name := path.split("/resolve/", 1)[1].partition("/")[2]) in self.files:
            data = self.files[name]
            etag = hashlib.sha1(data).hexdigest()
            self._answer(200, None, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data)
        elif "/tree/" in path:
            rows = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in sorted(self.files.items())]
            self._answer(200, rows)
        elif path.startswith("/api/datasets/me/ecg"):
            siblings = [{"rfilename": name} for name in sorted(self.files)]
            self._answer(200, {"_id": "1", "id": "me/ecg", "sha": COMMIT, "siblings": siblings, "private": True})
        else:
            self._answer(404, {"error": path}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET


def start() -> tuple[ThreadingHTTPServer, str]:
    """A server on a free port of this machine, and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
