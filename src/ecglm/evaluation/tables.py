"""The table of results: representation × task → score with interval, beside its controls; text cells and terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ecglm import registry
from ecglm.errors import EcglmError
from ecglm.evaluation.baselines import MAJORITY
from ecglm.evaluation.controls import PERTURB, REAL, is_perturbation

#: Conditions in the order in which they are shown, as a table's heading names them.
CONDITIONS: dict[str, str] = {
    "blank": "blank",
    "noise": "noise",
    "swap": "another patient",
    "no-ecg": "no ECG",
}
#: Metrics as a reader knows them.
METRICS: dict[str, str] = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "within_5_bpm": "within 5 bpm",
    "rougeL": "ROUGE-L",
}
NONE = "–"
#: What a perturbation tells, and what it does not.
ROBUSTNESS = "the patient's own ECG, disturbed. A loss says how easily the answers are upset, not that the ECG is read"

_WIDE = 140  # columns that the whole table needs


@dataclass(frozen=True)
class Run:
    """One model's results as tables and reports show them.

    name: the representation or the model, one of its own per run. scores: the content of scores.json. details: facts
    shown under the name (parameters, tokens per ECG, leads and rate shown …). rows: its predictions (reports only).
    """

    name: str
    scores: Mapping[str, Any]
    details: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()


def check_names(runs: Sequence[Run]) -> None:
    """EcglmError unless there are runs, each with a name of its own: rows that cannot be told apart are no result."""
    if not runs:
        raise EcglmError("no runs to show; score one first (`ecglm score DIR`)")
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EcglmError(f"two runs are called '{twice}'; give each a name of its own")


def conditions_of(runs: Sequence[Run]) -> list[str]:
    """Every control that any run has: the usual ones first, then others by name. Perturbations are none."""
    found = {c for run in runs for c in run.scores["controls"] if c != REAL and not is_perturbation(c)}
    return [c for c in CONDITIONS if c in found] + sorted(found - set(CONDITIONS))


def perturbations_of(runs: Sequence[Run]) -> list[str]:
    """Every perturbation that any run has, by name."""
    return sorted({c for run in runs for c in run.scores["controls"] if is_perturbation(c)})


def perturbation_title(name: str) -> str:
    """A perturbation as a reader knows it: its effect's title; its bare name where the effect is not installed."""
    return registry.get("controls", name).title if name in registry.names("controls") else name.removeprefix(PERTURB)


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """Every task that any run has, by name."""
    return sorted({task for run in runs for task in run.scores["main"]})


def main_estimate(run: Run, condition: str, task: str) -> Mapping[str, Any] | None:
    """The estimate of a task's main metric under ``real``, a control or ``majority``; None where there is none."""
    part = run.scores["baselines"] if condition == MAJORITY else run.scores["controls"]
    return part.get(condition, {}).get(task, {}).get(run.scores["main"].get(task))


def gap_estimate(run: Run, task: str) -> Mapping[str, Any] | None:
    """The headline gap of a task's main metric, real − best control; None where there are no controls."""
    return run.scores["gaps"].get(task, {}).get(run.scores["main"].get(task))


def loss_estimate(run: Run, condition: str, task: str) -> Mapping[str, Any] | None:
    """What a task's main metric loses under a perturbation; None where that was not run."""
    metric = run.scores["main"].get(task)
    return run.scores.get("robustness", {}).get(task, {}).get(metric, {}).get(condition)


def say(estimate: Mapping[str, Any] | None, *, with_interval: bool = False, signed: bool = False) -> str:
    """``0.97``, ``0.97 [0.94, 0.99]``, ``+0.61 [+0.52, +0.69]``; a dash where nothing is known."""
    if estimate is None or estimate["value"] is None:
        return NONE
    form = "{:+.2f}" if signed else "{:.2f}"

    def number(value: float) -> str:
        return form.format(round(value, 2) + 0.0)  # never "-0.00"

    text = number(estimate["value"])
    if with_interval and estimate["low"] is not None:
        text += f" [{number(estimate['low'])}, {number(estimate['high'])}]"
    return text


