"""A language model behind an OpenAI-compatible HTTP endpoint (Azure too): retries, bounded concurrency, hidden keys."""

from __future__ import annotations

import email.utils
import json as jsonlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ecglm.errors import ConfigError, EcglmError, UnsafeInputError
from ecglm.evaluation.chats import ChatError, ChatReply, Llm, Messages, OnDone, Outcome, ask_all
from ecglm.evaluation.endpoint_access import check_address, is_loopback, read_key
from ecglm.evaluation.endpoint_lines import Lines

__all__ = ["ChatError", "ChatReply", "Endpoint", "Messages", "Outcome"]

MAX_BODY = 8 << 20  # bytes of one answer
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)


@dataclass(frozen=True)
class Endpoint(Llm):
    """Where and whom to ask. Nothing in here is secret: the key is read from its place when it is needed.

    base_url: up to and without ``/chat/completions`` (``https://api.openai.com/v1``); with ``api_version`` an Azure
    resource (``https://NAME.openai.azure.com``), ``model`` then being the deployment. key_env: the environment variable
    that holds the key, or None for a server that asks for none; key_file: a file of nobody else's reading instead.
    timeout: seconds for a whole answer; max_retries: tries after the first; backoff: seconds before the first retry,
    doubled each time, at most ``max_wait``, which also bounds what a Retry-After may ask for.

    Raises ConfigError for a missing key, UnsafeInputError for an address or a key file that is refused.
    """

    base_url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    key_file: Path | None = None
    api_version: str | None = None
    timeout: float = 120.0
    max_retries: int = 5
    concurrency: int = 8
    backoff: float = 1.0
    max_wait: float = 60.0
    allow_http: bool = False

    def __post_init__(self) -> None:
        check_address(self.base_url, self.allow_http)
        if not self.model:
            raise ConfigError("endpoint: which model is asked must be said (--model)")
        if not 0 < self.timeout <= 86400 or self.max_retries < 0 or not 1 <= self.concurrency <= 256:
            raise ConfigError(
                "endpoint: timeout must be above 0 and at most 86400, max_retries 0 or more, concurrency 1 to 256"
            )
        if not self.model.isprintable():
            raise ConfigError("endpoint: --model holds characters that no name has")
        httpx = _import_httpx()
        try:
            _ = httpx.URL(self._url()).host
        except (httpx.InvalidURL, ValueError) as error:
            raise UnsafeInputError(f"--base-url: refuses an address that cannot be read ({error})") from error
        self._key()

    def facts(self) -> dict[str, Any]:
        """What names this model in outputs: no key, nothing that only changes the speed."""
        version = {"api_version": self.api_version} if self.api_version else {}
        return {"provider": "endpoint", "base_url": self.base_url.rstrip("/"), "model": self.model, **version}

    def chat_many(
        self,
        talks: Sequence[Messages],
        *,
        max_tokens: int,
        temperature: float | None = 0.0,
        seed: int | None = None,
        json: bool = False,
        on_done: OnDone | None = None,
    ) -> list[Outcome]:
        """One outcome per chat, in their order: a reply, a ChatError, or None where it was not asked any more.

        Raises EcglmError when no further item can succeed (wrong key, no such model, no credit, nobody there); answers
        that were on their way are still handed to ``on_done`` before.
        """
        body: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens}
        body |= {} if temperature is None else {"temperature": temperature}
        body |= {} if seed is None else {"seed": seed}
        body |= {"response_format": {"type": "json_object"}} if json else {}
        with _Client(self, body) as client:
            return ask_all(client.ask, talks, self.concurrency, on_done, client.stopped, client.abandon)

    def _key(self) -> str | None:
        return read_key(self.key_env, self.key_file)

    def _url(self) -> str:
        base = self.base_url.rstrip("/")
        if self.api_version is None:
            return f"{base}/chat/completions"
        if "/deployments/" not in base:
            base = f"{base.removesuffix('/openai')}/openai/deployments/{quote(self.model, safe='')}"
        return f"{base}/chat/completions?api-version={quote(self.api_version, safe='')}"


