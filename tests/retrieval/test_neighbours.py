"""Neighbours of conversations: who is never found, how several ECGs share, and that nothing is searched for twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import read_manifest
from ecglm.prompts.data import EcgSource
from ecglm.records.synthetic import Synthetic
from ecglm.retrieval.index import Exclude, Index, build_index
from ecglm.retrieval.neighbours import (
    HITS,
    Neighbours,
    Query,
    by_turns,
    check_index,
    find_neighbours,
    nearest_to,
    queries_of,
    read_neighbours,
)
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, Neighbour, Turn
from tiny_world import World, tree


def quiet(text: str) -> None:
    pass


class FakeIndex:
    """Finds members by their number: member i lies at i, a segment at its first sample. Knows no exclusions by itself,
    beyond those it is told.
    """

    def __init__(self, members: Sequence[Neighbour], heeds: bool = True) -> None:
        self.members, self.heeds, self.fingerprint = members, heeds, "fake"
        self.asked: list[Exclude] = []

    def search(self, segments: np.ndarray, rate: int, *, k: int, exclude: Sequence[Exclude]) -> list[Any]:
        self.asked += exclude
        found = []
        for segment, without in zip(segments, exclude, strict=True):
            left = [
                (abs(i - float(segment[0, 0])), m)
                for i, m in enumerate(self.members)
                if not self.heeds or (m.record_id not in without.records and m.patient_id not in without.patients)
            ]
            near = sorted(left, key=lambda pair: pair[0])[:k]
            found.append(tuple(dataclasses.replace(m, distance=d) for d, m in near))
        return found


def member(number: int, patient: str = "") -> Neighbour:
    values = {"I_heart_rate": 60.0 + number, "II_heart_rate": 61.0 + number}
    return Neighbour(f"r{number}#0", f"r{number}", patient or f"p{number}", 0.0, f"report {number}", ("a",), values)


MEMBERS = [member(i) for i in range(6)]


def at(place: Any) -> Any:
    """A segment that lies at the number in its record's name."""
    query = place if isinstance(place, Query) else None
    where = float(query.ecg.removeprefix("r")) if query else float(place)
    return np.full((12, 10), where, np.float32), 50


def talk(*ecgs: int, patients: Sequence[str] = ()) -> Conversation:
    names = tuple(f"r{e}" for e in ecgs)
    return Conversation(
        "c",
        "x",
        "t",
        "train",
        names,
        tuple(patients) or tuple(f"p{e}" for e in ecgs),
        (Turn("user", "<ecg>" * len(ecgs)),),
    )


def find(index: Any, folder: Path, *talks: Conversation, k: int = 2, **options: Any) -> Neighbours:
    asked = [query for c in talks for query in queries_of(c)]
    return find_neighbours(index, asked, at, folder, k=k, inputs={"store": "s"}, say=quiet, **options)


def names(found: Sequence[Neighbour]) -> list[str]:
    return [hit.record_id for hit in found]


def test_d23_a_training_ecg_is_in_the_index_and_never_finds_itself_or_its_patient(tmp_path: Path) -> None:
    index = FakeIndex([*MEMBERS[:3], member(3, "p2"), *MEMBERS[4:]])
    found = find(index, tmp_path / "n", talk(2), k=3)
    assert names(found.of_conversation(talk(2))) == ["r1", "r0", "r4"]
    assert index.asked == [Exclude(records=frozenset({"r2"}), patients=frozenset({"p2"}))]


def test_each_ecg_of_several_has_neighbours_and_none_is_of_any_of_their_patients(tmp_path: Path) -> None:
    found = find(FakeIndex(MEMBERS), tmp_path / "n", talk(1, 4))
    hits = found.of_conversation(talk(1, 4))
    assert names(hits) == ["r0", "r3", "r2", "r5"]  # the nearest of each, then the second of each
    assert [h.distance for h in hits] == [1.0, 1.0, 1.0, 1.0]
    assert not {"r1", "r4"} & set(names(hits))
    assert names(by_turns([MEMBERS[:3], MEMBERS[1:2]])) == ["r0", "r1", "r2"]  # near two of them: told once
    assert by_turns([]) == by_turns([(), ()]) == ()


