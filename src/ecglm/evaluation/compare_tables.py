"""A comparison as text, CSV, LaTeX and HTML; whatever stands in a name is escaped."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape as rich_escape
from rich.table import Table

from ecglm import files, registry
from ecglm.errors import EcglmError
from ecglm.evaluation.compare import FIELDS, READS, Comparison
from ecglm.evaluation.tables import METRICS, NONE

FORMATS = (".txt", ".csv", ".tex", ".html")
#: Put beside what does not show that the ECG is read.
MARK = "!"

_WORDS = ("task", "metric", "model")
_FIRST = 6  # columns that every table has: words, gap, what it says, score
_WIDE = 200  # columns of a terminal that the whole table needs
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{NONE: "--", "±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "≥": r"$\geq$", "|": r"\textbar{}"},
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem;color:#1c2733}table{border-collapse:collapse}"
    "th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #dde4ea;white-space:nowrap}"
    "th:nth-child(-n+3),td:nth-child(-n+3){text-align:left}tr.first td{border-top:2px solid #8795a3}"
    ".unshown{color:#a3341d}li{margin:.2rem 0}"
)


def cells(comparison: Comparison) -> list[list[str]]:
    """Header and rows as people read them: the gap to the controls first. Columns that say nothing are left out."""
    versus = f"difference to {comparison.against} [95 %]" if comparison.against else ""
    header = [
        *_WORDS,
        "gap to best control [95 %]",
        "so the gap is",
        "score [95 %]",
        "training seeds",
        "decoding seeds",
    ]
    header += [versus, "p", "Holm p", "detectable gap", "detectable difference", "patients"]
    body = []
    for row in comparison.rows:
        mark = "" if row["flag"] == READS else f" {MARK}"
        named = f"{_interval(row, 'gap', signed=True)} ({row['gap_control']})" if row["gap"] is not None else NONE
        line = [row["task"], METRICS.get(row["metric"], row["metric"]), row["model"], named, f"{row['flag']}{mark}"]
        line += [_interval(row, "value", "low", "high"), _seeds(row, "training"), _seeds(row, "decoding")]
        line += [_interval(row, "difference", signed=True), _p(row["p"]), _p(row["p_holm"])]
        line += [_number(row["detectable_gap"]), _number(row["detectable_difference"])]
        body.append([*line, NONE if row["patients"] is None else str(row["patients"])])
    kept = [i for i in range(len(header)) if i < _FIRST or any(line[i] != NONE for line in body)]
    return [[line[i] for i in kept] for line in (header, *body)]


def _number(value: float | None, signed: bool = False) -> str:
    if value is None:
        return NONE
    rounded = round(value, 3) + 0.0  # never "-0.000"
    return f"{rounded:+.3f}" if signed else f"{rounded:.3f}"


def _interval(row: dict[str, Any], name: str, low: str = "", high: str = "", signed: bool = False) -> str:
    text = _number(row[name], signed)
    low, high = low or f"{name}_low", high or f"{name}_high"
    if row[name] is not None and row[low] is not None:
        text += f" [{_number(row[low], signed)}, {_number(row[high], signed)}]"
    return text


def _seeds(row: dict[str, Any], axis: str) -> str:
    """``3: 0.812 ± 0.021 [0.760, 0.864]``: number of seeds, mean ± sd, t-interval."""
    number = row[f"{axis}_seeds"]
    if not number or number < 2:
        return NONE
    if row[f"{axis}_mean"] is None:
        return f"{number} each"
    spread = f"{_number(row[f'{axis}_mean'])} ± {_number(row[f'{axis}_sd'])}"
    return f"{number}: {spread} [{_number(row[f'{axis}_low'])}, {_number(row[f'{axis}_high'])}]"


def _p(value: float | None) -> str:
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def write_comparison(comparison: Comparison, out: str | Path) -> Path:
    """Write the table as ``.txt``, ``.csv``, ``.tex`` or ``.html``, by the file's ending. EcglmError for another."""
    path = Path(out)
    check_format(path)
    render = {".txt": as_text, ".csv": as_csv, ".tex": as_latex, ".html": as_html}[path.suffix.lower()]
    files.write_text(path, render(comparison))
    return path


