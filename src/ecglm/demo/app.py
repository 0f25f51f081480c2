"""``open_page``: the models, the page and its server, on this machine alone unless asked otherwise."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ecglm.errors import EcglmError

if TYPE_CHECKING:  # models are read long after the first mistake is told
    from ecglm.demo.house import House

PORT = 7860
LOCAL = "127.0.0.1"


def need_gradio() -> None:
    """EcglmError, one line, where the extra is missing. Whatever gradio would send or fetch is switched off first."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_RUN_HISTORY="False")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise EcglmError("the page needs gradio; install it with: pip install 'ecglm[demo]'") from error


@contextlib.contextmanager
def open_page(
    house: House,
    *,
    host: str = LOCAL,
    port: int = PORT,
    share: bool = False,
    note: str = "",
) -> Iterator[str]:
    """Serve the page while the block runs; its address. port 0: a free one. share: also by gradio's public tunnel.

    Raises EcglmError where gradio is missing, the port is taken, the host is not this machine's, or the tunnel cannot
    be opened. Nothing of a visit is left on the disk afterwards.
    """
    need_gradio()
    from gradio.exceptions import ServerFailedToStartError
    from starlette.middleware import Middleware

    from ecglm.demo.doors import Doors, Hosts
    from ecglm.demo.handlers import Handlers
    from ecglm.demo.page import build, css, head, theme
    from ecglm.demo.routes import routes

    port = free_port(host, port)
    hosts = Hosts(host, socket.gethostname() if host != LOCAL else LOCAL)
    samples = [(f"{s.title} ({s.split})" if s.split else s.title, s.title) for s in house.samples.all()]
    names = [model.name for model in house.names]
    uploads = house.sessions.root / "gradio"
    with _environment(GRADIO_TEMP_DIR=str(uploads), GRADIO_ALLOWED_PATHS="", GRADIO_SHARE="False"):
        page = build(Handlers(house), names=names, samples=samples, note=note)
        page.queue(default_concurrency_limit=None, max_size=256)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,  # the tunnel is opened below: gradio's own way serves its scripts from elsewhere
                inbrowser=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=False,
                footer_links=[],
                run_history=False,
                allowed_paths=[],
                blocked_paths=[str(Path("/").absolute())],
                max_file_size=1,  # files come in by our own route
                max_threads=128,  # every answer being written holds one
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                root_path="",
                app_kwargs={
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                    "middleware": [Middleware(Doors, ours=routes(house), hosts=hosts)],
                },
                theme=theme(),
                css=css(),
                head=head(),
            )
        except (OSError, RuntimeError, ValueError, ServerFailedToStartError) as error:
            page.close(verbose=False)
            raise EcglmError(f"the page could not be opened: {' '.join(str(error).split())[:300]}") from error
        try:
            address = f"http://{_shown(host)}:{port}/"
            if share:
                address = _tunnel(host, port)
                hosts.names.add(str(urlsplit(address).hostname))
            yield address
        finally:
            if share:
                _end_tunnels()
            page.close(verbose=False)
            house.close_all()


def free_port(host: str, port: int) -> int:
    """``port`` if it can be listened on, or a free one for 0; EcglmError with the mend else."""
    if not 0 <= port <= 65535:
        raise EcglmError(f"--port {port}: give a number from 0 (any free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise EcglmError(f"--host {host}: no such host; leave it out to use {LOCAL}") from error
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise EcglmError(f"port {port} is in use or not allowed; choose another with --port") from error
            raise EcglmError(f"--host {host}: not an address of this machine; leave it out to use {LOCAL}") from error
        return int(probe.getsockname()[1])


def _tunnel(host: str, port: int) -> str:
    """The public address of gradio's tunnel to this server. EcglmError where it cannot be opened."""
    import httpx
    from gradio import networking
    from gradio.exceptions import ChecksumMismatchError, ShareCertificateWriteError

    try:
        found = networking.setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except (OSError, RuntimeError, ValueError, httpx.HTTPError, ChecksumMismatchError, ShareCertificateWriteError) as e:
        said = " ".join(str(e).split())[:200]
        raise EcglmError(f"--share: the public tunnel cannot be opened ({said}); leave it out to stay local") from e
    return f"https://{urlsplit(found).netloc}/"


def _end_tunnels() -> None:
    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in CURRENT_TUNNELS:
        tunnel.kill()
    CURRENT_TUNNELS.clear()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait(told: Callable[[str], Any]) -> None:
    """Until Ctrl-C, or until somebody ends the program (SIGTERM); both leave nothing behind."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        told("closed; everything of the talks is forgotten")
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
