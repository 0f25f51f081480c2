"""audit: each planted leak and fault is found under its own name; a clean set has none."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import store_fakes
from store_fakes import FakePipeline, FakeSource

from ecglm.store import audit_table
from ecglm.store.audit import audit
from ecglm.store.findings import KINDS, SEVERITIES
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.types import Conversation, Turn


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "store"
    prepare(FakeSource(num=60), FakePipeline(), path, progress=False)
    return SegmentStore(path)


def make(store: SegmentStore) -> list[Conversation]:
    """Two questions for every record, split by patient."""
    splits = assign_splits(store)
    out = []
    for record in store.records():
        patient = store.row(store.segments_of(record)[0])["patient_id"]
        for number, (question, answer) in enumerate([("Is the rhythm regular?", "yes"), ("Which rhythm is it?", "AF")]):
            turns = (Turn("user", f"<ecg>\n{question}"), Turn("assistant", answer))
            out.append(
                Conversation(
                    f"labels/{record}/{number}", "labels", "rhythm", splits[patient], (record,), (patient,), turns
                )
            )
    return out


def kinds(conversations, stores) -> dict[str, int]:
    return {finding.kind: finding.count for finding in audit(conversations, stores).findings}


def first(conversations, split: str) -> Conversation:
    return next(c for c in conversations if c.split == split)


def test_our_own_splits_are_clean(store):
    report = audit(make(store), store)
    assert report.ok and report.findings == ()
    assert all(shared["patients"] == shared["ecgs"] == 0 for shared in report.overlaps.values())
    assert all(shared["question texts"] == 2 for shared in report.overlaps.values())
    assert sum(size["conversations"] for size in report.sizes.values()) == 120
    assert report.lines()[-1] == "no leakage between splits"


def test_an_ecg_in_two_splits(store):
    conversations = make(store)
    train = first(conversations, "train")
    turns = (Turn("user", "<ecg> Something else?"), Turn("assistant", "no"))
    report = audit([*conversations, replace(train, id="planted", split="test", turns=turns)], [store])
    found = {finding.kind: finding for finding in report.findings}
    assert set(found) == {"ecg_in_two_splits", "patient_in_two_splits"} and not report.ok
    assert found["ecg_in_two_splits"].examples == (f"{train.ecgs[0]}: test, train",)
    assert report.overlaps["labels/test ↔ labels/train"]["ecgs"] == 1
    assert "LEAKAGE" in report.lines()[-1]


def test_a_patient_in_two_splits(store):
    conversations = make(store)
    patient = first(conversations, "train").patients[0]
    records = sorted({c.ecgs[0] for c in conversations if c.patients[0] == patient})
    assert len(records) == 2
    moved = [replace(c, split="test") if c.ecgs[0] == records[1] else c for c in conversations]
    report = audit(moved, store)
    assert [(f.kind, f.count, f.severity) for f in report.findings] == [("patient_in_two_splits", 1, "leak")]
    assert report.findings[0].examples == (f"{patient}: test, train",)


def test_a_patient_in_two_splits_that_only_the_store_knows(store):
    """The conversations hide it behind other patient ids."""
    conversations = make(store)
    patient = first(conversations, "train").patients[0]
    records = sorted({c.ecgs[0] for c in conversations if c.patients[0] == patient})
    moved = [
        replace(c, split="test", patients=("fake/nobody",)) if c.ecgs[0] == records[1] else c for c in conversations
    ]
    assert kinds(moved, store) == {"patient_in_two_splits": 1, "patient_mismatch": 2}


def test_a_paraphrase_in_another_split(store):
    conversations = make(store)
    train = replace(first(conversations, "train"), source_id="17")
    turns = (Turn("user", "<ecg> Would you call this rhythm regular?"), Turn("assistant", "yes"))
    planted = [train, replace(train, id="other words", split="test", turns=turns)]
    assert kinds(planted, store)["question_in_two_splits"] == 1
    same_words = [
        train,
        replace(
            train,
            id="same",
            split="val",
            source_id="",
            turns=(Turn("user", "IS the rhythm, regular <ecg>"), train.turns[1]),
        ),
    ]
    assert kinds(same_words, store)["question_in_two_splits"] == 1
    other_ecg = replace(train, id="x", split="test", ecgs=("fake/059",), patients=("fake/p29",))
    assert "question_in_two_splits" not in kinds([train, other_ecg], store)


@pytest.mark.parametrize(("noise", "kind"), [(0.0, "identical_signals"), (0.01, "near_duplicate_signals")])
def test_the_same_signal_under_another_name(tmp_path, monkeypatch, noise, kind):
    original = store_fakes.signal_of

    def copied(number, num_samples=100):
        if number != 58:
            return original(number, num_samples)
        return original(0, num_samples) + np.random.default_rng(1).normal(0, noise, (12, num_samples)).astype(
            np.float32
        )

    monkeypatch.setattr(store_fakes, "signal_of", copied)
    prepare(FakeSource(num=60), FakePipeline(), tmp_path / "store", progress=False)
    store = SegmentStore(tmp_path / "store")
    conversations = [c for c in make(store) if c.ecgs[0] in ("fake/000", "fake/058", "fake/030", "fake/040")]
    splits = {"fake/058": "test", "fake/040": "test"}
    conversations = [replace(c, split=splits.get(c.ecgs[0], "train")) for c in conversations]
    report = audit(conversations, store)
    assert [(f.kind, f.count) for f in report.findings] == [(kind, 1)]
    assert "fake/000 (train) and fake/058 (test)" in report.findings[0].examples[0]
    assert not report.ok


USER, ANSWER = Turn("user", "<ecg> Is it normal?"), Turn("assistant", "yes")
LONG = "left bundle branch block with sinus bradycardia"
FAULTS = [
    ("turn_order", {"turns": (ANSWER, USER)}),
    ("turn_order", {"turns": (USER,)}),
    ("turn_order", {"turns": (USER, ANSWER, Turn("system", "late"))}),
    ("turn_order", {"turns": (), "ecgs": (), "patients": ()}),
    ("empty_answer", {"turns": (USER, Turn("assistant", " \n"))}),
    ("empty_question", {"turns": (Turn("user", "<ecg> "), ANSWER)}),
    ("mark_count", {"turns": (Turn("user", "Is it normal?"), ANSWER)}),
    ("mark_count", {"turns": (Turn("user", "<ecg><ecg> Is it normal?"), ANSWER)}),
    ("mark_in_answer", {"turns": (USER, Turn("assistant", "as in <ecg>"))}),
    ("answer_in_prompt", {"turns": (Turn("user", f"<ecg> I think: {LONG.upper()} - right?"), Turn("assistant", LONG))}),
    ("answer_in_prompt", {"turns": (Turn("system", f"Hint: {LONG}"), USER, Turn("assistant", LONG))}),
    (
        "answer_in_prompt",
        {
            "turns": (
                USER,
                ANSWER,
                Turn("user", f"Why is it a {LONG}?"),
                ANSWER,
                Turn("user", "So?"),
                Turn("assistant", LONG),
            )
        },
    ),
    ("patient_mismatch", {"patients": ("fake/p7",)}),
    ("patient_mismatch", {"patients": ()}),
    ("no_split", {"split": ""}),
    ("no_split", {"split": "dev"}),
]
BRADYCARDIA = (Turn("user", "<ecg> Is it Sinus Bradycardia, yes?"), Turn("assistant", "sinus bradycardia."))
EXTRACTED = (Turn("user", f"Which block? The report says: {LONG}."), Turn("assistant", LONG))
NOTES = [
    ("answer_words_in_question", {"turns": BRADYCARDIA}),
    ("answer_words_in_question", {"turns": EXTRACTED, "ecgs": (), "patients": ()}),
    ("not_in_store", {"ecgs": ("fake/unknown",)}),
]


@pytest.mark.parametrize(("kind", "change"), [*FAULTS, *NOTES])
def test_a_fault_is_found_under_its_name_and_fails_and_a_note_does_not(store, kind, change):
    good = Conversation("a", "labels", "normal", "train", ("fake/000",), ("fake/p0",), (USER, ANSWER))
    assert kinds([good], store) == {}
    report = audit([replace(good, **change)], store)
    assert [finding.kind for finding in report.findings] == [kind]
    assert report.ok == ((kind, change) in NOTES)
    assert ("FAULTY" in report.lines()[-1]) != report.ok
    assert "a" in report.findings[0].examples[0]


def test_what_is_no_fault(store):
    base = Conversation("a", "labels", "normal", "train", ("fake/000",), ("fake/p0",), (USER, ANSWER))
    turns = (Turn("user", "<ecg> Left or right?"), Turn("assistant", "left"))
    fine = [
        replace(base, turns=(Turn("system", "You read ECGs."), USER, ANSWER, Turn("user", "Sure?"), ANSWER)),
        replace(base, turns=turns, metadata={"question_type": "single-choose"}),
        replace(base, turns=turns, metadata={"choices": ["left", "right"]}),
        replace(
            base,
            ecgs=("fake/000", "fake/001"),
            patients=("fake/p0", "fake/p0"),
            turns=(Turn("user", "<ecg> or <ecg> worse?"), ANSWER),
        ),
        replace(
            base, turns=(Turn("user", "<ecg> Any abnormality?"), Turn("assistant", "normal"))
        ),  # inside a word only
        replace(base, turns=(Turn("user", f"<ecg> Which?\nA. {LONG}\nB. normal"), Turn("assistant", LONG))),
        replace(base, turns=(Turn("user", f"<ecg> Which? (a) {LONG} (b) normal"), Turn("assistant", f"(a) {LONG}"))),
        replace(base, turns=(Turn("user", f"<ecg> Options: {LONG}, normal"), Turn("assistant", LONG))),
    ]
    for conversation in fine:
        assert kinds([conversation], store) == {}


def test_an_id_that_stands_twice(store):
    conversation = make(store)[0]
    turns = (Turn("user", "<ecg> Other?"), Turn("assistant", "no"))
    assert kinds([conversation, replace(conversation, turns=turns)], store) == {"duplicate_id": 1}


def test_a_split_against_the_official_fold_is_told(tmp_path):
    prepare(FakeSource(num=40, folds=True), FakePipeline(), tmp_path / "store", progress=False)
    store = SegmentStore(tmp_path / "store")
    assert kinds(make(store), store) == {}
    turned = [replace(c, split="test") for c in make(store) if c.split == "train"]
    report = audit(turned, store)
    assert report.ok and [f.kind for f in report.findings] == ["split_not_official"]
    assert "officially train" in report.findings[0].examples[0]


def test_priors_count_answers_and_labels(store):
    base = Conversation("a", "labels", "normal", "train", ("fake/000",), ("fake/p0",), (USER, ANSWER))
    no = (USER, Turn("assistant", "no"))
    conversations = [
        base,
        replace(base, id="b", ecgs=("fake/001",)),
        replace(base, id="c", turns=no),
        replace(base, id="d", split="test", turns=no, ecgs=("fake/059",), patients=("fake/p29",)),
    ]
    report = audit(conversations, store)
    priors = {(prior.task, prior.split): prior for prior in report.priors}
    assert priors["normal", "train"].top == (("yes", pytest.approx(2 / 3)), ("no", pytest.approx(1 / 3)))
    assert priors["normal", "test"].top == (("no", 1.0),)
    assert report.labels["train"] == {"rhythm:SR": 1.0, "superclass:0": 0.5, "superclass:1": 0.5}
    assert report.labels["test"] == {"rhythm:SR": 1.0, "superclass:2": 1.0}
    assert "answers of normal, train: 3, 2 different: yes 67%, no 33%" in report.lines()


def test_no_patient_ids_are_told(tmp_path):
    class Nameless(FakeSource):
        def read(self, key):
            return replace(super().read(key), patient_id="", patient_known=False)

    prepare(Nameless(num=20), FakePipeline(), tmp_path / "store", progress=False)
    report = audit(make(SegmentStore(tmp_path / "store")), SegmentStore(tmp_path / "store"))
    assert [(f.kind, f.count) for f in report.findings] == [("no_patient_id", 20)] and report.ok
    assert report.num_unknown == 20
    assert "20 ECGs have no patient id: each counts as a patient of its own" in report.lines()


def test_only_four_kinds_of_sharing_and_the_signals_are_leaks():
    leaks = {kind for kind, (severity, _) in KINDS.items() if severity == "leak"}
    assert leaks == {
        "ecg_in_two_splits",
        "patient_in_two_splits",
        "question_in_two_splits",
        "identical_signals",
        "near_duplicate_signals",
    }
    assert {severity for severity, _ in KINDS.values()} == set(SEVERITIES)


def test_the_same_long_answer_about_the_same_ecg_is_a_paraphrase(store):
    base = Conversation("a", "x", "report", "train", ("fake/000",), ("fake/p0",), (USER, Turn("assistant", LONG)))
    other = replace(base, id="b", split="test", turns=(Turn("user", "<ecg> Report, please."), Turn("assistant", LONG)))
    assert kinds([base, other], store)["question_in_two_splits"] == 1


def test_the_conversations_are_a_stream_read_once(store):
    """Nothing is kept of them: what is found is the same, and no conversation is alive when the next one is made."""
    alive: weakref.WeakSet[Turn] = weakref.WeakSet()
    most = 0

    class Watched(Turn):
        """A turn that can be watched."""

    def stream():
        nonlocal most
        for conversation in make(store):
            turns = tuple(Watched(turn.role, turn.text) for turn in conversation.turns)
            alive.update(turns)
            most = max(most, len({id(turn) for turn in alive}))
            fresh = replace(conversation, turns=turns)
            del turns
            yield fresh
            del fresh

    assert audit(stream(), store) == audit(make(store), store)
    assert most <= 8


def test_hashes_in_columns_tell_what_plain_collections_tell():
    """Against sets and counters of the texts themselves."""
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in rng.integers(0, 300, 2000)]
    splits = rng.integers(0, 3, 2000).tolist()
    keys, names, answers = audit_table.Keys(), audit_table.Names(), audit_table.Answers()
    for number, (word, split) in enumerate(zip(words, splits, strict=True)):
        keys.add(audit_table.digest(word), split, names.add(word))
        answers.add(word)
        assert names[number] == word
    firsts: dict[str, dict[int, int]] = {}
    for number, (word, split) in enumerate(zip(words, splits, strict=True)):
        firsts.setdefault(word, {}).setdefault(split, number)
    expected = sorted(sorted(where.items()) for where in firsts.values() if len(where) > 1)
    assert sorted(keys.in_two_splits()) == expected
    assert list(keys.twice()) == [n for n, word in enumerate(words) if word in words[:n]]
    total, different, top = answers.counts()
    counted = Counter(words)
    assert (total, different) == (2000, len(counted))
    assert top == sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:3]


def test_the_priors_of_labels_and_unknown_patients_are_printed(store):
    lines = audit(make(store), store).lines()
    assert any(line.startswith("labels of the records in train: rhythm:SR 100%, superclass:") for line in lines)
