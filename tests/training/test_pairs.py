"""Who may be learned from, and where the ECGs are: nobody held out slips in, and no file can do harm."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.prompts.people import people
from ecglm.store.reader import SegmentStore
from ecglm.training.align_check import align_plan
from ecglm.training.pairs import Ecgs, Splits, sha256_of, split_pairs
from ecglm.training.preferences import Pair, PreferenceEcg, PreferenceRow, read_pairs
from ecglm.types import Turn
from preference_world import of_conversation, recipe, row, write
from tiny_world import RATE, SEG_LEN


@pytest.fixture(scope="module")
def store(world: Any) -> SegmentStore:
    return SegmentStore(world.store)


@pytest.fixture(scope="module")
def splits(world: Any, store: SegmentStore) -> Splits:
    return Splits([store], [str(world.data)])


def of(split: str, world: Any) -> Any:
    return next(c for c in world.conversations(split))


def preference(ecg: PreferenceEcg | None = None, **fields: Any) -> PreferenceRow:
    ecgs = () if ecg is None else (ecg,)
    return PreferenceRow("p.jsonl, line 1", "x", "compare", (Turn("user", "Rhythm?"),), ecgs, **fields)


def refused(splits: Splits, made: PreferenceRow) -> str:
    with pytest.raises(RejectedRecord) as error:
        splits.check(made)
    return error.value.reason


def test_d10_rows_of_a_test_split_are_refused_however_they_are_betrayed(world, store, splits) -> None:
    """By the row's own word, by its record, its patient, its people, or the bytes of an ECG that somebody brought."""
    c = of("test", world)
    record = c.ecgs[0]
    sha256 = sha256_of(store.microvolts(store.segments_of(record)[:1])[0])
    assert refused(splits, preference(split="test")) == "split_test"
    assert refused(splits, preference(PreferenceEcg(record))) == "split_test"
    assert refused(splits, preference(PreferenceEcg(record), split="train")) == "split_test"
    for hashed in people([c]).tolist():
        assert refused(splits, preference(people=(hashed,))) == "split_test"
    assert refused(splits, preference(PreferenceEcg(file="ecg.npy", sha256=sha256))) == "split_test"
    assert refused(splits, preference(PreferenceEcg("brought/1", file="ecg.npy", sha256=sha256))) == "split_test"


def test_d10_another_record_of_a_test_patient_is_refused(world, store) -> None:
    """The store knows the patient, the conversations hold another record of theirs."""
    records: dict[str, list[str]] = {}
    for record, patient in zip(*(store.index.column(n).to_pylist() for n in ("record_id", "patient_id")), strict=True):
        records.setdefault(patient, []).append(record)
    patient, record = next((p, r[0]) for p, r in records.items() if p == of("test", world).patients[0])
    other = replace(of("test", world), ecgs=("another/1",), patients=(patient,))
    data = world.write(world.folder / "held-out.parquet", [other])
    assert refused(Splits([store], [str(data)]), preference(PreferenceEcg(record), split="train")) == "split_test"


def test_validation_patients_and_unknown_ones_are_refused(world, store, splits) -> None:
    record = of("val", world).ecgs[0]
    assert refused(splits, preference(PreferenceEcg(record))) == "split_val"
    alone = Splits([store], [])
    assert refused(alone, preference(PreferenceEcg(of("train", world).ecgs[0]))) == "split_unknown"
    alone.check(preference(PreferenceEcg(record), split="train"))  # nothing contradicts the row


def test_training_patients_and_what_nobody_knows_may_be_learned_from(world, splits) -> None:
    splits.check(preference(PreferenceEcg(of("train", world).ecgs[0])))
    splits.check(preference(PreferenceEcg(file="ecg.npy", sha256="0" * 64)))
    splits.check(preference())
    assert splits.people(preference(PreferenceEcg(of("train", world).ecgs[0]))) == tuple(
        people([of("train", world)]).tolist()
    )


def test_d10_a_file_of_all_splits_gives_training_pairs_alone(world, splits, tmp_path: Path) -> None:
    rows = [of_conversation(c) for c in world.conversations()]
    found = read_pairs([write(tmp_path / "p.jsonl", rows)], splits.check)
    expected = Counter(c.split for c in world.conversations())
    assert Counter(r["reason"] for r in found.refused) == {
        "split_test": expected["test"],
        "split_val": expected["val"],
    }
    assert {p.id for p in found.pairs} == {c.id for c in world.conversations("train")}


