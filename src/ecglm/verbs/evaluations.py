"""Verbs: predictions → scores → reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ecglm.verbs.common import Stores, say


def predict_(
    model: str,
    data: Path,
    store: Stores,
    out: Path,
    controls: tuple[str, ...] = ("blank", "noise", "swap"),
    split: str = "test",
    tasks: tuple[str, ...] = (),
    seed: int = 0,
    history: Literal["own", "gold"] = "own",
    batch_size: int = 128,
    max_new_tokens: int = 128,
    temperature: float | None = None,
    top_p: float = 1.0,
    seeds: tuple[int, ...] = (),
    devices: tuple[str, ...] = ("auto",),
    images: tuple[Path, ...] = (),
    rag: Path | None = None,
    rag_k: int | None = None,
    rag_location: Literal["system", "user"] | None = None,
    rag_content: Literal["report", "features", "both"] | None = None,
    limit: int | None = None,
    allow_seen: bool = False,
    dev: bool = False,
    overwrite: bool = False,
) -> None:
    """Let a model answer every question of a split, on the true ECG and on each control.

    Args:
        model: checkpoint folder or hub id, or baseline:NAME.
        data: conversations file.
        store: the stores that hold its ECGs.
        out: folder for predictions.jsonl.
        controls: what to show in place of the ECG, or how to disturb it (ecglm ls controls).
        split: which split to answer.
        tasks: all, or these.
        seed: of the controls.
        history: what a later turn sees: the model's own earlier answers, or the reference ones.
        batch_size: conversations at a time, fewer where they are long; the answers do not depend on it.
        max_new_tokens: longest answer.
        temperature: draw the answers at this temperature; without it decoding is greedy.
        top_p: draw from the likeliest tokens that together have this probability.
        seeds: of the drawing: every question is answered once for each.
        devices: auto (every GPU, else the CPU), or names (cpu, cuda:0 cuda:1); one process each.
        images: folders of the picture files that conversations name.
        rag: an index (ecglm index build); the prompts tell of its ECGs that are most like the one shown.
        rag_k: so many of them; default as the model learned, else 1.
        rag_location: at the end of the system prompt or before the question; default as the model learned, else system.
        rag_content: what is told of them; default as the model learned, else report.
        limit: questions about at most so many ECGs.
        allow_seen: answer also about patients the model was trained on.
        dev: questions about at most 4 ECGs, unless --limit says otherwise.
        overwrite: replace predictions made with other settings.
    """
    from ecglm.evaluation.predict import predict

    result = predict(
        model,
        data,
        store,
        out,
        controls=controls,
        split=split,
        tasks=tasks,
        seed=seed,
        history=history,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seeds=seeds,
        devices=devices,
        images=images,
        rag=rag,
        rag_k=rag_k,
        rag_location=rag_location,
        rag_content=rag_content,
        allow_seen=allow_seen,
        limit=4 if dev and limit is None else limit,
        overwrite=overwrite,
        say=say,
    )
    failed = f", {result.num_failed} failed" if result.num_failed else ""
    say(f"{result.num_answers} answers{failed}: {result.path / 'predictions.jsonl'}")


def score_(
    predictions: Positional[Path],
    store: Stores = (),
    bertscore: str | None = None,
    export_ecg_bench: Path | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Score predictions with patient-bootstrap intervals.

    Args:
        predictions: folder of predictions.jsonl, or the file.
        store: the stores of its ECGs, so that what reports say of measurements is checked against them.
        bertscore: compute BERTScore with this model, a folder or hub id.
        export_ecg_bench: folder for ECG-Bench's own result files, one per condition and seed.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
    """
    from ecglm.evaluation.bench_export import export_bench
    from ecglm.evaluation.score import score_file
    from ecglm.evaluation.tables import print_results
    from ecglm.files import read_json

    path = score_file(predictions, num_resamples=num_resamples, seed=seed, stores=store, bertscore=bertscore)
    print_results(_runs([predictions]))
    reasons: dict[str, list[str]] = {}
    for metric, reason in read_json(path)["unavailable"].items():
        reasons.setdefault(reason, []).append(metric)
    for reason, metrics in reasons.items():
        say(f"not computed: {', '.join(metrics)}: {reason}")
    if export_ecg_bench is not None:
        written, left_out = export_bench(predictions, export_ecg_bench, bertscore)
        for reason in left_out:
            say(f"not in ECG-Bench's files: {reason}")
        say(f"ECG-Bench's files: {len(written)} in {export_ecg_bench}")
    say(f"scores: {path}")


