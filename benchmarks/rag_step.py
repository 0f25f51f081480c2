"""A training step with retrieved ECGs against one without, at equal length, on synthetic ECGs.

Both sides train copies of one small ELM on the same questions in the same batches, steps in turns. ``rag``: neighbours
found beforehand, told in every prompt (recipe section ``rag``). ``without``: the same text stands in the conversation
itself as its system turn, so that the sequences are the same tokens: nothing is looked up. What differs is what a step
pays for retrieval: to find the neighbours among those read from the disk, and to put their text in its place.
A third side has no such text at all: what the longer prompts cost, which no way of retrieving saves.

A step is loading (in the training process), forward, backward and optimiser, in processor time of one thread: a busy
machine spoils it little. The index is built and searched once before, which is timed per ECG, beside a step.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import copy
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations
from ecglm.models.checkpoint import Bundle, ModelConfig, TinyConfig, create
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource, ElmDataset, EpochSampler
from ecglm.prompts.loader import make_loader
from ecglm.prompts.retrieved import RagOptions, rag_text
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalRepresentation
from ecglm.retrieval.index import build_index
from ecglm.retrieval.neighbours import find_neighbours, queries_of
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.objectives.sft import sft
from ecglm.types import Turn

RATE, SECONDS = 100, 10
BATCH = 8
BAR = 1.05


def quiet(text: str) -> None:
    """No progress lines."""


@dataclass
class Side:
    """One manner: its model and batches, and what every step took in seconds."""

    elm: Any
    optimizer: torch.optim.Optimizer
    loader: Any
    batches: Iterator[Any] | None = None
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self) -> None:
        begun = time.process_time()
        batch = next(self.batches, None) if self.batches is not None else None
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss = sft(self.elm, dict(batch))
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.process_time() - begun)
        self.losses.append(float(loss.detach()))


def side(bundle: Bundle, data: ElmDataset) -> Side:
    """A copy of the model, and batches of the rows in an order that the number of rows alone decides."""
    elm = copy.deepcopy(bundle.elm).train()
    order = EpochSampler([1] * len(data), BATCH, 0)
    pad = functools.partial(collate, pad_id=bundle.prompter.tokenizer.pad_token_id)
    loader = make_loader(data, pad, batch_size=BATCH, sampler=order)
    return Side(elm, torch.optim.AdamW(elm.parameters(), lr=1e-4, fused=True), loader)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--k", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few steps, no bar")
    options = parser.parse_args()
    if options.quick:
        options.patients, options.steps, options.layers = 40, 3, 1
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        return measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> int:
    pipeline = get_pipeline("default", rate=RATE, seg_len=RATE * SECONDS)
    prepare(Synthetic(num_patients=options.patients, seed=0), pipeline, folder / "store", progress=False)
    store = SegmentStore(folder / "store")
    questions = folder / "questions.parquet"
    map_corpus("labels", [store], questions, seed=0, splits=dict(assign_splits(store, seed=0)))
    talks = read_conversations(questions, split="train")
    index = build_index([store.path], folder / "index", data=questions, say=quiet)
    rag = RagOptions(k=options.k)
    ecgs = EcgSource([store], SignalRepresentation(num_tokens=25, rate=RATE, num_samples=RATE * SECONDS))
    asked = [query for c in talks for query in queries_of(c)]
    begun = time.process_time()
    found = find_neighbours(
        index,
        asked,
        lambda query: (ecgs.segment(query.ecg), ecgs.rate(query.ecg)),
        folder / "neighbours",
        k=rag.k,
        inputs=ecgs.fingerprints(),
        say=quiet,
    )
    search = (time.process_time() - begun) / len({query.key for query in asked})
    config = ModelConfig(
        encoder_options={"widths": [16, 32, 64], "dropout": 0.0},
        tiny=TinyConfig(hidden=256, num_layers=options.layers, num_heads=4, vocab_size=2048),
        max_len=1024,
    )
    texts = sorted({t.text for c in talks for t in c.turns} | {rag_text([hit], rag) for hit in found.hits()})
    bundle = create(config, ecgs.representation, store.manifest["settings"]["pipeline"], texts, 0).with_rag(rag)
    prompter = bundle.prompter
    spoken = []
    for c in talks:
        told = prompter.tell(found.of_conversation(c)).text
        spoken.append(replace(c, turns=(*((Turn("system", told),) if told else ()), *c.turns)))
    data = {
        "without": ElmDataset(spoken, ecgs, prompter),
        "rag": ElmDataset(talks, ecgs, prompter, neighbours=found.of_conversation),
        "no such text": ElmDataset(talks, ecgs, prompter),
    }
    assert data["rag"].lengths == data["without"].lengths, "the sides differ in length"
    sides = {name: side(bundle, rows) for name, rows in data.items()}
    for number in range(options.steps + 3):
        for one in sides.values() if number % 2 else reversed(list(sides.values())):
            one.step()
    assert sides["rag"].losses == sides["without"].losses, "the sides learn from different tokens"
    took = {name: one.seconds[3:] for name, one in sides.items()}  # first calls are slow
    ratios = [a / b for a, b in zip(took["rag"], took["without"], strict=True)]
    ratio = statistics.median(ratios)
    print(f"{len(talks)} questions, index of {len(index)} ECGs, k={rag.k}, batches of {BATCH}")
    print(f"  {'':14}{'ms per step':>12}{'median length':>15}")
    for name, seconds in took.items():
        print(f"  {name:14}{1000 * statistics.median(seconds):12.1f}{statistics.median(data[name].lengths):15.0f}")
    print(
        f"  a step with retrieved ECGs takes {ratio:.3f} of one without, at equal length; losses equal to the last bit"
    )
    print(f"  found once: {1000 * search:.1f} ms per ECG")
    print(
        json.dumps(
            {
                "benchmark": "rag_step",
                "ratio": round(ratio, 4),
                "ms": {name: round(1000 * statistics.median(s), 2) for name, s in took.items()},
                "search_ms_per_ecg": round(1000 * search, 3),
                "bar": BAR,
            }
        )
    )
    return 0 if options.quick or ratio <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
