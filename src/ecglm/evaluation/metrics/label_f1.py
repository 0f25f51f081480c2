"""Label F1: diagnostic statements found in a generated report against those found in the reference, 0 to 1.

``findings`` reads both texts with ``lexicon.yaml``: English terms, mapped to SCP-ECG statements and to the five
diagnostic classes of PTB-XL. What a report denies ("no", "without", "ruled out" …) is not stated; what it states with
doubt ("possible", "cannot be excluded") is. A report whose words the lexicon does not know states nothing: its
statements are missed, and a reference that states nothing can only be contradicted. So it measures clinical content
within the lexicon, not the whole report; how well the lexicon reads PTB-XL's reports stands in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from ecglm.evaluation.metrics.base import Metric, Row, answer_text, divide
from ecglm.evaluation.metrics.findings import SUPERCLASSES, stated, statements
from ecglm.evaluation.metrics.macro_f1 import macro
from ecglm.registry import register

Found = Callable[[str], frozenset[str]]


@lru_cache(maxsize=1 << 17)
def codes_in(text: str) -> frozenset[str]:
    """The statements a report makes."""
    return stated(text)


@lru_cache(maxsize=1 << 17)
def superclasses_in(text: str) -> frozenset[str]:
    """The diagnostic classes of the statements a report makes."""
    classes = statements()
    return frozenset(classes[name] for name in codes_in(text)) - {""}


def codes_of_references(rows: Sequence[Row]) -> tuple[str, ...]:
    """Every statement that a reference makes, in the lexicon's order."""
    found = frozenset().union(*(codes_in(str(row["reference"])) for row in rows))
    return tuple(name for name in statements() if name in found)


def hits(rows: Sequence[Row], found_in: Found, labels: Sequence[str] | None) -> np.ndarray:
    """Per row (and label, where given): true positives, false positives, false negatives. ``(num_rows, 3 [C])``."""
    place = {label: i for i, label in enumerate(labels or ())}
    table = np.zeros((len(rows), 3 if labels is None else 3 * len(place)))
    for i, row in enumerate(rows):
        answer, truth = found_in(answer_text(row)), found_in(str(row["reference"]))
        if labels is None:
            table[i] = len(answer & truth), len(answer - truth), len(truth - answer)
            continue
        for label in answer | truth:
            if label in place:
                kind = 2 if label not in answer else 1 if label not in truth else 0
                table[i, 3 * place[label] + kind] = 1.0
    return table


def _all_codes(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    return hits(rows, codes_in, None)


def _codes(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    return hits(rows, codes_in, labels)


def _superclasses(rows: Sequence[Row], labels: Sequence[str] = ()) -> np.ndarray:
    return hits(rows, superclasses_in, SUPERCLASSES)


def micro(sums: np.ndarray) -> np.ndarray:
    """``2TP / (2TP + FP + FN)`` over all statements of all rows, NaN without any. ``(…, 3)`` → ``(…)``."""
    return divide(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


LABEL_F1 = register("metrics", "label_f1")(
    Metric(
        _all_codes,
        micro,
        kinds=("text",),
        about="micro F1 of SCP-ECG statements found in report and reference, negation handled",
    )
)
LABEL_F1_MACRO = register("metrics", "label_f1_macro")(
    Metric(
        _codes,
        macro,
        kinds=("text",),
        classes=codes_of_references,
        about="mean F1 over the SCP-ECG statements that references make, negation handled",
    )
)
LABEL_F1_SUPERCLASS = register("metrics", "label_f1_superclass")(
    Metric(
        _superclasses,
        macro,
        kinds=("text",),
        about="mean F1 over the five diagnostic classes found in report and reference",
    )
)
