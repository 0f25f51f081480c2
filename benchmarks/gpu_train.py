"""Training and generation of an ELM on one GPU: tokens/s, padding, MFU and memory, against the original manner.

A Llama-3.2-1B shape with random weights, a ResNet over the signal and a projector; a segment store and questions made
in place. Needs torch, transformers, peft, numpy and ``src/ecglm``, no download, and no other dependency of ecglm. Every
case has its own time; one that runs out of memory or time, or needs what is not installed, is recorded as such, and
the whole ends within ``--minutes``. Without a GPU it runs at toy size, and says so: the figures then mean nothing.

Sides: ``padded``, the original manner (left-padded or cut to 1024 tokens, logits of every position, batches made in the
training process), against ``packed``, ours (rows of documents, logits where an answer is learned, loader processes).
MFU counts what the model's weights and attention must compute for real tokens (6 floating-point operations per weight
and token, 4 where the weights stand still), over the GPU's dense bfloat16 peak; padding counts for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from ecglm.models.adapters import add_lora
from ecglm.models.config import LoraConfig
from ecglm.models.elm import Elm
from ecglm.models.encoders.resnet1d import ResNet1d
from ecglm.models.packed_attention import prepare_packing
from ecglm.prompts.collate import collate, collate_packed
from ecglm.prompts.loader import end_workers, make_loader
from ecglm.prompts.packing import PackedRows, PackedSampler
from ecglm.training.activations import checkpoint_layers
from ecglm.training.objectives.sft import sft
from ecglm.types import Example

warnings.filterwarnings("ignore", category=UserWarning)
logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
#: Dense bfloat16 operations per second, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
MFU_BAR, EXAMPLES_BAR = 0.40, 5.0
PAD_LEN, IGNORE, PLACEHOLDER = 1024, -100, 5


@dataclass(frozen=True)
class Size:
    """What is measured: the model, the ECGs, the batches. pack: tokens of a packed row."""

    model: dict[str, Any]
    segments: int = 2048
    samples: int = 1250
    ecg_tokens: int = 25
    pad_len: int = PAD_LEN
    padded_batch: int = 8
    pack: int = 4096
    pack_rows: int = 4
    steps: int = 8
    new_tokens: int = 64
    batches: tuple[int, ...] = (1, 16, 64, 256)
    workers: int = 8


LLAMA_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rope_theta": 500000.0,
}
TOY = {**LLAMA_1B, "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
TOY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
BIG = Size(LLAMA_1B)
SMALL = Size(TOY, 64, 250, 8, 256, 4, 512, 2, 3, 8, (1, 4), 1)


class Questions(Dataset[Example]):
    """Questions about segments of a store: an int16 microvolt file, read through the memory map at every look.

    ``[i]``, or ``[i, epoch]`` as the samplers ask: 10 tokens of a system turn, the ECG's placeholders, a question of 20
    to 90 tokens and an answer of 2 to 40, as long as those of ECG-QA and of reports; some 120 tokens in all.
    """

    def __init__(self, store: Path, size: Size, vocab: int, num: int) -> None:
        self.store, self.size, self.vocab = store, size, vocab
        rng = np.random.default_rng(0)
        self.asked = rng.integers(20, 91, num)
        self.answered = np.clip(np.round(rng.lognormal(2.0, 0.8, num)), 2, 40).astype(int)
        self.lengths = (10 + size.ecg_tokens + self.asked + self.answered).tolist()
        self._signals: Any = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        index = index[0] if isinstance(index, tuple) else index
        if self._signals is None:  # each loader process maps the file for itself
            shape = (self.size.segments, 12, self.size.samples)
            self._signals = np.memmap(self.store, np.int16, "r", shape=shape)
        signal_mv = self._signals[index % self.size.segments].astype(np.float32) / 1000
        ids = np.random.default_rng(index).integers(PLACEHOLDER + 1, self.vocab, self.lengths[index])
        ids[10 : 10 + self.size.ecg_tokens] = PLACEHOLDER
        labels = np.full(len(ids), IGNORE, np.int64)
        labels[-self.answered[index] :] = ids[-self.answered[index] :]
        return Example(str(index), ids, labels, signal_mv[None])


def make_store(path: Path, size: Size) -> Path:
    """Segments of a wandering rhythm, int16 microvolts ``(segments, 12, samples)``."""
    rng = np.random.default_rng(1)
    out = np.memmap(path, np.int16, "w+", shape=(size.segments, 12, size.samples))
    beat = np.exp(-0.5 * ((np.arange(size.samples) % 200 - 100) / 4.0) ** 2)
    for i in range(size.segments):
        leads = rng.normal(0.6, 0.3, (12, 1)) * beat + rng.normal(0, 0.03, (12, size.samples))
        out[i] = np.round(1000 * leads)
    out.flush()
    return path


class Projector(nn.Module):
    """The encoder's tokens averaged to ``num_tokens``, then two linear layers (LLaVA-1.5's projector)."""

    def __init__(self, dim: int, hidden: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool1d(tokens.transpose(1, 2), self.num_tokens)
        return self.project(pooled.transpose(1, 2))


@dataclass(frozen=True)
class Case:
    """One measurement. train: ``full`` or ``lora``. side: ``packed`` or ``padded``. dtype of the weights; the
    computation is bfloat16 on a GPU in any case. seconds: its own time limit."""

    train: str = "full"
    side: str = "packed"
    attention: str = "sdpa"
    dtype: str = "float32"
    compile: bool = False
    checkpoint: bool = False
    seconds: float = 45.0

    @property
    def name(self) -> str:
        more = [self.dtype if self.dtype != "float32" else "", "compile" if self.compile else ""]
        more += ["checkpointed" if self.checkpoint else ""]
        return " ".join([self.train, self.side, self.attention, *(m for m in more if m)])


CASES = [
    Case(side="padded"),
    Case(),
    Case(dtype="bfloat16"),
    Case("lora", side="padded"),
    Case("lora"),
    Case("lora", dtype="bfloat16"),
    Case(side="padded", attention="eager"),
    Case(side="padded", attention="flash_attention_2"),
    Case(attention="eager"),
    Case(attention="flash_attention_2"),
    Case(checkpoint=True),
    Case(compile=True, seconds=100.0),
    Case(dtype="bfloat16", compile=True, seconds=80.0),
]


class OutOfTime(Exception):
    """A case, or the whole, has had its time."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, as soon as Python code runs again."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), 3.0)  # again, where a library swallowed the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_elm(size: Size, case: Case) -> Elm:
    """The model on its device, its parts trained as the case says."""
    config = LlamaConfig(**size.model, max_position_embeddings=131072, tie_word_embeddings=True)
    config._attn_implementation = case.attention
    torch.manual_seed(0)
    with DEVICE:
        llm = LlamaForCausalLM._from_config(config, dtype=getattr(torch, case.dtype))
        encoder = ResNet1d(num_leads=12, num_samples=size.samples, dropout=0.0)
        elm = Elm(llm, encoder, Projector(encoder.dim, config.hidden_size, size.ecg_tokens), PLACEHOLDER)
    if case.train == "lora":
        add_lora(llm, LoraConfig(rank=16, alpha=32.0, dropout=0.0), [], 0)
    elm.set_trainable(["encoder", "connector", "llm"])
    if case.checkpoint:
        checkpoint_layers(elm.llm)
    return elm.to(DEVICE).train()


