"""Leakage and health of conversations and the stores they point into."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecglm.errors import EcglmError
from ecglm.store.audit_table import Answers, Group, Keys, Names, digest
from ecglm.store.duplicates import duplicates_across
from ecglm.store.findings import AuditReport, Findings, Prior, short
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split
from ecglm.types import ECG_MARK, SPLITS, Conversation

#: From so many words and letters on an answer that stands whole in its prompt is given away, not mentioned.
_LONG_WORDS, _LONG_LETTERS = 4, 20
_OPTION = re.compile(r"(?:^|\n|\s)\(?([A-Ha-h1-8])[.):]\s")


def audit(conversations: Iterable[Conversation], stores: SegmentStore | Sequence[SegmentStore]) -> AuditReport:
    """Leakage between splits and the health of every conversation.

    A leak is a patient, an ECG, a question about the same ECG, or a (nearly) identical signal in two of train, val and
    test. ``stores`` give patients, official splits and signals; conversations of every corpus that is used together
    belong into one audit: chain the streams of their files. The conversations are read once and not kept: some 200
    bytes stay of each, and as much of every record of the stores.
    """
    stores = [stores] if isinstance(stores, SegmentStore) else list(stores)
    run = _Audit(_Facts(stores))
    for conversation in conversations:
        run.add(conversation)
    return run.report()


@dataclass(frozen=True, slots=True)
class _Fact:
    """What a store says about a record."""

    patient: str
    known: bool
    official: str
    store: SegmentStore


class _Facts(dict[str, _Fact]):
    """Record id → facts, for the records of all stores; where two hold a record, the first."""

    def __init__(self, stores: Sequence[SegmentStore]) -> None:
        super().__init__()
        self.stores = stores
        names: dict[str, str] = {}
        for store in stores:
            columns = ("record_id", "patient_id", "patient_known", "fold", "split")
            for batch in store.index.select(list(columns)).to_batches(max_chunksize=8192):
                for record, patient, known, fold, split in zip(
                    *(batch.column(name).to_pylist() for name in columns), strict=True
                ):
                    if record not in self:
                        self[record] = _Fact(names.setdefault(patient, patient), known, _official(fold, split), store)

    def label_shares(self, splits_of: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """Split → label → share of the split's records that carry it."""
        labels: dict[str, Counter[str]] = defaultdict(Counter)
        totals: Counter[str] = Counter()
        seen: set[str] = set()
        for store in self.stores:
            for batch in store.index.select(["record_id", "labels"]).to_batches(max_chunksize=8192):
                for record, found in zip(*(batch.column(n).to_pylist() for n in ("record_id", "labels")), strict=True):
                    if record in splits_of and record not in seen and self[record].store is store:
                        seen.add(record)
                        for split in splits_of[record]:
                            totals[split] += 1
                            labels[split].update(set(found))
        return {
            split: {label: count / totals[split] for label, count in sorted(counter.items())}
            for split, counter in sorted(labels.items())
        }


def _official(fold: int | None, split: str) -> str:
    if split or fold is None:
        return split
    try:
        return fold_split(fold)
    except EcglmError:  # folds of another kind say nothing about splits
        return ""


