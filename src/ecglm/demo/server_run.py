"""Models and an address → a server that runs until it is told to end."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from ecglm.demo.server import ServerOptions, make_app
from ecglm.demo.server_door import PatientProtocol
from ecglm.demo.server_requests import Served
from ecglm.errors import EcglmError

#: Seconds that an idle connection is kept: longer than clients keep theirs (5 s is usual), since a request that is on
#: its way while the server hangs up is lost.
KEEP_SECONDS = 75

__all__ = ["Served", "ServerOptions", "bind", "hosts_of", "is_loopback", "make_server", "serve"]


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens nowhere yet; port 0: one that is free. EcglmError for an address that cannot be had."""
    if not 0 <= port <= 65535:
        raise EcglmError(f"--port must be from 0 to 65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise EcglmError(f"{host}:{port} cannot be listened on ({said}); choose another --host or --port") from error
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_of(host: str) -> frozenset[str] | None:
    """Names under which a server at ``host`` may be asked for; None, any, where other machines can reach it."""
    return frozenset({"localhost", "127.0.0.1", "::1", host}) if is_loopback(host) else None


def make_server(models: Sequence[Served], options: ServerOptions) -> uvicorn.Server:
    """uvicorn with our limits; ``run(sockets=[bind(…)])`` serves until ``should_exit``."""
    config = uvicorn.Config(
        make_app(models, options),
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=max(1, round(options.drain)),
    )
    return uvicorn.Server(config)


def serve(
    models: Sequence[Served], options: ServerOptions, place: socket.socket, host: str, *, say: Callable[[str], None]
) -> None:
    """Serve at a bound socket until SIGTERM or Ctrl-C; what runs is answered before the end, at most ``options.drain``
    seconds.
    """
    shown = f"[{host}]" if ":" in host else host
    if not is_loopback(host):
        say(f"warning: other machines can reach {shown}; anybody who can may ask" + _asked_for(options))
    for served in models:
        say(f"model: {served.name}")
    server = make_server(models, options)
    with _quiet_signals(server):
        say(f"serving on http://{shown}:{place.getsockname()[1]}/v1 (Ctrl-C ends it); for research only")
        server.run(sockets=[place])
    say("ended")


def _asked_for(options: ServerOptions) -> str:
    return ", if they know the key" if options.key else "; --api-key-env NAME asks for a key"


@contextmanager
def _quiet_signals(server: uvicorn.Server) -> Any:
    """What comes before uvicorn listens to signals ends it too. It raises those that ended it once more, after it has
    ended in order; nothing is left to be done.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, end) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