def test_what_is_shown_in_an_ecgs_place_is_searched_for_and_both_are_excluded() -> None:
    (query,) = queries_of(talk(1), shown={"r1": ("r4", "p4")})
    assert query == Query("r4", frozenset({"r1", "r4"}), frozenset({"p1", "p4"}))
    noisy = queries_of(talk(1, 2), change=lambda number: f"noise 0 c/{number}")
    assert [q.change for q in noisy] == ["noise 0 c/0", "noise 0 c/1"]
    assert len({q.key for q in (query, *noisy, *queries_of(talk(1)), *queries_of(talk(1, 2)))}) == 6


def test_everything_of_a_hit_comes_back_and_the_features_that_are_told(tmp_path: Path) -> None:
    find(FakeIndex(MEMBERS), tmp_path / "n", talk(1), features=("II_heart_rate",))
    (first, _) = read_neighbours(tmp_path / "n").of_conversation(talk(1))
    assert first == dataclasses.replace(MEMBERS[0], distance=1.0, features={"II_heart_rate": 61.0})
    find(FakeIndex(MEMBERS), tmp_path / "m", talk(1))
    assert read_neighbours(tmp_path / "m").of_conversation(talk(1))[0].features == {}


class Broken(FakeIndex):
    def search(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("searched again")


def test_what_was_found_is_read_again_for_the_same_and_found_anew_for_anything_else(tmp_path: Path) -> None:
    folder = tmp_path / "n"
    first = find(FakeIndex(MEMBERS), folder, talk(1), talk(4))
    again = find(Broken(MEMBERS), folder, talk(4), talk(1), talk(1))
    assert again.of_conversation(talk(4)) == first.of_conversation(talk(4))
    other = Broken(MEMBERS)
    other.fingerprint = "other"
    for index, talks, options in (
        (other, [talk(1), talk(4)], {}),
        (Broken(MEMBERS), [talk(1)], {}),
        (Broken(MEMBERS), [talk(1), talk(4)], {"k": 1}),
        (Broken(MEMBERS), [talk(1), talk(4)], {"features": ("I_heart_rate",)}),
    ):
        with pytest.raises(AssertionError, match="searched again"):
            find(index, folder, *talks, **options)
    damaged = (folder / HITS).read_bytes()
    (folder / HITS).write_bytes(damaged[:-7])
    assert find(FakeIndex(MEMBERS), folder, talk(1), talk(4)).of_conversation(talk(1)) == first.of_conversation(talk(1))
    assert (folder / HITS).read_bytes() == damaged
    (tmp_path / ".tmp-n-left").mkdir()  # by a run that was killed while it wrote
    find(FakeIndex(MEMBERS), folder, talk(1))
    assert [p.name for p in tmp_path.iterdir()] == ["n"]


def test_the_same_bytes_in_any_place_and_order(tmp_path: Path) -> None:
    find(FakeIndex(MEMBERS), tmp_path / "a" / "n", talk(1), talk(4), talk(1, 4))
    find(FakeIndex(MEMBERS), tmp_path / "b" / "m", talk(1, 4), talk(4), talk(4), talk(1))
    assert tree(tmp_path / "a" / "n") == tree(tmp_path / "b" / "m")


def test_fewer_hits_none_and_ecgs_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    said: list[str] = []
    index = FakeIndex([member(0), member(1, "p0")])

    def read(query: Query) -> Any:
        if query.ecg == "r9":
            raise RejectedRecord("ecg_not_in_store", "r9")
        return at(query)

    asked = [query for c in (talk(0), talk(1, patients=["p0"]), talk(5), talk(9)) for query in queries_of(c)]
    found = find_neighbours(index, asked, read, tmp_path / "n", k=3, inputs={}, say=said.append)
    assert read_manifest(tmp_path / "n", "neighbours")["counts"] == {
        "queries": 4,
        "unreadable": 1,
        "fewer": 1,
        "none": 2,
    }
    assert found.of_conversation(talk(9)) == found.of_conversation(talk(0)) == ()
    assert said == ["neighbours of 4 ECGs found once, k=3, 1 fewer, 2 none, 1 unreadable"]


def test_segments_of_several_rates_and_lengths(tmp_path: Path) -> None:
    def read(query: Query) -> Any:
        size = 10 if query.ecg in ("r1", "r3") else 20
        return np.full((12, size), float(query.ecg[1:]), np.float32), 5 * size

    asked = [query for e in (1, 2, 3, 4) for query in queries_of(talk(e))]
    found = find_neighbours(FakeIndex(MEMBERS), asked, read, tmp_path / "n", k=1, inputs={}, say=quiet)
    assert [names(found.of_conversation(talk(e))) for e in (1, 2, 3, 4)] == [["r0"], ["r1"], ["r2"], ["r3"]]


def test_an_index_that_gives_the_patients_own_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EcglmError, match="a neighbour of r1 is of the same patient or record"):
        find(FakeIndex(MEMBERS, heeds=False), tmp_path / "n", talk(1))
    assert not (tmp_path / "n").exists()


