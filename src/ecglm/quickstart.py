"""The whole way in one page: which way of showing an ECG to a language model works, and does it look at the ECG?

Start reading here. Raw recordings become a store of segments, the store's labels become questions, small models
learn to answer them, and every score stands beside the score of the same model without the patient's ECG.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.conversations.make import lines as map_lines
from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations
from ecglm.errors import EcglmError
from ecglm.evaluation.cards import make_cards
from ecglm.evaluation.predict import predict
from ecglm.evaluation.predictions import read_predictions
from ecglm.evaluation.report import write_report
from ecglm.evaluation.score import score_file
from ecglm.evaluation.tables import Run, print_results
from ecglm.files import read_json
from ecglm.models.checkpoint import ModelConfig, TinyConfig, from_pretrained
from ecglm.prompts.data import EcgSource
from ecglm.records.ptb_xl import PtbXl
from ecglm.records.synthetic import Synthetic
from ecglm.representations.render import render
from ecglm.representations.signal import SignalOptions
from ecglm.representations.symbols import SymbolsOptions
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.audit import audit
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training.recipe import DataConfig, Recipe, TrainConfig
from ecglm.training.run import train

RATE, SECONDS = 100, 10
CONTROLS = ("blank", "noise", "swap")
SIX_RHYTHMS = (
    "sinus_rhythm",
    "sinus_bradycardia",
    "sinus_tachycardia",
    "atrial_fibrillation",
    "pvc",
    "paced",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a quickstart trains and asks: everything that decides its numbers."""

    sources: tuple[Any, ...]
    tasks: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    example_question: str
    seed: int