def report_(
    predictions: Positional[tuple[Path, ...]], out: Path, store: Stores = (), controls_needed: bool = True
) -> None:
    """Write a report a clinician can read.

    Args:
        predictions: scored prediction folders, one per model.
        out: the HTML file to make.
        store: segment stores, for pictures of a dozen test ECGs.
        controls_needed: refuse a model without controls; --no-controls-needed shows it under a warning.
    """
    from ecglm.evaluation.cards import make_cards
    from ecglm.evaluation.report import write_report
    from ecglm.prompts.data import EcgSource
    from ecglm.representations.render import render
    from ecglm.store.reader import SegmentStore

    runs, cards = _runs(predictions), []
    if store:
        ecgs = EcgSource([SegmentStore(s) for s in store], None)
        cards = make_cards(runs, lambda r: render(ecgs.segment(r), ecgs.rate(r), size=(1000, 680)))
    say(f"report: {write_report(out, runs, cards=cards, controls_needed=controls_needed)}")


def compare(
    predictions: Positional[tuple[str, ...]],
    metric: tuple[str, ...] = (),
    task: tuple[str, ...] = (),
    against: str | None = None,
    shared: bool = False,
    out: tuple[Path, ...] = (),
    store: Stores = (),
    bertscore: str | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Compare models on the same questions: gap to their controls, intervals, seeds, differences with p-values.

    Args:
        predictions: scored prediction folders: DIR, NAME=DIR, or NAME=DIR,DIR with one folder per training seed;
            folders of ECG-Bench's own result files too.
        metric: these metrics; default the main metric of each task.
        task: these tasks; default all.
        against: the model the others are compared with; default the first.
        shared: where the models were not asked the same, compare the questions they share.
        out: also write the table here: .txt, .csv, .tex or .html, several if you like.
        store: the stores of the ECGs, for metrics that check answers against them.
        bertscore: compute BERTScore with this model, a folder or hub id.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap and the permutation test.
    """
    from ecglm.evaluation import compare_tables
    from ecglm.evaluation.bench_export import holds_bench_alone
    from ecglm.evaluation.compare import compare as compare_models
    from ecglm.evaluation.compare_load import parse_entrants
    from ecglm.evaluation.tables import print_notes

    for path in out:
        compare_tables.check_format(path)
    entrants = parse_entrants(predictions)
    found = compare_models(
        entrants,
        metrics=metric,
        tasks=task,
        against=against,
        shared=shared,
        num_resamples=num_resamples,
        seed=seed,
        stores=store,
        bertscore=bertscore,
    )
    for path in out:
        compare_tables.write_comparison(found, path)
    compare_tables.print_comparison(found)
    scored = [f for e in entrants for f in e.folders if not holds_bench_alone(f)]
    names = [e.name if len(e.folders) == 1 else f"{e.name} ({f})" for e in entrants for f in e.folders if f in scored]
    print_notes(_runs(scored, names, tasks={row["task"] for row in found.rows}))
    for path in out:
        say(f"table: {path}")


def _runs(folders: Any, names: Any = None, tasks: Any = None) -> list[Any]:
    from ecglm.evaluation.compare_load import read_scores
    from ecglm.evaluation.predictions import read_predictions
    from ecglm.evaluation.tables import Run

    runs = []
    for number, folder in enumerate(folders):
        home, scores = read_scores(folder)
        if tasks is not None:
            scores["main"] = {task: metric for task, metric in scores["main"].items() if task in tasks}
        alone = sum(f.name == folder.name for f in folders) == 1
        name = names[number] if names else home.name if alone else str(home)
        runs.append(Run(name=name, scores=scores, rows=read_predictions(folder)))
    return runs
