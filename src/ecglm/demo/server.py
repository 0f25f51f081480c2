"""An OpenAI-compatible server of ELMs: one process, requests answered together, each refused or ended by itself."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ecglm.demo.contents import Limits
from ecglm.demo.engine import Busy, Closed, TooLate
from ecglm.demo.server_door import Door
from ecglm.demo.server_ecgs import BadRequest
from ecglm.demo.server_requests import Asked, Served, read_request
from ecglm.demo.streams import Stream
from ecglm.demo.texts import plain
from ecglm.errors import EcglmError

#: Requests whose ECGs are read and measured at a time.
READERS = 4


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """max_body: bytes of one request; max_held: of all requests that are being read together. body_seconds: in which a
    request must have come; send_seconds: in which a client must take each piece. default_tokens: of an answer where a
    request does not say; max_tokens: at most, what asks for more is cut there. key: which requests must bring, None for
    none. hosts: names in the Host header that are answered, None for all. drain: seconds for what runs at the end.
    """

    max_body: int = 32 << 20
    max_held: int = 512 << 20
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    default_tokens: int = 128
    max_tokens: int = 1024
    key: str | None = field(default=None, repr=False)
    hosts: frozenset[str] | None = None
    drain: float = 30.0
    limits: Limits = field(default_factory=Limits)


def make_app(models: Sequence[Served], options: ServerOptions) -> ASGIApp:
    """The application; its end closes the engines."""
    service = _Service({m.name: m for m in models}, options)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for served in models:
            await asyncio.to_thread(served.engine.close)

    routes = [
        Route("/health", service.health, methods=["GET"]),
        Route("/v1/models", service.models, methods=["GET"]),
        Route("/v1/models/{name}", service.model, methods=["GET"]),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
    ]
    errors: dict[Any, Any] = {404: _no_such_page, 405: _no_such_page, 500: _a_bug}
    app = Starlette(routes=routes, exception_handlers=errors, lifespan=lifespan)
    return Door(app, key=options.key, hosts=options.hosts, send_seconds=options.send_seconds)


class _Service:
    def __init__(self, models: dict[str, Served], options: ServerOptions) -> None:
        self.by_name, self.options = models, options
        self.started = int(time.time())
        self.held = self.asking = 0
        self._readers = asyncio.Semaphore(READERS)

    async def health(self, request: Request) -> JSONResponse:
        """Whether questions are answered, and how many wait."""
        well = all(m.engine.is_open for m in self.by_name.values())
        found = {name: m.engine.load for name, m in self.by_name.items()}
        return JSONResponse({"status": "ok" if well else "closed", "models": found}, 200 if well else 503)

    def _told(self, served: Served) -> dict[str, Any]:
        reads = ["recordings"] + (["pictures"] if served.engine.assistant.reads_pictures else [])
        told = {"id": served.name, "object": "model", "created": self.started, "owned_by": "ecglm"}
        return {**told, "reads": reads, "retrieval": served.search is not None}

    async def models(self, request: Request) -> JSONResponse:
        """All models."""
        return JSONResponse({"object": "list", "data": [self._told(m) for m in self.by_name.values()]})

    async def model(self, request: Request) -> JSONResponse:
        """One model."""
        served = self.by_name.get(request.path_params["name"])
        if served is None:
            return refusal("no such model here", 404, code="model_not_found", param="model")
        return JSONResponse(self._told(served))

    async def chat(self, request: Request) -> ASGIApp:
        """A chat completion, whole or in pieces."""
        most = sum(m.engine.max_queue + m.engine.max_batch for m in self.by_name.values())
        if self.asking >= most:  # told before the body is read
            return busy(f"{self.asking} requests wait already; try again in a moment")
        self.asking += 1
        answer: _Answer | None = None
        try:
            answer = _Answer(await self._read(request), self)
            return answer
        except BadRequest as error:
            return refusal(str(error), error.status, code=error.code, param=error.param)
        except Busy as error:
            return busy(str(error))
        except Closed as error:
            return refusal(str(error), 503, kind="server_error", code="closed")
        except EcglmError as error:
            return refusal(str(error), code="invalid_value")
        except ClientDisconnect:
            return refusal("the client has left")
        finally:
            if answer is None:
                self.asking -= 1

    async def _read(self, request: Request) -> Asked:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise BadRequest("the content type must be application/json", None, "bad_content_type", 415)
        held = bytearray()
        try:
            declared = request.headers.get("content-length", "0")
            self._check_size(int(declared) if declared.isascii() and declared.isdigit() else 0, 0)
            async with asyncio.timeout(self.options.body_seconds):
                async for block in request.stream():
                    self._check_size(len(held) + len(block), len(block))
                    held += block
                    self.held += len(block)
            async with self._readers:
                return await asyncio.to_thread(
                    read_request,
                    bytes(held),
                    self.by_name,
                    self.options.limits,
                    self.options.default_tokens,
                    self.options.max_tokens,
                )
        except TimeoutError as error:
            raise BadRequest("the request did not come in time", None, "timeout", 408) from error
        finally:
            self.held -= len(held)

    def _check_size(self, size: int, more: int) -> None:
        if size > self.options.max_body:
            most = f"at most {self.options.max_body:,} bytes are read"
            raise BadRequest(f"the request is too large; {most}", None, "request_too_large", 413)
        if self.held + more > self.options.max_held:
            raise Busy("too many large requests at once; try again in a moment")


class _Answer:
    """One answer on its way to a client."""

    def __init__(self, asked: Asked, service: _Service) -> None:
        self.asked, self.service = asked, service
        loop, self.news = asyncio.get_running_loop(), asyncio.Event()

        def listen() -> None:  # from the engine's thread
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self.news.set)

        self.stream: Stream = asked.served.engine.submit(
            asked.turns,
            asked.ecgs,
            max_new_tokens=asked.max_new_tokens,
            sampling=asked.sampling,
            retrieved=asked.retrieved,
            stop=asked.stop,
            listen=listen,
        )
        self.facts = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.served.name,
            "system_fingerprint": asked.served.fingerprint,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(self._leaving(receive))
        try:
            await self._wait()
            if self.asked.stream and self.stream.error is None:
                await self._pieces(send)
                return
            while not self.stream.done:
                self.stream.take()
                await self._wait()
            await self._whole()(scope, receive, send)
        finally:
            leaving.cancel()
            self.stream.cancel()
            self.service.asking -= 1

    async def _leaving(self, receive: Receive) -> None:
        """Whoever has left wants no answer."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.stream.cancel()

    async def _wait(self) -> None:
        if not self.stream.done and not self.stream.has_news:
            await self.news.wait()
        self.news.clear()

    def _whole(self) -> JSONResponse:
        if self.stream.error is not None:
            return failed(self.stream.error)
        message = {"role": "assistant", "content": self.stream.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason()}
        facts = {**self.facts, "object": "chat.completion", "choices": [choice], "usage": self._usage()}
        return JSONResponse(facts | self._truncated())

    async def _pieces(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def event(body: str) -> None:
            await send({"type": "http.response.body", "body": f"data: {body}\n\n".encode(), "more_body": True})

        async def chunk(delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> None:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            facts = {**self.facts, "object": "chat.completion.chunk", "choices": [choice]}
            await event(json.dumps(facts | more | ({"usage": None} if self.asked.include_usage else {})))

        await chunk({"role": "assistant", "content": ""})
        while True:
            done = self.stream.done
            if piece := self.stream.take():
                await chunk({"content": piece})
            if done:
                break
            await self._wait()
        if self.stream.error is not None:
            await event(bytes(failed(self.stream.error).body).decode())
        else:
            await chunk({}, self._reason(), **self._truncated())
            if self.asked.include_usage:
                facts = {**self.facts, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
                await event(json.dumps(facts))
            await event("[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _reason(self) -> str:
        return "length" if self.stream.finish_reason == "length" else "stop"

    def _truncated(self) -> dict[str, Any]:
        """What of the talk the model was not shown; no field where that is nothing."""
        return {"prompt_truncated": sorted(set(self.stream.truncated))} if self.stream.truncated else {}

    def _usage(self) -> dict[str, int]:
        prompt, answer = self.stream.num_prompt_tokens, self.stream.num_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def failed(error: EcglmError) -> JSONResponse:
    """What an error of the engine's is to a client."""
    if isinstance(error, Closed):
        return refusal(str(error), 503, kind="server_error", code="closed")
    if isinstance(error, TooLate):
        return refusal(str(error), 504, kind="server_error", code="timeout")
    return refusal(str(error), code=getattr(error, "reason", "invalid_value"), param="messages")


def busy(message: str) -> JSONResponse:
    """Come back later."""
    return refusal(message, 429, kind="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})


def refusal(
    message: str,
    status: int = 400,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error in OpenAI's form; what it quotes of a request is short, and can be written."""
    param = None if param is None else plain(param[:200])
    error = {"message": plain(message[:1000]), "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers=dict(headers or {}))


async def _no_such_page(request: Request, error: Any) -> JSONResponse:
    what = "method" if error.status_code == 405 else "address"
    return refusal(f"no such {what} here; see docs/serving.md", error.status_code, code="not_found")


async def _a_bug(request: Request, error: Any) -> JSONResponse:
    return refusal("the server failed at this request; its log has the trace", 500, kind="server_error", code="bug")
