"""A talk as a file to take along: JSON, Markdown, or its measurements as a table. No id, name or date of a patient."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from ecglm.demo.shown import Shown
from ecglm.demo.talk import Answer, Placed, Talk
from ecglm.demo.texts import csv_cell, fenced, left_out

NOTICE = (
    "For research use only. Not a medical device; answers and measurements can be wrong and must not guide the care of "
    "any patient."
)


def as_dict(talk: Talk) -> dict[str, Any]:
    """The talk as plain values. An ECG is known by its number and the sha256 of what was shown, never by a file's
    name or a record's id.
    """
    return {
        "version": 1,
        "notice": NOTICE,
        "models": [{"name": m.name, "fingerprint": m.fingerprint} for m in talk.models],
        "ecgs": [_ecg(placed) for placed in talk.ecgs],
        "questions": [
            {
                "question": q.text,
                "shows": [p.number for p in talk.ecgs if p.question == index],
                "answers": [[_answer(a) for a in of_model] for of_model in q.answers],
            }
            for index, q in enumerate(talk.questions)
        ],
    }


def as_json(talk: Talk) -> str:
    """``as_dict`` as JSON text."""
    return json.dumps(as_dict(talk), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(talk: Talk) -> str:
    """The talk to be read; what people and models wrote stands in blocks in which nothing is Markdown."""
    found = as_dict(talk)
    lines = ["# A talk about ECGs", "", f"> {NOTICE}", ""]
    for number, model in enumerate(found["models"]):
        said = fenced(f"{model['name']}\nfingerprint {model['fingerprint'] or 'not known'}")
        lines += [f"Model {_letter(number)}:", "", said, ""]
    for ecg in found["ecgs"]:
        lines += [f"## ECG {ecg['number']}", "", f"sha256 of what was shown: `{ecg['sha256']}`", ""]
        lines += ["| Measurement | Value | Unit | Note |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(_cell(v) for v in row.values())} |" for row in ecg["measurements"]]
        lines.append("")
    for number, question in enumerate(found["questions"], 1):
        about = f" (shows ECG {', '.join(map(str, question['shows']))})" if question["shows"] else ""
        lines += [f"## Question {number}{about}", "", fenced(question["question"]), ""]
        for model, answers in enumerate(question["answers"]):
            for answer in answers:
                how = ", ".join(filter(None, ["sampled" if answer["sampled"] else "", _state(answer), _shown(answer)]))
                lines += [f"Model {_letter(model)}{f' ({how})' if how else ''}:", "", fenced(answer["text"]), ""]
    return "\n".join(lines)


def measurements_csv(shown: Shown, segment: int = 0) -> str:
    """The measurements of one ECG as a CSV table that no spreadsheet runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["measurement", "value", "unit", "note"])
    for row in shown.measurements(segment):
        writer.writerow([_number_or_text(v) for v in (row.name, row.value, row.unit, row.note)])
    return out.getvalue()


def _number_or_text(text: str) -> str:
    """A signed number is left as it is: a spreadsheet reads it as one. All else is escaped."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return csv_cell(text)


def _ecg(placed: Placed) -> dict[str, Any]:
    shown = placed.shown
    rows = [{"name": r.name, "value": r.value, "unit": r.unit, "note": r.note} for r in _rows(placed)]
    return {
        "number": placed.number,
        "kind": "picture" if shown.is_picture else "recording",
        "sha256": shown.sha256(placed.segment),
        "seconds": None if shown.is_picture else shown.titles()[placed.segment],
        "measurements": rows,
    }


def _rows(placed: Placed) -> list[Any]:
    return placed.shown.measurements(placed.segment)


def _answer(answer: Answer) -> dict[str, Any]:
    found = {"text": answer.text, "state": answer.state, "finish": answer.finish, "sampled": answer.sampled}
    found |= {"shown_from_question": answer.start + 1} if answer.start else {}
    return found | ({"truncated": sorted(set(answer.truncated))} if answer.truncated else {})


def _state(answer: dict[str, Any]) -> str:
    if answer["state"] == "done":
        return "cut at the length limit" if answer["finish"] == "length" else ""
    return str(answer["state"])


def _shown(answer: dict[str, Any]) -> str:
    start = answer.get("shown_from_question")
    shown = f"shown the talk from question {start} on, the rest did not fit" if start else ""
    return "; ".join(filter(None, [shown, left_out(answer.get("truncated", ()))]))


def _letter(number: int) -> str:
    return "AB"[number]


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