@dataclass
class _Audit:
    """One run: what is kept of the conversations seen so far. Splits are bits: 1 train, 2 val, 4 test."""

    facts: _Facts
    found: Findings = field(default_factory=Findings)
    names: Names = field(default_factory=Names)
    ids: Keys = field(default_factory=Keys)
    questions: Keys = field(default_factory=Keys)
    ecgs: dict[str, int] = field(default_factory=dict)
    patients: dict[str, int] = field(default_factory=dict)
    nameless: set[str] = field(default_factory=set)
    groups: dict[str, Group] = field(default_factory=dict)
    answers: dict[tuple[str, str], Answers] = field(default_factory=dict)

    def add(self, conversation: Conversation) -> None:
        number = self.names.add(conversation.id)
        self.ids.add(digest(conversation.id), 0, number)
        _check_turns(conversation, self.found)
        assigned = conversation.split in SPLITS
        split = SPLITS.index(conversation.split) if assigned else -1
        if not assigned:
            self.found.add("no_split", f"{conversation.id}: '{conversation.split}'")
        group = self.groups.setdefault(f"{conversation.corpus}/{conversation.split or 'no split'}", Group())
        group.num_conversations += 1
        for ecg, patient in self._people(conversation):
            group.add("ecgs", digest(ecg))
            for name in {patient, self.facts[ecg].patient if ecg in self.facts else patient} - {""}:
                group.add("patients", digest(name))
                if assigned:
                    self.patients[name] = self.patients.get(name, 0) | 1 << split
            if assigned:
                self.ecgs[ecg] = self.ecgs.get(ecg, 0) | 1 << split
        answers = self.answers.setdefault((conversation.task, conversation.split or "no split"), Answers())
        for turn in conversation.turns:
            if turn.role == "user":
                group.add("question texts", digest(_plain(turn.text)))
            elif turn.role == "assistant":
                answers.add(turn.text.strip())
        if assigned and conversation.ecgs:
            for key in _questions(conversation):
                self.questions.add(digest(key), split, number)

    def _people(self, conversation: Conversation) -> list[tuple[str, str]]:
        """(ECG, patient as the conversation names it) of every ECG, held against the stores."""
        id_, split = conversation.id, conversation.split
        if len(conversation.patients) != len(conversation.ecgs):
            told = f"{len(conversation.patients)} patients, {len(conversation.ecgs)} ECGs"
            self.found.add("patient_mismatch", f"{id_}: {told}")
        pairs = list(itertools.zip_longest(conversation.ecgs, conversation.patients, fillvalue=""))
        pairs = pairs[: len(conversation.ecgs)]
        for ecg, patient in pairs:
            fact = self.facts.get(ecg)
            if fact is None:
                self.found.add("not_in_store", f"{id_}: {ecg}")
                continue
            if patient and patient != fact.patient:
                self.found.add("patient_mismatch", f"{id_}: {ecg} is of {fact.patient}, not of {patient}")
            if not fact.known and ecg not in self.nameless:
                self.nameless.add(ecg)
                self.found.add("no_patient_id", ecg)
            if fact.official and split in SPLITS and split != fact.official:
                self.found.add("split_not_official", f"{id_}: {split}, but {ecg} is officially {fact.official}")
        return pairs

    def report(self) -> AuditReport:
        for number in self.ids.twice():
            self.found.add("duplicate_id", self.names[number])
        for kind, table in (("ecg_in_two_splits", self.ecgs), ("patient_in_two_splits", self.patients)):
            for name, bits in table.items():
                if bits & (bits - 1):
                    self.found.add(kind, f"{name}: {', '.join(sorted(_splits(bits)))}")
        told: set[tuple[tuple[int, int], ...]] = set()
        for where in self.questions.in_two_splits():
            if tuple(where) not in told:
                told.add(tuple(where))
                both = sorted((SPLITS[split], self.names[number]) for split, number in where)
                self.found.add("question_in_two_splits", " and ".join(f"{name} ({split})" for split, name in both))
        used = {ecg: _splits(bits) for ecg, bits in self.ecgs.items() if ecg in self.facts}
        if len({split for splits in used.values() for split in splits}) > 1:
            for pair in duplicates_across({ecg: self.facts[ecg].store for ecg in used}, used):
                kind = "identical_signals" if pair.correlation == 1 else "near_duplicate_signals"
                records = f"{pair.other} ({pair.other_split}) and {pair.record} ({pair.split})"
                later = f", {pair.shift_s:+.2f} s apart" if abs(pair.shift_s) >= 0.01 else ""
                self.found.add(kind, f"{records}, correlation {pair.correlation:.4f}{later}")
        sizes, overlaps = self._overlaps()
        labels = self.facts.label_shares(used)
        return AuditReport(self.found.all(), sizes, overlaps, self._priors(), labels, len(self.nameless))

    def _overlaps(self) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        """Sizes of every corpus/split group, and what any two of them share."""
        held = {name: group.distinct() for name, group in sorted(self.groups.items())}
        sizes = {
            name: {"conversations": self.groups[name].num_conversations, **{k: len(v) for k, v in parts.items()}}
            for name, parts in held.items()
        }
        overlaps = {
            f"{one} ↔ {other}": {what: _shared(held[one][what], held[other][what]) for what in held[one]}
            for one, other in itertools.combinations(held, 2)
        }
        return sizes, overlaps

    def _priors(self) -> tuple[Prior, ...]:
        found = []
        for (task, split), answers in sorted(self.answers.items()):
            total, different, top = answers.counts()
            if total:
                found.append(Prior(task, split, total, different, tuple((text, n / total) for text, n in top)))
        return tuple(found)


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    return len(np.intersect1d(one, other, assume_unique=True))


