"""Scoring 100,000 predictions: every metric that needs no model, with patient bootstrap, controls and gaps.

The baseline computes the text metrics as one would: row by row, with calls of nltk, sacreBLEU and rouge-score. It is
shown equal to ours in the same run, on the same rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score import rouge_scorer

from ecglm import registry
from ecglm.evaluation.score import score_file

BAR_SECONDS, BAR_RATIO = 60.0, 5.0
RHYTHMS = ["sinus rhythm", "sinus bradycardia", "sinus tachycardia", "atrial fibrillation", "paced rhythm"]
FINDINGS = [
    "Left bundle branch block.", "Right bundle branch block.", "Left ventricular hypertrophy by voltage.",
    "ST elevation in the inferior leads (II, III, aVF).", "ST depression in V4-V6.",
    "T wave inversion in the lateral leads.",
    "Prolonged QT interval.", "First-degree AV block.", "Possible old anteroseptal infarct.", "No ST elevation.",
    "Occasional premature ventricular complexes.", "Normal ECG.",
]  # fmt: skip
CLASSES = ["normal ECG", "myocardial infarction", "ST/T change", "conduction disturbance", "hypertrophy"]


def report(generator: np.random.Generator) -> str:
    """A synthetic report with numbers of its own."""
    rate, pr, qrs, qt = (int(generator.integers(*span)) for span in ((45, 130), (110, 240), (70, 160), (340, 480)))
    axis = int(generator.integers(-60, 110))
    side = "Left axis deviation" if axis < -30 else "Right axis deviation" if axis > 90 else "Normal axis"
    told = " ".join(generator.choice(FINDINGS, size=int(generator.integers(0, 5)), replace=False))
    rhythm = str(generator.choice(RHYTHMS)).capitalize()
    numbers = (
        f"Ventricular rate {rate} bpm. PR {pr} ms, QRS {qrs} ms, QT/QTc {qt}/{qt + 20} ms. {side} ({axis} degrees)."
    )
    return f"{rhythm}. {numbers} {told}".strip()


def disturbed(text: str, generator: np.random.Generator) -> str:
    """A text with some words lost, doubled or replaced."""
    words = text.split()
    drawn = generator.random(len(words))
    return " ".join(w for w, d in zip(words, drawn, strict=True) for _ in range(0 if d < 0.1 else 2 if d > 0.95 else 1))


def measured(generator: np.random.Generator) -> dict[str, Any]:
    """Measurements as ``ecglm score --store`` puts them into a row."""
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{n}" for n in range(1, 7))]
    st = dict(zip(leads, np.round(generator.normal(0, 0.06, 12), 3).tolist(), strict=True))
    return {
        "heart_rate": float(generator.integers(45, 130)), "pr_ms": 160.0, "qrs_ms": 96.0, "qt_ms": 400.0,
        "qtc_bazett_ms": 420.0, "qtc_fridericia_ms": 415.0, "axis_deg": 40.0, "st_mv": st, "st_j_mv": st,
    }  # fmt: skip


def predictions(num_rows: int, num_patients: int, seed: int) -> list[dict[str, Any]]:
    """Rows under ``real`` and ``swap``: two fifths reports, two fifths rhythms, one fifth superclasses and rates."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(num_rows // 2):
        task = ("report", "rhythm", "report", "rhythm", "superclass" if number % 10 == 4 else "rate")[number % 5]
        choices: list[str] = []
        if task == "report":
            truth, kind = report(generator), "text"
        elif task == "rhythm":
            truth, kind, choices = str(generator.choice(RHYTHMS)), "choice", RHYTHMS
        elif task == "superclass":
            picked = generator.choice(CLASSES, size=int(generator.integers(1, 3)), replace=False)
            truth, kind, choices = ", ".join(picked), "multi-label", CLASSES
        else:
            truth, kind = f"{generator.integers(40, 140)} bpm", "number"
        ecg = measured(generator) if task == "report" else None
        for control in ("real", "swap"):
            near = control == "real" or generator.random() < 0.3
            if task == "report":
                answer = disturbed(truth if near else report(generator), generator)
            else:
                answer = truth if near and generator.random() < 0.8 else str(generator.choice(choices or ["72 bpm"]))
            rows.append(
                {
                    "id": f"synthetic/{number}/{task}",
                    "ecgs": [f"synthetic/{number}"],
                    "task": task,
                    "turn": 0,
                    "reference": truth,
                    "prediction": answer,
                    "control": control,
                    "seed": 0,
                    "patient_id": f"synthetic/p{number % num_patients}",
                    "metadata": {"question_type": kind, "choices": choices},
                    **({"measured": ecg} if ecg else {}),
                }
            )
    return rows


