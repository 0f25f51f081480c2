"""Mode ``pulse``: the seven rule-scored tasks exactly as the original scorer counts them, quirks included.

What looks wrong here is meant: labels by substring, letters by alphabet, random letters for what cannot be read, the
class set of the rows at hand, values of the row before. ``strict`` is the mode to trust (arXiv 2410.19008).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.labels import pulse_gold, pulse_labels
from ecglm.evaluation.ecgbench.letters import pulse_letter, pulse_stream
from ecglm.evaluation.ecgbench.sets import pulse_candidates, pulse_set
from ecglm.evaluation.ecgbench.subsets import SUBSETS, TASK_ORDER, Subset

FINAL = 99999
NAN = float("nan")


@dataclass(frozen=True)
class PulseItem:
    """What the original makes of one row. right, read: labels, the candidates, or one letter; drawn: it was by lot."""

    id: str
    right: frozenset[str]
    read: frozenset[str]
    drawn: bool = False


@dataclass(frozen=True)
class PulseScore:
    """Figures of one file, in shares of 1: ``f1``, ``auc``, ``hl``, or ``accuracy``. classes: those that were scored.

    counted: False for a multiple-choice file of another length than the published one: the original leaves it out.
    """

    key: int | str
    path: Path
    figures: Mapping[str, float]
    classes: tuple[str, ...] = ()
    num_rows: int = 0
    num_drawn: int = 0
    counted: bool = True
    items: tuple[PulseItem, ...] = ()

    def lines(self) -> list[str]:
        """What the original prints of a file."""
        f = self.figures
        if "accuracy" in f:
            return [f"{self.path} accuracy {round(100 * f['accuracy'], 1)}"]
        f1, auc, hl = (round(100 * f[name], 1) for name in ("f1", "auc", "hl"))
        return [f"{self.path} f1 {f1} auc {auc} hl {hl}", f"F1: {f['f1']:.4f}, AUC: {f['auc']:.4f}"]


def find_files(root: str | Path) -> dict[str, list[Path]]:
    """Task → every ``*.jsonl`` below ``root`` whose full path contains the task's tag, in the order of the walk.

    A path counts as it is spelled, ``root`` included; for ``ptb-test`` it must not contain ``report``. Folders and
    files are walked by name, each folder's files before its folders.
    """
    if not os.path.isdir(root):
        raise EcglmError(f"{root}: no such folder of predictions")
    found: dict[str, list[Path]] = {task: [] for task in TASK_ORDER}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith(".jsonl"):
                continue
            for task in TASK_ORDER:
                if SUBSETS[task].tag in path and not (task == "ptb-test" and "report" in path):
                    found[task].append(Path(path))
    return found


def model_key(path: Path) -> int | str:
    """The model a file belongs to: the number of its step (``final`` is 99999), or its name before the first ``_``."""
    name = path.name
    if "step" not in name:
        return name.split("_", 1)[0]
    step = name.rsplit("-", 1)[-1].split(".", 1)[0]
    try:
        return FINAL if step == "final" else int(step)
    except ValueError as error:
        raise EcglmError(f"{path}: 'step' in the name and no number behind its last '-'; rename the file") from error


def score_pulse(
    files: Mapping[str, Sequence[Path]], gold: Callable[[str], Sequence[GoldItem]]
) -> dict[str, dict[int | str, PulseScore]]:
    """Task → model key → score; of two files with one key the later stays. files: as ``find_files`` gives them.

    gold: task → its items. Random letters are one stream over all multiple-choice files, those left out too. Raises
    EcglmError where the original would crash: an unknown id, a blank line, an empty file, keys of two kinds.
    """
    return dict(score_tasks(files, gold))


def score_tasks(
    files: Mapping[str, Sequence[Path]], gold: Callable[[str], Sequence[GoldItem]]
) -> Iterator[tuple[str, dict[int | str, PulseScore]]]:
    """``score_pulse`` task by task: what came before a crash is known then."""
    stream = pulse_stream()
    for task in TASK_ORDER:
        scores: dict[int | str, PulseScore] = {}
        for path in files.get(task, ()):
            score = score_file(path, SUBSETS[task], gold(task), stream)
            if score.counted:
                scores[score.key] = score
        kinds = {type(key) for key in scores}
        if len(kinds) > 1:
            raise EcglmError(
                f"{task}: files named by steps and by models together ({', '.join(map(str, scores))}), which the "
                "original scorer cannot sort; score them apart"
            )
        if scores:
            yield task, {key: scores[key] for key in sorted(scores)}  # type: ignore[type-var]


def score_file(path: Path, subset: Subset, gold: Sequence[GoldItem], stream: Random) -> PulseScore:
    """One file by the original's rules; ``stream`` gives the letters of answers that cannot be read."""
    values = {item.id: _gold_value(item) for item in gold}
    read = {"multi-label": _labels, "choice": _letters, "set": _sets}[subset.kind]
    items = tuple(read(path, subset, values, stream))
    key = model_key(path)
    if not items and subset.kind == "choice":
        return PulseScore(key, path, {"accuracy": NAN}, counted=False)
    if not items:
        raise EcglmError(f"{path}: holds no rows, and the original scorer stops at an empty file; leave it out")
    if subset.kind == "multi-label":
        classes = tuple(sorted(set().union(*(item.right for item in items))))
        if not classes:
            raise EcglmError(f"{path}: none of its items has a label of {subset.name}; check --data")
        figures = label_figures([i.right for i in items], [i.read for i in items], classes)
        return PulseScore(key, path, figures, classes, len(items), items=items)
    share = float(np.mean([item.right == item.read for item in items]))
    return PulseScore(
        key,
        path,
        {"accuracy": share},
        num_rows=len(items),
        num_drawn=sum(item.drawn for item in items),
        counted=subset.kind != "choice" or len(items) == subset.rows,
        items=items,
    )


