"""Answers per second of ``predict`` against the original manner, with the same small model and the same text out.

Original manner: one question at a time; its ECG is read, encoded and put into its own prompt, and one call of the
library's ``generate`` (greedy, batch 1) makes the answer, nothing kept between questions. Ours: the batches that
``ecglm predict`` makes, through its own code, work file included. What each part gives is told beside it: batches as
the questions come, batches of like questions, finished rows that leave, prompts that are read once as far as they are
alike. All sides answer the same questions in turns; every text must be equal. At last the whole verb, from the check of
the checkpoint to the last file. Time is the process's own on one core, so a busy machine spoils nothing; that the
original manner would wait for a disk after every answer is not held against it.

The questions are those that ``ecglm map labels`` makes of an ECG's labels, several about every ECG. The model is like
the quickstart's (``--kind signal``: an encoder's 25 tokens; ``--kind symbols``: ECG-Byte's hundreds), trained for a
minute so that answers end as answers do, behind a system prompt of two sentences.

``--device cuda`` measures a Llama of 1.2 billion weights on a GPU instead (random weights, so every answer has its full
length); without a GPU the same code runs at toy size, says so, and holds nothing against a bar.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations
from ecglm.evaluation import predict_answers
from ecglm.evaluation.predict import predict
from ecglm.evaluation.predict_answers import Answerer, Orders
from ecglm.evaluation.predict_jobs import Job, Work, lengths, make_batches, make_jobs
from ecglm.files import append_jsonl
from ecglm.models import generate as generating
from ecglm.models.checkpoint import Bundle, ModelConfig, TinyConfig, create, from_pretrained
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalOptions, SignalRepresentation
from ecglm.representations.symbols import SymbolsOptions
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.recipe import DataConfig, Recipe, TrainConfig
from ecglm.training.run import train

RATE, SEG_LEN = 100, 1000
SYSTEM = (
    "You read twelve-lead electrocardiograms for a research team. Answer each question about the recording briefly, "
    "with one of the choices where some are given, and say nothing that the recording does not show."
)
BATCH, MAX_NEW = 128, 48
BAR = 5.0
#: ``generate`` with its parts switched off: finished rows stay until all are done; nothing is shared.
STAY = 1.0


def make_world(folder: Path, patients: int) -> tuple[Path, Path]:
    """A store and its questions, half of the patients for training."""
    pipeline = get_pipeline("default", rate=RATE, seg_len=SEG_LEN)
    prepare(Synthetic(num_patients=patients, seed=0), pipeline, folder / "store", progress=False)
    store = SegmentStore(folder / "store")
    splits = dict(assign_splits(store, seed=0, fractions=(0.4, 0.1, 0.5)))
    map_corpus("labels", [store], folder / "questions.parquet", splits=splits)
    return folder / "store", folder / "questions.parquet"


def trained(kind: str, store: Path, data: Path, folder: Path, steps: int) -> Path:
    """A checkpoint that has learned for a while."""
    recipe = Recipe(
        name=kind,
        data=DataConfig(files=(str(data),), stores=(str(store),)),
        signal=SignalOptions(num_tokens=25) if kind == "signal" else None,
        symbols=SymbolsOptions(leads=("I", "II", "V1"), rate=25, num_merges=200) if kind == "symbols" else None,
        model=ModelConfig(
            tiny=TinyConfig(hidden=128, num_layers=3, num_heads=4),
            system=SYSTEM,
            max_len=1024 if kind == "symbols" else 256,
        ),
        train=TrainConfig(max_steps=steps, batch_size=16, lr=1e-3, eval_every=steps, warmup_steps=10, share_ecg=True),
    )
    return train(recipe, folder / kind, say=lambda text: None).best


def original(bundle: Bundle, ecgs: EcgSource, jobs: Sequence[Job], file: Path, device: str) -> dict[str, str]:
    """One question at a time, everything anew for each."""
    prompter, elm, found = bundle.prompter, bundle.elm, {}
    for job in jobs:
        talk = job.conversation
        shown = [bundle.representation(ecgs.segment(e), ecgs.rate(e)) for e in talk.ecgs]
        example = prompter.build(talk.id, talk.turns[:1], shown, generate=True)
        batch = collate([example], pad_id=prompter.tokenizer.pad_token_id, left=True)
        with torch.inference_mode():
            out = elm.llm.generate(
                inputs_embeds=elm.embed(batch["input_ids"].to(device), batch.get("ecg")),
                attention_mask=batch["attention_mask"].to(device),
                max_new_tokens=MAX_NEW,
                do_sample=False,
                eos_token_id=prompter.end_id,
                pad_token_id=prompter.tokenizer.pad_token_id,
            )[0].tolist()
        stop = out.index(prompter.end_id) if prompter.end_id in out else len(out)
        found[talk.id] = prompter.tokenizer.decode(out[:stop], skip_special_tokens=True).strip()
        append_jsonl(file, [{"id": talk.id, "prediction": found[talk.id]}])
    return found


def ours(
    answerer: Answerer, jobs: Sequence[Job], folder: Path, *, alike: bool, leave: float, share: bool, size: int = BATCH
) -> dict[str, str]:
    """As ``predict`` answers, with parts of it switched off."""
    talks = [j.conversation for j in jobs]
    if alike:
        batches = make_batches(jobs, lengths(talks, answerer.ecgs), size, MAX_NEW)
    else:
        batches = [list(range(i, min(i + size, len(jobs)))) for i in range(0, len(jobs), size)]
    work = Work(folder, jobs, batches)
    before = generating._LEAVE
    generating._LEAVE = leave
    predict_answers.generate = functools.partial(generating.generate, share=share)
    try:
        for number in work.left:
            work.add(number, answerer.answer([jobs[i] for i in batches[number]]))
    finally:
        generating._LEAVE = before
        predict_answers.generate = generating.generate
    return {row["id"]: row["prediction"] for row in work.rows()}


@dataclass
class Side:
    """One manner, and how long it took in each round."""

    run: Callable[[Sequence[Job], Path], dict[str, str]]
    seconds: list[float] = field(default_factory=list)


def rounds_of(jobs: Sequence[Job], number: int) -> list[list[Job]]:
    """The jobs in so many parts, all questions about one ECG in the same part."""
    ecgs = sorted({j.conversation.ecgs for j in jobs})
    part = {e: i % number for i, e in enumerate(ecgs)}
    return [[j for j in jobs if part[j.conversation.ecgs] == i] for i in range(number)]


def measure(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All manners of one kind of model in turns; prints the table."""
    store, data = make_world(folder, options.patients)
    model = trained(kind, store, data, folder, options.steps)
    bundle = from_pretrained(model)
    orders = Orders(model=str(model), stores=(str(store),), max_new_tokens=MAX_NEW)
    answerer = Answerer(bundle, orders)
    ecgs = EcgSource([SegmentStore(store)], bundle.representation)
    jobs = make_jobs(read_conversations(data, split="test"), ("real",), (0,))
    sides = {
        "original manner": Side(lambda j, f: original(bundle, ecgs, j, f / "one.jsonl", "cpu")),
        f"batches of {BATCH}": Side(lambda j, f: ours(answerer, j, f, alike=False, leave=STAY, share=False)),
        "+ like questions": Side(lambda j, f: ours(answerer, j, f, alike=True, leave=STAY, share=False)),
        "+ finished rows leave": Side(lambda j, f: ours(answerer, j, f, alike=True, leave=0.25, share=False)),
        "+ shared beginnings": Side(lambda j, f: ours(answerer, j, f, alike=True, leave=0.25, share=True)),
    }
    parts = rounds_of(jobs, options.rounds)
    for side in sides.values():  # first calls are slow
        with tempfile.TemporaryDirectory() as out:
            side.run(parts[0][:8], Path(out))
    texts: dict[str, dict[str, str]] = {name: {} for name in sides}
    for number, part in enumerate(parts):
        order = list(sides.items())
        for name, side in order[number % len(order) :] + order[: number % len(order)]:
            with tempfile.TemporaryDirectory() as out:
                begun = time.process_time()
                texts[name] |= side.run(part, Path(out))
                side.seconds.append(time.process_time() - begun)
    begun = time.process_time()
    predict(
        model, data, [store], folder / f"{kind}-out", max_new_tokens=MAX_NEW, devices=["cpu"], say=lambda text: None
    )
    verb = len(jobs) / (time.process_time() - begun)
    base = sides["original manner"]
    answers = texts["original manner"]
    tokens = [len(bundle.prompter.tokenizer.encode(t)) for t in answers.values()]
    print(
        f"{kind}: {len(jobs)} questions about {len({j.conversation.ecgs for j in jobs})} ECGs, answers of "
        f"{min(tokens)} to {max(tokens)} tokens, {len(set(answers.values()))} different texts; {options.rounds} rounds"
    )
    print(f"  {'':24}{'answers/s':>11}{'× original':>12}  same text")
    result: dict[str, Any] = {"questions": len(jobs)}
    for name, side in sides.items():
        ratio = statistics.median(b / s for b, s in zip(base.seconds, side.seconds, strict=True))
        rate = len(jobs) / sum(side.seconds)
        same = texts[name] == answers
        differing = sum(texts[name][i] != answers[i] for i in answers)
        print(f"  {name:24}{rate:11.1f}{ratio:12.2f}  {'yes' if same else f'NO: {differing} differ'}")
        result[name] = {"answers_per_s": round(rate, 2), "ratio": round(ratio, 2), "same_text": same}
    per_answer = sum(base.seconds) / len(jobs)
    print(f"  {'the whole verb':24}{verb:11.1f}{verb * per_answer:12.2f}  loading, checks and files included")
    result["whole verb"] = {"answers_per_s": round(verb, 2), "ratio": round(verb * per_answer, 2)}
    return result


