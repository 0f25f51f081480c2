"""Why the two modes disagree, item by item: what each of them read in the same answer, and the quirk behind it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm.evaluation.controls import REAL
from ecglm.evaluation.ecgbench.answers import FAILED, MISSING
from ecglm.evaluation.ecgbench.gold import ONLY_ANSWER
from ecglm.evaluation.ecgbench.labels import answer_line, stands_alone
from ecglm.evaluation.ecgbench.pulse import PulseItem
from ecglm.evaluation.ecgbench.runs import DIFFERENCES
from ecglm.evaluation.ecgbench.score import BenchScores, Gold
from ecglm.evaluation.ecgbench.strict import Reading, Task
from ecglm.files import write_text

#: Cause → what it means.
CAUSES: dict[str, str] = {
    "inside_a_word": "pulse takes a label from the middle of another word (NORM in ABNORMAL, MI in STEMI)",
    "denied": "pulse counts a label that the answer rules out (no MI)",
    "before_the_answer_line": "pulse counts a label that stands before the line 'Answer:'",
    "spelled_out": "strict knows the label's full name, pulse its abbreviation only",
    "drawn_by_lot": "pulse cannot read the answer and draws a letter at random",
    "first_in_alphabet": "pulse takes the alphabetically first letter, strict the stated one",
    "not_stated": "strict finds no letter stated by its rules, pulse finds one somewhere in the text",
    "within_another_item": "pulse counts a candidate that is part of another word or item (no in none)",
    "capitals": "pulse lower-cases the answer, not the options: one with a capital never matches",
    "prompt_differs": "pulse takes the candidates from the row's prompt, strict from the item",
    "unknown_item": "strict counts what is not among the options as wrong, pulse passes over it",
    "whole_items": "strict compares whole items without case and final points, pulse looks for substrings",
    "right_answer_read_otherwise": "the two modes read the right answer itself differently",
    "no_answer": "strict counts a failed item as wrong, pulse scores the empty text or the row before it",
    "no_row": "strict counts a missing item as wrong, pulse does not notice that it is missing",
    "not_counted": "the original scorer leaves the file out",
    "only_of_the_labels": "pulse reads NORM or ABNORMAL and the six labels as one task",
    "nothing_stated": "strict counts the answer as unreadable, pulse as one that states no label",
}


def differences(done: BenchScores, gold: Gold) -> Iterator[dict[str, Any]]:
    """A row for every item that the modes read, or judge, differently; rows in the order of tasks and items.

    ``{"subset", "task", "id", "strict": {"read", "right", "state", "rule", "correct"}, "pulse": {"read", "right",
    "drawn", "correct"} or null, "causes", "why", "text"}``; both modes must have been scored.
    """
    texts = done.answers.get(REAL, {})
    for subset in texts:
        score = done.pulse_items.get(REAL, {}).get(subset)
        by_id = {item.id: item for item in score.items} if score else {}
        for task in gold.tasks(subset):
            questions = {item.id: item for item in task.items}
            for reading in done.readings[REAL][task.name]:
                text = texts[subset].texts.get(reading.id, "")
                item = by_id.get(reading.id)
                if item is not None and not _differs(reading, item):
                    continue
                prompt = texts[subset].prompts.get(reading.id)
                counted = score is not None
                causes = _causes(task, reading, item, text, questions[reading.id].options, prompt, counted)
                yield {
                    "subset": subset,
                    "task": task.name,
                    "id": reading.id,
                    "strict": {
                        "read": sorted(reading.read),
                        "right": sorted(reading.right),
                        "state": reading.state,
                        "rule": reading.rule,
                        "correct": reading.correct,
                    },
                    "pulse": item
                    and {
                        "read": sorted(item.read),
                        "right": sorted(item.right),
                        "drawn": item.drawn,
                        "correct": item.read == item.right,
                    },
                    "causes": causes,
                    "why": "; ".join(CAUSES[cause] for cause in causes),
                    "text": text[:1000],
                }


def write_differences(done: BenchScores, gold: Gold) -> tuple[Path, list[str]]:
    """``differences.jsonl`` in the run's folder, and a summary by cause, most frequent first."""
    path = done.run.folder / ("-".join(filter(None, (DIFFERENCES, done.run.label))) + ".jsonl")
    rows = list(differences(done, gold))
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))
    return path, summary(rows)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines: cause, in how many items, and for how many of those it made right wrong or wrong right."""
    total, gained, lost = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        total.update(row["causes"])
        if row["pulse"] is not None and row["pulse"]["correct"] != row["strict"]["correct"]:
            (gained if row["pulse"]["correct"] else lost).update(row["causes"])
    lines = [f"{len(rows)} items are read differently by the two modes"]
    for cause, count in sorted(total.items(), key=lambda pair: (-pair[1], pair[0])):
        moved = f"right in pulse alone {gained[cause]}, in strict alone {lost[cause]}"
        lines.append(f"  {count:6}  {cause}: {CAUSES[cause]} ({moved})")
    return lines


def _differs(reading: Reading, item: PulseItem) -> bool:
    correct = item.read == item.right
    unlike = reading.read != item.read or reading.right != item.right or reading.correct != correct
    return unlike or item.drawn or reading.state == FAILED


def _causes(
    task: Task,
    reading: Reading,
    item: PulseItem | None,
    text: str,
    options: Sequence[str],
    prompt: Any,
    counted: bool,
) -> list[str]:
    if reading.state == MISSING:
        return ["no_row"]
    if item is None:
        return ["not_counted"] if not counted else ["no_row"]
    found: list[str] = []
    if reading.state == FAILED:
        found.append("no_answer")
    elif task.subset.kind == "choice":
        found += _of_letters(reading, item)
    elif task.subset.kind == "set":
        found += _of_sets(reading, item, text, options, prompt)
    else:
        found += _of_labels(task, reading, item, text)
    if task.subset.kind != "set" and reading.right != item.right:
        found.append("right_answer_read_otherwise")
    return found or ["whole_items" if task.subset.kind == "set" else "nothing_stated"]


def _of_letters(reading: Reading, item: PulseItem) -> list[str]:
    if item.drawn:
        return ["drawn_by_lot"]
    if reading.read == item.read:
        return []
    return ["first_in_alphabet" if reading.read else "not_stated"]


def _of_labels(task: Task, reading: Reading, item: PulseItem, text: str) -> list[str]:
    found = []
    line = answer_line(text)
    for label in sorted(item.read - reading.read):
        if label not in task.labels:
            found.append("only_of_the_labels")
        elif label not in line:
            found.append("before_the_answer_line")
        else:
            found.append("denied" if stands_alone(label, line) else "inside_a_word")
    if reading.read - item.read:
        found.append("spelled_out")
    return list(dict.fromkeys(found))


def _of_sets(reading: Reading, item: PulseItem, text: str, options: Sequence[str], prompt: Any) -> list[str]:
    found = []
    asked = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
    listed = str(asked).rsplit("Options:", 1)[-1].replace(ONLY_ANSWER, "")
    if {part.strip() for part in listed.split(",")} != set(options):
        found.append("prompt_differs")
    stated = {word for word in item.read if word and word.lower() not in reading.read}
    if any(any(word in other and word != other for other in text.lower().split(",")) for word in stated):
        found.append("within_another_item")
    if any(option != option.lower() and option.lower() in text.lower() for option in options):
        found.append("capitals")
    if reading.read - {option.lower() for option in options}:
        found.append("unknown_item")
    return found