def label_figures(
    gold: Sequence[frozenset[str]], read: Sequence[frozenset[str]], classes: Sequence[str]
) -> dict[str, float]:
    """Macro F1, macro AUC of the binary predictions and Hamming loss over ``classes``; others are dropped.

    AUC is NaN where one class is right in every row. With a single class F1 is that of its absence.
    """
    true = np.array([[label in row for label in classes] for row in gold], bool)
    said = np.array([[label in row for label in classes] for row in read], bool)
    hit, missed = (true & said).sum(0), (true & ~said).sum(0)
    extra, passed = (~true & said).sum(0), (~true & ~said).sum(0)
    if len(classes) == 1 and not (true.all() and said.all()):
        f1 = _f1(passed, missed, extra)
    else:
        f1 = _f1(hit, extra, missed)
    positives, negatives = hit + missed, extra + passed
    with np.errstate(invalid="ignore"):
        auc = np.where((positives > 0) & (negatives > 0), (hit / positives + passed / negatives) / 2, NAN)
    return {"f1": float(f1.mean()), "auc": float(auc.mean()), "hl": float((true != said).mean())}


def _f1(hit: np.ndarray, extra: np.ndarray, missed: np.ndarray) -> np.ndarray:
    bottom = 2 * hit + extra + missed
    return np.where(bottom > 0, 2 * hit / np.maximum(bottom, 1), 0.0)


def _gold_value(item: GoldItem) -> Any:
    """The second turn's value as the file has it: what the original compares with."""
    turns = item.raw.get("conversations", item.raw.get("conversation"))
    return turns[1]["value"] if isinstance(turns, list) and "value" in turns[1] else item.turns[-1].text


def _rows(path: Path, values: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(id, answer, row) of every line; what a row lacks is the row's before it."""
    row_id = answer = None
    try:
        with open(path, encoding="utf-8") as handle:
            lines = list(handle)
    except (OSError, UnicodeDecodeError) as error:
        raise EcglmError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
            what = "blank" if not line.strip() else "not valid JSON"
            raise EcglmError(f"{place}: {what}, the original scorer stops here; mode strict says more") from error
        if not isinstance(row, dict):
            raise EcglmError(f"{place}: an object is needed, found {type(row).__name__}")
        row_id = row.get("question_id", row.get("id", row_id))
        answer = row.get("text", row.get("response", answer))
        if row_id is None or not isinstance(answer, str):
            what = "id" if row_id is None else "text"
            raise EcglmError(f"{place}: has no {what}, nor has a row before it; the original scorer stops here")
        if str(row_id) not in values:
            raise EcglmError(f"{place}: id '{row_id}' is not in the data; the original scorer stops here")
        yield str(row_id), answer, row


def _labels(path: Path, subset: Subset, values: Mapping[str, Any], stream: Random) -> Iterator[PulseItem]:
    for row_id, answer, _ in _rows(path, values):
        yield PulseItem(row_id, pulse_gold(values[row_id], subset), pulse_labels(answer, subset))


def _letters(path: Path, subset: Subset, values: Mapping[str, Any], stream: Random) -> Iterator[PulseItem]:
    for row_id, answer, _ in _rows(path, values):
        try:
            letter = pulse_letter(answer)
        except EcglmError as error:
            raise EcglmError(f"{path}: row '{row_id}': {error}") from error
        right = values[row_id] if subset.name == "mmmu-ecg" else values[row_id][0]
        read = stream.choice(subset.letters) if letter is None else letter
        yield PulseItem(row_id, frozenset({str(right)}), frozenset({read}), letter is None)


def _sets(path: Path, subset: Subset, values: Mapping[str, Any], stream: Random) -> Iterator[PulseItem]:
    candidates: list[str] | None = None
    for row_id, answer, row in _rows(path, values):
        if "prompt" in row:
            try:
                candidates = pulse_candidates(row["prompt"])
            except (KeyError, AttributeError) as error:
                raise EcglmError(f"{path}: row '{row_id}': prompt must be text, or hold a prompt") from error
        if candidates is None:
            raise EcglmError(f"{path}: row '{row_id}' has no prompt, nor has a row before it")
        yield PulseItem(row_id, frozenset(values[row_id]), pulse_set(answer, candidates))
