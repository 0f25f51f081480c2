"""Mixing: one split per patient, nothing twice, weights exact, every row accounted for, the same bytes again."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.conversations import mix as mixing
from ecglm.conversations.ecg_qa import map_ecg_qa
from ecglm.conversations.from_labels import map_labels
from ecglm.conversations.mix import lines, mix
from ecglm.conversations.mix_plan import REASONS, MixInput
from ecglm.conversations.table import manifest_path, read_conversations, write_conversations
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError
from ecglm.files import file_sha256, read_jsonl
from ecglm.records.ptb_xl import PtbXl
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.audit import audit
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits, fold_splits
from ecglm.types import Conversation, Turn

CAUTION = {"train": 0, "val": 1, "test": 2}


def talk(
    number: int, split: str = "train", people: tuple[int, ...] = (0,), corpus: str = "a", **changes
) -> Conversation:
    """Question ``number`` about the first ECG of each of these patients."""
    one = Conversation(
        id=f"{corpus}/{split}/{number}",
        corpus=corpus,
        task="t",
        split=split,
        ecgs=tuple(f"x/{p}" for p in people),
        patients=tuple(f"x/p{p}" for p in people),
        turns=(Turn("user", "<ecg>" * len(people) + f"Question {number}?"), Turn("assistant", f"Answer {number}")),
        source_id=str(number),
        metadata={"n": number},
    )
    return dataclasses.replace(one, **changes)


def written(path: Path, rows: list[Conversation]) -> Path:
    write_conversations(path, rows, {"rows": path.name}, {}, overwrite=True)
    return path


def mixed(tmp_path: Path, *files: list[Conversation] | tuple, **options) -> tuple[list[Conversation], dict]:
    """Mix lists of rows, or (rows, weight, cap), and read the result."""
    inputs = []
    for number, file in enumerate(files):
        rows, *rest = file if isinstance(file, tuple) else (file,)
        inputs.append(MixInput(written(tmp_path / f"in{number}.parquet", rows), *rest))
    manifest = mix(inputs, tmp_path / "out.parquet", overwrite=True, **options)
    return read_conversations(tmp_path / "out.parquet"), manifest


def bare(row: Conversation) -> Conversation:
    """As it was before it was mixed."""
    return dataclasses.replace(row, metadata={k: v for k, v in row.metadata.items() if k != "mixed_from"})


def test_rows_come_through_whole_with_their_origin(tmp_path):
    one = [talk(n, people=(n,)) for n in range(30)] + [talk(100, "val", (40,)), talk(101, "test", (41, 42))]
    two = [talk(n, people=(n,), corpus="b") for n in range(30, 40)]
    rows, manifest = mixed(tmp_path, one, two)
    assert sorted(map(bare, rows), key=repr) == sorted(one + two, key=repr)
    prints = {"a": file_sha256(tmp_path / "in0.parquet"), "b": file_sha256(tmp_path / "in1.parquet")}
    assert all(row.metadata["mixed_from"] == prints[row.corpus][:16] for row in rows)
    assert [part["sha256"] for part in manifest["mixed"]] == list(prints.values())
    assert manifest["inputs"] == {"data": prints["a"], "data1": prints["b"]}
    assert manifest["corpora"] == {"a": {"test": 1, "train": 30, "val": 1}, "b": {"train": 10}}
    assert manifest["splits"] == {"test": 1, "train": 40, "val": 1}
    assert [row.split for row in rows] == ["train"] * 40 + ["val", "test"]
    order = [row.id for row in rows[:40]]
    assert order != [row.id for row in one[:30] + two] and {"a", "b"} == {row.corpus for row in rows[:10]}  # shuffled
    again, _ = mixed(tmp_path, one, two, seed=1)
    assert sorted(row.id for row in again) == sorted(row.id for row in rows) and [r.id for r in again[:40]] != order


def test_the_same_bytes_again_and_a_finished_mix_is_reused(tmp_path, monkeypatch):
    files = [written(tmp_path / f"{c}.parquet", [talk(n, people=(n,), corpus=c) for n in range(50)]) for c in "ab"]
    inputs = [MixInput(files[0], 2.5), MixInput(files[1], 0.5)]
    seen = []
    for folder, bucket in (("one", 50_000), ("two", 7)):
        monkeypatch.setattr(mixing, "BUCKET", bucket)
        mix(inputs, tmp_path / folder / "m.parquet", dedupe=False)
        seen.append({p.name: p.read_bytes() for p in sorted((tmp_path / folder).iterdir())})
        assert not [name for name in os.listdir(tmp_path / folder) if name.startswith(".")]
    assert set(seen[0]) == {f"m.parquet{end}" for end in ("", ".manifest.json", ".rejects.jsonl", ".set_aside.jsonl")}
    assert seen[0] == seen[1]
    before = (tmp_path / "one" / "m.parquet").stat().st_mtime_ns
    mix(inputs, tmp_path / "one" / "m.parquet", dedupe=False)
    assert (tmp_path / "one" / "m.parquet").stat().st_mtime_ns == before
    with pytest.raises(StaleOutputError, match="--overwrite"):
        mix(inputs, tmp_path / "one" / "m.parquet", dedupe=False, seed=5)


@pytest.mark.parametrize(
    ("weight", "cap", "expected"),
    [(1, None, 40), (0.25, None, 10), (2.5, None, 100), (0, None, 0), (1, 7, 7), (3, 90, 90), (0.5, 500, 20)],
)
def test_weights_and_caps_are_exact_and_for_training_rows_only(tmp_path, weight, cap, expected):
    rows = [talk(n, people=(n,)) for n in range(40)]
    rest = [talk(n, split, (n,)) for n, split in ((50, "val"), (51, "test"))]
    found, manifest = mixed(tmp_path, (rows + rest, weight, cap))
    assert sum(row.split == "train" for row in found) == expected
    assert [bare(row) for row in found if row.split != "train"] == rest
    times = Counter(row.source_id for row in found if row.split == "train")
    assert max(times.values(), default=0) - min((times[str(n)] for n in range(40)), default=0) <= 1
    for row in found:  # the second copy is ~2, the third ~3
        name, _, copy = row.id.partition("~")
        assert name == f"a/{row.split}/{row.source_id}" and (not copy or 2 <= int(copy) <= times[row.source_id])
    part = manifest["mixed"][0]
    assert part["rows"] == 42 == sum(part["kept"].values()) + part["not_drawn"]
    assert sum(part["kept"].values()) + part["copies"] == len(found) == manifest["num_conversations"]


def test_a_larger_weight_holds_the_rows_of_a_smaller_one(tmp_path):
    rows = [talk(n, people=(n,)) for n in range(40)]
    small, large = ({r.id for r in mixed(tmp_path, (rows, weight))[0]} for weight in (0.25, 0.5))
    assert len(small) == 10 and small < large


def test_where_splits_disagree_test_wins_then_validation(tmp_path):
    one = [
        talk(1, "train", (1,)),
        talk(2, "train", (2,)),
        talk(3, "train", (3,)),
        talk(4, "val", (2,)),
        talk(5, "val", (4,)),
    ]
    two = [
        talk(1, "test", (1,), "b"),
        talk(2, "test", (4, 9), "b"),
        talk(3, "train", (9,), "b"),
        talk(4, "train", (4,), "b"),
    ]
    rows, manifest = mixed(tmp_path, one, two)
    assert {row.id for row in rows} == {"a/train/3", "a/val/4", "b/test/1", "b/test/2"}
    lost = {row["item"]: row["reason"] for row in read_jsonl(tmp_path / "out.parquet.set_aside.jsonl")}
    assert lost == {
        "a/train/1": "patient_in_test_elsewhere",
        "a/train/2": "patient_in_val_elsewhere",
        "a/val/5": "patient_in_test_elsewhere",
        "b/train/3": "patient_in_test_elsewhere",
        "b/train/4": "patient_in_test_elsewhere",
    }
    assert manifest["mixed"][0]["dropped"] == {"patient_in_test_elsewhere": 2, "patient_in_val_elsewhere": 1}
    assert manifest["mixed"][1]["dropped"] == {"patient_in_test_elsewhere": 2}
    assert manifest["counts"] == {"in": 9, "mapped": 4, "patient_in_test_elsewhere": 4, "patient_in_val_elsewhere": 1}


def test_the_same_ecg_under_two_patient_ids_has_one_split_too(tmp_path):
    hidden = talk(2, "test", (1,), "b", patients=("y/other",))
    rows, _ = mixed(tmp_path, [talk(1, "train", (1,)), talk(9, "train", (9,))], [hidden])
    assert {row.id for row in rows} == {"a/train/9", "b/test/2"}


people = st.lists(st.integers(0, 12), min_size=1, max_size=2, unique=True).map(tuple)
tables = st.lists(st.tuples(st.sampled_from(["train", "train", "val", "test"]), people), min_size=1, max_size=25)


@given(st.lists(tables, min_size=1, max_size=3), st.integers(0, 3))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_patient_is_ever_in_two_splits_and_all_rows_are_accounted_for(tmp_path, files, seed):
    """Against a plain reading of the rule, row by row."""
    lists = [[talk(n, s, p, f"c{k}") for n, (s, p) in enumerate(rows)] for k, rows in enumerate(files)]
    everything = [row for rows in lists for row in rows]
    tested = {p for row in everything if row.split == "test" for p in row.patients}
    kept = [row for row in everything if row.split == "test" or not set(row.patients) & tested]
    validated = {p for row in kept if row.split == "val" for p in row.patients}
    kept = [row for row in kept if row.split != "train" or not set(row.patients) & validated]
    rows, manifest = mixed(tmp_path, *lists, seed=seed, dedupe=False)
    assert sorted(row.id for row in rows) == sorted(row.id for row in kept)
    where: dict[str, set[str]] = {}
    for row in rows:
        for name in (*row.patients, *row.ecgs):
            where.setdefault(name, set()).add(row.split)
    assert all(len(splits) == 1 for splits in where.values())
    for part, given_rows in zip(manifest["mixed"], lists, strict=True):
        assert part["rows"] == len(given_rows) == sum(part["kept"].values()) + sum(part["dropped"].values())


def test_the_same_question_in_two_corpora_stays_once(tmp_path):
    def report(number: int, corpus: str, question: str, answer: str, split: str = "train", **changes) -> Conversation:
        turns = (Turn("user", f"<ecg>\n{question}"), Turn("assistant", answer))
        return talk(number, split, (number,), corpus, turns=turns, **changes)

    one = [report(1, "a", "Write the report.", "Sinus rhythm."), report(2, "a", "Write the report.", "Atrial flutter.")]
    two = [
        report(1, "b", "WRITE  the report", "sinus\nrhythm"),
        report(2, "b", "Write the report.", "Atrial fibrillation."),
        report(3, "b", "Write the report.", "Sinus rhythm."),
        report(1, "b", "Write the report.", "Sinus rhythm.", id="b/other", ecgs=("x/7",), patients=("x/p1",)),
    ]
    rows, manifest = mixed(tmp_path, one, two)
    assert {row.id for row in rows} == {"a/train/1", "a/train/2", "b/train/2", "b/train/3", "b/other"}
    assert [part["dropped"] for part in manifest["mixed"]] == [{}, {"duplicate": 1}]
    assert len(mixed(tmp_path, one, two, dedupe=False)[0]) == 6
    assert {row.id for row in mixed(tmp_path, two, one)[0]} == {*(row.id for row in two), "a/train/2"}


def test_a_benchmark_keeps_its_test_rows_whole(tmp_path):
    same = (Turn("user", "<ecg> Rhythm?"), Turn("assistant", "sinus"))
    one = [talk(1, "test", (1,), turns=same), talk(2, "test", (1,), turns=same)]
    two = [talk(1, "test", (1,), "b", turns=same)]
    rows, manifest = mixed(tmp_path, one, two)
    assert {row.id for row in rows} == {"a/test/1", "b/test/1"}
    assert manifest["mixed"][0]["dropped"] == {"duplicate": 1}


def test_text_without_ecg_is_mixed_too(tmp_path):
    plain = [talk(n, "train", (), "book") for n in range(3)] + [talk(9, "test", (), "book")]
    rows, manifest = mixed(tmp_path, [talk(1)], plain)
    assert len(rows) == 5 and manifest["corpora"]["book"] == {"test": 1, "train": 3}


def test_unknown_patients_are_counted(tmp_path):
    rows = [talk(n, people=(n,), patients=(f"x/{n}",)) for n in range(3)] + [
        talk(1, people=(0,), id="again", patients=("x/0",))
    ]
    _, manifest = mixed(tmp_path, rows)
    assert manifest["num_unknown"] == 3
    assert any("3 ECGs have no patient id" in line for line in lines(manifest, "out"))


def test_folds_replace_the_rows_own_splits(tmp_path):
    rows = [talk(n, ("train", "test")[n % 2], (n % 10,)) for n in range(40)] + [
        talk(99, "val", (1, 2)),
        talk(98, "train", ()),
    ]
    table = [{"record_id": f"x/{n}", "patient_id": f"x/p{n}"} for n in range(10)]
    tests = []
    for fold in range(5):
        plan = fold_splits(table, 5, fold)
        found, manifest = mixed(tmp_path, rows, splits=plan)
        assert manifest["settings"]["split_plan"] == {"by": "folds", "k": 5, "fold": fold, "seed": 0}
        assert all({plan[p] for p in row.patients} <= {row.split} for row in found)
        assert sum(row.split == "train" and not row.ecgs for row in found) == 1
        apart = plan["x/p1"] != plan["x/p2"]
        assert manifest["mixed"][0]["dropped"] == ({"patients_in_two_splits": 1} if apart else {})
        tests.append({p for row in found if row.split == "test" for p in row.patients})
    assert set.union(*tests) == {f"x/p{n}" for n in range(10)} and sum(map(len, tests)) == 10
    benchmark = [talk(n, "test", (n,), "bench") for n in range(10)]
    found, _ = mixed(tmp_path, rows, benchmark, splits=plan)
    assert [row.split for row in found if row.corpus == "bench"] == ["test"] * 10  # never trained on
    with pytest.raises(EcglmError, match="patient x/p77 has no split"):
        mixed(tmp_path, [talk(1, people=(77,))], splits=plan)


def test_a_row_without_split_is_refused(tmp_path):
    with pytest.raises(EcglmError, match=r"in0\.parquet: b/7 has no split; map its corpus with splits"):
        mixed(tmp_path, [talk(1), talk(7, "", (2,), id="b/7")])


def test_two_wordings_of_one_corpus_are_refused(tmp_path):
    other = (Turn("user", "<ecg> Other words?"), Turn("assistant", "Answer 1"))
    with pytest.raises(EcglmError, match=r"1 ids stand twice.*first: a/train/1, in in0\.parquet and in1\.parquet"):
        mixed(tmp_path, [talk(1)], [talk(1, turns=other)])
    assert not (tmp_path / "out.parquet").exists()
    assert len(mixed(tmp_path, [talk(1)], [talk(1)])[0]) == 1  # the same row of the same corpus is one row


def test_a_damaged_or_missing_input_is_told(tmp_path):
    path = written(tmp_path / "in.parquet", [talk(1)])
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TornOutputError, match="make it again"):
        mix([MixInput(path)], tmp_path / "out.parquet")
    with pytest.raises(EcglmError, match="no such file"):
        mix([MixInput(tmp_path / "none.parquet")], tmp_path / "out.parquet")
    with pytest.raises(EcglmError, match="nothing to mix"):
        mix([], tmp_path / "out.parquet")
    good = written(tmp_path / "good.parquet", [talk(1)])
    with pytest.raises(EcglmError, match="choose another --out"):
        mix([MixInput(good)], good, overwrite=True)


def test_inputs_are_written_as_file_weight_cap(tmp_path):
    assert MixInput.parse("a.parquet") == MixInput("a.parquet")
    assert MixInput.parse("a.parquet:0.5") == MixInput("a.parquet", 0.5)
    assert MixInput.parse("a:b.parquet:2:100") == MixInput("a:b.parquet", 2.0, 100)
    (tmp_path / "c:1").touch()
    assert MixInput.parse(f"{tmp_path}/c:1") == MixInput(f"{tmp_path}/c:1")
    for bad in ("a.parquet:x", "a.parquet:1:x", "a.parquet:-1", "a.parquet:nan", "a.parquet:1:-5"):
        with pytest.raises(ConfigError):
            MixInput.parse(bad)


def test_every_reason_is_snake_case():
    assert all(reason.replace("_", "").isalpha() for reason in REASONS[1:])


def test_d01_no_patient_ecg_or_question_is_in_two_splits(tmp_path):
    """Three segments a record, two wordings a question, rows permuted into splits as if they were independent."""
    pipeline = get_pipeline("default", rate=100, seg_len=300)
    prepare(Synthetic(num_patients=40, rate=250), pipeline, tmp_path / "s", progress=False)
    store = SegmentStore(tmp_path / "s")
    assert all(len(store.segments_of(record)) == 3 for record in store.records())
    rng = np.random.default_rng(0)
    files: dict[str, list[Conversation]] = {"plain": [], "other words": []}
    for record in store.records():
        patient = store.row(store.segments_of(record)[0])["patient_id"]
        for question in range(2):
            for corpus, words in zip(files, ("Is it regular", "Would you call it regular"), strict=True):
                split = str(rng.choice(["train", "val", "test"], p=[0.9, 0.05, 0.05]))
                turns = (Turn("user", f"<ecg> {words}, {question}?"), Turn("assistant", "yes"))
                name, source = f"{corpus}/{record}/{question}", f"{record}/q{question}"
                files[corpus].append(Conversation(name, corpus, "t", split, (record,), (patient,), turns, source))
    everything = [row for rows in files.values() for row in rows]
    kinds = {finding.kind for finding in audit(everything, store).findings}
    assert {"ecg_in_two_splits", "patient_in_two_splits", "question_in_two_splits"} <= kinds
    rows, _ = mixed(tmp_path, *files.values())
    assert audit(rows, store).ok and {row.split for row in rows} == {"train", "val", "test"}
    parts = [[row for row in rows if row.split == split] for split in ("train", "val", "test")]
    for name in ("patients", "ecgs", "source_id"):
        held = [{key for row in part for key in np.atleast_1d(getattr(row, name))} for part in parts]
        assert all(held) and sum(map(len, held)) == len(set.union(*held))


@pytest.mark.realdata
def test_ecg_qa_and_ptb_xl_folds_disagree_and_the_mix_is_clean(tmp_path, ptb_xl, shared):
    """ECG-QA's split does not follow PTB-XL's folds: together they leak, mixed they do not."""
    source = PtbXl(root=ptb_xl, resolution="100")
    prepare(source, get_pipeline("default", rate=100, seg_len=1000), tmp_path / "store", limit=160, progress=False)
    store = SegmentStore(tmp_path / "store")
    files = [tmp_path / "labels.parquet", tmp_path / "qa.parquet"]
    write_conversations(files[0], map_labels(store, tasks=["rhythm"], splits=assign_splits(store)), {}, {})
    write_conversations(files[1], map_ecg_qa(store, root=shared / "ecg-qa"), {}, {})
    alone = audit(read_conversations(files[1]), store)
    assert "split_not_official" in {f.kind for f in alone.findings} and not any(f.is_leak for f in alone.findings)
    together = audit([c for file in files for c in read_conversations(file)], store)
    assert {"ecg_in_two_splits", "patient_in_two_splits"} <= {f.kind for f in together.findings} and not together.ok
    inputs = [MixInput(file) for file in files]
    manifest = mix(inputs, tmp_path / "mix.parquet")
    rows = read_conversations(tmp_path / "mix.parquet")
    assert audit(rows, store).ok
    assert manifest["mixed"][0]["dropped"]["patient_in_test_elsewhere"] > 0
    with_folds = mix(inputs[1:], tmp_path / "folds.parquet", stores=[store])
    assert with_folds["mixed"][0]["dropped"]["patient_officially_in_test"] > 0
    tested = {p for p, split in assign_splits(store).items() if split == "test"}
    for row in read_conversations(tmp_path / "folds.parquet", split=["train", "val"]):
        assert not set(row.patients) & tested
    assert manifest_path(tmp_path / "folds.parquet").exists()


def test_labels_of_synthetic_patients_mixed_pass_the_audit(tmp_path):
    prepare(
        Synthetic(num_patients=30, rate=250),
        get_pipeline("default", rate=100, seg_len=500),
        tmp_path / "s",
        progress=False,
    )
    store = SegmentStore(tmp_path / "s")
    for name, tasks in (("a", ["rhythm", "axis"]), ("b", ["rate"])):
        rows = map_labels(store, tasks=tasks, splits=assign_splits(store))
        write_conversations(tmp_path / f"{name}.parquet", rows, {"n": name}, {})
    mix([MixInput(tmp_path / "a.parquet", 2), MixInput(tmp_path / "b.parquet")], tmp_path / "m.parquet")
    report = audit(read_conversations(tmp_path / "m.parquet"), store)
    assert report.ok, report.lines()
