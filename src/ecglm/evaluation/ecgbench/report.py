"""One HTML page over subsets and models: the gap to the controls first, both modes, judges, published figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench import report_parts as parts
from ecglm.evaluation.ecgbench.anchors import SOURCE
from ecglm.evaluation.ecgbench.explain import differences
from ecglm.evaluation.ecgbench.judged import Judgement, judgements_of
from ecglm.evaluation.ecgbench.runs import BenchRun
from ecglm.evaluation.ecgbench.score import Gold, score_run
from ecglm.evaluation.ecgbench.subsets import SUBSETS, TASK_ORDER

# Nothing is fetched and nothing runs, whatever stands in an answer: even a mistake in escaping has no effect.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_NO_CONTROLS = (
    "No answers under controls were found: nothing on this page shows that these models read the ECG at all. Many "
    "questions can be answered well by guessing what is common. Run: ecglm ecgbench predict --controls blank no-ecg."
)
_GUIDE = (
    ("gap", "Score minus the best of the same model's scores without the patient's ECG, on the same items."),
    ("strict", "Whole labels and stated letters; an answer that cannot be read, failed or is missing counts as wrong."),
    ("pulse", "As the original scorer counts, its quirks included: for comparison with published figures alone."),
    ("[low, high]", "The 95 % interval over patients: how far the score would move with others of the same source."),
    ("unparsed", "Share of the answers that mode strict could not read."),
    ("GEM", "GEM scores ECG-QA in a third way (sets of characters); its figures belong in no column here."),
)


def write_report(
    out: str | Path,
    runs: Sequence[BenchRun],
    gold: Gold,
    *,
    title: str = "ECGBench",
    num_resamples: int = 2000,
    seed: int = 0,
) -> Path:
    """Score every run in both modes and write the page; it holds all that it shows. Returns its path.

    Raises what scoring raises, and EcglmError without runs.
    """
    if not runs:
        raise EcglmError("ecgbench report: no predictions")
    by_rule = [run for run in runs if any(task in run.files.get(REAL, {}) for task in TASK_ORDER)]
    done = [score_run(run, gold, mode="both", num_resamples=num_resamples, seed=seed) for run in by_rule]
    judged = {run.name: judgements_of(run, num_resamples=num_resamples, seed=seed) for run in runs}
    if not done and not any(judged.values()):
        raise EcglmError("ecgbench report: nothing is scored by rule and nothing is judged; run ecglm ecgbench judge")
    causes = {one.run.name: dict(Counter(c for row in differences(one, gold) for c in row["causes"])) for one in done}
    page = render_report([one.scores for one in done], judged, causes, title=title)
    files.write_text(out, page)
    return Path(out)


def render_report(
    runs: Sequence[Mapping[str, Any]],
    judged: Mapping[str, Sequence[Judgement]],
    causes: Mapping[str, Mapping[str, int]],
    *,
    title: str,
) -> str:
    """The page; the same scores give the same bytes."""
    style = (package_files("ecglm.evaluation") / "report.css").read_text(encoding="utf-8")
    gaps = parts.gaps_table(runs, judged)
    shown = {t.partition("/")[0] for run in runs for t in (*run["strict"][REAL], *run["pulse"].get(REAL, {}))}
    shown |= {one.subset for found in judged.values() for one in found}
    sections = [
        '<div class="notice">Research use only. Not a medical device; use no answer on this page for care.</div>'
        f'<h1>{escape(title)}</h1><p class="lead">Nine test sets of PULSE (arXiv 2410.19008), x 100.</p>',
        "<h2>Do these models read the ECG?</h2>"
        + (f'<div class="panel">{gaps}</div>' if gaps else f'<div class="notice">{escape(_NO_CONTROLS)}</div>'),
        _panel("Scores by rule, in both modes", parts.scores_table(runs)) if runs else "",
        _panel("Scores by a judge", parts.judged_table(judged)) if any(judged.values()) else "",
        f"<h2>Published figures</h2><p>{escape(SOURCE)}</p>"
        f'<div class="panel">{parts.anchors_table([s for s in SUBSETS if s in shown])}</div>',
        _panel("Where the modes differ", parts.causes_table(causes)) if any(causes.values()) else "",
        "<h2>How to read this page</h2>" + _guide(),
        _classes(runs),
        _small_print(runs, judged),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>\n"
        + "\n".join(f"<section>{section}</section>" for section in sections if section)
        + "\n<footer>Made by ecglm. Research use only.</footer></main></body></html>\n"
    )


def _panel(title: str, content: str) -> str:
    return f'<h2>{escape(title)}</h2><div class="panel">{content}</div>'


def _guide() -> str:
    rows = "".join(f"<dt>{escape(word)}</dt><dd>{escape(said)}</dd>" for word, said in _GUIDE)
    return f'<div class="panel"><dl class="guide">{rows}</dl></div>'


def _classes(runs: Sequence[Mapping[str, Any]]) -> str:
    blocks = [
        f"<details><summary>{escape(run['model'])}: {escape(task)}</summary>{parts.classes_table(run, task)}</details>"
        for run in runs
        for task in run["classes"]
    ]
    return "<h2>Every label</h2>" + "".join(blocks) if blocks else ""


def _small_print(runs: Sequence[Mapping[str, Any]], judged: Mapping[str, Sequence[Judgement]]) -> str:
    notes = [f"{run['model']}: {warning}" for run in runs for warning in run["warnings"]]
    notes += [f"{name}, {one.subset}: {w}" for name, found in judged.items() for one in found for w in one.warnings]
    facts = [
        f"{run['model']}: task version {run['task_version']}, ecglm {run['ecglm']}, "
        + ", ".join(f"{key} {value}" for key, value in run["settings"].items())
        for run in runs
    ]
    facts += [
        f"{run['model']}: {condition}, {task}: sha256 {digest}"
        for run in runs
        for condition, table in run["fingerprints"]["predictions"].items()
        for task, digest in table.items()
    ]
    data = {task: digest for run in runs for task, digest in run["fingerprints"]["data"].items()}
    facts += [f"data {task}: sha256 {digest}" for task, digest in sorted(data.items())]

    def listed(lines: Sequence[str]) -> str:
        return f'<ul class="plain">{"".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(lines))}</ul>'

    return (
        "<h2>Small print</h2>"
        + (f'<div class="panel"><h3>Be warned</h3>{listed(notes)}</div>' if notes else "")
        + f"<details><summary>Versions and fingerprints</summary>{listed(facts)}</details>"
    )
