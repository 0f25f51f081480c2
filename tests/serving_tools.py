"""A real server on a free port, in a thread of the tests."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ecglm.demo.engine import Engine
from ecglm.demo.server import ServerOptions
from ecglm.demo.server_requests import Served
from ecglm.demo.server_run import bind, hosts_of, make_server
from ecglm.types import LEADS


@dataclass
class Running:
    """url: up to ``/v1``."""

    url: str
    port: int
    engines: dict[str, Engine]
    client: httpx.Client

    def chat(self, content: Any, model: str = "signal", **fields: Any) -> httpx.Response:
        messages = (
            content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
        )
        return self.client.post(f"{self.url}/chat/completions", json={"model": model, "messages": messages, **fields})

    def quiet(self, seconds: float = 10.0) -> bool:
        """Whether nothing waits or runs any more, soon."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(v for e in self.engines.values() for v in e.load.values()):
            time.sleep(0.01)
        return not any(v for e in self.engines.values() for v in e.load.values())


@contextmanager
def serving(models: Sequence[Served], *, buffer: int | None = None, **options: Any) -> Iterator[Running]:
    """buffer: bytes that the system keeps of what a client has not taken yet; its own choice without."""
    options.setdefault("hosts", hosts_of("127.0.0.1"))
    options.setdefault("drain", 2.0)
    place = bind("127.0.0.1", 0)
    if buffer is not None:  # the connections have what their listener has
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    port = place.getsockname()[1]
    server = make_server(models, ServerOptions(**options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    try:
        with httpx.Client(timeout=60, trust_env=False) as client:
            engines = {m.name: m.engine for m in models}
            yield Running(f"http://127.0.0.1:{port}/v1", port, engines, client)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        for model in models:
            model.engine.close()


def signal_of(world: Any, number: int = 0, seconds: float = 5.0) -> np.ndarray:
    """An ECG (12, samples) in mV at 50 Hz."""
    from ecglm.store.reader import SegmentStore

    return np.asarray(SegmentStore(world.store)[number], np.float32)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def csv(array: np.ndarray) -> bytes:
    rows = [",".join(LEADS), *(",".join(f"{v:.4f}" for v in row) for row in array.T)]
    return "\n".join(rows).encode()


def url(data: bytes, kind: str = "application/x-npy") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ecg_part(array: np.ndarray, **facts: Any) -> dict[str, Any]:
    return {"type": "input_ecg", "input_ecg": {"file_data": url(npy(array)), **FACTS, **facts}}


FACTS = {"rate": 50, "leads": "standard", "units": "mV"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def write_wfdb(folder: Path, name: str, array: np.ndarray, rate: int) -> tuple[bytes, bytes]:
    """``(header, data)`` of a 16-bit record, 1000 units per mV."""
    counts = np.round(array * 1000).astype("<i2")
    lines = [f"{name} {len(array)} {rate} {array.shape[1]}"]
    lines += [
        f"{name}.dat 16 1000(0)/mV 16 0 {int(row[0])} {int(row.astype(np.int64).sum()) % 65536} 0 {lead}"
        for row, lead in zip(counts, LEADS, strict=True)
    ]
    return "\n".join([*lines, ""]).encode(), counts.T.tobytes()
