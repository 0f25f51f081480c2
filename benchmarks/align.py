"""Does preference tuning teach what is preferred, and nothing else? Reports that state the measured heart rate.

    python benchmarks/align.py [--out DIR] [--patients N] [--steps N] [--align-steps N] [--method dpo|ipo] [--seed N]

A small signal ELM learns from synthetic ECGs, whose reports state the heart rate one time in four. It answers about
training patients, four drawn reports each; a pair is one that states the rate within 10 bpm of the true one, preferred
to one that does not; and about the rhythm alone, the name of the rhythm preferred to such a report. ``ecglm align``
learns from these pairs with adapters. Before and after, on patients that neither training has seen: the share of greedy
reports that state the rate and are right, and the accuracy of another question, the rhythm, with patient bootstrap
intervals, paired. Runs on the CPU, two threads. Ends with status 1 when a bar is missed: preferred reports up by 0.3 at
the lower end of the interval, rhythm accuracy not down by 0.05 at the lower end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.evaluation.metrics.claims import claims_in
from ecglm.evaluation.statistics import paired_difference, patient_bootstrap
from ecglm.files import append_jsonl
from ecglm.models.assistant import Assistant, load
from ecglm.models.checkpoint import ModelConfig, TinyConfig
from ecglm.models.config import LoraConfig
from ecglm.models.generate import Sampling
from ecglm.prompts.data import EcgSource
from ecglm.quickstart import SIX_RHYTHMS
from ecglm.randomness import generator_for
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalOptions
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.align import align
from ecglm.training.align_recipe import AlignData, AlignRecipe, AlignTrainConfig
from ecglm.training.recipe import DataConfig, Recipe, TrainConfig
from ecglm.training.run import train
from ecglm.types import Conversation, Turn

RATE, SECONDS = 100, 10
QUESTION = "<ecg>\nWrite a short report of this ECG."
#: Share of the training reports that state the rate, and how near a stated one must be, in bpm.
STATED, NEAR = 0.25, 10
NUM_SAMPLES = 4
#: How dear it is to leave the reference, chosen on the ECGs of seed 0; the run has others.
BETA = {"dpo": 0.3, "ipo": 0.1}
#: The lower end of the interval of after - before must be at least this.
BARS = {"states the rate": 0.3, "rhythm accuracy": -0.05}


def silent(text: str) -> None:
    """No progress."""


def make_questions(store: SegmentStore, folder: Path, seed: int) -> tuple[Path, dict[str, float]]:
    """The questions of all patients, of the rhythm, the rate and a report; and record → its true rate in bpm."""
    splits = dict(assign_splits(store, seed=seed, fractions=(0.75, 0.08, 0.17)))
    map_corpus("labels", [store], folder / "labels.parquet", tasks=["rhythm", "rate"], seed=seed, splits=splits)
    rows = read_conversations(folder / "labels.parquet")
    rates = {c.ecgs[0]: float(c.turns[-1].text.split()[0]) for c in rows if c.task == "rate"}
    reports = []
    for c in rows:
        if c.task == "rhythm" and c.ecgs[0] in rates:
            says = generator_for(seed, "states", c.id).random() < STATED
            text = c.turns[-1].text + (f", heart rate {rates[c.ecgs[0]]:.0f} bpm" if says else "")
            turns = (Turn("user", QUESTION), Turn("assistant", text))
            reports.append(replace(c, id=f"{c.id}/report", task="report", turns=turns, metadata={}))
    out = folder / "questions.parquet"
    write_conversations(out, rows + reports, {"by": "benchmarks/align.py", "seed": seed}, {})
    return out, rates


def base_recipe(questions: Path, store: Path, steps: int, seed: int) -> Recipe:
    """The model that is to be aligned: the quickstart's."""
    return Recipe(
        name="reports",
        data=DataConfig(files=(str(questions),), stores=(str(store),)),
        signal=SignalOptions(),
        model=ModelConfig(tiny=TinyConfig(num_layers=3)),
        train=TrainConfig(max_steps=steps, lr=8e-4, eval_every=max(steps // 4, 1), seed=seed, device="cpu"),
    )


def states_it(text: str, rate: float) -> bool:
    """Whether a report states a heart rate, one alone, that is near the true one."""
    stated = [c.value for c in claims_in(text) if c.quantity == "rate" and c.value is not None]
    return len(stated) == 1 and abs(stated[0] - rate) <= NEAR


def answers(
    model: Assistant, stores: Sequence[SegmentStore], rows: Sequence[Conversation], sampling: Sampling | None = None
) -> list[str]:
    """The model's answers to the rows' questions."""
    ecgs = EcgSource(stores, model.bundle.representation)
    talks = [(c.turns[:-1], [ecgs.encode(e) for e in c.ecgs]) for c in rows]
    found = model.answer(talks, max_new_tokens=40, batch_size=64, sampling=sampling, ids=[c.id for c in rows])
    return [str(a["text"]) for a in found]


def make_pairs(
    model: Assistant, store: SegmentStore, rows: Sequence[Conversation], rates: dict[str, float], out: Path
) -> dict[str, int]:
    """Preference rows of drawn reports: the first that states the rate rightly, and the first that does not. Asked for
    the rhythm of the same ECG, its name alone is preferred to that report: nobody wants to know the rate there.
    """
    reports, rhythms = ([c for c in rows if c.task == task] for task in ("report", "rhythm"))
    of_rhythm = {c.ecgs: c for c in rhythms}
    drawn = [answers(model, [store], reports, Sampling(temperature=1.0, seed=seed)) for seed in range(NUM_SAMPLES)]
    made = []
    for number, c in enumerate(reports):
        texts = [d[number] for d in drawn]
        good = [t for t in texts if t.strip() and states_it(t, rates[c.ecgs[0]])]
        bad = [t for t in texts if t.strip() and not states_it(t, rates[c.ecgs[0]])]
        if good and bad:
            made.append(pair_row(c, store, good[0], bad[0]))
            other = of_rhythm[c.ecgs]
            made.append(pair_row(other, store, other.turns[-1].text, good[0]))
    out.unlink(missing_ok=True)
    append_jsonl(out, made)
    return {"questions": len(reports), "pairs": len(made)}


def pair_row(c: Conversation, store: SegmentStore, chosen: str, rejected: str) -> dict[str, Any]:
    """A preference row about a conversation's question."""
    asked = [{"role": t.role, "text": t.text} for t in c.turns[:-1]]
    about = [{"record": e, "store": store.fingerprint} for e in c.ecgs]
    row = {"version": 1, "id": c.id, "source": "ranked", "turns": asked, "ecgs": about, "split": c.split}
    return {**row, "people": [], "chosen": chosen, "rejected": rejected}


def measured(
    model: Path, store: SegmentStore, rows: Sequence[Conversation], rates: dict[str, float]
) -> dict[str, np.ndarray]:
    """For the held-out rows, by task: 1 where the answer is what is wanted, else 0."""
    assistant = load(model)
    reports, rhythms = ([c for c in rows if c.task == task] for task in ("report", "rhythm"))
    said = answers(assistant, [store], reports)
    found = {
        "states the rate": np.array([float(states_it(t, rates[c.ecgs[0]])) for t, c in zip(said, reports, strict=True)])
    }
    right = zip(answers(assistant, [store], rhythms), rhythms, strict=True)
    found["rhythm accuracy"] = np.array([float(text == c.turns[-1].text) for text, c in right])
    return found


def _mean(sums: np.ndarray) -> np.ndarray:
    share: np.ndarray = sums[..., 0] / sums[..., 1]
    return share


def run(folder: Path, *, patients: int, steps: int, align_steps: int, method: str, seed: int = 0) -> dict[str, Any]:
    """The whole experiment; what it found."""
    began = time.monotonic()
    source = Synthetic(num_patients=patients, seed=seed, rhythms=SIX_RHYTHMS)
    prepare(source, get_pipeline("default", rate=RATE, seg_len=RATE * SECONDS), folder / "store", progress=False)
    store = SegmentStore(folder / "store")
    questions, rates = make_questions(store, folder, seed)
    before = train(base_recipe(questions, store.path, steps, seed), folder / "before", say=silent).best
    rows = read_conversations(questions)
    asked = [c for c in rows if c.task in ("report", "rhythm") and c.split == "train" and c.ecgs[0] in rates]
    counts = make_pairs(load(before), store, asked, rates, folder / "pairs.jsonl")
    options: dict[str, Any] = {"parts": ("llm",), "max_steps": align_steps, "batch_size": 16, "lr": 3e-4}
    aligned = align(
        AlignRecipe(
            name="align",
            model=str(before),
            data=AlignData(pairs=(str(folder / "pairs.jsonl"),), stores=(str(store.path),), files=(str(questions),)),
            method=method,  # type: ignore[arg-type]
            beta=BETA[method],
            lora=LoraConfig(rank=16, dropout=0.0),
            train=AlignTrainConfig(**options, eval_every=max(align_steps // 4, 1), warmup_steps=5, device="cpu"),
        ),
        folder / method,
        say=silent,
    )
    held_out = [c for c in rows if c.split == "test" and c.ecgs[0] in rates]
    results: dict[str, Any] = {}
    old, new = (measured(model, store, held_out, rates) for model in (before, aligned.best))
    for name, task in (("states the rate", "report"), ("rhythm accuracy", "rhythm")):
        who = [c.patients[0] for c in held_out if c.task == task]
        one, other = (np.stack([found[name], np.ones(len(who))], axis=1) for found in (old, new))
        both = {"before": patient_bootstrap(who, one, _mean, seed=seed), "after": patient_bootstrap(who, other, _mean)}
        both["difference"] = paired_difference(who, other, one, _mean, seed=seed)
        results[name] = {key: asdict(value) for key, value in both.items()}
    return {**counts, "results": results, "told": aligned.told, "seconds": round(time.monotonic() - began)}


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path)
    options.add_argument("--patients", type=int, default=900)
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--align-steps", type=int, default=80)
    options.add_argument("--method", choices=("dpo", "ipo"), default="dpo")
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        found = run(
            asked.out or Path(temporary),
            patients=asked.patients,
            steps=asked.steps,
            align_steps=asked.align_steps,
            method=asked.method,
            seed=asked.seed,
        )
    print(f"{found['pairs']} pairs of {found['questions']} questions, {NUM_SAMPLES} drawn reports each; {asked.method}")
    told = found["told"]
    numbers = ", ".join(f"{name} {told[f'val_{name}']:.3f}" for name in ("accuracy", "margin", "kl"))
    print(f"validation pairs: {numbers}")
    print("\n| held-out ECGs | before [95 %] | after [95 %] | difference [95 %] |\n|---|---|---|---|")
    for name, result in found["results"].items():
        cells = [
            f"{e['value']:{sign}.2f} [{e['low']:{sign}.2f}, {e['high']:{sign}.2f}]"
            for e, sign in ((result["before"], ""), (result["after"], ""), (result["difference"], "+"))
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    gaps = {name: result["difference"]["low"] for name, result in found["results"].items()}
    missed = [name for name, least in BARS.items() if gaps[name] < least]
    print(f"\n{found['seconds']} s; " + (f"missed: {', '.join(missed)}" if missed else "every bar is met"))
    print(json.dumps({"benchmark": "align", "method": asked.method, **found, "missed": missed}, sort_keys=True))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
