"""make.py: mapped once, reused while nothing changed, honest about what was not mapped."""

from __future__ import annotations

import json
import sys

import pytest

from ecglm import registry
from ecglm.conversations.make import lines, map_corpus, options_of, reads_files, takes_splits
from ecglm.conversations.table import Reject, read_conversations
from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.files import file_sha256, fingerprint
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
        yield rows[0]
        yield Reject("c2", "empty_turn", "no answer")
        yield rows[1]

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
    assert logged == [{"item": "c2", "reason": "empty_turn", "detail": "no answer"}]


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


def test_too_many_rejects_are_an_error_each_time_and_the_file_is_there(store, tmp_path, calls):
    for _ in range(2):  # the second time nothing is mapped, and it is an error all the same
        with pytest.raises(EcglmError, match=r"1 of 3 items were rejected \(empty_turn\).*q.parquet.rejects.jsonl"):
            make(store, tmp_path, max_reject=0.05)
    assert len(calls) == 1
    with pytest.raises(EcglmError, match=r"1 of 3 items were rejected \(empty_turn\).*--max-reject"):
        make(store, tmp_path, max_reject=0.05)
    assert len(read_conversations(tmp_path / "q.parquet")) == 2


def test_a_single_file_and_hidden_ones(store, tmp_path, calls):
    (tmp_path / "c" / ".cache").mkdir(parents=True)
    (tmp_path / "c" / "a.json").write_text("[1]")
    whole = make(store, tmp_path, root=tmp_path / "c")
    (tmp_path / "c" / ".cache" / "b.json").write_text("[2]")
    (tmp_path / "c" / ".d.json").write_text("[2]")
    assert make(store, tmp_path, root=tmp_path / "c") == whole and len(calls) == 1
    alone = make(store, tmp_path, root=tmp_path / "c" / "a.json", overwrite=True)
    assert alone["inputs"]["files"] == fingerprint({"a.json": file_sha256(tmp_path / "c" / "a.json")})
    with pytest.raises(EcglmError, match="no such file or folder"):
        make(store, tmp_path, root=tmp_path / "none")


def test_defaults_and_the_version_of_the_mapper_are_settings(store, tmp_path, calls, monkeypatch):
    made = make(store, tmp_path)
    assert made["settings"]["wording"] == "plain" and made["settings"]["version"] == 1
    make(store, tmp_path, wording="plain")  # a default that is written out is the same
    assert len(calls) == 1
    monkeypatch.setattr(sys.modules[__name__], "VERSION", 2, raising=False)
    with pytest.raises(StaleOutputError):
        make(store, tmp_path)


def test_what_a_corpus_takes(calls):
    assert options_of("toy") == {"wording": "plain", "limit": None}
    assert not reads_files("toy") and not takes_splits("toy") and takes_splits("labels")
    with pytest.raises(ConfigError):
        options_of("lables")


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
        "not mapped: empty_turn 1",
        "splits: train 2",
        f"rejects: {tmp_path / 'q.parquet.rejects.jsonl'}",
        f"conversations: {tmp_path / 'q.parquet'}",
    ]