def quickstart(
    out: str | Path = "",
    *,
    data: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    dev: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """Run the experiment and print its table; returns one Run per representation.

    data: a PTB-XL folder; without it, synthetic ECGs. limit: that many patients (synthetic) or records. dev: so small
    that it ends in seconds and its numbers mean nothing. The same call again reuses what is finished.
    """
    started = time.monotonic()
    folder = Path(out or ("runs/quickstart" if data is None else "runs/quickstart-ptb-xl"))
    if dev and limit is None:
        limit = 24 if data is None else 200  # of PTB-XL as many as hold some of every fold
    plan = _synthetic_plan(seed, limit) if data is None else _ptb_xl_plan(Path(data), seed)
    if dev:
        plan = replace(plan, recipes=tuple(_shorten(r) for r in plan.recipes))

    say("[1/6] prepare: recordings → clean segments")
    stores = _prepare(plan, folder, limit if data is not None else None, overwrite, say)

    say("[2/6] map: labels → questions and answers, split by patient")
    questions = folder / "questions.parquet"
    manifest = map_corpus(
        "labels",
        stores,
        questions,
        tasks=list(plan.tasks),
        seed=seed,
        splits=_splits(stores, seed),
        overwrite=overwrite,
    )
    _tell(map_lines(manifest, questions), say)
    _refuse_leaks(questions, stores, say)

    runs = []
    for number, recipe in enumerate(plan.recipes):
        say(f"[{3 + number}/6] train and test: {recipe.name}")
        recipe = replace(recipe, data=DataConfig(files=(str(questions),), stores=tuple(str(s.path) for s in stores)))
        runs.append(_train_and_test(recipe, folder, overwrite, seed, say))

    say("[5/6] report")
    ecgs = EcgSource(stores, None)
    cards = make_cards(runs, lambda record: render(ecgs.segment(record), ecgs.rate(record), size=(1000, 680)))
    about = _about(plan, stores, data)
    report = write_report(folder / "report.html", runs, cards=cards, data=about, facts={"seed": str(seed)})

    say("[6/6] results")
    say(about)
    print_results(runs)
    say(f"report:      {report}")
    for run in runs:
        say(f"checkpoint:  {folder / run.name / 'best'}")
    example = _example(plan, folder, runs[0])
    say(f'try next:    ecglm ask --model {folder / runs[0].name / "best"} --ecg {example} "{plan.example_question}"')
    say(f"done in {time.monotonic() - started:.0f} s")
    return runs


def _synthetic_plan(seed: int, limit: int | None) -> Plan:
    """Train and validation patients from one seed, test patients from another: nobody is in both."""
    num_train, num_test = (1500, 100) if limit is None else (limit, max(limit // 4, 6))
    sources = (
        Synthetic(num_patients=num_train, seed=seed, rhythms=SIX_RHYTHMS),
        Synthetic(num_patients=num_test, seed=seed + 1000, rhythms=SIX_RHYTHMS),
    )
    signal = _recipe("signal", seed, TrainConfig(max_steps=620, lr=8e-4, eval_every=155), TinyConfig(num_layers=3))
    symbols = _recipe(
        "ecg-byte",
        seed,
        TrainConfig(max_steps=370, lr=1e-3, eval_every=185),
        TinyConfig(hidden=96, num_layers=3),
        symbols=SymbolsOptions(leads=("I", "II", "V1"), rate=25, num_merges=500, max_ecg_tokens=400),
    )
    return Plan(
        sources=sources,
        tasks=("rhythm", "rate", "axis", "conduction"),
        recipes=(signal, symbols),
        example_question="What is the rhythm?",
        seed=seed,
    )


def _ptb_xl_plan(root: Path, seed: int) -> Plan:
    """Few real ECGs: the same models, more steps, more dropout, the best checkpoint by the official validation fold."""
    symbols = SymbolsOptions(leads=("I", "II", "V2", "V5"), rate=25, num_merges=500, max_ecg_tokens=500)
    signal = _recipe(
        "signal",
        seed,
        TrainConfig(max_steps=700, lr=5e-4, eval_every=50, patience=4),
        TinyConfig(num_layers=3),
        encoder_options={"dropout": 0.2},
    )
    ecg_byte = _recipe(
        "ecg-byte",
        seed,
        TrainConfig(max_steps=300, lr=8e-4, eval_every=50),
        TinyConfig(hidden=96, num_layers=3),
        symbols=symbols,
    )
    return Plan(
        sources=(PtbXl(root=root),),
        tasks=("normal", "superclass", "rhythm"),
        recipes=(signal, ecg_byte),
        example_question="Is this ECG normal?",
        seed=seed,
    )


def _recipe(
    name: str,
    seed: int,
    config: TrainConfig,
    tiny: TinyConfig,
    *,
    symbols: SymbolsOptions | None = None,
    encoder_options: dict[str, Any] | None = None,
) -> Recipe:
    return Recipe(
        name=name,
        data=DataConfig(files=(), stores=()),
        signal=SignalOptions() if symbols is None else None,
        symbols=symbols,
        model=ModelConfig(tiny=tiny, encoder_options=encoder_options or {}),
        train=replace(config, seed=seed),
    )


def _shorten(recipe: Recipe) -> Recipe:
    """A recipe that ends in seconds and learns next to nothing: for trying the machinery."""
    tiny = TinyConfig(hidden=32, num_layers=1, num_heads=2, vocab_size=400)
    model = replace(recipe.model, tiny=tiny)
    short = replace(recipe.train, max_steps=6, warmup_steps=2, log_every=1, eval_every=3, batch_size=8)
    sections: dict[str, Any] = {}
    if recipe.symbols is not None:
        sections["symbols"] = replace(recipe.symbols, num_merges=100, max_ecg_tokens=200)
    return replace(recipe, model=model, train=short, **sections)


def _prepare(
    plan: Plan, folder: Path, limit: int | None, overwrite: bool, say: Callable[[str], None]
) -> list[SegmentStore]:
    pipeline = get_pipeline("default", rate=RATE, seg_len=RATE * SECONDS)
    stores = []
    for source, name in zip(plan.sources, ("store", "store-test"), strict=False):
        workers = min(os.cpu_count() or 1, 4) if len(source.keys()) > 500 else 1
        summary = prepare(source, pipeline, folder / name, workers=workers, limit=limit, overwrite=overwrite)
        _tell(summary.lines(), say)
        stores.append(SegmentStore(summary.path))
    return stores


def _splits(stores: Sequence[SegmentStore], seed: int) -> dict[str, str]:
    """Official folds where the source has them; synthetic: the second store is the test set, the first is divided."""
    if len(stores) == 1:
        return dict(assign_splits(stores[0], seed=seed))
    splits = dict(assign_splits(stores[0], seed=seed, fractions=(0.9, 0.1, 0.0)))
    return splits | dict.fromkeys(stores[1].index.column("patient_id").to_pylist(), "test")


def _refuse_leaks(questions: Path, stores: Sequence[SegmentStore], say: Callable[[str], None]) -> None:
    report = audit(read_conversations(questions), list(stores))
    if not report.ok:
        _tell(report.lines(), say)
        raise EcglmError(f"{questions}: leakage between splits; see the audit above")
    say("  audit: no patient, ECG or near-duplicate signal in two splits")


def _train_and_test(recipe: Recipe, folder: Path, overwrite: bool, seed: int, say: Callable[[str], None]) -> Run:
    def indented(text: str) -> None:
        say(f"  {text}")

    result = train(recipe, folder / recipe.name, overwrite=overwrite, say=indented)
    predictions = folder / f"{recipe.name}-predictions"
    stores = recipe.data.stores
    predict(
        result.best,
        recipe.data.files[0],
        stores,
        predictions,
        controls=CONTROLS,
        seed=seed,
        batch_size=64,
        max_new_tokens=24,
        overwrite=overwrite,
        say=indented,
    )
    scores = read_json(score_file(predictions))
    details = _details(result.best, stores)
    return Run(name=recipe.name, scores=scores, details=details, rows=read_predictions(predictions))


def _details(checkpoint: Path, stores: Sequence[str]) -> dict[str, str]:
    """What this model is shown and how large it is, for the table's foot."""
    bundle = from_pretrained(checkpoint, verify=False)
    representation, store = bundle.representation, SegmentStore(stores[-1])
    sample = range(0, len(store), max(len(store) // 50, 1))
    tokens = np.mean([len(representation(store[i], store.rate).token_ids) for i in sample])
    leads = "12 leads" if len(representation.leads) == 12 else "leads " + " ".join(representation.leads)
    return {
        "shown": f"{leads} at {representation.rate or store.rate} Hz",
        "tokens per ECG": f"{tokens:.0f}",
        "parameters": f"{bundle.num_parameters / 1e6:.2f} M",
    }


def _about(plan: Plan, stores: Sequence[SegmentStore], data: str | Path | None) -> str:
    patients = len(set(stores[-1].index.column("patient_id").to_pylist()))
    if data is None:
        return f"Synthetic ECGs; tested on {len(stores[-1].records())} ECGs of {patients} patients of another seed."
    folds = stores[0].index.column("fold").to_pylist()
    return f"PTB-XL (CC BY 4.0); trained on folds 1–8, chosen on fold 9, tested on fold 10 ({folds.count(10)} ECGs)."


def _example(plan: Plan, folder: Path, run: Run) -> str:
    """A recording of a test patient as a file that ``ecglm ask`` reads."""
    record_id = next(iter(row["ecgs"][0] for row in run.rows))
    source = plan.sources[-1]
    if isinstance(source, PtbXl):
        return str(source.header_path(record_id))
    import wfdb

    record = source.read(record_id)
    wfdb.wrsamp(
        "example",
        fs=record.sampling_rate,
        units=["mV"] * 12,
        sig_name=list(record.leads),
        p_signal=record.signal.T.astype(np.float64),
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(folder),
    )
    return str(folder / "example.hea")


def _tell(lines: Sequence[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(f"  {line}")