def pad_originally(examples: list[Example], length: int) -> dict[str, torch.Tensor]:
    """Left-padded to ``length`` whatever is in it."""
    batch = collate(examples, pad_id=0, left=True)
    short = length - batch["input_ids"].shape[1]
    fill = {"input_ids": 0, "labels": IGNORE, "position_ids": 0, "attention_mask": 0}
    return batch | {k: nn.functional.pad(batch[k], (short, 0), value=v) for k, v in fill.items()}


def original_loss(elm: Elm, batch: dict[str, Any]) -> torch.Tensor:
    """Logits of every position, then the loss of those that are learned."""
    logits = elm(**{k: batch[k] for k in ("input_ids", "attention_mask", "position_ids", "ecg")})
    targets = batch["labels"][:, 1:].flatten()
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORE)


def loader_of(size: Size, case: Case, data: Questions, elm: Elm) -> Any:
    """Batches without end, each ``{tensors}``."""
    if case.side == "padded":
        rng = np.random.default_rng(2)
        order = [(int(i), 0) for _ in range(100) for i in rng.permutation(len(data))]
        pad = functools.partial(pad_originally, length=size.pad_len)
        return make_loader(data, pad, batch_size=size.padded_batch, sampler=order)
    table = prepare_packing(elm.llm)
    sampler = PackedSampler(data.lengths, size.pack, 0, 100_000)
    return make_loader(
        PackedRows(data),
        functools.partial(collate_packed, table=table),
        batch_size=size.pack_rows,
        sampler=sampler,
        num_workers=size.workers,
        pin_memory=CUDA,
    )


