"""200 requests at once against one by one, through a real ``ecglm serve`` process, with the texts they have alone.

A model like the quickstart's is trained for a minute (or ``--model`` names one), and served by a process of its own on
a free port. Every request brings its own ECG as a data URL. The sides, in turns, over the same requests: one after the
other, each waiting for its answer; and all at once. Held against them: no request is lost, every text is the one that
``Assistant.answer`` gives greedily for the talk alone. Then 200 streams of long answers are opened and dropped in the
middle, several times: queue and batch must be empty soon after, and the process must not grow.

Wall-clock time, client and server on the same cores: on a busy machine the ratio shrinks.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import asyncio
import base64
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from ecglm.models.assistant import Assistant, load
from ecglm.models.checkpoint import ModelConfig, TinyConfig
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalOptions
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.recipe import DataConfig, Recipe, TrainConfig
from ecglm.training.run import train
from ecglm.types import Record, Turn

RATE, SEG_LEN = 100, 1000
MAX_NEW = 48
BAR, GROWTH_MB, FREE_S = 2.0, 64.0, 10.0
QUESTIONS = (
    "What is the rhythm?",
    "What is the heart rate?",
    "Is the axis normal?",
    "Write a report of this ECG.",
    "Does this ECG show a normal sinus rhythm, or which of its features speaks against one?",
)


def small_model(folder: Path, steps: int) -> Path:
    """A checkpoint like the quickstart's that has learned for a while."""
    from ecglm.conversations.make import map_corpus

    pipeline = get_pipeline("default", rate=RATE, seg_len=SEG_LEN)
    prepare(Synthetic(num_patients=60, seed=0), pipeline, folder / "store", progress=False)
    store = SegmentStore(folder / "store")
    splits = dict(assign_splits(store, seed=0, fractions=(0.7, 0.2, 0.1)))
    map_corpus("labels", [store], folder / "questions.parquet", splits=splits)
    recipe = Recipe(
        name="serve",
        data=DataConfig(files=(str(folder / "questions.parquet"),), stores=(str(folder / "store"),)),
        signal=SignalOptions(num_tokens=25),
        model=ModelConfig(tiny=TinyConfig(hidden=128, num_layers=3, num_heads=4), max_len=256),
        train=TrainConfig(max_steps=steps, batch_size=16, lr=1e-3, eval_every=steps, warmup_steps=10, share_ecg=True),
    )
    return train(recipe, folder / "run", say=lambda text: None).best


@dataclass(frozen=True)
class Ask:
    """One request and the text it must get."""

    body: dict[str, Any]
    text: str


def make_asks(assistant: Assistant, number: int) -> list[Ask]:
    """Requests about ECGs of their own, with the answers of each talk alone."""
    source = Synthetic(num_patients=number, seed=7)
    records = [source.read(key) for key in source.keys()[:number]]
    found = []
    for n, record in enumerate(records):
        out = io.BytesIO()
        np.save(out, record.signal)
        ecg = {
            "file_data": f"data:application/x-npy;base64,{base64.b64encode(out.getvalue()).decode()}",
            "rate": record.sampling_rate,
            "leads": list(record.leads),
            "units": "mV",
        }
        question = QUESTIONS[n % len(QUESTIONS)]
        content = [{"type": "input_ecg", "input_ecg": ecg}, {"type": "text", "text": question}]
        body = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": MAX_NEW}
        bare = Record("x", record.signal, record.sampling_rate, record.leads)
        talk = ([Turn("user", question)], [assistant.encode(bare)])
        found.append(Ask(body, assistant.answer([talk], max_new_tokens=MAX_NEW, batch_size=1)[0]["text"]))
    return found


