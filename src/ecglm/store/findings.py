"""What an audit reports: kinds of findings, the report for people, its verdict."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ecglm.types import ECG_MARK

#: Kind of finding → (is it leakage, what it means).
KINDS: dict[str, tuple[bool, str]] = {
    "ecg_in_two_splits": (True, "the same ECG is used in two splits"),
    "patient_in_two_splits": (True, "ECGs of the same patient are used in two splits"),
    "identical_signals": (True, "two records of different splits hold the same samples"),
    "near_duplicate_signals": (True, "two records of different splits hold nearly the same signal"),
    "question_in_two_splits": (True, "the same question about the same ECG, or its paraphrase, is in two splits"),
    "split_not_official": (False, "a conversation's split is not that of the record's official fold or split"),
    "no_split": (False, "a conversation belongs to no split, or to an unknown one; its leakage is not checked"),
    "duplicate_id": (False, "a conversation id stands twice"),
    "not_in_store": (False, "a conversation names an ECG that no store here holds"),
    "patient_mismatch": (False, "a conversation names another patient than the store, or not one per ECG"),
    "no_patient_id": (False, "an ECG without patient id counts as a patient of its own"),
    "turn_order": (
        False,
        "turns must alternate user, assistant (a system turn may stand first) and end with an answer",
    ),
    "empty_answer": (False, "an answer is empty"),
    "empty_question": (False, "a question is empty but for its ECG marks"),
    "mark_count": (False, f"the number of {ECG_MARK} marks in the questions is not the number of ECGs"),
    "mark_in_answer": (False, f"an answer holds the mark {ECG_MARK}"),
    "answer_in_question": (False, "the answer stands in the question although it offers no choice"),
}
_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how often, with some examples."""

    kind: str
    detail: str
    count: int
    examples: tuple[str, ...]
    is_leak: bool


@dataclass(frozen=True)
class Prior:
    """Answers of one task in one split: how many, how many different ones, the commonest with their shares."""

    task: str
    split: str
    num_answers: int
    num_different: int
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AuditReport:
    """What ``audit`` found.

    overlaps: ``"a ↔ b"`` for two groups (corpus/split) → counts of shared patients, ecgs and question texts. sizes:
    group → conversations, ECGs, patients. labels: split → label → share of that split's records in the stores.
    """

    findings: tuple[Finding, ...]
    sizes: dict[str, dict[str, int]]
    overlaps: dict[str, dict[str, int]]
    priors: tuple[Prior, ...]
    labels: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """False when anything leaks between two splits."""
        return not any(finding.is_leak for finding in self.findings)

    def lines(self) -> list[str]:
        """The report for people: sizes, overlaps, priors, findings, verdict."""
        lines = []
        for group, size in self.sizes.items():
            lines.append(f"{group}: {', '.join(f'{count} {name}' for name, count in size.items())}")
        for pair, shared in self.overlaps.items():
            lines.append(f"{pair}: shared {', '.join(f'{name} {count}' for name, count in shared.items())}")
        for prior in self.priors:
            top = ", ".join(f"{short(answer)} {share:.0%}" for answer, share in prior.top)
            lines.append(
                f"answers of {prior.task}, {prior.split}: {prior.num_answers}, {prior.num_different} different: {top}"
            )
        for finding in self.findings:
            word = "LEAK" if finding.is_leak else "note"
            lines.append(f"{word} {finding.kind}: {finding.count} × {finding.detail}")
            lines += [f"     {example}" for example in finding.examples]
        lines.append("no leakage between splits" if self.ok else "LEAKAGE between splits: do not train on this")
        return lines


class Findings:
    """Collects findings: every one counted, the first few kept as examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < _EXAMPLES:
            self.examples[kind].append(example)

    def all(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(kind, detail, self.counts[kind], tuple(self.examples[kind]), is_leak)
            for kind, (is_leak, detail) in KINDS.items()
            if self.counts[kind]
        )


def short(text: str) -> str:
    """One line of at most 60 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "…"