def work(size: Size, case: Case, elm: Elm, batch: dict[str, Any]) -> tuple[int, int, int, float]:
    """(tokens, useful tokens, examples, floating-point operations that the useful ones need) of a batch."""
    positions, labels = batch["position_ids"], batch["labels"]
    if case.side == "padded":
        lengths = batch["attention_mask"].sum(dim=1).tolist()
    else:
        starts = torch.nonzero(positions[0] == 0)[:, 0].tolist()
        lengths = np.diff([*starts, positions.shape[1]]).tolist()
    useful, answers = sum(lengths), int((labels != IGNORE).sum())
    head = elm.llm.get_output_embeddings().weight
    body = sum(p.numel() for n, p in elm.llm.named_parameters() if "lora_" not in n and "embed_tokens" not in n)
    body -= 0 if head is elm.llm.get_input_embeddings().weight else head.numel()
    per_weight = 6 if case.train == "full" else 4  # nothing is computed for the gradient of a weight that stands still
    heads = size.model["num_attention_heads"] * size.model["head_dim"] * size.model["num_hidden_layers"]
    attention = 6 * heads * sum(n * n for n in lengths)  # causal: half of all pairs, two products, thrice with backward
    flops = per_weight * (body * useful + head.numel() * answers) + attention
    return labels.numel(), useful, len(lengths), float(flops)


