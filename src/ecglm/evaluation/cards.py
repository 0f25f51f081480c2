"""Some test ECGs drawn as paper, with the question asked, every model's answer, and the reference."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ecglm.evaluation.controls import REAL, remove_marks
from ecglm.evaluation.metrics.base import Row, answer_kind, answer_text, is_correct
from ecglm.evaluation.predictions import Key, by_control
from ecglm.evaluation.tables import Run

#: ECG paper has few colours; so many keep its lines smooth and its bytes few.
_COLOURS = 48


@dataclass(frozen=True)
class Answer:
    """One model's answer; correct is None for a free text, which no rule calls right or wrong."""

    run: str
    text: str
    correct: bool | None


@dataclass(frozen=True)
class Card:
    """A test question. images: uint8 ``(height, width, 3)`` arrays or PNG bytes, one per ECG of the question."""

    task: str
    images: tuple[np.ndarray | bytes, ...]
    question: str
    reference: str
    answers: tuple[Answer, ...]


def make_cards(runs: Sequence[Run], draw: Callable[[str], np.ndarray | bytes], num_cards: int = 12) -> list[Card]:
    """Cards for questions drawn by lot among those that all runs answered: tasks in turn, every patient once at most.

    The lot is a hash of the row id, so the same test set gives the same cards, whatever the models said. draw: record
    id → picture. A patient comes again only when there are fewer patients than cards.
    """
    tables = [_first_seed(by_control(run.rows, run.name)[REAL]) for run in runs]
    return [
        Card(
            task=str(rows[0]["task"]),
            images=tuple(draw(str(ecg)) for ecg in rows[0].get("ecgs") or ()),
            question=remove_marks(str(rows[0].get("prompt") or "")),
            reference=str(rows[0]["reference"]),
            answers=tuple(_answer(run, row) for run, row in zip(runs, rows, strict=True)),
        )
        for rows in ([table[key] for table in tables] for key in draw_lots(tables, num_cards))
    ]


def _first_seed(table: dict[Key, Row]) -> dict[Key, Row]:
    """A question once, as the first of its decoding seeds answered it, whatever that seed is called."""
    found: dict[Key, Row] = {}
    for row_id, turn, seed in sorted(table, key=lambda key: key[2]):
        found.setdefault((row_id, turn, 0), table[row_id, turn, seed])
    return found


def draw_lots(tables: Sequence[dict[Key, Row]], num: int) -> list[Key]:
    """The keys of ``num`` rows present in every table; see ``make_cards``."""
    shared = [key for key in tables[0] if all(key in table for table in tables)]
    shared.sort(key=lambda key: hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest())
    queues: dict[str, list[Key]] = {}
    for key in shared:
        queues.setdefault(str(tables[0][key]["task"]), []).append(key)
    chosen: list[Key] = []
    seen: set[str] = set()
    for fresh_only in (True, False):
        while len(chosen) < num:
            before = len(chosen)
            for task in sorted(queues):
                fitting = (k for k in queues[task] if not fresh_only or str(tables[0][k].get("patient_id")) not in seen)
                found = next(fitting, None)
                if found is not None and len(chosen) < num:
                    queues[task].remove(found)
                    seen.add(str(tables[0][found].get("patient_id")))
                    chosen.append(found)
            if len(chosen) == before:
                break
    return chosen


def _answer(run: Run, row: Row) -> Answer:
    text = f"(failed: {row['error']})" if row.get("error") else answer_text(row) or "(no answer)"
    return Answer(run.name, text, None if answer_kind(row) == "text" else is_correct(row))


def png_uri(image: np.ndarray | bytes) -> str:
    """A picture as a ``data:`` address; arrays are packed as PNG with few colours."""
    if isinstance(image, bytes):
        data = image
    else:
        buffer = io.BytesIO()
        packed = Image.fromarray(np.ascontiguousarray(image)).quantize(
            _COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        packed.save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()
