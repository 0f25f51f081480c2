"""Useful (non-pad) tokens per second of training: packed rows against the original manner, on real ECG-QA questions.

The same small Llama-like ELM, the same questions, one run, the sides taking turns; a step is loading, forward, backward
and optimiser. Original manner: every sequence left-padded (or cut) to 1024 tokens, batches of 8, made in the training
process, logits of every position. Ours: rows of 2048 or 8192 tokens filled from shuffled questions (``train.packing``),
attention within each question, logits where an answer is learned, batches made by a worker process; and, in between,
batches of like length (``train.packing: false``). Two shapes: ECGs of 25 placeholders that a small encoder fills, and
ECGs spelled in 600 to 1,300 symbols. The loader alone is timed too: it must be faster than the training.

Time is the training process's own on one core, and what it waits for its loader: a busy machine spoils neither. So what
the original manner loads counts in full, and what our worker loads counts as far as it is late.

Data (ECGLM_SHARED_DATA, default ``../shared/data`` beside the repository): ECG-QA (arXiv 2306.15681) on PTB-XL, both
CC BY 4.0. Without it synthetic ECGs and questions stand in, and the output says so.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ecglm import registry
from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations
from ecglm.models.checkpoint import Bundle, ModelConfig, TinyConfig, create
from ecglm.models.packed_attention import prepare_packing
from ecglm.prompts.collate import collate, collate_packed, token_counts
from ecglm.prompts.data import EcgSource, ElmDataset, EpochSampler
from ecglm.prompts.examples import IGNORE
from ecglm.prompts.loader import end_workers, make_loader
from ecglm.prompts.packing import PackedRows, PackedSampler, padding_share
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalRepresentation
from ecglm.representations.symbols import train_symbols
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.objectives.sft import sft
from ecglm.types import Conversation, Example

RATE, SECONDS = 100, 5
ORIGINAL_LEN, ORIGINAL_BATCH = 1024, 8
#: Tokens of a row and rows of a batch: the same tokens a step, in rows of many sequences.
PACKS = {"placeholders": (2048, 4), "symbols": (8192, 1)}
MAX_LEN = 2048
SYMBOLS = (600, 1300)
BARS = {"placeholders": 3.0, "symbols": 1.3}
BAR_PADDING = 0.03


def questions(folder: Path) -> tuple[SegmentStore, list[Conversation], str]:
    """A store, conversations about its ECGs, and where they come from."""
    data = Path(os.environ.get("ECGLM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    pipeline = get_pipeline("default", rate=RATE, seg_len=RATE * SECONDS)
    if (data / "ecg-qa").is_dir():
        source = registry.get("records", "ptb-xl")(root=data / "ptb-xl", resolution="100")
        prepare(source, pipeline, folder / "store", progress=False)
        store = SegmentStore(folder / "store")
        map_corpus("ecg-qa-ptbxl", [store], folder / "qa.parquet", root=data / "ecg-qa")
        told = "real ECG-QA on PTB-XL"
    else:
        prepare(Synthetic(num_patients=400, seed=0), pipeline, folder / "store", progress=False)
        store = SegmentStore(folder / "store")
        splits = dict(assign_splits(store, seed=0))
        map_corpus("labels", [store], folder / "qa.parquet", splits=splits)
        told = "synthetic stand-in, since the real questions are absent"
    return store, read_conversations(folder / "qa.parquet"), told


def make(kind: str, store: SegmentStore, talks: list[Conversation], layers: int) -> tuple[Bundle, ElmDataset]:
    """A model of the kind (``placeholders``, ``symbols``) and its dataset: one sequence per question."""
    if kind == "symbols":
        records = store.records()
        segments = (store[store.segments_of(r)[0]] for r in records[:300])
        representation: Any = train_symbols(segments, RATE, num_merges=1000, max_ecg_tokens=None)
        source = EcgSource([store], representation)
        talks = [c for c in talks if len(c.ecgs) == 1]
        low, high = SYMBOLS
        fits = {r for r in {c.ecgs[0] for c in talks} if low <= len(source.encode(r).token_ids) <= high}
        talks = [c for c in talks if c.ecgs[0] in fits]
    else:
        representation = SignalRepresentation(num_tokens=25, rate=RATE, num_samples=RATE * SECONDS)
        source = EcgSource([store], representation)
    config = ModelConfig(
        encoder=None if kind == "symbols" else "resnet1d",
        encoder_options={} if kind == "symbols" else {"widths": [16, 32, 64], "dropout": 0.0},
        tiny=TinyConfig(hidden=256, num_layers=layers, num_heads=4, vocab_size=4096),
        max_len=MAX_LEN,
    )
    pipeline = store.manifest["settings"]["pipeline"]
    bundle = create(config, representation, pipeline, sorted({t.text for c in talks for t in c.turns}), 0)
    return bundle, ElmDataset(talks, source, bundle.prompter)


def original_batch(examples: list[Example], pad_id: int) -> dict[str, Any]:
    """Left-padded to ``ORIGINAL_LEN``; what is longer loses its beginning."""
    shape = (len(examples), ORIGINAL_LEN)
    ids, labels, mask = np.full(shape, pad_id), np.full(shape, IGNORE), np.zeros(shape, np.int64)
    for row, example in enumerate(examples):
        size = min(len(example.input_ids), ORIGINAL_LEN)
        ids[row, -size:], labels[row, -size:] = example.input_ids[-size:], example.labels[-size:]
        mask[row, -size:] = 1
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    out: dict[str, Any] = {name: torch.from_numpy(value) for name, value in batch.items()}
    ecgs = [e.ecg for e in examples if e.ecg is not None]
    return {**out, "ecg": torch.from_numpy(np.concatenate(ecgs))} if ecgs else out


def original_loss(elm: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Logits everywhere, then the mean over answer tokens."""
    logits = elm(batch["input_ids"], batch["attention_mask"], ecg=batch.get("ecg"))
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE)


