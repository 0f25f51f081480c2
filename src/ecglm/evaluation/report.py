"""report.html: what the models scored with and without the ECG, in one page that a clinician can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation import report_parts as parts
from ecglm.evaluation.cards import Card
from ecglm.evaluation.tables import ROBUSTNESS, Run, check_names, conditions_of, perturbations_of, tasks_of

# Nothing is fetched and nothing runs, whatever stands in an answer: even a mistake in escaping has no effect.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_GUIDE = (
    (
        "score",
        "How well the answers agree with the reference on the patient's own ECG; 1 is perfect, 0 nothing right.",
    ),
    (
        "[low, high]",
        "The 95 % interval: how far the score would move with other patients from the same source. It comes from "
        "drawing the test patients again and again; it does not tell how the model does at another hospital.",
    ),
    ("blank", "The same questions to the same model with an empty ECG (a flat line in all leads)."),
    ("noise", "… with random noise as strong as the patient's ECG in each lead."),
    ("another patient", "… with the ECG of some other test patient."),
    ("no ECG", "… with the question alone."),
    ("most frequent answer", "No model at all: always the answer that was most frequent in training."),
    (
        "gap",
        "Score minus the best of these controls, on the same questions. Only what lies above the controls can come "
        "from reading the ECG: many questions can be answered well by guessing what is common.",
    ),
    (
        "reads the ECG",
        "The whole interval of the gap lies above zero, and the score also lies above the most frequent answer. It "
        "says that the model uses the ECG, not that it is right often enough for any purpose.",
    ),
)


def check_controls(runs: Sequence[Run]) -> None:
    """EcglmError for a run without any control: its score alone would mean nothing."""
    for run in runs:
        if not conditions_of([run]):
            raise EcglmError(
                f"run '{run.name}' has no controls, and a score without them says nothing about reading the ECG; run "
                "`ecglm predict --controls blank noise swap no-ecg` and `ecglm score` again, or say "
                "--no-controls-needed for a page that warns of it"
            )


def write_report(
    out: str | Path,
    runs: Sequence[Run],
    *,
    cards: Sequence[Card] = (),
    title: str = "Do these models read the ECG?",
    data: str = "",
    facts: Mapping[str, str] | None = None,
    controls_needed: bool = True,
) -> Path:
    """Write the report, one HTML file that holds everything it shows, and return its path.

    cards: see ``cards.make_cards``. data: a sentence on where the test ECGs come from. facts: settings worth keeping,
    listed at the end. Raises EcglmError without runs, for two runs of one name, and for a run without controls; with
    ``controls_needed`` False such a run is shown, under a warning at the top of the page.
    """
    check_names(runs)
    if controls_needed:
        check_controls(runs)
    files.write_text(out, render_report(runs, cards=cards, title=title, data=data, facts=facts or {}))
    return Path(out)


def render_report(
    runs: Sequence[Run], *, cards: Sequence[Card], title: str, data: str, facts: Mapping[str, str]
) -> str:
    """The report's HTML; the same runs and cards give the same bytes."""
    style = (package_files("ecglm.evaluation") / "report.css").read_text(encoding="utf-8")
    sections = [
        '<div class="notice">Research use only. Not a medical device; use no answer on this page for care.</div>'
        f'{_without_controls(runs)}<h1>{escape(title)}</h1><p class="lead">{escape(data)}</p>',
        "<h2>In short</h2>" + parts.findings(runs) + _models(runs),
        "<h2>How to read this page</h2>" + _guide(runs),
        "<h2>What was asked</h2>" + f'<div class="panel">{parts.questions_table(runs)}</div>',
        "<h2>Scores, with and without the ECG</h2>"
        "<p>Each score stands beside the scores of the same model when it is not given the patient's ECG. "
        "The gap comes first: a score whose gap includes zero does not show that the ECG is read, however high it is. "
        "Intervals are 95 %, over patients.</p>" + f'<div class="panel">{parts.scores_table(runs)}</div>',
        "<h2>The same as bars</h2>"
        + parts.legend(runs)
        + f'<div class="grid">{"".join(parts.bars(runs, task) for task in tasks_of(runs))}</div>',
        _seeds(runs),
        _robustness(runs),
        _confusions(runs),
        _cards(cards),
        _fine_print(runs, facts),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>\n"
        + "\n".join(f"<section>{section}</section>" for section in sections if section)
        + "\n<footer>Made by ecglm. Research use only.</footer></main></body></html>\n"
    )


