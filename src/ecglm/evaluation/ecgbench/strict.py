"""Mode ``strict``: whole words and stated letters; what cannot be read is wrong and counted, never drawn by lot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.answers import FAILED, MISSING, Answers
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.labels import ABNORMAL, CODE_15, NORM, strict_labels, strict_normality
from ecglm.evaluation.ecgbench.letters import strict_letter
from ecglm.evaluation.ecgbench.sets import gold_set, set_f1, strict_set
from ecglm.evaluation.ecgbench.subsets import NORMALITY, Subset
from ecglm.evaluation.metrics.base import divide
from ecglm.evaluation.metrics.macro_f1 import f1_per_class, macro

READ, UNPARSED = "read", "unparsed"
#: The two tasks of ``code15-test``.
CODE_15_LABELS, CODE_15_NORMALITY = "code15-test/labels", "code15-test/normality"
#: Columns of a row's statistics before those of its cells: right, F1 of its sets, one.
_RIGHT, _SHARED, _ONE, _CELLS = 0, 1, 2, 3

Value = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """What one answer was read as. state: ``read``, ``unparsed``, ``failed`` or ``missing``; all but the first count as
    wrong. rule: what decided, or why there is nothing."""

    id: str
    right: frozenset[str]
    read: frozenset[str] = frozenset()
    state: str = READ
    rule: str = ""

    @property
    def correct(self) -> bool:
        return self.state == READ and self.read == self.right


@dataclass(frozen=True)
class Task:
    """One scored task of a subset. labels: its full label space, empty for letters and sets. right: of each item."""

    name: str
    subset: Subset
    items: tuple[GoldItem, ...]
    labels: tuple[str, ...]
    metrics: Mapping[str, Value]
    right: Mapping[str, frozenset[str]]
    read: Callable[[GoldItem, str], tuple[frozenset[str] | None, str]] = field(repr=False)

    @property
    def main(self) -> str:
        return next(iter(self.metrics))

    def readings(self, answers: Answers) -> list[Reading]:
        """One per item, in the data's order."""
        found, missing = [], set(answers.missing)
        for item in self.items:
            right = self.right[item.id]
            if item.id in missing:
                found.append(Reading(item.id, right, state=MISSING, rule="no row"))
            elif item.id in answers.failed:
                found.append(Reading(item.id, right, state=FAILED, rule=answers.failed[item.id]))
            else:
                read, rule = self.read(item, answers.texts[item.id])
                found.append(
                    Reading(item.id, right, state=UNPARSED, rule=rule)
                    if read is None
                    else Reading(item.id, right, read, READ, rule)
                )
        return found

    def statistics(self, readings: Sequence[Reading]) -> np.ndarray:
        """Numbers that add up over rows, float64 ``(num_items, 3 + 4 * num_labels)``; see ``metrics``."""
        table = np.zeros((len(readings), _CELLS + 4 * len(self.labels)))
        for i, reading in enumerate(readings):
            table[i, _RIGHT] = reading.correct
            table[i, _SHARED] = set_f1(reading.read, reading.right) if reading.state == READ else 0.0
            table[i, _ONE] = 1.0
            for c, label in enumerate(self.labels):
                cell = (label in reading.right) * 2 + (label in reading.read)  # none, extra, missed, hit
                table[i, _CELLS + 4 * c + cell] = 1.0
        return table

    def undefined(self) -> list[str]:
        """Labels that no item has: without them the macro means are taken."""
        return [label for label in self.labels if not any(label in right for right in self.right.values())]


def accuracy(sums: np.ndarray) -> np.ndarray:
    """Share of items answered fully right. Range 0 to 1, higher is better."""
    return divide(sums[..., _RIGHT], sums[..., _ONE])


def answer_f1(sums: np.ndarray) -> np.ndarray:
    """F1 between the stated and the right set, mean over items. Range 0 to 1, higher is better."""
    return divide(sums[..., _SHARED], sums[..., _ONE])


def f1(sums: np.ndarray) -> np.ndarray:
    """F1 per label, mean over the labels that some item has. Range 0 to 1, higher is better."""
    extra, missed, hit = (_cells(sums)[..., n] for n in (1, 2, 3))
    flat = np.stack([hit, extra, missed], axis=-1).reshape(*sums.shape[:-1], -1)
    return macro(flat)


def f1_of_each(sums: np.ndarray) -> np.ndarray:
    """F1 of every label, NaN for one that no item has: ``(…, num_labels)``."""
    extra, missed, hit = (_cells(sums)[..., n] for n in (1, 2, 3))
    return f1_per_class(np.stack([hit, extra, missed], axis=-1).reshape(*sums.shape[:-1], -1))