def check_format(path: Path) -> None:
    """EcglmError for a file name whose ending is none of ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise EcglmError(f"--out {path}: the ending says the form of the table; use {', '.join(FORMATS)}")


def as_text(comparison: Comparison) -> str:
    """Columns padded with spaces, then the notes."""
    table = cells(comparison)
    widths = [max(len(_plain(line[i])) for line in table) for i in range(len(table[0]))]
    lines = []
    for line in table:
        parts = [
            _plain(cell).ljust(width) if i < len(_WORDS) else _plain(cell).rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join([*lines, "", *notes(comparison)]) + "\n"


def _plain(text: str) -> str:
    """A cell on one line: no control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def notes(comparison: Comparison) -> list[str]:
    """What the table's words mean, as far as they stand in it, and what a reader must know."""
    found = []
    if any(row["flag"] != READS for row in comparison.rows):
        found.append(f"{MARK} the score does not show that the ECG is read: no gap to the controls is shown")
    if comparison.against:
        found.append(
            f"difference: to {comparison.against}, positive is better; p by exchanging the two models' answers patient "
            "by patient; Holm p over the tasks of a model"
        )
    turned = sorted({row["metric"] for row in comparison.rows if _less_is_better(row["metric"])})
    if turned:
        found.append(f"{', '.join(turned)}: less is better; gaps and differences are turned, positive is better")
    if any(row["detectable_gap"] is not None or row["detectable_difference"] is not None for row in comparison.rows):
        found.append(
            "detectable: the smallest true gap or difference that so many patients show, 80 % power at best, 5 % level"
        )
    if any((row["training_seeds"] or 1) > 1 or (row["decoding_seeds"] or 1) > 1 for row in comparison.rows):
        found.append("seeds: number, mean ± sd and t-interval; they say nothing of other patients")
    return [_plain(note) for note in (*found, *comparison.notes)]


def _less_is_better(metric: str) -> bool:
    return metric in registry.names("metrics") and not registry.get("metrics", metric).higher_is_better


def as_csv(comparison: Comparison) -> str:
    """One column per field of ``compare.FIELDS``, numbers in full; text that a spreadsheet would run is quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in comparison.rows:
        writer.writerow([_csv_cell(row[field]) for field in FIELDS])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def as_latex(comparison: Comparison) -> str:
    """A ``tabular`` with booktabs rules; the notes stand above it as comments."""
    header, *body = cells(comparison)
    columns = "l" * len(_WORDS) + "r" * (len(header) - len(_WORDS))
    lines = [f"% {note}" for note in ["needs \\usepackage{booktabs}", *notes(comparison)]]
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_row(header), "\\midrule"]
    for i, line in enumerate(body):
        if i and body[i - 1][0] != line[0]:
            lines.append("\\midrule")
        lines.append(_latex_row(line))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex_row(line: Sequence[str]) -> str:
    escaped = ["".join(_LATEX.get(c, c) for c in _plain(cell)) for cell in line]
    # a bracket or star that opens a row would be read as an option of the \\ before it
    return " & ".join("{}" + cell if cell.startswith(("[", "*")) else cell for cell in escaped) + r" \\"


def as_html(comparison: Comparison) -> str:
    """A page of its own without script; nothing is fetched."""
    header, *body = cells(comparison)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    rows = []
    for i, line in enumerate(body):
        first = ' class="first"' if not i or body[i - 1][0] != line[0] else ""
        flagged = line[4].endswith(MARK)
        shown = "".join(
            f'<td class="unshown">{escape(cell)}</td>' if flagged and j in (3, 4) else f"<td>{escape(cell)}</td>"
            for j, cell in enumerate(line)
        )
        rows.append(f"<tr{first}>{shown}</tr>")
    told = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>Models compared</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Models compared</h1>\n"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table>\n<ul>{told}</ul>\n"
        "</body></html>\n"
    )


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """The table and its notes; a file or pipe gets one line per row, a narrow terminal the columns in two tables."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, 400))
    table = cells(comparison)
    first = list(range(_FIRST))
    rest = list(range(_FIRST, len(table[0])))
    parts = [first + rest] if console.width >= _WIDE else [first, [0, 2, *rest]]
    for title, columns in zip(("Models compared, gap to their controls first", None), parts, strict=False):
        console.print(_rich_table([[line[i] for i in columns] for line in table], title, len(set(columns) & {0, 1, 2})))
    for note in notes(comparison):
        console.print(rich_escape(note), highlight=False)


def _rich_table(lines: Sequence[Sequence[str]], title: str | None, num_words: int) -> Table:
    header, *body = lines
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        table.add_column(rich_escape(_plain(name)), justify="left" if i < num_words else "right", overflow="fold")
    for i, line in enumerate(body):
        last = i + 1 == len(body) or body[i + 1][0] != line[0]
        table.add_row(*(rich_escape(_plain(cell)) for cell in line), end_section=last)
    return table
