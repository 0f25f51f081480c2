"""Summaries of judges as lines for people and as CSV that a spreadsheet cannot be tricked by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm import files

_COUNTS = {
    "n_judged": "judged",
    "n_failed": "failed",
    "n_empty": "empty answers",
    "n_failed_answers": "failed answers",
    "n_missing": "missing",
}


def scores_lines(summary: Mapping[str, Any]) -> list[str]:
    """A summary (``judge.json``) as lines: the gaps first, then each criterion under both ways to count failures."""
    lines = []
    for control, gaps in summary["gaps"].items():
        for name, gap in gaps.items():
            zero = " (includes 0: the ECG is not shown to matter)" if _includes_zero(gap) else ""
            lines.append(f"  gap to {control}, {name}: {estimate_text(gap)}{zero}")
    for condition, losses in summary["robustness"].items():
        lines += [f"  lost under {condition}, {name}: {estimate_text(loss)}" for name, loss in losses.items()]
    width = max([len(name) for name in summary["scores_failures_as_zero"]], default=0)
    for name, both in summary["scores_failures_as_zero"].items():
        judged = summary["scores"].get(name)
        shown = estimate_text(judged) if judged else "no item was judged"
        lines.append(f"  {name:{width}}  {shown}   with failures = 0: {both['value']:.2f}")
    if compat := summary.get("compat"):
        parts = compat.get("scores") or {"score": compat["score"]}
        values = ", ".join(f"{k} {'undefined' if v is None else format(v, '.2f')}" for k, v in parts.items())
        lines.append(f"  as {compat['aggregate']} aggregates ({compat['n']} replies): {values}")
    counted = [
        f"{summary[key]} {what}" for key, what in _COUNTS.items() if summary[key] or what in ("judged", "failed")
    ]
    lines.append(f"  {summary['n']} items: {', '.join(counted)}")
    return lines + [f"  warning: {text}" for text in summary["warnings"]]


def preference_lines(summary: Mapping[str, Any]) -> list[str]:
    """A summary of a comparison as lines."""
    lines = [
        f"  win rate {estimate_text(summary['win_rate'])} ({summary['wins']} won, {summary['ties']} tied, "
        f"{summary['losses']} lost, {summary['n_failed']} failed)",
        f"  the answer shown first was chosen: {estimate_text(summary['first_place'])} (0.50: no bias of place); "
        f"{summary['n_inconsistent']} verdicts changed with the order and count as ties",
        f"  {summary['n']} pairs, {summary['n_unasked']} settled without asking (no answer, or the same one)",
    ]
    return lines + [f"  warning: {text}" for text in summary["warnings"]]


def compare_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """``compare_runs`` as lines."""
    lines = []
    for entry in found:
        difference = f"   to the first: {estimate_text(entry['difference'])}" if "difference" in entry else ""
        lines.append(f"{entry['run']}  {entry['criterion']}  {estimate_text(entry['score'])}{difference}")
    return lines


def agreement_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """``agreements`` as lines."""
    lines = []
    for entry in found:
        left = f", {entry['left_out']} not graded by all" if entry["left_out"] else ""
        lines.append(f"{entry['criterion']}: {' and '.join(entry['graders'])} ({entry['n']} items{left})")
        for name, value in entry.items():
            if isinstance(value, Mapping):
                lines.append(f"  {name:{max(map(len, entry))}}  {estimate_text(value)}")
    return lines


def write_table(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Entries as JSON, or as CSV with one row per entry and three columns per estimate."""
    if path.suffix.lower() == ".json":
        files.write_json(path, list(found))
        return
    rows = [dict(_flat(entry)) for entry in found]
    header = list(dict.fromkeys(name for row in rows for name in row))
    files.write_text(path, csv_text(header, [[row.get(name) for name in header] for row in rows]))


def _flat(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((name if part == "value" else f"{name}_{part}", value[part]) for part in value if part != "n")
        else:
            yield name, " | ".join(value) if isinstance(value, list) else value


def estimate_text(found: Mapping[str, Any]) -> str:
    """``6.10 [5.20, 7.00]``, n behind it."""
    if found["value"] is None:
        return "undefined"
    spread = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['value']:.2f}{spread} n={found['n']}"


def _includes_zero(gap: Mapping[str, Any]) -> bool:
    return gap["low"] is None or gap["low"] <= 0 <= gap["high"]


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV of a table. A cell that a spreadsheet would take for a formula gets a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(value) for value in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return str(value)
    text = "" if value is None else str(value)
    text = f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text.replace("\r", " ")