def auc_binary(sums: np.ndarray) -> np.ndarray:
    """(true positive rate + true negative rate) / 2 per label: the ROC AUC of a yes or no. Mean over the labels that
    some items have and some have not. 0.5 is chance, 1 perfect."""
    cells = _cells(sums)
    hits, passed = divide(cells[..., 3], cells[..., 2:].sum(-1)), divide(cells[..., 0], cells[..., :2].sum(-1))
    each = (hits + passed) / 2
    known = ~np.isnan(each)
    return divide(np.where(known, each, 0.0).sum(-1), known.sum(-1))


def hamming(sums: np.ndarray) -> np.ndarray:
    """Share of wrong cells among items x labels. Range 0 to 1, lower is better."""
    cells = _cells(sums)
    return divide(cells[..., 1:3].sum((-1, -2)), cells.sum((-1, -2)))


def _cells(sums: np.ndarray) -> np.ndarray:
    cells = sums[..., _CELLS:]
    return cells.reshape(*cells.shape[:-1], cells.shape[-1] // 4, 4)


_BY_LABELS: dict[str, Value] = {"f1": f1, "auc_binary": auc_binary, "hamming": hamming}
#: Metrics for which less is better.
LOWER_IS_BETTER = frozenset({"hamming"})


def tasks_of(subset: Subset, items: Sequence[GoldItem]) -> list[Task]:
    """The strict tasks of a rule-scored subset, two for ``code15-test``. EcglmError for an answer that is no choice."""
    if subset.kind == "choice":
        return [_choice(subset, items)]
    if subset.kind == "set":
        return [_set(subset, items)]
    if subset.name != CODE_15:
        return [_labels(subset.name, subset, items)]
    normal = [item for item in items if item.answers[-1].strip() in (NORM, ABNORMAL)]
    labelled = [item for item in items if item.answers[-1].strip() not in (NORM, ABNORMAL)]
    found = [_labels(CODE_15_LABELS, subset, labelled)] if labelled else []
    return [*found, _normality(subset, normal)] if normal else found


def _labels(name: str, subset: Subset, items: Sequence[GoldItem]) -> Task:
    def read(item: GoldItem, text: str) -> tuple[frozenset[str] | None, str]:
        found = strict_labels(text, subset.labels)
        return found, "labels" if found else "none" if found is not None else "no label"

    right = {item.id: strict_labels(item.answers[-1], subset.labels) or frozenset() for item in items}
    return Task(name, subset, tuple(items), tuple(subset.labels), _BY_LABELS, right, read)


def _normality(subset: Subset, items: Sequence[GoldItem]) -> Task:
    def read(item: GoldItem, text: str) -> tuple[frozenset[str] | None, str]:
        found = strict_normality(text)
        return (None, "neither NORM nor ABNORMAL, or both") if found is None else (frozenset({found}), "labels")

    right = {item.id: frozenset({item.answers[-1].strip()}) for item in items}
    metrics: dict[str, Value] = {"accuracy": accuracy, "f1": f1}
    return Task(CODE_15_NORMALITY, subset, tuple(items), tuple(NORMALITY), metrics, right, read)


def _choice(subset: Subset, items: Sequence[GoldItem]) -> Task:
    right = {item.id: frozenset({_right_letter(subset, item)}) for item in items}

    def read(item: GoldItem, text: str) -> tuple[frozenset[str] | None, str]:
        listed = subset.letters[: len(item.options)]
        if not right[item.id] <= set(listed):  # no list, or one that cannot be trusted
            listed = ""
        letter, rule = strict_letter(text, listed or subset.letters, item.options if listed else ())
        return (None, rule) if letter is None else (frozenset({letter}), rule)

    return Task(subset.name, subset, tuple(items), (), {"accuracy": accuracy}, right, read)


def _right_letter(subset: Subset, item: GoldItem) -> str:
    """Of an answer ``B``, ``B. …``, or any other that states one of the subset's letters."""
    answer = item.answers[-1]
    if answer[0] in subset.letters and not answer[1:2].isalnum():
        return answer[0]
    letter, _ = strict_letter(answer, subset.letters, item.options)
    if letter is None:
        raise EcglmError(f"{subset.name}: item '{item.id}': its answer {answer[:60]!r} is none of {subset.letters}")
    return letter


def _set(subset: Subset, items: Sequence[GoldItem]) -> Task:
    def read(item: GoldItem, text: str) -> tuple[frozenset[str] | None, str]:
        found, known = strict_set(text, item.options)
        return (found, "items") if known else (None, "no option")

    right = {item.id: gold_set(item.answers) for item in items}
    metrics: dict[str, Value] = {"accuracy": accuracy, "answer_f1": answer_f1}
    return Task(subset.name, subset, tuple(items), (), metrics, right, read)