def _without_controls(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs if not conditions_of([run])]
    if not names:
        return ""
    return (
        f'<div class="notice">No controls were run for {escape(", ".join(names))}: whether the ECG was read cannot be '
        "said, and no score of it on this page shows it.</div>"
    )


def _seeds(runs: Sequence[Run]) -> str:
    table = parts.seeds_table(runs)
    if not table:
        return ""
    return (
        "<h2>The same model, drawn with several seeds</h2><p>Each seed draws the answers anew from the same model. "
        "The t-interval is that of the mean over such draws; it says nothing about other patients, and the patient "
        f'interval above nothing about other draws or other trainings.</p><div class="panel">{table}</div>'
    )


def _models(runs: Sequence[Run]) -> str:
    """The facts about each run, side by side."""
    keys = list(dict.fromkeys(key for run in runs for key in run.details))
    if not keys:
        return ""
    head = "".join(f"<th>{escape(key)}</th>" for key in keys)
    body = "".join(
        f"<tr><td><strong>{escape(run.name)}</strong></td>"
        + "".join(f"<td>{escape(str(run.details.get(key, '–')))}</td>" for key in keys)
        + "</tr>"
        for run in runs
    )
    table = f"<table><thead><tr><th>model</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="panel scroll">{table}</div>'


def _guide(runs: Sequence[Run]) -> str:
    shown = {parts.CONDITIONS.get(c, c) for c in conditions_of(runs)} | {"score", "[low, high]", "gap", "reads the ECG"}
    shown.add("most frequent answer")
    rows = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in _GUIDE if word in shown)
    return f'<div class="panel"><dl class="guide">{rows}</dl></div>'


def _robustness(runs: Sequence[Run]) -> str:
    if not perturbations_of(runs):
        return ""
    return (
        f"<h2>Robustness</h2><p>Here the model was shown {escape(ROBUSTNESS)}: that is what the gap above is for.</p>"
        f'<div class="panel">{parts.robustness_html(runs)}</div>'
    )


def _confusions(runs: Sequence[Run]) -> str:
    tables = [
        parts.confusion_table(run, task) for task in tasks_of(runs) for run in runs if task in run.scores["confusion"]
    ]
    classes = parts.class_tables(runs)
    if not tables and not classes:
        return ""
    return (
        "<h2>Which answers are taken for which</h2>"
        "<p>Each row is a true finding (with the number of answers to it), each column an answer; the darker, the "
        "larger the share of the row. Teal cells are right answers, red ones mistakes.</p>"
        f'<div class="grid">{"".join(tables)}</div>'
        + (f"<h3 style='margin-top:18px'>Every class, with intervals</h3>{classes}" if classes else "")
    )


def _cards(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    shown = "".join(parts.card_html(card, number) for number, card in enumerate(cards, 1))
    return (
        "<h2>Some test ECGs</h2><p>Drawn by lot among the test patients, not chosen by how the models did. "
        f'Paper: 25 mm/s, 10 mm/mV.</p><div class="grid">{shown}</div>'
    )


def _fine_print(runs: Sequence[Run], facts: Mapping[str, str]) -> str:
    warnings = dict.fromkeys(f"{run.name}: {warning}" for run in runs for warning in run.scores["warnings"])
    undefined = [
        f"{run.name}, {task}: no test ECG of {', '.join(classes)}; left out of the mean over classes"
        for run in runs
        for task, classes in run.scores["undefined_classes"].items()
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*warnings, *undefined))
    settings = [f"{run.name}: {key} = {value}" for run in runs for key, value in run.scores["settings"].items()]
    listed = "".join(
        f"<li>{escape(line)}</li>" for line in (*(f"{key}: {value}" for key, value in facts.items()), *settings)
    )
    return (
        "<h2>Small print</h2>"
        + (f'<div class="panel"><h3>Be warned</h3><ul class="plain">{notes}</ul></div>' if notes else "")
        + f"<details><summary>Rows behind every score</summary>{parts.counts_table(runs)}</details>"
        + f'<details><summary>Settings</summary><ul class="plain">{listed}</ul></details>'
    )
