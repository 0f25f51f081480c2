"""What an audit reports: kinds of findings, the report for people, its verdict."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ecglm.types import ECG_MARK

#: How grave a finding is. A leak (two splits share what they must not) and a fault (the data are not what they claim)
#: fail the audit; a note is for the reader.
SEVERITIES = ("leak", "fault", "note")
#: Kind of finding → (severity, what it means).
KINDS: dict[str, tuple[str, str]] = {
    "ecg_in_two_splits": ("leak", "the same ECG is used in two splits"),
    "patient_in_two_splits": ("leak", "ECGs of the same patient are used in two splits"),
    "identical_signals": ("leak", "two records of different splits hold the same samples"),
    "near_duplicate_signals": ("leak", "two records of different splits hold nearly the same signal"),
    "question_in_two_splits": ("leak", "the same question about the same ECG, or its paraphrase, is in two splits"),
    "no_split": ("fault", "a conversation belongs to no split, or to an unknown one: its leakage cannot be checked"),
    "duplicate_id": ("fault", "a conversation id stands twice"),
    "patient_mismatch": ("fault", "a conversation names another patient than the store, or not one per ECG"),
    "turn_order": (
        "fault",
        "turns must alternate user, assistant (a system turn may stand first) and end with an answer",
    ),
    "empty_answer": ("fault", "an answer is empty"),
    "empty_question": ("fault", "a question is empty but for its ECG marks"),
    "mark_count": ("fault", f"the number of {ECG_MARK} marks in the questions is not the number of ECGs"),
    "mark_in_answer": ("fault", f"an answer holds the mark {ECG_MARK}"),
    "answer_in_prompt": ("fault", "a whole long answer stands in the prompt of a question about an ECG"),
    "split_not_official": ("note", "a conversation's split is not that of the record's official fold or split"),
    "not_in_store": ("note", "a conversation names an ECG that no store here holds: its signal is not compared"),
    "no_patient_id": ("note", "an ECG without patient id counts as a patient of its own"),
    "answer_words_in_question": ("note", "a short answer's words stand in the question although it offers no choice"),
}
_EXAMPLES = 5
_LABELS = 12  # of each split are printed


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how often, with some examples."""

    kind: str
    detail: str
    count: int
    examples: tuple[str, ...]
    severity: str

    @property
    def is_leak(self) -> bool:
        return self.severity == "leak"


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
    num_unknown: ECGs whose source names no patient.
    """

    findings: tuple[Finding, ...]
    sizes: dict[str, dict[str, int]]
    overlaps: dict[str, dict[str, int]]
    priors: tuple[Prior, ...]
    labels: dict[str, dict[str, float]] = field(default_factory=dict)
    num_unknown: int = 0

    @property
    def ok(self) -> bool:
        """False when anything leaks between two splits, or a conversation is faulty."""
        return all(finding.severity == "note" for finding in self.findings)

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
        for split, shares in self.labels.items():
            common = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
            top = ", ".join(f"{label} {share:.0%}" for label, share in common[:_LABELS])
            more = f", {len(common) - _LABELS} more" if len(common) > _LABELS else ""
            lines.append(f"labels of the records in {split}: {top}{more}")
        if self.num_unknown:
            lines.append(f"{self.num_unknown} ECGs have no patient id: each counts as a patient of its own")
        for finding in self.findings:
            word = finding.severity if finding.severity == "note" else finding.severity.upper()
            lines.append(f"{word} {finding.kind}: {finding.count} × {finding.detail}")
            lines += [f"     {example}" for example in finding.examples]
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        severities = {finding.severity for finding in self.findings}
        if "leak" in severities:
            return "LEAKAGE between splits: do not train on this"
        return "no leakage between splits" + (", but FAULTY conversations" if "fault" in severities else "")


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
            Finding(kind, detail, self.counts[kind], tuple(self.examples[kind]), severity)
            for kind, (severity, detail) in KINDS.items()
            if self.counts[kind]
        )


def short(text: str) -> str:
    """One line of at most 60 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "…"