class NoWordNet:
    """WordNet without data: NLTK's METEOR is then that of equal words and stems."""

    def synsets(self, word: str) -> list[Any]:
        """None of any word."""
        return []


def plain(rows: list[dict[str, Any]]) -> dict[str, tuple[float, Callable[[], float]]]:
    """Metric → how it is computed row by row with the reference packages."""
    pairs = [(str(r["reference"]).strip(), str(r["prediction"]).strip()) for r in rows]
    method1 = SmoothingFunction(epsilon=0.1).method1
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    stemmer = PorterStemmer()

    def bleu() -> float:
        return corpus_bleu([[t.split()] for t, _ in pairs], [a.split() for _, a in pairs], smoothing_function=method1)

    def sent() -> float:
        scores = []
        for truth, answer in pairs:
            n = min(4, len(truth.split()), len(answer.split()))
            weights = (1 / n,) * n if n else ()
            one = sentence_bleu([truth.split()], answer.split(), weights, method1) if n else 0.0
            scores.append(one)
        return float(np.mean(scores))

    def rouges() -> list[float]:
        found = [rouge.score(truth, answer) for truth, answer in pairs]
        return [float(np.mean([f[name].fmeasure for f in found])) for name in ("rouge1", "rouge2", "rougeL")]

    def meteor() -> float:
        return float(
            np.mean([single_meteor_score(t.split(), a.split(), stemmer=stemmer, wordnet=NoWordNet()) for t, a in pairs])
        )

    def sacre() -> float:
        return sacrebleu.corpus_bleu([a for _, a in pairs], [[t for t, _ in pairs]]).score / 100

    return {"bleu": bleu, "bleu_sacre": sacre, "bleu_sent": sent, "rouge": rouges, "meteor_exact_stem": meteor}  # type: ignore[dict-item]


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Processor seconds of the plain manner and of ours on the same rows, and the largest difference of values."""
    timed: dict[str, Any] = {"rows": len(rows)}
    theirs, ours, differs = 0.0, 0.0, 0.0
    for name, run in plain(rows).items():
        start = time.process_time()
        expected = np.atleast_1d(run())  # type: ignore[operator]
        middle = time.process_time()
        names = ("rouge1", "rouge2", "rougeL") if name == "rouge" else (name,)
        found = [registry.get("metrics", n)(rows) for n in names]
        end = time.process_time()
        timed[name] = [middle - start, end - middle]
        theirs, ours = theirs + middle - start, ours + end - middle
        differs = max(differs, float(np.abs(expected - found).max()))
    return {**timed, "plain": theirs, "ours": ours, "ratio": theirs / ours, "differs": differs}


def whole(rows: list[dict[str, Any]], num_resamples: int) -> tuple[float, float, dict[str, Any]]:
    """Wall and processor seconds of ``ecglm score``, from reading the file to writing the scores; the scores."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        start, worked = time.perf_counter(), time.process_time()
        path = score_file(file, num_resamples=num_resamples)
        taken, worked = time.perf_counter() - start, time.process_time() - worked
        return taken, worked, json.loads(path.read_text())


def main() -> int:
    """Print the table and the JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--compared", type=int, default=4000, help="reports for the comparison with the packages")
    options = parser.parse_args()
    reports = [r for r in predictions(5 * options.compared, options.patients, seed=1) if r["task"] == "report"]
    for name in registry.names("metrics"):  # loops are compiled before the clock
        metric = registry.get("metrics", name)
        if not metric.lacks(reports):
            metric(reports[:2])
    against = compare(reports[2 : options.compared + 2])
    rows = predictions(options.rows, options.patients, seed=0)
    taken, worked, scores = whole(rows, options.resamples)
    computed = sorted({name for task in scores["controls"]["real"].values() for name in task})
    print(f"{'s for ' + str(against['rows']) + ' reports':28}{'packages':>10}{'ours':>10}")
    for name, pair in against.items():
        if isinstance(pair, list):
            print(f"{name:28}{pair[0]:10.3f}{pair[1]:10.3f}")
    print(f"{'all':28}{against['plain']:10.3f}{against['ours']:10.3f}   {against['ratio']:.1f} x")
    print(f"largest difference {against['differs']:.1e}")
    print(f"{len(rows)} predictions, {len(computed)} metrics, {options.resamples} resamples:", end=" ")
    print(f"{taken:.1f} s, processor {worked:.1f} s")
    result = {
        "rows": len(rows),
        "metrics": computed,
        "unavailable": scores["unavailable"],
        "seconds": taken,
        "processor_seconds": worked,
    }
    print(json.dumps({"benchmark": "scoring", **result, "against": against}))
    good = min(taken, worked) < BAR_SECONDS and against["differs"] < 1e-12 and against["ratio"] >= BAR_RATIO
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
