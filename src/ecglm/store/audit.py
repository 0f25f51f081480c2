"""Leakage and health of conversations and the stores they point into."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ecglm.errors import EcglmError
from ecglm.store.duplicates import duplicates_across
from ecglm.store.findings import AuditReport, Findings, Prior, short
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split
from ecglm.types import ECG_MARK, SPLITS, Conversation


def audit(conversations: Iterable[Conversation], stores: SegmentStore | Sequence[SegmentStore]) -> AuditReport:
    """Leakage between splits and the health of every conversation.

    A leak is a patient, an ECG, a question about the same ECG, or a (nearly) identical signal in two of train, val and
    test. ``stores`` give patients, official splits and signals; conversations of every corpus that is used together
    belong into one audit.
    """
    conversations = list(conversations)
    stores = [stores] if isinstance(stores, SegmentStore) else list(stores)
    store_of: dict[str, SegmentStore] = {}
    for store in stores:
        for record_id in store.records():
            store_of.setdefault(record_id, store)
    found = Findings()
    ids: set[str] = set()
    for conversation in conversations:
        if conversation.id in ids:
            found.add("duplicate_id", conversation.id)
        ids.add(conversation.id)
        _check_turns(conversation, found)
    assigned = [c for c in conversations if c.split in SPLITS]
    for conversation in conversations:
        if conversation.split not in SPLITS:
            found.add("no_split", f"{conversation.id}: '{conversation.split}'")
    facts = _record_facts({ecg for c in conversations for ecg in c.ecgs}, store_of)
    patients = _check_records(conversations, facts, found)
    splits_of = _check_leakage(assigned, patients, found)
    used = {record: splits for record, splits in splits_of.items() if record in store_of}
    if len({split for splits in used.values() for split in splits}) > 1:
        for pair in duplicates_across(store_of, used):
            kind = "identical_signals" if pair.correlation == 1 else "near_duplicate_signals"
            where = f"{pair.other} ({pair.other_split}) and {pair.record} ({pair.split})"
            found.add(kind, f"{where}, correlation {pair.correlation:.4f}")
    sizes, overlaps = _overlaps(conversations, patients)
    labels = _label_shares(used, facts)
    return AuditReport(found.all(), sizes, overlaps, _priors(conversations), labels)


def _check_turns(conversation: Conversation, found: Findings) -> None:
    """Order of turns, marks, empty texts, answers given away."""
    roles = [turn.role for turn in conversation.turns]
    after_system = roles[1:] if roles[:1] == ["system"] else roles
    if not after_system or after_system != ["user", "assistant"] * (len(after_system) // 2):
        found.add(
            "turn_order", f"{conversation.id}: {' '.join(turn.role for turn in conversation.turns) or 'no turns'}"
        )
    marks = sum(turn.text.count(ECG_MARK) for turn in conversation.turns if turn.role != "assistant")
    if marks != len(conversation.ecgs):
        found.add("mark_count", f"{conversation.id}: {marks} marks, {len(conversation.ecgs)} ECGs")
    question = ""
    for turn in conversation.turns:
        if turn.role == "user":
            question = turn.text
            if not turn.text.replace(ECG_MARK, "").strip():
                found.add("empty_question", conversation.id)
        elif turn.role == "assistant":
            if ECG_MARK in turn.text:
                found.add("mark_in_answer", conversation.id)
            if not turn.text.strip():
                found.add("empty_answer", conversation.id)
            elif not _offers_choice(conversation) and _contains(question, turn.text):
                found.add("answer_in_question", f"{conversation.id}: '{short(turn.text)}'")


def _offers_choice(conversation: Conversation) -> bool:
    kind = str(conversation.metadata.get("question_type", ""))
    return "choose" in kind or "choice" in kind or bool(conversation.metadata.get("choices"))


def _plain(text: str) -> str:
    """Lower-case words: what is left when marks, punctuation and blanks are no difference."""
    return " ".join(re.findall(r"\w+", text.replace(ECG_MARK, " ").lower()))


def _contains(question: str, answer: str) -> bool:
    words = _plain(answer)
    return len(words) > 2 and f" {words} " in f" {_plain(question)} "


@dataclass(frozen=True)
class _Fact:
    """What a store says about a record."""

    patient: str
    known: bool
    official: str
    labels: tuple[str, ...]


def _record_facts(record_ids: set[str], store_of: dict[str, SegmentStore]) -> dict[str, _Fact]:
    """Record id → facts, for the records that are in a store."""
    facts: dict[str, _Fact] = {}
    columns = ["record_id", "patient_id", "patient_known", "fold", "split", "labels"]
    for store in {id(store): store for store in store_of.values()}.values():
        table = store.index.select(columns)
        for batch in table.to_batches(max_chunksize=8192):
            for row in batch.to_pylist():
                record = row["record_id"]
                if record in record_ids and record not in facts and store_of[record] is store:
                    facts[record] = _Fact(
                        row["patient_id"],
                        row["patient_known"],
                        _official(row["fold"], row["split"]),
                        tuple(row["labels"]),
                    )
    return facts


def _official(fold: int | None, split: str) -> str:
    if split or fold is None:
        return split
    try:
        return fold_split(fold)
    except EcglmError:  # folds of another kind say nothing about splits
        return ""


def _check_records(
    conversations: Sequence[Conversation], facts: dict[str, _Fact], found: Findings
) -> dict[str, set[str]]:
    """Record id → every patient id that a store or a conversation gives it."""
    patients: dict[str, set[str]] = defaultdict(set)
    nameless: set[str] = set()
    for conversation in conversations:
        if len(conversation.patients) != len(conversation.ecgs):
            found.add(
                "patient_mismatch",
                f"{conversation.id}: {len(conversation.patients)} patients, {len(conversation.ecgs)} ECGs",
            )
        for ecg, patient in itertools.zip_longest(conversation.ecgs, conversation.patients):
            if ecg is None:
                continue
            if patient:
                patients[ecg].add(patient)
            fact = facts.get(ecg)
            if fact is None:
                found.add("not_in_store", f"{conversation.id}: {ecg}")
                continue
            patients[ecg].add(fact.patient)
            if patient and patient != fact.patient:
                found.add("patient_mismatch", f"{conversation.id}: {ecg} is of {fact.patient}, not of {patient}")
            if not fact.known and ecg not in nameless:
                nameless.add(ecg)
                found.add("no_patient_id", ecg)
            if fact.official and conversation.split in SPLITS and conversation.split != fact.official:
                found.add(
                    "split_not_official",
                    f"{conversation.id}: {conversation.split}, but {ecg} is officially {fact.official}",
                )
    return patients


def _check_leakage(
    conversations: Sequence[Conversation], patients: dict[str, set[str]], found: Findings
) -> dict[str, list[str]]:
    """ECGs, patients and questions in two splits; returns record id → its splits."""
    ecg_splits: dict[str, set[str]] = defaultdict(set)
    patient_splits: dict[str, set[str]] = defaultdict(set)
    questions: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for conversation in conversations:
        ecgs = tuple(sorted(conversation.ecgs))
        keys = {("text", _plain(turn.text), *ecgs) for turn in conversation.turns if turn.role == "user"}
        if conversation.source_id:
            keys.add(("source", conversation.source_id, *ecgs))
        for key in keys if ecgs else ():
            questions[key].setdefault(conversation.split, conversation.id)
        for ecg in conversation.ecgs:
            ecg_splits[ecg].add(conversation.split)
            for patient in patients.get(ecg, ()):
                patient_splits[patient].add(conversation.split)
    for kind, table in (("ecg_in_two_splits", ecg_splits), ("patient_in_two_splits", patient_splits)):
        for name, splits in table.items():
            if len(splits) > 1:
                found.add(kind, f"{name}: {', '.join(sorted(splits))}")
    pairs: set[tuple[str, ...]] = set()
    for where in questions.values():
        ids = tuple(f"{name} ({split})" for split, name in sorted(where.items()))
        if len(ids) > 1 and ids not in pairs:
            pairs.add(ids)
            found.add("question_in_two_splits", " and ".join(ids))
    return {ecg: sorted(splits) for ecg, splits in ecg_splits.items()}


def _overlaps(
    conversations: Sequence[Conversation], patients: dict[str, set[str]]
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Sizes of every corpus/split group, and what any two of them share."""
    groups: dict[str, dict[str, set[str]]] = {}
    counts: Counter[str] = Counter()
    for conversation in conversations:
        name = f"{conversation.corpus}/{conversation.split or 'no split'}"
        group = groups.setdefault(name, {"patients": set(), "ecgs": set(), "question texts": set()})
        counts[name] += 1
        group["ecgs"].update(conversation.ecgs)
        for ecg in conversation.ecgs:
            group["patients"] |= patients.get(ecg, set())
        group["question texts"].update(_plain(turn.text) for turn in conversation.turns if turn.role == "user")
    sizes = {name: {"conversations": counts[name], **{k: len(v) for k, v in groups[name].items()}} for name in groups}
    overlaps = {
        f"{one} ↔ {other}": {what: len(groups[one][what] & groups[other][what]) for what in groups[one]}
        for one, other in itertools.combinations(sorted(groups), 2)
    }
    return dict(sorted(sizes.items())), overlaps


def _priors(conversations: Sequence[Conversation]) -> tuple[Prior, ...]:
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for conversation in conversations:
        counter = answers[conversation.task, conversation.split or "no split"]
        counter.update(turn.text.strip() for turn in conversation.turns if turn.role == "assistant")
    return tuple(
        Prior(task, split, counter.total(), len(counter), tuple((a, n / counter.total()) for a, n in _top(counter)))
        for (task, split), counter in sorted(answers.items())
        if counter
    )


def _top(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:3]


def _label_shares(splits_of: dict[str, list[str]], facts: dict[str, _Fact]) -> dict[str, dict[str, float]]:
    """Split → label → share of the split's records that carry it."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for record, splits in splits_of.items():
        for split in splits:
            totals[split] += 1
            labels[split].update(set(facts[record].labels))
    return {
        split: {label: count / totals[split] for label, count in sorted(counter.items())}
        for split, counter in sorted(labels.items())
    }