def results_table(runs: Sequence[Run]) -> list[list[str]]:
    """Header and one row per run and task: score with 95 % interval, each control, majority, gap with interval."""
    check_names(runs)
    conditions = conditions_of(runs)
    table = [
        ["representation", "task", "metric", "score [95 %]"]
        + [CONDITIONS.get(c, c) for c in conditions]
        + ["majority", "gap to best control [95 %]"]
    ]
    for task in tasks_of(runs):
        for run in runs:
            if task not in run.scores["main"]:
                continue
            metric = run.scores["main"][task]
            table.append(
                [run.name, task, METRICS.get(metric, metric)]
                + [say(main_estimate(run, REAL, task), with_interval=True)]
                + [say(main_estimate(run, c, task)) for c in (*conditions, MAJORITY)]
                + [say(gap_estimate(run, task), with_interval=True, signed=True)]
            )
    return table


def robustness_table(runs: Sequence[Run]) -> list[list[str]]:
    """Header and one row per perturbation, task and run: score undisturbed and disturbed, the loss with interval."""
    table = [["the patient's ECG with", "task", "representation", "metric", "undisturbed", "disturbed", "lost [95 %]"]]
    for condition in perturbations_of(runs):
        for task in tasks_of(runs):
            for run in runs:
                if (found := main_estimate(run, condition, task)) is not None:
                    metric = run.scores["main"][task]
                    words = (perturbation_title(condition), task, run.name, METRICS.get(metric, metric))
                    lost = say(loss_estimate(run, condition, task), with_interval=True, signed=True)
                    table.append([*words, say(main_estimate(run, REAL, task)), say(found), lost])
    return table


def print_results(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print the table of results, that of the perturbations, what was shown to each model, and every warning.

    Narrow terminals get intervals on a line of their own and no column for the metric; a file or pipe gets one line
    per row, so that it can be searched.
    """
    console = _wide(console)
    narrow = console.width < _WIDE
    header, *body = results_table(runs)
    table = Table(
        title="Score on the true ECG, beside the same model's score without it",
        title_justify="left",
        box=box.SIMPLE_HEAD if narrow else box.HEAVY_HEAD,
        padding=(0, 1 - narrow),
    )
    chosen = [i for i, title in enumerate(header) if not (narrow and title == "metric")]
    for i in chosen:
        is_text = i < header.index("score [95 %]")
        title = "model" if narrow and i == 0 else header[i]
        table.add_column(title, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
        if narrow and not is_text:
            short = header[i].replace(" to best control", "")
            table.columns[-1].header = (
                short.replace(" [", "\n[").replace("another ", "another\n").replace("no ", "no\n")
            )
    for i, cells in enumerate(body):
        last_of_task = i + 1 == len(body) or body[i + 1][1] != cells[1]
        shown = [cells[j].replace(" [", "\n[") if narrow else cells[j] for j in chosen]
        table.add_row(*map(escape, shown), end_section=last_of_task)
    console.print(table)
    print_notes(runs, console)


def _wide(console: Console | None) -> Console:
    """A terminal as it is; a file or pipe wide enough for a row to stay on one line."""
    console = console or Console()
    return console if console.is_terminal else Console(file=console.file, width=max(console.width, _WIDE + 40))


def print_notes(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print the table of the perturbations, what was shown to each model, and every warning."""
    console = _wide(console)
    _print_robustness(runs, console)
    for run in runs:
        if run.details:
            facts = ", ".join(f"{key} {value}" for key, value in run.details.items())
            console.print(f"{escape(run.name)}: {escape(facts)}", highlight=False)
    for warning in dict.fromkeys(w for run in runs for w in run.scores["warnings"]):
        console.print(f"[yellow]warning[/yellow] {escape(warning)}", highlight=False)


def _print_robustness(runs: Sequence[Run], console: Console) -> None:
    header, *body = robustness_table(runs)
    if not body:
        return
    table = Table(title=f"Robustness: {ROBUSTNESS}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i < 4 else "right", overflow="fold")
    for i, cells in enumerate(body):
        table.add_row(*map(escape, cells), end_section=i + 1 == len(body) or body[i + 1][0] != cells[0])
    console.print(table)
