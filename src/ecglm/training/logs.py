"""What a run writes down: ``metrics.jsonl`` and ``skipped.jsonl`` without a clock, ``speed.jsonl`` with one."""

from __future__ import annotations

import importlib.util
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ecglm.errors import ConfigError
from ecglm.files import append_jsonl, read_jsonl, write_text
from ecglm.prompts.examples import IGNORE

METRICS, SKIPPED, SPEED, TRACKED = "metrics.jsonl", "skipped.jsonl", "speed.jsonl", "tensorboard"
#: Files and folders of a run that hold a clock: not part of its manifest.
CLOCKED = (SPEED, TRACKED)
COUNTS = ("tokens", "useful", "examples", "labels", "without_ecg", "without_answer")


def check_tracker(name: str) -> None:
    """ConfigError for a tracker whose package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"train.report_to: {name} is not installed; pip install {name}, or leave it out (metrics.jsonl is kept)"
        )


def batch_facts(examples: Sequence[Any], batch: dict[str, Any], *, needs_ecg: bool = False) -> dict[str, Any]:
    """What the log wants to know of a batch, counted where it is made: ``ids`` of its rows and, as whole numbers,
    ``examples``, ``tokens`` (with padding), ``useful`` (without), ``labels`` (answer tokens), ``without_ecg`` (rows
    that show the encoder nothing, where the model has one: ``needs_ecg``),
    ``without_answer`` (1 for a batch that nothing is to be learned from). What a batch does not have counts 0.
    """
    rows = [e for found in examples for e in (found if isinstance(found, (list, tuple)) else (found,))]
    labels = batch.get("labels")
    answers = 0 if labels is None else int((labels[:, 1:] != IGNORE).sum())
    return {
        "ids": [str(e.id) for e in rows if hasattr(e, "id")],
        "examples": len(rows),
        "tokens": batch["input_ids"].numel() if "input_ids" in batch else 0,
        "useful": sum(len(e.input_ids) for e in rows if hasattr(e, "input_ids")),
        "labels": answers,
        "counts_labels": labels is not None,
        "without_ecg": sum(e.ecg is None and e.image is None for e in rows) if needs_ecg else 0,
        "without_answer": int(labels is not None and answers == 0),
    }


def metrics_row(
    step: int, loss: float, grad_norm: float | None, rate: float, counts: dict[str, int], reason: str | None
) -> dict[str, Any]:
    """A row of ``metrics.jsonl``: what is no number is left out of it, and the reason stands there."""
    row: dict[str, Any] = {"step": step, "learning_rate": rate}
    if math.isfinite(loss) and counts["labels"] + counts["examples"] > 0:
        row["loss"] = loss
    if grad_norm is not None and math.isfinite(grad_norm):
        row["grad_norm"] = grad_norm
    if counts["tokens"]:
        row |= {"tokens": counts["tokens"], "useful": round(counts["useful"] / counts["tokens"], 4)}
    row |= {name: counts[name] for name in ("without_ecg", "without_answer") if counts[name]}
    return row if reason is None else {**row, "skipped": reason}


def shapes(batch: dict[str, Any]) -> str:
    """Names and shapes of a batch's tensors, for a person."""
    return ", ".join(f"{n} {'x'.join(map(str, v.shape))}" for n, v in batch.items() if isinstance(v, torch.Tensor))


class CollateWithFacts:
    """A collate function whose batches carry ``facts`` (``batch_facts``) for the log; the loss never sees them."""

    def __init__(self, collate: Callable[[Any], dict[str, Any]], *, needs_ecg: bool = False) -> None:
        self.collate, self.needs_ecg = collate, needs_ecg

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        batch = self.collate(examples)
        return {**batch, "facts": batch_facts(examples, batch, needs_ecg=self.needs_ecg)}