class Smuggler:
    """Rows that say they are for training and show a kept file, as ``align_plan`` takes them."""

    def __init__(self, world: Any, model: Path, folder: Path) -> None:
        self.world, self.model, self.folder = world, model, folder

    def __call__(self, changed: np.ndarray, **ecg: Any) -> tuple[set[str], dict[str, str]]:
        """Ids of the pairs that are learned from, and reasons of rows that are refused."""
        np.save(self.folder / "a.npy", changed.astype("<i2"), allow_pickle=False)
        said: dict[str, Any] = {"ecgs": [{"file": "a.npy", **ecg}], "split": "train"}
        fine = [of_conversation(c) for c in {c.patients[0]: c for c in self.world.conversations("train")}.values()]
        thumbs = [row(f"t{t}", source="thumbs", thumb=t, answer=f"a{t}", **said) for t in (1, -1)]
        rows = [*fine, row("bad", chosen="yes", rejected="no", **said), *thumbs]
        made = recipe(self.world, self.model, write(self.folder / "p.jsonl", rows))
        found = align_plan(made).preferences
        assert found.num_rows == len(rows) == found.paired_rows + len(found.refused)
        return {p.id for p in found.pairs} - {r["id"] for r in fine}, {r["id"]: r["reason"] for r in found.refused}


@pytest.fixture
def smuggle(world: Any, signal_run: Path, tmp_path: Path) -> Smuggler:
    return Smuggler(world, signal_run / "best", tmp_path)


@pytest.mark.parametrize("split", ["test", "val"])
def test_d10_the_signal_of_a_held_out_ecg_is_refused_whatever_its_row_says(world, store, smuggle, split: str) -> None:
    shown = store.microvolts(store.segments_of(of(split, world).ecgs[0])[:1])[0]
    refused_rows = dict.fromkeys(("bad", "t1", "t-1"), f"split_{split}")
    assert smuggle(shown) == (set(), refused_rows)  # no sha256 to look up
    disguise = {"record": of("train", world).ecgs[0], "sha256": sha256_of(shown)}
    assert smuggle(shown, **disguise) == (set(), refused_rows)
    noise = np.random.default_rng(0).integers(-1, 2, shown.shape)
    assert smuggle(shown + noise) == (set(), refused_rows)
    assert smuggle(np.round(1.1 * shown)) == (set(), refused_rows)


def test_d10_the_signal_of_a_training_ecg_may_be_brought(world, store, smuggle) -> None:
    shown = store.microvolts(store.segments_of(of("train", world).ecgs[0])[:1])[0]
    assert smuggle(shown) == ({"bad", "t1>t-1"}, {})


# --- ECGs


def kept(folder: Path, name: str = "ecgs/a.npy", **changes: Any) -> tuple[PreferenceEcg, np.ndarray]:
    microvolts = np.arange(12 * SEG_LEN, dtype=np.int16).reshape(12, SEG_LEN)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, microvolts, allow_pickle=False)
    ecg = PreferenceEcg(file=name, sha256=sha256_of(microvolts), rate=RATE, folder=folder)
    return replace(ecg, **changes), microvolts


@pytest.fixture
def ecgs(store: SegmentStore) -> Ecgs:
    return Ecgs([store], RATE, SEG_LEN)


def reason(ecgs: Ecgs, ecg: PreferenceEcg) -> str:
    with pytest.raises(RejectedRecord) as error:
        ecgs.find(ecg, "p.jsonl, line 3")
    assert error.value.detail.startswith("p.jsonl, line 3")
    return error.value.reason


def test_a_record_of_a_store_is_found(world, store, ecgs) -> None:
    record = of("train", world).ecgs[0]
    first = store.microvolts(store.segments_of(record)[:1])[0]
    assert ecgs.find(PreferenceEcg(record), "") == record
    assert ecgs.find(PreferenceEcg(record, sha256=sha256_of(first)), "") == record
    assert reason(ecgs, PreferenceEcg(record, sha256="0" * 64)) == "ecg_differs"
    assert reason(ecgs, PreferenceEcg("none/1")) == "ecg_not_in_store"
    assert reason(ecgs, PreferenceEcg()) == "ecg_not_kept"


def test_a_later_segment_of_a_record_is_shown_as_itself(tmp_path: Path) -> None:
    from ecglm.records.synthetic import Synthetic
    from ecglm.signals.pipeline import get_pipeline
    from ecglm.store.prepare import prepare

    prepare(Synthetic(num_patients=1), get_pipeline("default", rate=50, seg_len=100), tmp_path / "s", progress=False)
    store = SegmentStore(tmp_path / "s")
    record = store.records()[0]
    third = store.microvolts([store.segments_of(record)[2]])[0]
    ecgs = Ecgs([store], 50, 100)
    name = ecgs.find(PreferenceEcg(record, sha256=sha256_of(third)), "")
    assert name == f"kept:{sha256_of(third)}"
    np.testing.assert_array_equal(ecgs.kept[ecgs.kept.segments_of(name)[0]], third.astype(np.float32) / 1000)


def test_a_kept_ecg_is_read_as_it_was(ecgs, tmp_path: Path) -> None:
    ecg, microvolts = kept(tmp_path)
    name = ecgs.find(ecg, "")
    assert ecgs.find(ecg, "") == name and ecgs.kept.records() == [name]
    np.testing.assert_array_equal(ecgs.kept[0], microvolts.astype(np.float32) / 1000)
    assert ecgs.kept[0].dtype == np.float32


