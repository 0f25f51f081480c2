"""Linear probe: what a frozen encoder's features tell about a store's labels, beside those of random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from ecglm.errors import ConfigError
from ecglm.evaluation.auroc import Aurocs, macro_aurocs
from ecglm.evaluation.labelled import Labelled, features
from ecglm.evaluation.linear import adam_scores, logistic_scores
from ecglm.prompts.data import EcgSource
from ecglm.randomness import generator_for

SHARES = (0.01, 0.1, 1.0)
SOLVERS = ("logistic", "adam")
#: Name of the encoder of the same architecture that has learned nothing, in every result.
RANDOM = "random"


@dataclass(frozen=True)
class ProbeRow:
    """One group of labels at one share of the training patients.

    share: of the training patients. skipped: why there is no score, empty otherwise. systems: encoder → its AUROCs.
    penalties: encoder → the L2 penalty chosen on the validation split (logistic alone).
    """

    group: str
    share: float
    num_patients: int
    num_train: int
    num_test: int
    skipped: str = ""
    systems: Mapping[str, Aurocs] | None = None
    penalties: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        base = {"group": self.group, "share": self.share, "num_patients": self.num_patients}
        base |= {"num_train": self.num_train, "num_test": self.num_test}
        if self.systems is None:
            return {**base, "skipped": self.skipped}
        return {**base, "systems": aurocs_as_dict(self.systems), "penalties": dict(self.penalties or {})}


def aurocs_as_dict(systems: Mapping[str, Aurocs]) -> dict[str, Any]:
    """JSON-able: system → macro, per class, undefined classes, difference to the reference."""
    return {
        name: {
            "macro_auroc": found.macro.as_dict(),
            "difference": None if found.difference is None else found.difference.as_dict(),
            "classes": {label: e.as_dict() for label, e in found.classes.items()},
            "undefined": dict(found.undefined),
        }
        for name, found in systems.items()
    }


def probe(
    encoders: Mapping[str, nn.Module],
    ecgs: EcgSource,
    labelled: Labelled,
    *,
    groups: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
    solver: Literal["logistic", "adam"] = "logistic",
    num_resamples: int = 2000,
    batch_size: int = 64,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[ProbeRow]:
    """Linear classifiers on frozen features, one per class of each group of labels, macro-AUROC on the test split.

    encoders: name → encoder, all of the same input; ``"random"`` is what the others are compared with, on the same
    resamples. Features: the mean over an encoder's tokens, nothing masked. groups: all that the records have, unless
    named; a record without a label of a group is no part of that group. Classes are those of the training split; one
    that the test split has not got, or has everywhere, is undefined, and listed.

    shares: of the training patients, drawn by ``seed``, a smaller share being part of a larger one. A share in which a
    class has no positive or no negative ECG is skipped, and says so. solver: ``logistic``, L2 logistic regression to
    its minimum with the penalty chosen on the validation split (our default: no learning rate, no order of batches), or
    ``adam``, the protocol of MERL (arXiv 2403.06659). Raises ConfigError for a share or solver that cannot be,
    EcglmError for a group that no record has.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"solver '{solver}': one of {', '.join(SOLVERS)}")
    for share in shares:
        if not 0 < share <= 1:
            raise ConfigError(f"shares must be above 0 and at most 1, found {share}")
    read: dict[str, np.ndarray] = {}
    for name, encoder in encoders.items():
        say(f"features of {len(labelled)} ECGs: {name}")
        read[name] = features(encoder, ecgs, labelled.records, batch_size=batch_size)
    rows = []
    for group in groups or labelled.groups():
        rows += _probe_group(read, labelled, group, shares, solver, num_resamples, seed)
    return rows