class StepLog:
    """Rows of each step, written every ``log_every`` steps and whenever a state is saved; truncated to a state's step
    where a run goes on from it. Only the process with ``writes`` touches the disk.
    """

    def __init__(self, out: Path, writes: bool = True) -> None:
        self.out, self.writes = out, writes
        self.pending: dict[str, list[dict[str, Any]]] = {METRICS: [], SKIPPED: [], SPEED: []}

    def begin(self, step: int) -> None:
        """Forget everything after ``step``: it is about to happen again."""
        if not self.writes:
            return
        for name in self.pending:
            file = self.out / name
            kept = [r for r in self._read(name) if r["step"] <= step]
            if kept:
                write_text(file, "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in kept))
            else:
                file.unlink(missing_ok=True)

    def _read(self, name: str) -> list[dict[str, Any]]:
        file = self.out / name
        return read_jsonl(file, allow_torn=True) if file.exists() else []

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row for the next ``flush``."""
        self.pending[name].append(row)

    def flush(self) -> None:
        """Write what is pending, each file once."""
        for name, rows in self.pending.items():
            if rows and self.writes:
                append_jsonl(self.out / name, rows)
            rows.clear()

    def skipped(self) -> list[dict[str, Any]]:
        """The skipped steps so far, on disk or pending."""
        return self._read(SKIPPED) + self.pending[SKIPPED]


def summary(out: Path) -> dict[str, int]:
    """What a finished run left out or met, for its manifest: steps skipped by reason, rows without an ECG, batches
    without an answer. Empty when there was nothing of the kind.
    """
    found: dict[str, int] = {}
    for row in read_jsonl(out / SKIPPED) if (out / SKIPPED).exists() else []:
        name = f"steps_skipped:{row['reason']}"
        found[name] = found.get(name, 0) + 1
    for row in read_jsonl(out / METRICS) if (out / METRICS).exists() else []:
        for key, name in (("without_ecg", "rows_without_ecg"), ("without_answer", "batches_without_answer")):
            if row.get(key):
                found[name] = found.get(name, 0) + row[key]
    return dict(sorted(found.items()))


def final_files(folder: Path, *left: str) -> list[Path]:
    """What a run leaves, without clocks, paths of this machine (plan.json, recipe.yaml) and what is named ``left``."""
    without = {*CLOCKED, *left}
    kept = (p for p in folder.rglob("*") if p.is_file() and not without & set(p.relative_to(folder).parts))
    return sorted(p for p in kept if p.name not in ("plan.json", "recipe.yaml"))


def loss_curve(out: Path, what: str = "loss") -> None:
    """``loss.png``: training and validation loss over steps; ``what`` stands beside the axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = read_jsonl(out / METRICS)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(r["step"], r[key]) for r in rows if key in r]
        axes.plot(*zip(*points, strict=True), label=label, marker="o" if key == "eval_loss" else None)
    axes.set(xlabel="step", ylabel=what, yscale="log")
    axes.legend()
    figure.savefig(out / "loss.png", dpi=120, metadata={"Software": None})


class Clock:
    """Seconds and memory of each step; validation and saving do not count."""

    def __init__(self) -> None:
        self.begun = self.loaded = time.perf_counter()

    def begin(self) -> None:
        """Before the step's batches are asked for."""
        self.begun = time.perf_counter()

    def batches_are_there(self) -> None:
        """After the loader gave them."""
        self.loaded = time.perf_counter()

    def row(self, counts: dict[str, int]) -> dict[str, Any]:
        """``seconds`` (of which ``data_seconds`` waiting for batches), tokens and examples per second, peak memory."""
        seconds = max(time.perf_counter() - self.begun, 1e-9)
        row: dict[str, Any] = {
            "seconds": round(seconds, 6),
            "data_seconds": round(self.loaded - self.begun, 6),
            "examples_per_second": round(counts["examples"] / seconds, 3),
            "memory_bytes": peak_memory(),
        }
        if counts["tokens"]:
            row["tokens_per_second"] = round(counts["tokens"] / seconds, 1)
            row["useful_tokens_per_second"] = round(counts["useful"] / seconds, 1)
        return row


def peak_memory() -> int:
    """Most bytes held so far: of the GPU where one is in use, else of the process (resident)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