def _splits(bits: int) -> list[str]:
    return [split for number, split in enumerate(SPLITS) if bits >> number & 1]


def _questions(conversation: Conversation) -> set[str]:
    """What makes two questions about the same ECGs one: their words, their source, or their long answer."""
    about = "\0".join(sorted(conversation.ecgs))
    keys = {f"text\0{_plain(turn.text)}\0{about}" for turn in conversation.turns if turn.role == "user"}
    keys |= {
        f"answer\0{words}\0{about}"
        for turn in conversation.turns
        if turn.role == "assistant" and _is_long(words := _plain(turn.text))
    }
    if conversation.source_id:
        keys.add(f"source\0{conversation.source_id}\0{about}")
    return keys


def _check_turns(conversation: Conversation, found: Findings) -> None:
    """Order of turns, marks, empty texts, answers given away."""
    roles = [turn.role for turn in conversation.turns]
    after_system = roles[1:] if roles[:1] == ["system"] else roles
    if not after_system or after_system != ["user", "assistant"] * (len(after_system) // 2):
        found.add("turn_order", f"{conversation.id}: {' '.join(roles) or 'no turns'}")
    marks = sum(turn.text.count(ECG_MARK) for turn in conversation.turns if turn.role != "assistant")
    if marks != len(conversation.ecgs):
        found.add("mark_count", f"{conversation.id}: {marks} marks, {len(conversation.ecgs)} ECGs")
    question, prompt = "", ""
    for turn in conversation.turns:
        if turn.role != "assistant":
            question = turn.text
            prompt += f"\n{turn.text}"
            if turn.role == "user" and not turn.text.replace(ECG_MARK, "").strip():
                found.add("empty_question", conversation.id)
            continue
        if ECG_MARK in turn.text:
            found.add("mark_in_answer", conversation.id)
        if not turn.text.strip():
            found.add("empty_answer", conversation.id)
        elif not _offers_choice(conversation, question):
            answer = _plain(turn.text)
            if _is_long(answer) and conversation.ecgs and _contains(prompt, answer):
                found.add("answer_in_prompt", f"{conversation.id}: '{short(turn.text)}'")
            elif _contains(question, answer):
                found.add("answer_words_in_question", f"{conversation.id}: '{short(turn.text)}'")


def _offers_choice(conversation: Conversation, question: str) -> bool:
    """Whether the answer is one of several that the question names, as the metadata say or lettered options show."""
    kind = str(conversation.metadata.get("question_type", ""))
    if "choose" in kind or "choice" in kind or conversation.metadata.get("choices"):
        return True
    letters = {letter.upper() for letter in _OPTION.findall(question)}
    return {"A", "B"} <= letters or {"1", "2"} <= letters or "options" in question.lower()


def _plain(text: str) -> str:
    """Lower-case words: what is left when marks, punctuation and blanks are no difference."""
    return " ".join(re.findall(r"\w+", text.replace(ECG_MARK, " ").lower()))


def _is_long(words: str) -> bool:
    return words.count(" ") + 1 >= _LONG_WORDS and len(words) >= _LONG_LETTERS


def _contains(text: str, words: str) -> bool:
    return len(words) > 2 and f" {words} " in f" {_plain(text)} "
