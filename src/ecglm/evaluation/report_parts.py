"""The pieces of a report as HTML: verdicts, tables, bars, confusion matrices, cards. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ecglm.evaluation.baselines import MAJORITY
from ecglm.evaluation.cards import Card, png_uri
from ecglm.evaluation.controls import REAL, is_perturbation, remove_marks
from ecglm.evaluation.tables import (
    CONDITIONS,
    METRICS,
    NONE,
    Run,
    conditions_of,
    gap_estimate,
    main_estimate,
    perturbation_title,
    perturbations_of,
    robustness_table,
    say,
    tasks_of,
)

COLOURS: dict[str, str] = {
    REAL: "#0b6e7f",
    "blank": "#a9b8c4",
    "noise": "#8795a3",
    "swap": "#c9a86a",
    "no-ecg": "#c7b8d6",
    MAJORITY: "#5b6b7b",
}
_OTHER_COLOUR = "#9aa79a"
TITLES: dict[str, str] = {REAL: "the patient's ECG", **CONDITIONS, MAJORITY: "most frequent answer"}

_METRIC_WORDS: dict[str, str] = {
    "accuracy": "share of questions answered right",
    "macro_f1": "F1 per class (missed and invented findings both cost), mean over classes",
    "within_5_bpm": "share of answers within 5 beats per minute",
    "rougeL": "overlap of words, in order, with the reference report (ROUGE-L)",
}


_READS, _GUESSES = "reads the ECG", "reads it, not above guessing"
_UNSHOWN, _WORSE, _UNKNOWN = "not shown to read the ECG", "worse than a control", "cannot be said"
_ORDER = (_READS, _GUESSES, _UNSHOWN, _WORSE, _UNKNOWN)


def verdict(run: Run, task: str) -> tuple[str, str]:
    """(css class, words) for whether a run's answers on a task depend on the patient's ECG."""
    gap = gap_estimate(run, task)
    if gap is None or gap["value"] is None or gap["low"] is None:
        return "unsure", _UNKNOWN
    if gap["high"] < 0:
        return "no", _WORSE
    if gap["low"] <= 0:
        return "no", _UNSHOWN
    to_majority = run.scores["gap_to"][task][run.scores["main"][task]].get(MAJORITY)
    if to_majority is None or to_majority["low"] is None or to_majority["low"] <= 0:
        return "unsure", _GUESSES
    return "yes", _READS


def findings(runs: Sequence[Run]) -> str:
    """One line per run: where it reads the ECG and where that is not shown."""
    lines = []
    for run in runs:
        by_verdict: dict[str, list[str]] = {}
        for task in sorted(run.scores["main"], key=lambda t: (_ORDER.index(verdict(run, t)[1]), t)):
            by_verdict.setdefault(verdict(run, task)[1], []).append(task)
        parts = "; ".join(
            f"<strong>{escape(words)}</strong>: {escape(', '.join(tasks))}" for words, tasks in by_verdict.items()
        )
        lines.append(f"<li>{escape(run.name)} — {parts}.</li>")
    return f'<ul class="plain">{"".join(lines)}</ul>'


def questions_table(runs: Sequence[Run]) -> str:
    """What was asked: per task an example question, its reference answer, the measure, and how many."""
    body = []
    for task in tasks_of(runs):
        run = next(r for r in runs if task in r.scores["main"])
        example: Mapping[str, Any] = next((row for row in run.rows if row["task"] == task), {})
        metric = run.scores["main"][task]
        count = run.scores["counts"][REAL][task]
        asked = run.scores["controls"][REAL][task][metric]["n"]  # count["n"] is of rows: questions × decoding seeds
        body.append(
            f"<tr><td><strong>{escape(task)}</strong></td>"
            f"<td>{escape(remove_marks(str(example.get('prompt') or NONE)))}</td>"
            f"<td>{escape(str(example.get('reference') or NONE)[:200])}</td>"
            f"<td>{escape(_METRIC_WORDS.get(metric, metric))}</td>"
            f'<td class="num">{asked}</td><td class="num">{count["num_patients"]}</td></tr>'
        )
    return (
        '<div class="scroll"><table><thead><tr><th>task</th><th>a question</th><th>its reference answer</th>'
        '<th>measured as</th><th class="num">questions</th><th class="num">patients</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def scores_table(runs: Sequence[Run]) -> str:
    """The table of results: each gap and its verdict first, then the score and the controls."""
    conditions = conditions_of(runs)
    head = (
        '<th>task</th><th>model, measure</th><th class="num">gap to best<br>control</th><th>so the model …</th>'
        '<th class="num">score</th>'
        + "".join(f'<th class="num wrap">{escape(CONDITIONS.get(c, c))}</th>' for c in conditions)
        + '<th class="num">most frequent<br>answer</th>'
    )
    body = []
    for task in tasks_of(runs):
        shown = [run for run in runs if task in run.scores["main"]]
        for i, run in enumerate(shown):
            metric = run.scores["main"][task]
            css, words = verdict(run, task)
            name = f'<td rowspan="{len(shown)}"><strong>{escape(task)}</strong></td>' if i == 0 else ""
            cells = "".join(f'<td class="num">{say(main_estimate(run, c, task))}</td>' for c in (*conditions, MAJORITY))
            gap = gap_estimate(run, task)
            flag = '<span class="interval flag">! includes zero</span>' if includes_zero(gap) else ""
            body.append(
                f"<tr{' class=first' if i == 0 else ''}>{name}<td>{escape(run.name)}"
                f'<span class="interval">{escape(METRICS.get(metric, metric))}</span></td>'
                f'<td class="num">{_with_interval(gap, signed=True)}{flag}</td>'
                f'<td><span class="verdict {css}">{escape(words)}</span></td>'
                f'<td class="num score">{_with_interval(main_estimate(run, REAL, task))}</td>{cells}</tr>'
            )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def includes_zero(gap: Mapping[str, Any] | None) -> bool:
    """Whether a gap's interval includes zero: the score beside it does not show that the ECG was read."""
    return gap is not None and gap["low"] is not None and gap["low"] <= 0 <= gap["high"]