@pytest.fixture(scope="module")
def index(world: World, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build_index(
        [world.store], tmp_path_factory.mktemp("index") / "index", data=world.data, min_quality="any", say=quiet
    )


def test_d23_the_real_index_never_gives_the_patient_and_holds_training_ecgs_alone(
    world: World, index: Index, tmp_path: Path
) -> None:
    ecgs = EcgSource([SegmentStore(world.store)], None)
    talks = world.conversations()
    asked = [query for c in talks for query in queries_of(c)]
    read = lambda query: (ecgs.segment(query.ecg), ecgs.rate(query.ecg))  # noqa: E731
    found = find_neighbours(index, asked, read, tmp_path / "n", k=50, inputs=ecgs.fingerprints(), say=quiet)
    training = {p for c in talks if c.split == "train" for p in c.patients}
    records = {r for c in talks if c.split == "train" for r in c.ecgs}
    for c in talks:
        hits = found.of_conversation(c)
        others = {r for r in records if not any(p + "-" in r + "-" for p in c.patients)}
        assert {h.patient_id for h in hits} == training - set(c.patients)
        assert set(names(hits)) == others & index.records  # k is more than there are: all of the others
        assert len(names(hits)) == len(set(names(hits)))
        assert [h.distance for h in hits] == sorted(h.distance for h in hits)


def test_an_index_that_holds_somebody_who_is_asked_about_is_an_error(world: World, index: Index) -> None:
    check_index(index, world.conversations("test"), "the test")
    check_index(index, world.conversations("val"), "the validation")
    with pytest.raises(
        EcglmError, match=r"holds \d+ patients of the questions \(first: synthetic/.*training split alone"
    ):
        check_index(index, world.conversations("train"), "the questions")
    renamed = [dataclasses.replace(c, patients=("somebody",)) for c in world.conversations("train")]
    with pytest.raises(EcglmError, match=r"holds \d+ records of"):
        check_index(index, renamed, "the questions")


def test_a_recording_that_is_asked_about_never_finds_itself_under_another_name(world: World, index: Index) -> None:
    source = Synthetic(num_patients=12, seed=3)
    recordings = {r.record_id: r for r in map(source.read, source.keys())}
    known = sorted(index.records)[0]
    found = nearest_to(index, [recordings[known]], k=3)
    assert len(found) == 3 and recordings[known].patient_id not in {h.patient_id for h in found}
    disguised = dataclasses.replace(recordings[known], record_id="upload/x", patient_id="upload/x", patient_known=False)
    assert [h.segment_id for h in nearest_to(index, [disguised], k=3)] == [h.segment_id for h in found]
    test = recordings[world.conversations("test")[0].ecgs[0]]
    both = nearest_to(index, [disguised, test], k=2)
    assert 2 <= len(both) <= 4 and known not in names(both)


def test_d23_of_two_uploads_neither_is_told_as_a_neighbour_of_the_other(world: World, index: Index) -> None:
    source = Synthetic(num_patients=12, seed=3)
    recordings = {r.record_id: r for r in map(source.read, source.keys())}
    first = sorted(index.records)[0]
    alone = nearest_to(index, [recordings[first]], k=1)[0]
    uploads = [
        dataclasses.replace(recordings[name], record_id=f"file/{i}", patient_id=f"file/{i}", patient_known=False)
        for i, name in enumerate((first, alone.record_id))
    ]
    assert index.patients_shown(np.concatenate([index.segments(u)[:1] for u in uploads]), index.rate) >= {
        recordings[first].patient_id,
        alone.patient_id,
    }
    told = nearest_to(index, uploads, k=2)
    assert len(told) >= 2
    assert not {h.patient_id for h in told} & {recordings[first].patient_id, alone.patient_id}
    assert nearest_to(index, [], k=2) == ()