def _probe_group(
    read: Mapping[str, np.ndarray],
    labelled: Labelled,
    group: str,
    shares: Sequence[float],
    solver: str,
    num_resamples: int,
    seed: int,
) -> list[ProbeRow]:
    rows, targets, classes = labelled.targets(group)
    splits, patients = np.array(labelled.splits)[rows], np.array(labelled.patients)[rows]
    train, val, test = (np.flatnonzero(splits == s) for s in ("train", "val", "test"))
    learnable = np.zeros(len(classes), bool)
    if len(train):
        learnable = np.asarray(targets[train].any(axis=0) & ~targets[train].all(axis=0))
    never = {name: _why(targets[train][:, i]) for i, name in enumerate(classes) if not learnable[i]}
    names = [name for i, name in enumerate(classes) if learnable[i]]
    y = targets[:, learnable]
    out = []
    for share in sorted(shares):
        chosen, people = draw_share(train, patients, share, seed)
        base = (group, share, people, len(chosen), len(test))
        empty = [n for i, n in enumerate(names) if not y[chosen, i].any() or y[chosen, i].all()]
        if not names or not len(test):
            out.append(ProbeRow(*base, skipped="no class to learn" if len(test) else "no test ECG"))
            continue
        if empty:
            out.append(ProbeRow(*base, skipped=f"classes without a positive or a negative ECG: {', '.join(empty)}"))
            continue
        scores, penalties = {}, {}
        for name, x in read.items():
            x = x[rows]
            if solver == "adam":
                scores[name] = adam_scores((x[chosen], y[chosen]), x[test], seed=seed)
            else:
                fit = ((x[chosen], y[chosen]), (x[val], y[val]), x[test])
                scores[name], penalties[name] = logistic_scores(*fit)
        found = macro_aurocs(
            scores,
            y[test],
            names,
            patients[test].tolist(),
            reference=RANDOM if RANDOM in scores else None,
            num_resamples=num_resamples,
            seed=seed,
        )
        systems = {
            name: Aurocs(a.macro, a.classes, {**a.undefined, **never}, a.difference) for name, a in found.items()
        }
        out.append(ProbeRow(*base, systems=systems, penalties=penalties))
    return out


def _why(column: np.ndarray) -> str:
    return "positive in all of the training split" if column.any() else "absent from the training split"


def draw_share(train: np.ndarray, patients: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, int]:
    """Positions of the ECGs of a seeded share of the training patients (at least one), and how many patients."""
    people = sorted(set(patients[train].tolist()))
    order = generator_for(seed, "probe").permutation(len(people))
    count = min(len(people), max(1, round(share * len(people))))
    kept = {people[i] for i in order[:count]}
    return np.array([i for i in train if patients[i] in kept], np.int64), count


def table(rows: Sequence[ProbeRow]) -> list[str]:
    """The results as Markdown, one line per group and share."""
    names = [n for n in next((r.systems for r in rows if r.systems), {}) if n != RANDOM]
    heads = ["labels", "share", "patients / ECGs", "classes", *names, RANDOM, *(f"{n} − {RANDOM}" for n in names)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        share = f"{100 * row.share:g} %"
        first = [row.group, share, f"{row.num_patients} / {row.num_train}"]
        if row.systems is None:
            cells = [*first, "", f"skipped: {row.skipped}", *[""] * (len(heads) - 5)]
        else:
            found = row.systems
            any_one = next(iter(found.values()))
            total = len(any_one.classes) + len(any_one.undefined)
            cells = [*first, f"{len(any_one.classes)} of {total}"]
            cells += [interval_text(found[n].macro) if n in found else "" for n in (*names, RANDOM)]
            cells += [interval_text(found[n].difference, signed=True) for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def interval_text(estimate: Any, *, signed: bool = False) -> str:
    """``0.912 [0.88, 0.94]``; a dash where there is none."""
    if estimate is None or estimate.value is None:
        return "–"
    style = "+.3f" if signed else ".3f"
    if estimate.low is None:
        return f"{estimate.value:{style}}"
    return f"{estimate.value:{style}} [{estimate.low:{style}}, {estimate.high:{style}}]"