@dataclass
class Side:
    """One manner of training: its batches, its loss, and what was measured."""

    loader: Any
    loss: Callable[[Any, dict[str, Any]], torch.Tensor]
    batches: Iterator[Any] | None = None
    rates: list[float] = field(default_factory=list)
    waited: float = 0.0
    spent: float = 0.0
    useful: int = 0
    shown: int = 0
    questions: int = 0

    def next(self) -> dict[str, Any]:
        """The next batch, epoch after epoch."""
        if self.batches is None:
            self.batches = iter(self.loader)
        if (batch := next(self.batches, None)) is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        return dict(batch)

    def run(self, elm: Any, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        """Steps for about so long; adds a rate."""
        begun, used, useful, waited = time.perf_counter(), time.process_time(), 0, 0.0
        while time.perf_counter() - begun < seconds:
            asked, busy = time.perf_counter(), time.process_time()
            batch = self.next()
            waited += max(0.0, time.perf_counter() - asked - (time.process_time() - busy))
            optimizer.zero_grad(set_to_none=True)
            self.loss(elm, batch).backward()
            optimizer.step()
            tokens, shown = token_counts(batch)
            useful += tokens
            self.shown += shown
            self.questions += int(((batch["labels"] != IGNORE).int().diff(dim=1) == 1).sum())
        spent = time.process_time() - used + waited
        self.waited += waited
        self.spent += spent
        self.useful += useful
        self.rates.append(useful / spent)


def sides(bundle: Bundle, data: ElmDataset, pack_len: int, num_rows: int) -> tuple[dict[str, Side], PackedSampler]:
    """The manners, ready to run."""
    pad = bundle.prompter.tokenizer.pad_token_id
    plain = EpochSampler(data.lengths, 1, 0, pool=1)  # shuffled, whatever the lengths
    alike = EpochSampler(data.lengths, ORIGINAL_BATCH, 0)
    packed = PackedSampler(data.lengths, pack_len, 0, 1 << 20)
    made = {
        "original": (data, functools.partial(original_batch, pad_id=pad), ORIGINAL_BATCH, plain, 0, original_loss),
        "like lengths": (data, functools.partial(collate, pad_id=pad), ORIGINAL_BATCH, alike, 1, sft),
        "packed": (PackedRows(data), collate_packed, num_rows, packed, 1, sft),
    }
    found = {
        name: Side(make_loader(rows, batch, batch_size=size, sampler=order, num_workers=workers), loss)
        for name, (rows, batch, size, order, workers, loss) in made.items()
    }
    return found, packed


def loader_alone(data: ElmDataset, pack_len: int, num_rows: int, workers: int, seconds: float) -> float:
    """Useful tokens per second of the packed loader when nobody trains."""
    sampler = PackedSampler(data.lengths, pack_len, 1, 1 << 20)
    loader = make_loader(PackedRows(data), collate_packed, batch_size=num_rows, sampler=sampler, num_workers=workers)
    batches = iter(loader)
    next(batches)
    for _ in range(4 * workers):  # what was made ahead
        next(batches)
    begun, tokens = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        tokens += token_counts(next(batches))[0]
    rate = tokens / (time.perf_counter() - begun)
    end_workers(loader)
    return rate


def measure(kind: str, store: SegmentStore, talks: list[Conversation], options: argparse.Namespace) -> dict[str, Any]:
    """All sides of one kind in turns; prints the table."""
    bundle, data = make(kind, store, talks, options.layers)
    prepare_packing(bundle.elm.llm)
    elm = bundle.elm.train()
    optimizer = torch.optim.AdamW(elm.parameters(), lr=1e-4, fused=True)
    pack_len, num_rows = PACKS[kind]
    running, packed = sides(bundle, data, pack_len, num_rows)
    for side in running.values():  # first calls are slow
        side.run(elm, optimizer, 0.0 if options.quick else 1.0)
    for side in running.values():
        side.rates, side.waited, side.spent, side.useful, side.shown, side.questions = [], 0.0, 0.0, 0, 0, 0
    for _ in range(options.rounds):
        for side in running.values():
            side.run(elm, optimizer, options.seconds)
    for side in running.values():
        end_workers(side.loader)
    alone = {workers: loader_alone(data, pack_len, num_rows, workers, options.seconds / 2) for workers in (0, 1)}
    rows = list(packed.rows(0))
    empty = padding_share(data.lengths, rows, pack_len)
    low, middle, high = np.percentile(data.lengths, [0, 50, 100]).astype(int)
    millions, words = sum(p.numel() for p in elm.parameters()) / 1e6, len(bundle.prompter.tokenizer)
    print(
        f"{kind}: {len(data)} questions, sequences of {low} to {high} tokens, median {middle}; "
        f"{millions:.1f} M parameters, vocabulary of {words}"
    )
    print(f"  {'':14}{'useful tokens/s':>16}{'× original':>12}{'padding':>9}{'questions/s':>13}{'waiting':>9}")
    base = running["original"]
    result: dict[str, Any] = {"questions": len(data), "row_padding": round(empty, 5)}
    for name, side in running.items():
        ratio = statistics.median(a / b for a, b in zip(side.rates, base.rates, strict=True))
        padding, waiting = 1 - side.useful / side.shown, side.waited / side.spent
        print(
            f"  {name:14}{statistics.median(side.rates):16,.0f}{ratio:12.2f}{padding:9.2%}"
            f"{side.questions / side.spent:13.1f}{waiting:9.2%}"
        )
        result[name] = {
            "useful_tokens_per_s": round(statistics.median(side.rates)),
            "ratio": round(ratio, 3),
            "padding": round(padding, 5),
            "questions_per_s": round(side.questions / side.spent, 2),
            "waiting": round(waiting, 5),
        }
    per_step = statistics.median(running["packed"].rates)
    for workers, rate in alone.items():
        print(f"  loader alone, {workers} workers: {rate:,.0f} useful tokens/s, {rate / per_step:.1f} × the training")
        result[f"loader_{workers}"] = round(rate / per_step, 2)
    print(f"  rows of {pack_len}: {len(rows)} an epoch, {empty:.2%} of them empty")
    return result


def main() -> int:
    """Print a table, then one JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each side in each round")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 second, 2 layers")
    parser.add_argument("--kinds", nargs="+", choices=tuple(BARS), default=tuple(BARS))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.layers = 2, 1.0, 2
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store, talks, told = questions(Path(folder))
        print(f"{told}; one core, medians of {options.rounds} rounds in turns")
        found = {kind: measure(kind, store, talks, options) for kind in options.kinds}
    missed = []
    for kind, result in found.items():
        if result["packed"]["ratio"] < BARS[kind]:
            missed.append(f"{kind}: {result['packed']['ratio']} × instead of {BARS[kind]}")
        if max(result["packed"]["padding"], result["row_padding"]) >= BAR_PADDING:
            missed.append(f"{kind}: padding of {BAR_PADDING:.0%} or more")
        if result["loader_1"] < 1:
            missed.append(f"{kind}: the loader is slower than the training")
    for text in missed:
        print(f"missed: {text}")
    print(json.dumps({"benchmark": "train_throughput", "data": told, **found, "bars": BARS, "passed": not missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
