"""The table of ECGBench's scores: both modes side by side, intervals, the gap, and what was not answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench.strict import CODE_15_LABELS, CODE_15_NORMALITY
from ecglm.evaluation.ecgbench.subsets import TASK_ORDER

Scores = Mapping[str, Any]
NONE = "–"
#: Metric in mode ``strict`` → the original's name of it.
PULSE_NAMES = {"f1": "f1", "auc_binary": "auc", "hamming": "hl", "accuracy": "accuracy"}
WORDS = {"f1": "macro F1", "auc_binary": "AUC (binary)", "hamming": "Hamming loss", "answer_f1": "answer F1"}
#: What only one of the modes scores as one task.
STRICT_ONLY = {CODE_15_LABELS, CODE_15_NORMALITY}
_BY_TASK = {
    "multi-label": ("f1", "auc_binary", "hamming"),
    CODE_15_NORMALITY: ("accuracy", "f1"),
    "ecgqa-test": ("accuracy", "answer_f1"),
}
_LABELS = {"ptb-test", "cpsc-test", "code15-test", CODE_15_LABELS}


def tasks_in(runs: Sequence[Scores]) -> list[str]:
    """Tasks scored in any run, in the original's order; the parts of ``code15-test`` behind it."""
    found = {
        task for run in runs for mode in ("strict", "pulse") for table in run.get(mode, {}).values() for task in table
    }
    order = [*TASK_ORDER, CODE_15_LABELS, CODE_15_NORMALITY]
    return [task for task in order if task in found]


def metrics_in(task: str) -> tuple[str, ...]:
    """Metrics of a task, the main one first."""
    return _BY_TASK["multi-label"] if task in _LABELS else _BY_TASK.get(task, ("accuracy",))


def percent(value: float | None) -> str:
    """A share as the papers print it: times 100, one digit behind the point."""
    return NONE if value is None else f"{100 * value + 0.0:.1f}"


def with_interval(estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
    """``82.4 [80.1, 84.6]``; a sign before the value of a difference."""
    if estimate is None or estimate["value"] is None:
        return NONE
    value = f"{100 * estimate['value']:+.1f}" if signed else percent(estimate["value"])
    if estimate["low"] is None:
        return value
    return f"{value} [{percent(estimate['low'])}, {percent(estimate['high'])}]"


def strict_of(run: Scores, task: str, metric: str, control: str = REAL) -> Mapping[str, Any] | None:
    """The estimate of a metric in mode ``strict``; None where it was not scored."""
    return run.get("strict", {}).get(control, {}).get(task, {}).get(metric)


def pulse_of(run: Scores, task: str, metric: str, control: str = REAL) -> float | None:
    """The original's figure of a metric; None where it has none."""
    return run.get("pulse", {}).get(control, {}).get(task, {}).get(PULSE_NAMES.get(metric, ""))


def gap_of(run: Scores, task: str, metric: str) -> Mapping[str, Any] | None:
    """The gap to the best control: of a task's main metric only."""
    return run.get("gap", {}).get(task) if run.get("main", {}).get(task) == metric else None


def results_table(runs: Sequence[Scores]) -> list[list[str]]:
    """Header and rows of text cells: one per task, metric and model."""
    has_gap = any(run.get("gap") for run in runs)
    modes = [mode for mode in ("strict", "pulse") if any(mode in run for run in runs)]
    head = ["task", "metric", "model", *(["gap to best control [95 %]"] if has_gap else [])]
    head += [*(["strict [95 %]"] if "strict" in modes else []), *(["pulse"] if "pulse" in modes else [])]
    table = [[*head, "n", "unparsed", "failed", "missing"]]
    for task in tasks_in(runs):
        for metric in metrics_in(task):
            for run in runs:
                shown, original = strict_of(run, task, metric), pulse_of(run, task, metric)
                if shown is None and original is None:
                    continue
                cells = [task, WORDS.get(metric, metric), run["model"]]
                if has_gap:
                    gap = gap_of(run, task, metric)
                    cells.append(with_interval(gap, signed=True) + (f" {gap['control']}" if gap else ""))
                if "strict" in modes:
                    cells.append(with_interval(shown))
                if "pulse" in modes:
                    cells.append(percent(original))
                table.append(cells + counts_of(run, task))
    return table


def counts_of(run: Scores, task: str) -> list[str]:
    """n, share unparsed, failed, missing; for the original's figures the rows it took and those it drew by lot."""
    if counted := run.get("counts", {}).get(REAL, {}).get(task):
        share = counted["n_unparsed"] / counted["n"]
        return [str(counted["n"]), f"{100 * share:.1f} %", str(counted["n_failed"]), str(counted["n_missing"])]
    told = run.get("pulse", {}).get(REAL, {}).get(task, {})
    drawn = f"{told['n_drawn']} by lot" if told.get("n_drawn") else NONE
    return [str(told.get("n", NONE)), drawn, NONE, NONE]


def print_results(runs: Sequence[Scores], console: Console | None = None) -> None:
    """Print the table and every warning; a file or pipe gets one line per row."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=200)
    header, *body = results_table(runs)
    table = Table(title="ECGBench, x 100", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 3 else "right", overflow="fold")
    for i, cells in enumerate(body):
        table.add_row(*map(escape, cells), end_section=i + 1 == len(body) or body[i + 1][0] != cells[0])
    console.print(table)
    for run in runs:
        for warning in dict.fromkeys(run["warnings"]):
            said = f"[yellow]warning[/yellow] {escape(run['model'])}: {escape(warning)}"
            console.print(said, highlight=False, soft_wrap=True)
