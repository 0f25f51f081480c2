"""make.py: mapped once, reused while nothing changed, honest about what was not mapped."""

from __future__ import annotations

import json

import pytest

from ecglm import registry
from ecglm.conversations.make import lines, map_corpus
from ecglm.conversations.table import MapResult, read_conversations
from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.files import fingerprint
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, Turn
from tiny_world import make_world


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return SegmentStore(make_world(tmp_path_factory.mktemp("make")).store)


@pytest.fixture
def calls(monkeypatch):
    """A corpus of three items, one of them bad, that counts how often it is mapped."""
    seen = []

    def mapper(stores, *, wording="plain", root=None, limit=None):
        seen.append((wording, root))
        turns = (Turn("user", "<ecg> Normal?"), Turn("assistant", wording))
        first, second = stores[0].records()[:2]
        rows = [
            Conversation(f"c{i}", "toy", "normal", "train", (e,), (e,), turns) for i, e in enumerate((first, second))
        ]
        rejected = [{"id": "c2", "reason": "empty_turn", "detail": "no answer"}]
        return MapResult(rows, {"in": 3, "mapped": 2, "rejected.empty_turn": 1}, rejected)

    monkeypatch.setitem(registry._things["conversations"], "toy", mapper)
    return seen


def make(store, tmp_path, **options):
    return map_corpus("toy", [store], tmp_path / "q.parquet", **{"max_reject": 0.5, **options})


def test_mapped_once_and_reused(store, tmp_path, calls):
    manifest = make(store, tmp_path)
    again = make(store, tmp_path)
    assert again == manifest and len(calls) == 1
    assert [c.id for c in read_conversations(tmp_path / "q.parquet")] == ["c0", "c1"]
    assert manifest["inputs"]["store"] == store.fingerprint
    assert manifest["settings"]["corpus"] == "toy"
    logged = [json.loads(x) for x in (tmp_path / "q.parquet.rejects.jsonl").read_text().splitlines()]
    assert logged == [{"id": "c2", "reason": "empty_turn", "detail": "no answer"}]


@pytest.mark.parametrize("changed", ["option", "content", "one more file"])
def test_whatever_changes_makes_it_stale(store, tmp_path, calls, changed):
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "a.json").write_text("[1]")
    make(store, tmp_path, root=root)
    options = {}
    if changed == "option":
        options = {"wording": "other"}
    elif changed == "content":
        (root / "a.json").write_text("[2]")
    else:
        (root / "sub").mkdir()
        (root / "sub" / "b.tsv").write_text("x")
    with pytest.raises(StaleOutputError, match="--overwrite"):
        make(store, tmp_path, root=root, **options)
    assert len(calls) == 1
    make(store, tmp_path, root=root, overwrite=True, **options)
    assert len(calls) == 2


def test_files_count_by_name_and_content_not_by_place(store, tmp_path, calls):
    for place in ("one", "two"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub" / "a.json").write_text("[1]")
        (tmp_path / place / "readme.txt").write_text(place)  # no question file
    first = make(store, tmp_path, root=tmp_path / "one")
    assert make(store, tmp_path, root=tmp_path / "two") == first and len(calls) == 1


def test_splits_are_an_input(store, tmp_path):
    patients = set(store.index.column("patient_id").to_pylist())
    splits = dict.fromkeys(patients, "train")
    made = map_corpus("labels", [store], tmp_path / "q.parquet", tasks=["rhythm"], splits=splits)
    assert made["settings"]["splits"] == fingerprint(splits)
    assert {c.split for c in read_conversations(tmp_path / "q.parquet")} == {"train"}
    with pytest.raises(StaleOutputError):
        other = dict.fromkeys(patients, "test")
        map_corpus("labels", [store], tmp_path / "q.parquet", tasks=["rhythm"], splits=other)


def test_too_many_rejects_are_an_error_and_the_file_is_there(store, tmp_path, calls):
    with pytest.raises(EcglmError, match=r"1 of 3 items were rejected \(empty_turn\).*--max-reject"):
        make(store, tmp_path, max_reject=0.05)
    assert len(read_conversations(tmp_path / "q.parquet")) == 2


def test_an_unknown_corpus_or_option(store, tmp_path, calls):
    with pytest.raises(ConfigError, match="no conversations named 'lables'"):
        map_corpus("lables", [store], tmp_path / "q.parquet")
    with pytest.raises(ConfigError, match="corpus 'toy' has no option 'variant'; its options: limit, wording"):
        make(store, tmp_path, variant="x")
    assert not (tmp_path / "q.parquet").exists() and not calls


def test_the_summary_adds_up(store, tmp_path, calls):
    said = lines(make(store, tmp_path), tmp_path / "q.parquet")
    assert said == [
        "2 of 3 items mapped",
        "not mapped: rejected.empty_turn 1",
        "splits: train 2",
        f"conversations: {tmp_path / 'q.parquet'}",
    ]