@contextmanager
def served(model: Path) -> Iterator[tuple[str, int]]:
    """``(address, process id)`` of a server."""
    command = [sys.executable, "-m", "ecglm", "serve", "--model", f"m={model}", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.match(r"serving on (http://\S+)/v1 ", line):
                break
        else:
            raise SystemExit("the server did not start")
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait(60)


async def one(client: httpx.AsyncClient, ask: Ask) -> tuple[str | None, float]:
    """``(text or None where it was lost, seconds)``."""
    begun = time.perf_counter()
    try:
        response = await client.post("/v1/chat/completions", json=ask.body)
        text = response.json()["choices"][0]["message"]["content"] if response.status_code == 200 else None
        why = "" if response.status_code == 200 else f"status {response.status_code}"
    except httpx.TransportError as error:
        text, why = None, repr(error)
    if why:
        print(f"  lost after {time.perf_counter() - begun:.1f} s: {why}", file=sys.stderr)
    return text, time.perf_counter() - begun


async def first_piece(client: httpx.AsyncClient, ask: Ask) -> float:
    """Seconds until the first text of a streamed answer."""
    begun = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json={**ask.body, "stream": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - begun
    return time.perf_counter() - begun


async def drop(client: httpx.AsyncClient, ask: Ask) -> None:
    """Open a stream of a long answer and leave after its first bytes."""
    body = {**ask.body, "stream": True, "max_tokens": 1024, "temperature": 2.0}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_raw():
            return


async def free(client: httpx.AsyncClient) -> float:
    """Seconds until nothing waits or runs any more; ``FREE_S`` and more where that does not come."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < FREE_S:
        load = (await client.get("/health")).json()["models"]["m"]
        if not any(load.values()):
            break
        await asyncio.sleep(0.02)
    return time.perf_counter() - begun


def resident(pid: int) -> float:
    """MB that a process holds; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


async def measure(asks: list[Ask], address: str, pid: int, rounds: int, drops: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    sides: dict[str, list[float]] = {"one by one": [], "at once": []}
    waits: dict[str, list[float]] = {name: [] for name in sides}
    lost = differing = 0
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(one(client, a) for a in asks[:8]))  # first calls are slow
        for number in range(rounds):
            for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                begun = time.perf_counter()
                if name == "at once":
                    found = await asyncio.gather(*(one(client, a) for a in asks))
                else:
                    found = [await one(client, a) for a in asks]
                sides[name].append(time.perf_counter() - begun)
                waits[name] += [seconds for _, seconds in found]
                lost += sum(text is None for text, _ in found)
                differing += sum(text not in (None, a.text) for (text, _), a in zip(found, asks, strict=True))
        pieces = await asyncio.gather(*(first_piece(client, a) for a in asks))
        emptied, held = [], []
        for _ in range(drops):
            await asyncio.gather(*(drop(client, a) for a in asks))
            emptied.append(await free(client))
            held.append(resident(pid))
    rates = {name: rounds * len(asks) / sum(seconds) for name, seconds in sides.items()}
    print(f"  {'':14}{'requests/s':>12}{'p50, s':>10}{'p95, s':>10}")
    for name, rate in rates.items():
        print(f"  {name:14}{rate:12.1f}{np.percentile(waits[name], 50):10.3f}{np.percentile(waits[name], 95):10.3f}")
    ratio = rates["at once"] / rates["one by one"]
    growth = held[-1] - held[0]
    print(
        f"  at once / one by one: {ratio:.2f} x; first text of {len(asks)} streams at once: "
        f"p50 {np.percentile(pieces, 50):.3f} s"
    )
    print(f"  lost {lost}, other texts {differing}, of {2 * rounds * len(asks)}")
    print(f"  dropped {drops} x {len(asks)} streams: empty after {max(emptied):.2f} s at most; grew by {growth:.0f} MB")
    return {
        "requests": len(asks),
        "per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "p50_s": {name: round(float(np.percentile(w, 50)), 4) for name, w in waits.items()},
        "p95_s": {name: round(float(np.percentile(w, 95)), 4) for name, w in waits.items()},
        "first_text_p50_s": round(float(np.percentile(pieces, 50)), 4),
        "ratio": round(ratio, 2),
        "lost": lost,
        "differing": differing,
        "empty_after_s": round(max(emptied), 3),
        "growth_mb": round(growth, 1),
    }


def main() -> int:
    """Print a table, then one JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint; a small one is trained without")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--drops", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of the training before")
    parser.add_argument("--quick", action="store_true", help="60 steps, 1 round, 2 drops")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.rounds, options.drops = 60, 1, 2
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or small_model(Path(folder), options.steps)
        asks = make_asks(load(model), options.requests)
        print(f"{len(asks)} requests, {len({a.text for a in asks})} different answers")
        with served(model) as (address, pid):
            found = asyncio.run(measure(asks, address, pid, options.rounds, options.drops))
    missed = [f"{found['lost']} requests were lost"] if found["lost"] else []
    missed += [f"{found['differing']} texts differ"] if found["differing"] else []
    missed += [f"{found['ratio']} x instead of {BAR}"] if found["ratio"] < BAR else []
    missed += [f"not empty within {FREE_S} s"] if found["empty_after_s"] >= FREE_S else []
    missed += [f"grew by {found['growth_mb']} MB"] if found["growth_mb"] > GROWTH_MB else []
    for text in missed:
        print(f"missed: {text}")
    print(json.dumps({"benchmark": "serve", **found, "bar": BAR, "passed": not missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
