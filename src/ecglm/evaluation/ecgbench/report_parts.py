"""The pieces of ECGBench's report as HTML: every text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench import anchors
from ecglm.evaluation.ecgbench.explain import CAUSES
from ecglm.evaluation.ecgbench.judged import Judgement
from ecglm.evaluation.ecgbench.table import (
    NONE,
    WORDS,
    Scores,
    counts_of,
    gap_of,
    metrics_in,
    percent,
    pulse_of,
    strict_of,
    tasks_in,
    with_interval,
)

Cell = tuple[str, str]  # html, css class


def table(head: Sequence[Cell], body: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls where it is too wide; cells are HTML already."""

    def row(cells: Sequence[Cell], tag: str) -> str:
        return "".join(
            f'<{tag} class="{css}">{html}</{tag}>' if css else f"<{tag}>{html}</{tag}>" for html, css in cells
        )

    rows = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in body)
    return f'<div class="scroll"><table><thead><tr>{row(head, "th")}</tr></thead><tbody>{rows}</tbody></table></div>'


def text(value: object, css: str = "") -> Cell:
    """Any text, escaped."""
    return escape(str(value)), css


def number(value: object, css: str = "num") -> Cell:
    """A value and, in small, the interval behind it."""
    shown, bracket, limits = str(value).partition(" [")
    html = escape(shown) + (f'<span class="interval">[{escape(limits)}</span>' if bracket else "")
    return html, css


def verdict(gap: Mapping[str, Any] | None) -> str:
    """Whether a gap shows that the ECG is read, as a coloured label."""
    if gap is None or gap["value"] is None or gap["low"] is None:
        return '<span class="verdict unsure">cannot be said</span>'
    if gap["high"] < 0:
        return '<span class="verdict no">worse than a control</span>'
    if gap["low"] <= 0:
        return '<span class="verdict no">not shown to read the ECG</span>'
    return '<span class="verdict yes">reads the ECG</span>'


def gaps_table(runs: Sequence[Scores], judged: Mapping[str, Sequence[Judgement]]) -> str:
    """Real minus the best control, per task and model; empty where no controls were predicted."""
    body = []
    for task in tasks_in(runs):
        for run in runs:
            gap = run.get("gap", {}).get(task)
            if gap:
                metric = run["main"][task]
                controls = run["strict"]
                shown = ", ".join(
                    f"{c} {percent(controls[c][task][metric]['value'])}"
                    for c in sorted(controls)
                    if c != REAL and task in controls[c]
                )
                body.append(
                    [
                        text(task),
                        text(run["model"]),
                        text(WORDS.get(metric, metric)),
                        number(with_interval(gap, signed=True), "num score"),
                        text(gap["control"]),
                        (verdict(gap), ""),
                        number(with_interval(strict_of(run, task, metric))),
                        text(shown),
                    ]
                )
    for name, found in judged.items():
        for one in found:
            if one.gap:
                shown = ", ".join(f"{c} {points(e)}" for c, e in one.controls.items())
                body.append(
                    [
                        text(one.subset),
                        text(name),
                        text(f"judge {one.judge}"),
                        number(points(one.gap, signed=True), "num score"),
                        text(one.gap["control"]),
                        (verdict(one.gap), ""),
                        number(points(one.scores["overall"])),
                        text(shown),
                    ]
                )
    if not body:
        return ""
    head = [text("task"), text("model"), text("measure"), text("gap to best control", "num"), text("best control")]
    return table([*head, text("so the model …"), text("score", "num"), text("controls' scores")], body)


def points(estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
    """A judge's value, which is in percent or points already, with its interval."""
    if estimate is None or estimate["value"] is None:
        return NONE
    value = f"{estimate['value']:{'+' if signed else ''}.1f}"
    return value if estimate["low"] is None else f"{value} [{estimate['low']:.1f}, {estimate['high']:.1f}]"


def scores_table(runs: Sequence[Scores]) -> str:
    """Both modes side by side: strict with its interval, pulse as the original counts, and what was not answered."""
    body = []
    for task in tasks_in(runs):
        for metric in metrics_in(task):
            for run in runs:
                shown, original = strict_of(run, task, metric), pulse_of(run, task, metric)
                if shown is None and original is None:
                    continue
                gap = gap_of(run, task, metric)
                cells = [text(task), text(WORDS.get(metric, metric)), text(run["model"])]
                cells.append(number(with_interval(gap, signed=True)))
                cells.append(number(with_interval(shown), "num score"))
                cells.append(number(percent(original)))
                body.append([*cells, *(text(cell, "num") for cell in counts_of(run, task))])
    head = [text("task"), text("measure"), text("model"), *(text(t, "num") for t in ("gap", "strict", "pulse", "n"))]
    return table([*head, *(text(t, "num") for t in ("unparsed", "failed", "missing"))], body)


def judged_table(judged: Mapping[str, Sequence[Judgement]]) -> str:
    """Judges' scores: overall in percent, criteria in their own scale."""
    body = []
    for name, found in judged.items():
        for one in found:
            parts = "; ".join(f"{c} {points(e)}" for c, e in one.scores.items() if c != "overall")
            left = {k[2:].replace("_", " "): v for k, v in one.counts.items() if k.startswith("n_") and v}
            body.append(
                [
                    text(one.subset),
                    text(name),
                    text(one.judge),
                    text(one.rubric),
                    number(points(one.gap, signed=True)),
                    number(points(one.scores.get("overall")), "num score"),
                    number(NONE if one.compat is None else f"{one.compat:.1f}"),
                    text(parts),
                    text(one.counts.get("n", NONE), "num"),
                    text(", ".join(f"{k} {v}" for k, v in left.items())),
                ]
            )
    head = [text(t) for t in ("subset", "model", "judge", "rubric")]
    head += [text(t, "num") for t in ("gap", "overall", "as PULSE takes it")]
    return table([*head, text("criteria"), text("n", "num"), text("of them")], body)


def anchors_table(subsets: Sequence[str]) -> str:
    """Published figures of these subsets."""
    shown = [subset for subset in anchors.COLUMNS if subset in subsets]
    head = [text("model"), *(text(f"{subset}: {anchors.COLUMNS[subset]}", "num wrap") for subset in shown)]
    body = [
        [text(name), *(text(" / ".join(f"{v:.1f}" for v in row[subset]), "num") for subset in shown)]
        for name, row in anchors.PUBLISHED.items()
    ]
    return table(head, body)


def classes_table(run: Scores, task: str) -> str:
    """F1 of every label of one task and run."""
    rows = run["classes"][task]
    body = [
        [text(label), text(part["f1"]["n"], "num"), number(with_interval(part["f1"]))] for label, part in rows.items()
    ]
    return table([text("label"), text("items that have it", "num"), text("F1", "num")], body)


def causes_table(counted: Mapping[str, Mapping[str, int]]) -> str:
    """Model → cause → items that the modes read differently."""
    causes = sorted({c for table_ in counted.values() for c in table_}, key=list(CAUSES).index)
    head = [text("why the modes differ"), *(text(name, "num") for name in counted)]
    body = [[text(CAUSES[c]), *(text(found.get(c, 0), "num") for found in counted.values())] for c in causes]
    return table(head, body)
