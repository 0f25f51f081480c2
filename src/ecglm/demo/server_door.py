"""What reaches the server at all: hosts, origins and keys are looked at first, and nobody is waited for without end."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds in which a client must have sent the head of a request, from its first byte.
HEAD_SECONDS = 10.0
#: Seconds in which that byte must come: a busy client opens many connections before it writes to the first.
FIRST_SECONDS = 60.0
#: Seconds in which the rest of a request must come that was answered before all of it was read.
REST_SECONDS = 10.0
#: The extension of a scope that cuts its connection.
ABORT = "ecglm.abort"


class Door:
    """The middleware. hosts: names that are answered (against DNS rebinding), None for all; key: that is asked for."""

    def __init__(
        self, app: ASGIApp, *, key: str | None, hosts: frozenset[str] | None, send_seconds: float = 30.0
    ) -> None:
        self.app, self.key, self.hosts, self.send_seconds = app, key, hosts, send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def patient(message: Message) -> None:
            async with asyncio.timeout(self.send_seconds):
                await send(message)

        refused = self._refuse(scope["path"], Headers(scope=scope))
        try:
            await (refused or self.app)(scope, receive, patient)
        except TimeoutError:  # the client does not take its answer: the connection is cut
            if (abort := scope.get("extensions", {}).get(ABORT)) is not None:
                abort()
                await asyncio.sleep(0.01)  # the loss is told before this ends

    def _refuse(self, path: str, headers: Headers) -> JSONResponse | None:
        hosts, origin = headers.getlist("host"), headers.get("origin")
        if self.hosts is not None and (len(hosts) != 1 or _name(hosts[0]) not in self.hosts):
            return _error("this server does not answer under that name", 421, "wrong_host")
        if origin is not None and (not hosts or urlsplit(origin).netloc.lower() != hosts[0].lower()):
            return _error("requests from web pages are refused", 403, "wrong_origin")
        if self.key is not None and path != "/health" and not self._knows_key(headers):
            return _error("a valid key is needed (Authorization: Bearer …)", 401, "invalid_api_key")
        return None

    def _knows_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        wanted = self.key or ""
        return scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), wanted.encode())


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _error(message: str, status: int, code: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status)


class _Body:
    """What comes of a request. came: all of it, or its client has left."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.came = receive, False

    async def receive(self) -> Message:
        message = await self._receive()
        self.came = self.came or message["type"] != "http.request" or not message.get("more_body")
        return message

    async def rest(self) -> bool:
        """Read what is left, to nobody; whether it came in time."""
        try:
            async with asyncio.timeout(REST_SECONDS):
                while not self.came:
                    await self.receive()
        except TimeoutError:
            return False
        return True


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but a client that does not begin a request, or finish its head, is let go; and one that is
    answered early can read that answer.
    """

    _timer: asyncio.TimerHandle | None = None
    _begun = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), ABORT: self.transport.abort}
            body = _Body(receive)

            async def send_last(message: Message) -> None:
                if message["type"] != "http.response.body" or message.get("more_body") or body.came:
                    await send(message)
                    return
                # A line that is closed with bytes unread is reset, and its client may never see the answer.
                await send({**message, "more_body": True})
                whole = await body.rest()
                await send({"type": "http.response.body", "body": b""})
                if not whole:
                    self.transport.close()

            await inner(scope, body.receive, send_last)

        self.app = app  # type: ignore[assignment]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(FIRST_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._begun:
            self._begun = True
            self._stop()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Between requests the clock runs; further pieces of a head do not set it back."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