class _Client:
    """The connections of one ``chat_many``; ``ask`` may be called from several threads."""

    def __init__(self, endpoint: Endpoint, body: dict[str, Any]) -> None:
        self.httpx = _import_httpx()
        self.endpoint, self.url = endpoint, endpoint._url()
        self.body = body
        self.key = endpoint._key()
        self.stopped = threading.Event()
        headers = {"User-Agent": "ecglm", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self.key is not None:
            azure = endpoint.api_version is not None
            headers |= {"api-key": self.key} if azure else {"Authorization": f"Bearer {self.key}"}
        self.lines = Lines(
            headers=headers,
            timeout=endpoint.timeout,
            trust_env=not is_loopback(endpoint.base_url),  # a proxy would carry what is meant for this machine alone
        )

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.lines.close()

    def abandon(self) -> None:
        """End every call at once; their answers are lost."""
        self.stopped.set()
        self.lines.cut()

    def ask(self, messages: Messages) -> ChatReply:
        """One chat with its retries."""
        wait_for, last = self.endpoint.backoff, ChatError("connection_lost")
        for attempt in range(self.endpoint.max_retries + 1):
            if attempt and self.stopped.wait(min(wait_for, self.endpoint.max_wait)):
                break
            try:
                return self._once(messages)
            except _Again as again:
                last = again.error
                wait_for = self.endpoint.backoff * 2.0**attempt if again.after is None else again.after
        raise last

    def _once(self, messages: Messages) -> ChatReply:
        body = dict(self.body)
        try:
            status, headers, data = self._post({**body, "messages": list(messages)})
            while status == 400 and self._adapt(data, body):
                body = dict(self.body)
                status, headers, data = self._post({**body, "messages": list(messages)})
        except self.httpx.TimeoutException as error:
            raise _Again(ChatError("timeout", f"no answer within {self.endpoint.timeout:g} s")) from error
        except self.httpx.TransportError as error:
            raise _Again(ChatError("connection_lost", self._clean(str(error)) or type(error).__name__)) from error
        if status == 200:
            return self._reply(data)
        self._refuse(status, headers, data)
        raise AssertionError("unreachable")

    def _post(self, body: Mapping[str, Any]) -> tuple[int, Any, bytes]:
        content = jsonlib.dumps(body, allow_nan=False).encode()  # also texts that no UTF-8 can hold
        line = self.lines.mine()
        with line.within(self.endpoint.timeout), line.stream("POST", self.url, content) as response:
            data = bytearray()
            for block in response.iter_raw():
                data += block
                if len(data) > MAX_BODY:
                    raise ChatError("bad_reply", f"an answer of more than {MAX_BODY >> 20} MB")
            return response.status_code, response.headers, bytes(data)

    def _reply(self, data: bytes) -> ChatReply:
        try:
            raw = self._scrub(jsonlib.loads(data))
            choice = raw["choices"][0]
            content = choice["message"].get("content")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            excerpt = self._clean(data.decode(errors="replace"))
            raise _Again(ChatError("bad_reply", f"no chat completion: {excerpt!r}")) from error
        if isinstance(content, list):
            content = "".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
        reason = choice.get("finish_reason")
        return ChatReply(
            content if isinstance(content, str) else "", reason if isinstance(reason, str) else None, _usage(raw), raw
        )

    def _refuse(self, status: int, headers: Any, data: bytes) -> None:
        """Raise what a status other than 200 means: for this item, for now, or for all."""
        where, said = f"{self._host()} answers {status}", self._clean(_message(data))
        said = f" ({said})" if said else ""
        if status in (401, 403):
            place = self.endpoint.key_file or self.endpoint.key_env
            mend = f"the key in {place} is not accepted" if place else "it asks for a key: name it with --key-env"
            raise ConfigError(f"{where}: {mend}{said}")
        if status == 404:
            raise ConfigError(f"{where}: no model '{self.endpoint.model}' there, or a wrong --base-url{said}")
        if 300 <= status < 400:
            to = self._clean(_host_in(headers.get("location", ""))) or "elsewhere"
            raise UnsafeInputError(f"{where}: it redirects to {to}, which is not followed; give the final --base-url")
        if status == 402 or b"insufficient_quota" in data:
            raise EcglmError(f"{where}: no credit left; what was answered is kept{said}")
        if status in _RETRIED:
            reason = "rate_limited" if status == 429 else "server_error"
            raise _Again(ChatError(reason, f"{status}{said}"), _retry_after(headers))
        raise ChatError("refused_request", f"{status}{said}")

    def _adapt(self, data: bytes, sent: Mapping[str, Any]) -> bool:
        """Whether the body was changed to what this server says it takes: newer names, or no such field at all."""
        said = _message(data)
        if self.body != sent:  # another thread has learnt it meanwhile
            return True
        if "max_completion_tokens" in said and "max_tokens" in sent:
            changed = {k: v for k, v in sent.items() if k != "max_tokens"}
            self.body = {**changed, "max_completion_tokens": sent["max_tokens"]}
            return True
        for name in ("response_format", "seed"):
            if name in sent and name in said:
                self.body = {k: v for k, v in sent.items() if k != name}
                return True
        return False

    def _host(self) -> str:
        return urlsplit(self.endpoint.base_url).netloc

    def _clean(self, text: str) -> str:
        """A server's words in one short line, without our key should it repeat that."""
        text = (
            re.sub(re.escape(self.key), "[key]", text, flags=re.IGNORECASE) if self.key else text
        )  # before it is cut, else a part of it stays
        return "".join(c if c.isprintable() else " " for c in text[:200]).strip()

    def _scrub(self, value: Any) -> Any:
        """An answer without our key, however deep it stands, and without half characters, which no file takes."""
        if isinstance(value, str):
            value = value.encode(errors="replace").decode()
            return value.replace(self.key, "[key]") if self.key else value
        if isinstance(value, list):
            return [self._scrub(v) for v in value]
        if isinstance(value, dict):
            return {self._scrub(k): self._scrub(v) for k, v in value.items()}
        return value


class _Again(Exception):
    """Worth another try; ``after``: seconds that the server asks to wait."""

    def __init__(self, error: ChatError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after = error, after


def _retry_after(headers: Any) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date."""
    said = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said)) if said and said.lower() not in ("nan", "inf", "infinity") else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _host_in(location: str) -> str:
    try:
        return urlsplit(location).hostname or ""
    except ValueError:
        return ""


def _message(data: bytes) -> str:
    """What an error's body says."""
    try:
        found = jsonlib.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")
    error = found.get("error", found) if isinstance(found, dict) else found
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _usage(raw: Mapping[str, Any]) -> dict[str, int]:
    told = raw.get("usage")
    names = ("prompt_tokens", "completion_tokens")
    found = {n: told.get(n) for n in names} if isinstance(told, Mapping) else {}
    return {n: v for n, v in found.items() if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 40}


def _import_httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ConfigError("an endpoint needs httpx: pip install 'ecglm[judge]'") from error
    return httpx
