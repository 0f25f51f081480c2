"""Connections to an endpoint, one for each thread that asks: whoever waits too long for one can cut it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ecglm.errors import ConfigError


class Lines:
    """The lines of all threads. Raises ConfigError where the environment's proxy or certificates cannot be used."""

    def __init__(self, *, headers: Mapping[str, str], timeout: float, trust_env: bool) -> None:
        import httpx

        self._own, self._all, self._lock = threading.local(), list[Line](), threading.Lock()
        try:
            context = httpx.create_ssl_context(trust_env=trust_env)  # once: it takes long
            self._make = lambda: httpx.Client(
                headers=headers,
                timeout=timeout,
                follow_redirects=False,
                trust_env=trust_env,
                verify=context,
                limits=httpx.Limits(max_connections=1),
            )
            self._all.append(Line(self._make()))
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(f"endpoint: the environment's proxy or certificates cannot be used ({error})") from error
        self._spare = [self._all[0]]

    def mine(self) -> Line:
        """The line of the thread that asks."""
        if not hasattr(self._own, "line"):
            with self._lock:
                if not self._spare:
                    self._all.append(Line(self._make()))
                    self._spare.append(self._all[-1])
                self._own.line = self._spare.pop()
        return self._own.line  # type: ignore[no-any-return]

    def cut(self) -> None:
        """Cut them all: every call on its way fails at once."""
        for line in list(self._all):
            line.cut()

    def close(self) -> None:
        for line in self._all:
            line.http.close()


class Line:
    """One connection at a time."""

    def __init__(self, http: Any) -> None:
        self.http, self._socket, self._late = http, None, False

    def stream(self, method: str, url: str, content: bytes) -> Any:
        """``httpx.Client.stream`` whose connection ``cut`` knows."""
        return self.http.stream(method, url, content=content, extensions={"trace": self._watch})

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """httpx bounds each wait for bytes; this bounds all together, headers that drip included: ReadTimeout."""
        import httpx

        self._late = False
        timer = threading.Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except httpx.TransportError as error:
            if self._late:
                raise httpx.ReadTimeout("the answer drips in") from error
            raise
        finally:
            timer.cancel()
        if self._late:
            raise httpx.ReadTimeout("the answer drips in")

    def _give_up(self) -> None:
        self._late = True
        self.cut()

    def cut(self) -> None:
        """Whoever reads from this connection, in another thread, sees its end."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _watch(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