def test_a_kept_ecg_that_is_another_or_of_another_pipeline_is_refused(ecgs, tmp_path: Path) -> None:
    assert reason(ecgs, kept(tmp_path, file="ecgs/gone.npy")[0]) == "ecg_not_kept"
    assert reason(ecgs, kept(tmp_path, sha256="0" * 64)[0]) == "ecg_differs"
    assert reason(ecgs, kept(tmp_path, rate=2 * RATE)[0]) == "ecg_other_pipeline"
    for name, array, expected in (
        ("long", np.zeros((12, SEG_LEN + 1), np.int16), "ecg_other_pipeline"),
        ("leads", np.zeros((8, SEG_LEN), np.int16), "ecg_other_pipeline"),
        ("floats", np.zeros((12, SEG_LEN), np.float32), "ecg_unreadable"),
        ("words", np.array(["a"]), "ecg_unreadable"),
    ):
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
        assert reason(ecgs, PreferenceEcg(file=f"{name}.npy", folder=tmp_path)) == expected
    (tmp_path / "empty.npy").write_bytes(b"")
    assert reason(ecgs, PreferenceEcg(file="empty.npy", folder=tmp_path)) == "ecg_unreadable"


def _pickled(path: Path) -> None:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + b"cos\nsystem\n")


def _bomb(path: Path) -> None:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<i2", "fortran_order": False, "shape": (1 << 40, 12)})
    path.write_bytes(data.getvalue())


@pytest.mark.parametrize("harm", [_pickled, _bomb])
def test_a_kept_file_that_could_do_harm_is_refused(ecgs, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    harm(tmp_path / "bad.npy")
    with pytest.raises(UnsafeInputError):
        ecgs.find(PreferenceEcg(file="bad.npy", folder=tmp_path), "")


@pytest.mark.parametrize("name", ["../ecg.npy", "/etc/passwd", "~/ecg.npy", "a/../../ecg.npy", "C:ecg.npy", "a\\b.npy"])
def test_a_kept_file_elsewhere_is_refused(ecgs, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeInputError, match="refuses file"):
        ecgs.find(PreferenceEcg(file=name, folder=tmp_path / "prefs"), "p.jsonl, line 1")


def test_a_link_out_of_the_folder_is_refused(ecgs, tmp_path: Path) -> None:
    outside, _ = kept(tmp_path / "outside")
    (tmp_path / "prefs").mkdir()
    (tmp_path / "prefs" / "ecg.npy").symlink_to(tmp_path / "outside" / str(outside.file))
    with pytest.raises(UnsafeInputError, match="leads outside"):
        ecgs.find(PreferenceEcg(file="ecg.npy", folder=tmp_path / "prefs"), "p.jsonl, line 1")


# --- validation


def pair(number: int, question: str = "Rhythm?", ecg: PreferenceEcg | None = None) -> Pair:
    ecgs = () if ecg is None else (ecg,)
    return Pair(f"p{number}", "compare", (Turn("user", question),), ecgs, (), "good", "bad")


@settings(max_examples=100, deadline=None)
@given(
    known=st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=3), min_size=2, max_size=30),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_nobody_is_on_both_sides(known: list[set[int]], share: float, seed: int) -> None:
    pairs = [pair(i) for i in range(len(known))]
    people_of = [tuple(sorted(k)) for k in known]
    try:
        val = split_pairs(pairs, people_of, share, seed)
    except EcglmError as error:
        assert "hang together" in str(error)
        merged = set(known[0])
        while new := [k for k in known if k & merged and not k <= merged]:
            merged |= set().union(*new)
        assert all(k & merged for k in known)
        return
    sides = [set().union(*(k for k, v in zip(known, val, strict=True) if v is side)) for side in (True, False)]
    assert not sides[0] & sides[1] and all(sides)
    assert val == split_pairs(pairs, people_of, share, seed)


def test_about_the_share_is_kept_back_and_the_seed_decides_who() -> None:
    people_of = [(i // 2,) for i in range(200)]
    pairs = [pair(i) for i in range(200)]
    first, second = (split_pairs(pairs, people_of, 0.1, seed) for seed in (0, 1))
    assert sum(first) == sum(second) == 20 and first != second


def test_pairs_without_people_go_by_their_ecg_or_their_question() -> None:
    ecg = PreferenceEcg(sha256="1" * 64)
    pairs = [pair(0, ecg=ecg), pair(1, "Axis?", ecg), pair(2, "Rate?"), pair(3, "Rate?")]
    val = split_pairs(pairs, [(), (), (), ()], 0.5, 0)
    assert val[0] == val[1] and val[2] == val[3] and val[0] != val[2]