def seeds_table(runs: Sequence[Run]) -> str:
    """Runs decoded with several seeds: mean, standard deviation and t-interval of the main metric; else empty."""
    body = []
    for run in runs:
        for task, metric in sorted(run.scores["main"].items()):
            for condition in (REAL, *conditions_of([run]), *perturbations_of([run])):
                found = run.scores.get("seeds", {}).get(condition, {})
                if (seeds := found.get(task, {}).get(metric)) is None:
                    continue
                shown = (
                    perturbation_title(condition) if is_perturbation(condition) else TITLES.get(condition, condition)
                )
                mean = {"value": seeds["mean"], "low": seeds["low"], "high": seeds["high"]}
                sd = NONE if seeds["sd"] is None else f"{seeds['sd']:.3f}"
                single = ", ".join(say({"value": value}) for value in seeds["values"].values())
                body.append(
                    f"<tr><td>{escape(run.name)}</td><td>{escape(task)}</td>"
                    f"<td>{escape(shown)}</td>"
                    f'<td class="num">{seeds["n"]}</td><td class="num">{_with_interval(mean)}</td>'
                    f'<td class="num">{sd}</td><td class="num">{escape(single)}</td></tr>'
                )
    if not body:
        return ""
    return (
        '<div class="scroll"><table><thead><tr><th>model</th><th>task</th><th>shown</th><th class="num">seeds</th>'
        '<th class="num">mean, t-interval</th><th class="num">sd</th><th class="num">each seed</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def robustness_html(runs: Sequence[Run]) -> str:
    """The table of the perturbations, one row per perturbation, task and run."""
    header, *body = robustness_table(runs)
    num_words = header.index("undisturbed")

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=num' if i >= num_words else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    rows = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in body)
    return f'<div class="scroll"><table><thead><tr>{row(header, "th")}</tr></thead><tbody>{rows}</tbody></table></div>'


def _with_interval(estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
    value, _, limits = say(estimate, with_interval=True, signed=signed).partition(" ")
    return f'{value}<span class="interval">{limits}</span>' if limits else value


def legend(runs: Sequence[Run]) -> str:
    """The colours of the bars."""
    keys = "".join(
        f'<span><span class="key" style="background:{COLOURS.get(c, _OTHER_COLOUR)}"></span>'
        f"{escape(TITLES.get(c, c))}</span>"
        for c in (REAL, *conditions_of(runs), MAJORITY)
    )
    return f'<div class="legend">{keys}</div>'


def bars(runs: Sequence[Run], task: str) -> str:
    """Bars of one task (inline SVG): each run under each condition, with its 95 % interval as a whisker."""
    left, width, right, step = 150, 300, 70, 17
    y, parts = 8, []
    shown = [run for run in runs if task in run.scores["main"]]
    for run in shown:
        metric = run.scores["main"][task]
        title = f"{run.name} ({METRICS.get(metric, metric)})"
        parts.append(f'<text x="0" y="{y + 11}" font-size="13" font-weight="600">{escape(title)}</text>')
        y += 19
        for condition in (REAL, *conditions_of([run]), MAJORITY):
            found = main_estimate(run, condition, task)
            label, colour = TITLES.get(condition, condition), COLOURS.get(condition, _OTHER_COLOUR)
            parts.append(
                f'<text x="{left - 8}" y="{y + 10}" font-size="11.5" text-anchor="end" fill="#5b6b7b">'
                f"{escape(label)}</text>"
            )
            if found is not None and found["value"] is not None:
                length = max(0.0, min(1.0, found["value"])) * width
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="12" rx="1.5" fill="{colour}"/>')
                if found["low"] is not None:
                    low, high = (left + max(0.0, min(1.0, found[k])) * width for k in ("low", "high"))
                    parts.append(
                        f'<path d="M{low:.1f} {y + 6}H{high:.1f}M{low:.1f} {y + 3}v6M{high:.1f} {y + 3}v6" '
                        'stroke="#1c2733" stroke-width="1.2" fill="none"/>'
                    )
            weight = ' font-weight="700"' if condition == REAL else ""
            parts.append(f'<text x="{left + width + 10}" y="{y + 10}" font-size="12"{weight}>{say(found)}</text>')
            y += step
        y += 8
    ticks = "".join(
        f'<path d="M{left + t * width / 4:.1f} 22V{y - 4}" stroke="#dde4ea"/>'
        f'<text x="{left + t * width / 4:.1f}" y="{y + 9}" font-size="11" text-anchor="middle" fill="#5b6b7b">'
        f"{t / 4:g}</text>"
        for t in range(5)
    )
    return (
        f'<figure class="panel" style="margin:0"><h3>{escape(task)}</h3>'
        f'<svg viewBox="0 0 {left + width + right} {y + 14}" role="img" aria-label="scores of task {escape(task)}">'
        f"{ticks}{''.join(parts)}</svg></figure>"
    )


def confusion_table(run: Run, task: str) -> str:
    """A confusion matrix as a shaded table: rows are the truth, columns the answer; the shade is the share of a row."""
    matrix = run.scores["confusion"][task]
    head = "".join(f"<th><span>{escape(c)}</span></th>" for c in matrix["columns"])
    body = []
    for label, counts in zip(matrix["labels"], matrix["matrix"], strict=True):
        total = sum(counts)
        if not total:
            continue
        cells = []
        for column, count in zip(matrix["columns"], counts, strict=True):
            share = count / total
            colour = "11,110,127" if column == label else "179,38,30"  # teal: right, red: mistake
            ink = ";color:#fff" if share > 0.55 else ""
            cells.append(f'<td style="background:rgba({colour},{share:.2f}){ink}">{count or "·"}</td>')
        body.append(f'<tr><th class="side">{escape(label)} ({total})</th>{"".join(cells)}</tr>')
    return (
        f'<div class="panel"><h3>{escape(run.name)}: {escape(task)}</h3><div class="scroll"><table class="confusion">'
        f'<thead><tr><th class="side">truth ↓ &nbsp; answer →</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></div>"
    )


def class_tables(runs: Sequence[Run]) -> str:
    """F1 and accuracy of every class, each task folded away."""
    blocks = []
    for task in tasks_of(runs):
        shown = [run for run in runs if task in run.scores["per_class"][REAL]]
        if not shown:
            continue
        head = '<th>class</th><th class="num">questions</th>' + "".join(
            f'<th class="num">{escape(run.name)}<br>F1</th><th class="num">accuracy</th>' for run in shown
        )
        body = []
        for label in shown[0].scores["per_class"][REAL][task]:
            parts = [run.scores["per_class"][REAL][task].get(label, {}) for run in shown]
            cells = "".join(
                f'<td class="num">{_with_interval(part.get(measure))}</td>'
                for part in parts
                for measure in ("f1", "accuracy")
            )
            number = parts[0]["f1"]["n"]
            body.append(f'<tr><td>{escape(label)}</td><td class="num">{number}</td>{cells}</tr>')
        blocks.append(
            f"<details><summary>{escape(task)}</summary>"
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
            "</details>"
        )
    return "".join(blocks)


def card_html(card: Card, number: int) -> str:
    """One test ECG on paper with its question, the reference and every answer."""
    images = "".join(
        f'<img alt="Test ECG {number} on paper" src="{escape(png_uri(image), quote=True)}">' for image in card.images
    )
    marks = {
        True: '<span class="mark right">✓ right</span>',
        False: '<span class="mark wrong">✗ wrong</span>',
        None: "",
    }
    answers = "".join(
        f'<tr><td>{escape(a.run)}</td><td>{escape(a.text)}</td><td class="num">{marks[a.correct]}</td></tr>'
        for a in card.answers
    )
    return (
        f'<div class="panel card"><h3>Test ECG {number} · {escape(card.task)}</h3>{images}'
        f'<p class="question">{escape(card.question)}</p><table><tbody>'
        f"<tr><td>reference</td><td><strong>{escape(card.reference)}</strong></td><td></td></tr>"
        f"{answers}</tbody></table></div>"
    )


def counts_table(runs: Sequence[Run]) -> str:
    """How many rows stand behind every score, and how many of them failed, are missing or could not be read."""
    columns = ("n", "n_failed", "n_missing", "n_unparsed", "n_empty", "num_patients")
    head = "".join(f'<th class="num">{c}</th>' for c in columns)
    body = "".join(
        f"<tr><td>{escape(run.name)}</td><td>{escape(task)}</td><td>{escape(condition)}</td>"
        + "".join(f'<td class="num">{count[c]}</td>' for c in columns)
        + "</tr>"
        for run in runs
        for condition, tasks in run.scores["counts"].items()
        for task, count in tasks.items()
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>model</th><th>task</th><th>condition</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