def sync() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> float:
    """Gigabytes."""
    if CUDA:
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def train(size: Size, case: Case, data: Questions, result: dict[str, Any]) -> None:
    """Warm up, then time ``size.steps`` steps, loading included; figures after every step, so that some are left."""
    elm = make_elm(size, case)
    loader = loader_of(size, case, data, elm)
    try:
        if case.compile:
            elm.llm.compile(dynamic=True)
        optimizer = torch.optim.AdamW([p for p in elm.parameters() if p.requires_grad], lr=1e-5, fused=True)
        loss_of = original_loss if case.side == "padded" else functools.partial(sft, num_items=None)
        batches = iter(loader)
        seconds, total, waiting = 0.0, np.zeros(4), 0.0
        for step in range(size.steps + 2):
            if step == 2 and CUDA:
                torch.cuda.reset_peak_memory_stats()
            began = sync()
            batch = next(batches)
            loaded = time.perf_counter()
            counted = work(size, case, elm, batch)
            counting = time.perf_counter() - loaded
            batch = {k: v.to(DEVICE, non_blocking=True) for k, v in batch.items()}
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA or case.dtype != "float32"):
                loss = loss_of(elm, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(elm.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            spent = sync() - began - counting
            if step == 0:
                result["first_step_s"] = round(spent, 2)
            if step < 2:
                continue
            seconds, total, waiting = seconds + spent, total + counted, waiting + loaded - began
            tokens, useful, examples, flops = total
            peak = next((p for name, p in PEAKS.items() if CUDA and name in torch.cuda.get_device_name()), None)
            result |= {
                "steps": step - 1,
                "tokens_per_s": round(tokens / seconds),
                "useful_tokens_per_s": round(useful / seconds),
                "useful_share": round(useful / tokens, 4),
                "examples_per_s": round(examples / seconds, 2),
                "waiting_share": round(waiting / seconds, 4),
                "tflops": round(flops / seconds / 1e12, 2),
                "mfu": round(flops / seconds / peak, 4) if peak else None,
                "peak_gb": round(peak_memory(), 2),
                "loss": round(float(loss), 3),
            }
    finally:
        end_workers(loader)


def generate(size: Size, rows: int, data: Questions, result: dict[str, Any]) -> None:
    """Greedy generation of ``size.new_tokens`` tokens for ``rows`` prompts, after a short one to warm up."""
    case = Case(dtype="bfloat16" if CUDA else "float32")
    elm = make_elm(size, case).eval()
    prompts = []
    for i in range(rows):
        example = data[i]
        answer = int((example.labels != IGNORE).sum())
        prompts.append(replace(example, input_ids=example.input_ids[:-answer], labels=example.labels[:-answer]))
    batch = {k: v.to(DEVICE) for k, v in collate(prompts, pad_id=0, left=True).items()}
    for new in (4, size.new_tokens):
        began = sync()
        with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA):
            out: Any = elm.llm.generate(
                inputs_embeds=elm.embed(batch["input_ids"], batch["ecg"]).to(elm.llm.dtype),
                attention_mask=batch["attention_mask"],
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                eos_token_id=2,
                pad_token_id=0,
            )
        seconds = sync() - began
    result |= {"new_tokens_per_s": round(out.numel() / seconds, 1), "seconds": round(seconds, 2)}
    result |= {"peak_gb": round(peak_memory(), 2)}


def run(name: str, seconds: float, job: Callable[[dict[str, Any]], None], results: dict[str, Any], end: float) -> None:
    """One case within its time, printed as it comes; what stops it is written down."""
    result: dict[str, Any] = {}
    results[name] = result
    left = end - time.perf_counter()
    try:
        if left < 5:
            raise OutOfTime
        with at_most(min(seconds, left)):
            job(result)
    except OutOfTime:
        result["stopped"] = "out of time"
    except torch.OutOfMemoryError:
        result["stopped"] = "out of memory"
    except (ImportError, RuntimeError, ValueError, AttributeError, TypeError, AssertionError) as error:
        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        result["stopped"] = "out of memory" if "out of memory" in text.lower() else text[:160]
    gc.collect()
    torch._dynamo.reset()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    print(f"{name:44} " + "  ".join(f"{k} {v}" for k, v in result.items()), flush=True)


def verdict(results: dict[str, Any]) -> dict[str, bool]:
    """What was asked, of what was measured; on a CPU nothing is."""
    packed = [v for k, v in results.items() if k.startswith("full packed") and v.get("mfu")]
    padded = results.get("full padded sdpa", {}).get("examples_per_s")
    passed = {}
    if packed:
        passed["mfu"] = max(v["mfu"] for v in packed) >= MFU_BAR
        if padded:
            passed["examples"] = max(v["examples_per_s"] for v in packed) >= EXAMPLES_BAR * padded
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="the whole ends within these")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--pack-rows", type=int, default=None, help="packed rows of a batch")
    options = parser.parse_args()
    began = time.perf_counter()
    end = began + 60 * options.minutes - 15
    size = BIG if CUDA else SMALL
    size = replace(size, pack_rows=options.pack_rows or size.pack_rows, workers=min(size.workers, os.cpu_count() or 1))
    device = torch.cuda.get_device_name() if CUDA else "CPU at toy size: these figures mean nothing"
    document: dict[str, Any] = {"benchmark": "gpu_train", "device": device, "torch": torch.__version__}
    results: dict[str, Any] = {}

    def finish() -> None:
        document.update(cases=results, passed=verdict(results), seconds=round(time.perf_counter() - began, 1))
        print(json.dumps(document, sort_keys=True), flush=True)

    def too_late() -> None:  # a compilation that Python cannot interrupt
        finish()
        os._exit(1)

    watchdog = threading.Timer(60 * options.minutes - 5, too_late)
    watchdog.daemon = True
    watchdog.start()
    torch.backends.cuda.matmul.allow_tf32 = True
    print(f"{device}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Questions(make_store(Path(folder) / "store.i16", size), size, size.model["vocab_size"], 20_000)
        jobs: list[tuple[str, float, Callable[[dict[str, Any]], None]]] = []
        cases = [c for c in CASES if not c.compile]
        jobs += [(c.name, c.seconds, functools.partial(train, size, c, data)) for c in cases]
        jobs += [(f"generate batch {n}", 40.0, functools.partial(generate, size, n, data)) for n in size.batches]
        jobs += [(c.name, c.seconds, functools.partial(train, size, c, data)) for c in CASES if c.compile]
        for name, seconds, job in jobs:
            if options.only in name:
                run(name, seconds, job, results, end)
    watchdog.cancel()
    finish()
    return 0 if all(document["passed"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
