"""Verbs: predictions → scores → reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import Stores, say


def predict_(
    model: Path,
    data: Path,
    store: Stores,
    out: Path,
    controls: tuple[str, ...] = ("blank", "noise", "swap"),
    split: str = "test",
    tasks: tuple[str, ...] = (),
    seed: int = 0,
    history: Literal["own", "gold"] = "own",
    batch_size: int = 32,
    max_new_tokens: int = 128,
    limit: int | None = None,
    allow_seen: bool = False,
    dev: bool = False,
    overwrite: bool = False,
) -> None:
    """Let a model answer every question of a split, on the true ECG and on each control.

    Args:
        model: checkpoint folder.
        data: conversations file.
        store: the stores that hold its ECGs.
        out: folder for predictions.jsonl.
        controls: what to show in place of the ECG, or how to disturb it (ecglm ls controls).
        split: which split to answer.
        tasks: all, or these.
        seed: of the controls.
        history: what a later turn sees: the model's own earlier answers, or the reference ones.
        batch_size: conversations at a time; the answers do not depend on it.
        max_new_tokens: longest answer.
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
        allow_seen=allow_seen,
        limit=4 if dev and limit is None else limit,
        overwrite=overwrite,
        say=say,
    )
    failed = f", {result.num_failed} failed" if result.num_failed else ""
    say(f"{result.num_answers} answers{failed}: {result.path / 'predictions.jsonl'}")


def score_(predictions: Positional[Path], num_resamples: int = 2000, seed: int = 0) -> None:
    """Score predictions with patient-bootstrap intervals.

    Args:
        predictions: folder of predictions.jsonl, or the file.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
    """
    from ecglm.evaluation.score import score_file
    from ecglm.evaluation.tables import print_results

    path = score_file(predictions, num_resamples=num_resamples, seed=seed)
    print_results(_runs([predictions]))
    say(f"scores: {path}")


def report_(predictions: Positional[tuple[Path, ...]], out: Path, store: Stores = ()) -> None:
    """Write a report a clinician can read.

    Args:
        predictions: scored prediction folders, one per model.
        out: the HTML file to make.
        store: segment stores, for pictures of a dozen test ECGs.
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
    say(f"report: {write_report(out, runs, cards=cards)}")


def compare(predictions: Positional[tuple[Path, ...]]) -> None:
    """Print one table of several models' scores.

    Args:
        predictions: scored prediction folders, one per model.
    """
    from ecglm.evaluation.tables import print_results

    print_results(_runs(predictions))


def _runs(folders: Any) -> list[Any]:
    from ecglm.evaluation.predictions import read_predictions
    from ecglm.evaluation.tables import Run
    from ecglm.files import read_json

    runs = []
    for folder in folders:
        if not folder.exists():
            raise EcglmError(f"{folder}: no such predictions; make them with ecglm predict --out {folder}")
        home = folder if folder.is_dir() else folder.parent
        if not (home / "scores.json").exists():
            raise EcglmError(f"{home}: not scored yet; run ecglm score {home}")
        alone = sum(f.name == folder.name for f in folders) == 1
        name = home.name if alone else str(home)
        runs.append(Run(name=name, scores=read_json(home / "scores.json"), rows=read_predictions(folder)))
    return runs
