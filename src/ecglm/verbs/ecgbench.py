"""Verbs: ECGBench's data, scores and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from ecglm.verbs.common import Stores, say, tell

if TYPE_CHECKING:
    from ecglm.evaluation.ecgbench.runs import BenchRun
    from ecglm.evaluation.ecgbench.score import Gold


def ecgbench_prepare(
    source: str,
    out: Path,
    subsets: tuple[str, ...] = (),
    store: Stores = (),
    pictures: Literal["original", "clean", "pulse"] | None = None,
    seed: int = 0,
    limit: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the subsets of ECGBench and their pictures in the published layout.

    Args:
        source: dataset of the hub (PULSE-ECG/ECGBench), a folder of Parquet or JSON files, or one such file.
        out: folder to make: <subset>.json and images/.
        subsets: all that are there, or these.
        store: segment stores of 10-s segments, to draw pictures from, and to say whose the recordings are.
        pictures: the original files, or drawn from the stores, clean or as PULSE's were made; None draws if it can.
            Photographs, and recordings of a source that no store has, keep their original files.
        seed: of the drawn pictures.
        limit: the first N items of each subset.
        revision: branch, tag or commit of the hub's dataset.
        overwrite: replace a folder made with other settings.
    """
    from ecglm.evaluation.ecgbench.prepare import prepare_ecgbench

    made = prepare_ecgbench(
        source,
        out,
        subsets=subsets,
        stores=store,
        pictures=pictures,
        seed=seed,
        limit=limit,
        revision=revision,
        overwrite=overwrite,
        say=say,
    )
    tell(made.lines())
    say(f"data: {made.path}")


def ecgbench_score(
    predictions: Positional[tuple[str, ...]],
    data: Path,
    subsets: tuple[str, ...] = (),
    mode: Literal["strict", "pulse", "both"] = "strict",
    explain: bool = False,
    store: Stores = (),
    num_resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Score answers to the seven rule-scored subsets of ECGBench.

    Args:
        predictions: folders of <model>/<subset>/step-final.jsonl, single files, or SUBSET=FILE.
        data: folder that ecgbench prepare made, with <subset>.json.
        subsets: all that have predictions, or these.
        mode: strict reads whole labels and counts what it cannot read as wrong; pulse repeats the original scorer.
        explain: also write, item by item, where the two modes differ and why.
        store: segment stores that know the patients of the recordings.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
    """
    from ecglm.errors import ConfigError
    from ecglm.evaluation.ecgbench.explain import write_differences
    from ecglm.evaluation.ecgbench.score import score_run, write_scores
    from ecglm.evaluation.ecgbench.table import print_results

    if explain and mode != "both":
        raise ConfigError("--explain compares the two modes; say --mode both")
    gold, runs = _found(predictions, data, subsets, store)
    done = [score_run(run, gold, mode=mode, num_resamples=num_resamples, seed=seed) for run in runs]
    for run in done:
        for table in run.pulse_items.values():
            tell(line for score in table.values() for line in score.lines())
    print_results([run.scores for run in done])
    for run in done:
        say(f"scores: {write_scores(run)}")
        if explain:
            path, lines = write_differences(run, gold)
            say(f"differences: {path}")
            tell(lines)


def ecgbench_report(
    predictions: Positional[tuple[str, ...]],
    data: Path,
    out: Path,
    subsets: tuple[str, ...] = (),
    store: Stores = (),
    title: str = "ECGBench",
    num_resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Write one HTML page over subsets and models, with both scoring modes and what judges said.

    Args:
        predictions: folders of <model>/<subset>/step-final.jsonl, single files, or SUBSET=FILE.
        data: folder that ecgbench prepare made, with <subset>.json.
        out: the HTML file to make.
        subsets: all that have predictions, or these.
        store: segment stores that know the patients of the recordings.
        title: at the head of the page.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
    """
    from ecglm.evaluation.ecgbench.report import write_report

    gold, runs = _found(predictions, data, subsets, store)
    say(f"report: {write_report(out, runs, gold, title=title, num_resamples=num_resamples, seed=seed)}")


def _found(
    predictions: tuple[str, ...], data: Path, subsets: tuple[str, ...], store: tuple[Path, ...]
) -> tuple[Gold, list[BenchRun]]:
    """(the data, the runs), warnings of the search said."""
    from ecglm.evaluation.ecgbench.runs import find_runs
    from ecglm.evaluation.ecgbench.score import Gold, patients_of
    from ecglm.evaluation.ecgbench.subsets import subsets_named
    from ecglm.store.reader import SegmentStore

    gold = Gold(data, patients_of([SegmentStore(s) for s in store]) if store else None)
    runs, warnings = find_runs(predictions, subsets_named(subsets))
    tell(f"warning {warning}" for warning in warnings)
    return gold, runs