def on_a_gpu(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Answers and tokens per second of a large model, batch by batch size; at toy size without a GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    toy = device == "cpu"
    if toy:
        print("no GPU here: toy size on the CPU, to show that the code runs; the figures mean nothing")
    store, data = make_world(folder, 8 if toy else 60)
    tiny = (
        TinyConfig(hidden=64, num_layers=2, num_heads=4)
        if toy
        else TinyConfig(hidden=2048, num_layers=24, num_heads=32)
    )
    representation = SignalRepresentation(num_tokens=25, rate=RATE, num_samples=SEG_LEN)
    opened = SegmentStore(store)
    pipeline = opened.manifest["settings"]["pipeline"]
    talks = read_conversations(data)
    bundle = create(
        ModelConfig(tiny=tiny, system=SYSTEM, max_len=512),
        representation,
        pipeline,
        sorted({t.text for c in talks for t in c.turns}),
        0,
    )
    bundle.elm.to(device).eval()
    if not toy:
        bundle.elm.llm.to(torch.bfloat16)
    length = 8 if toy else 64
    answerer = Answerer(bundle, Orders(model="", stores=(str(store),), max_new_tokens=length))
    jobs = make_jobs(talks, ("real",), (0,))[: 24 if toy else 1024]
    millions = sum(p.numel() for p in bundle.elm.parameters()) / 1e6
    name = torch.cuda.get_device_name() if not toy else "CPU"
    print(f"{name}: {millions:,.0f} M weights, {len(jobs)} questions, answers of at most {length} tokens")
    print(f"  {'':24}{'answers/s':>11}{'× batch 1':>12}")
    result: dict[str, Any] = {"device": name, "toy": toy, "weights_m": round(millions)}
    base = 0.0
    for size, share in ((1, False), (32, False), (32, True), (128, False), (128, True), (256, True)):
        part = jobs[: 16 if size == 1 else len(jobs)]
        for attempt in range(2):  # the first call is slow
            with tempfile.TemporaryDirectory() as out:
                begun = time.perf_counter()
                ours(
                    answerer,
                    part[: 4 if attempt == 0 else None],
                    Path(out),
                    alike=True,
                    leave=0.25,
                    share=share,
                    size=size,
                )
                rate = len(part) / (time.perf_counter() - begun)
        base = base or rate
        told = f"batches of {size}" + (", shared" if share else "")
        print(f"  {told:24}{rate:11.1f}{rate / base:12.1f}")
        result[told] = round(rate, 2)
    return result


def main() -> int:
    """Print a table, then one JSON line; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--steps", type=int, default=200, help="of the training before")
    parser.add_argument("--kind", nargs="+", choices=("signal", "symbols"), default=("signal", "symbols"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="30 patients, 60 steps, 2 rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.patients, options.steps = 2, 30, 60
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if options.device == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            found = on_a_gpu(options, Path(folder))
        print(json.dumps({"benchmark": "predict", "gpu": found}))
        return 0
    found = {}
    for kind in options.kind:
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measure(kind, options, Path(folder))
    missed = [
        f"{kind}: {result['+ shared beginnings']['ratio']} × instead of {BAR}"
        for kind, result in found.items()
        if result["+ shared beginnings"]["ratio"] < BAR
    ]
    missed += [
        f"{kind}: '{name}' gives other texts"
        for kind, result in found.items()
        for name, side in result.items()
        if isinstance(side, dict) and side.get("same_text") is False
    ]
    for text in missed:
        print(f"missed: {text}")
    print(json.dumps({"benchmark": "predict", **found, "bar": BAR, "passed": not missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
