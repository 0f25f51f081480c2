"""What reaches the page's server at all: known hosts, the page's own requests, bodies that name no file.

Gradio's server opens many more routes than a page needs (files by path, proxies, an interface for programs, uploads
that fetch addresses). This middleware stands before it and lets through what the page itself uses; all else is not
there.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
from collections.abc import Callable, Iterator
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "ecglm_page"
#: Our own routes start so (``demo/routes.py``).
OURS = "/ecglm/"
#: What the page asks of gradio: method → paths.
ALLOWED: dict[str, re.Pattern[str]] = {
    "GET": re.compile(
        r"/|/config/?|/theme\.css|/gradio_api/theme\.css|/favicon\.ico|/manifest\.json"
        r"|/assets/[\w.-]+|/static/(?:img|js)/[\w.-]+"
        r"|/gradio_api/(?:startup-events|app_id|queue/data|heartbeat/[\w-]{1,64})"
    ),
    "POST": re.compile(r"/gradio_api/(?:queue/join/?|cancel|reset/?)"),
}
#: Bytes of a request to gradio: a question, a correction, an event.
MAX_BODY = 256_000
#: The browser asks nobody else for anything, whatever a text or a library says.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'none'; object-src 'none'; "
    "frame-src 'none'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class Hosts:
    """Names under which this server may be asked for: numeric addresses, localhost, and those added.

    A page of somebody else whose name is made to point here (DNS rebinding) asks under its own name, never under a
    number.
    """

    def __init__(self, *names: str) -> None:
        self.names = {"localhost", *(n.lower() for n in names)}

    def __contains__(self, host: object) -> bool:
        name = (urlsplit(f"//{host}").hostname or "") if isinstance(host, str) and _HOST.fullmatch(host) else ""
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


_HOST = re.compile(r"(?:[\w.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?")


class Tabs:
    """Which browser each tab is of: the one that sent its first event. most: tabs remembered, the last used ones.

    Gradio hands a tab's answers to whoever names it; the name is a number that the browser drew, and no secret.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._cookies: dict[str, str] = {}

    def claim(self, tab: str, cookie: str) -> bool:
        """Remember a tab that sends an event; whether it is of this browser."""
        owner = self._cookies.pop(tab, cookie)
        self._cookies[tab] = owner
        while len(self._cookies) > self._most:
            del self._cookies[next(iter(self._cookies))]
        return secrets.compare_digest(owner, cookie)

    def may_read(self, path: str, query: bytes, cookie: str) -> bool:
        """Whether this browser may listen: to the events of a tab of its own, to a heartbeat of no other's."""
        if path.endswith("/queue/data"):
            named = parse_qs(query.decode("latin-1")).get("session_hash", [])
            return len(named) == 1 and self._is(self._cookies.get(named[0], ""), cookie)
        if "/heartbeat/" in path:
            return self._is(self._cookies.get(path.rsplit("/", 1)[1], cookie), cookie)
        return True

    @staticmethod
    def _is(owner: str, cookie: str) -> bool:
        return bool(cookie) and secrets.compare_digest(owner, cookie)


class Doors:
    """The middleware. ours: the application behind ``OURS``. hosts: may grow while the server runs."""

    def __init__(self, app: ASGIApp, *, ours: ASGIApp, hosts: Hosts) -> None:
        self.app, self.ours, self.hosts, self.tabs = app, ours, hosts, Tabs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets: the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        cookie = cookie_of(headers.get("cookie", ""))
        fresh = None if cookie else secrets.token_urlsafe(32)
        sender = _with_headers(send, scope, fresh)
        refusal = refuse(scope["method"], scope["path"], headers, self.hosts, cookie)
        if refusal is not None:
            await PlainTextResponse(refusal[1], status_code=refusal[0])(scope, receive, sender)
            return
        scope.setdefault("state", {})["cookie"] = cookie or fresh
        if scope["path"].startswith(OURS):
            await self.ours(scope, receive, sender)
            return
        if scope["path"] in ("/", "/config", "/config/"):  # their options restore what others have stored
            scope = {**scope, "query_string": b""}
        if scope["method"] == "POST":
            body = await _read(receive, MAX_BODY)
            if body is None or (reason := wrong_body(body)):
                code, what = (413, "too long") if body is None else (400, reason)
                await PlainTextResponse(what, status_code=code)(scope, receive, sender)
                return
            tab = tab_of(body)
            if tab and not self.tabs.claim(tab, cookie):
                await PlainTextResponse("not found", status_code=404)(scope, receive, sender)
                return
            receive = _again(body, receive)
        elif not self.tabs.may_read(scope["path"], scope["query_string"], cookie):
            await PlainTextResponse("not found", status_code=404)(scope, receive, sender)
            return
        await self.app(scope, receive, sender)


def refuse(method: str, path: str, headers: Headers, hosts: Hosts, cookie: str) -> tuple[int, str] | None:
    """Why a request is not answered, as status and words; None where it is."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if len(headers.getlist("host")) != 1 or host not in hosts:
        return 421, "this server does not answer under that name; open the address it printed"
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return 403, "requests from other pages are refused"
    if path != "/" and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "requests from other pages are refused"
    if not path.startswith(OURS):
        known = ALLOWED.get("GET" if method == "HEAD" else method)
        if known is None or not known.fullmatch(path):
            return 404, "not found"
    if method not in ("GET", "HEAD") and not cookie:
        return 403, "open the page first; it needs its own cookie"
    return None


def cookie_of(header: str) -> str:
    """The page's cookie in a ``Cookie`` header; empty where it is absent or not one of ours."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None and re.fullmatch(r"[\w-]{43}", found.value) else ""


def wrong_body(body: bytes) -> str:
    """Why gradio must not read this JSON body; empty where it may.

    An object that gradio takes for a file would make it read that path or fetch that address. The page never sends one:
    files come in by our own route.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "not JSON"
    return "files are refused here" if any(_is_file(part) for part in _parts(found)) else ""


def tab_of(body: bytes) -> str:
    """The tab that a JSON body is an event of; empty where it names none."""
    found = json.loads(body)
    named = found.get("session_hash") if isinstance(found, dict) else None
    return named if isinstance(named, str) else ""


def _parts(whole: Any) -> Iterator[Any]:
    waiting = [whole]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())


def _is_file(part: Any) -> bool:
    return isinstance(part, dict) and ("meta" in part or "path" in part or "url" in part)


async def _read(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _with_headers(send: Send, scope: Scope, cookie: str | None) -> Callable[[Message], Any]:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if not scope["path"].startswith(("/assets/", "/static/")):
                headers["cache-control"] = "no-store"
            if cookie is not None and scope["path"] == "/":
                headers.append("set-cookie", f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict")
        await send(message)

    return sender
