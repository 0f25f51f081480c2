"""The Parquet file of conversations: round trip, same bytes, refusals in one line."""

from __future__ import annotations

import dataclasses
import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.conversations import table
from ecglm.conversations.table import (
    SCHEMA,
    MapResult,
    NotAsked,
    Reject,
    SetAside,
    check_rejects,
    conversations_fingerprint,
    is_finished,
    iter_conversations,
    manifest_path,
    read_conversations,
    write_conversations,
)
from ecglm.errors import EcglmError, StaleOutputError, TornOutputError
from ecglm.files import file_sha256, plan_fingerprint, read_jsonl, write_manifest
from ecglm.types import Conversation, Turn

SETTINGS, INPUTS = {"seed": 0}, {"store": "abc"}


def conversation(number: int = 0, **changes) -> Conversation:
    one = Conversation(
        id=f"toy/train/{number}",
        corpus="toy",
        task="rhythm",
        split="train",
        ecgs=(f"toy/{number}",),
        patients=(f"toy/p{number}",),
        turns=(Turn("user", "<ecg>\nRhythm?"), Turn("assistant", "sinus rhythm")),
        source_id=str(number),
        metadata={"choices": ["a", "b"], "k": number, "ä": None},
    )
    return dataclasses.replace(one, **changes)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda t: t.strip() and "<ecg>" not in t
)


@given(st.lists(st.tuples(texts, texts, st.integers(0, 3), st.sampled_from(["train", "val", "test", ""]))))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_round_trip(tmp_path, items):
    rows = [
        conversation(
            n,
            split=split,
            ecgs=tuple(f"x/{k}" for k in range(num)),
            patients=("p",) * num,
            turns=(Turn("user", "<ecg>" * num + question), Turn("assistant", answer)),
        )
        for n, (question, answer, num, split) in enumerate(items)
    ] or [conversation()]
    write_conversations(tmp_path / "a b ü.parquet", rows, SETTINGS, INPUTS, overwrite=True)
    assert read_conversations(tmp_path / "a b ü.parquet") == rows


def test_same_bytes_and_manifest_facts(tmp_path):
    rows = [conversation(0), conversation(1, split="test")]
    for folder in ("one", "two"):
        write_conversations(tmp_path / folder / "c.parquet", rows, SETTINGS, INPUTS)
    names = sorted(os.listdir(tmp_path / "one"))
    assert names == ["c.parquet", "c.parquet.manifest.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    manifest = json.loads((tmp_path / "one" / "c.parquet.manifest.json").read_text())
    assert manifest["kind"] == "conversations"
    assert manifest["fingerprint"] == plan_fingerprint("conversations", SETTINGS, INPUTS)
    assert manifest["splits"] == {"test": 1, "train": 1}
    sha = file_sha256(tmp_path / "one" / "c.parquet")
    assert manifest["outputs"] == {"c.parquet": sha}
    assert conversations_fingerprint(tmp_path / "one" / "c.parquet") == sha


def test_a_file_renamed_with_its_manifest_is_told(tmp_path):
    write_conversations(tmp_path / "c.parquet", [conversation(7)], SETTINGS, INPUTS)
    for suffix in ("", ".manifest.json"):
        (tmp_path / f"c.parquet{suffix}").rename(tmp_path / f"d.parquet{suffix}")
    with pytest.raises(EcglmError, match=r"tells of c\.parquet, not of d\.parquet; give the file its name back"):
        conversations_fingerprint(tmp_path / "d.parquet")


def test_pandas_reads_it(tmp_path):
    write_conversations(tmp_path / "c.parquet", [conversation(7)], SETTINGS, INPUTS)
    frame = pd.read_parquet(tmp_path / "c.parquet")
    assert list(frame.columns) == SCHEMA.names
    row = frame.iloc[0]
    assert list(row["ecgs"]) == ["toy/7"]
    assert [dict(turn) for turn in row["turns"]] == [
        {"role": "user", "text": "<ecg>\nRhythm?"},
        {"role": "assistant", "text": "sinus rhythm"},
    ]
    assert json.loads(row["metadata"])["k"] == 7


def test_filters(tmp_path):
    rows = [conversation(n, split=("train", "test")[n % 2], task=("a", "b", "c")[n % 3]) for n in range(12)]
    path = tmp_path / "c.parquet"
    write_conversations(path, rows, SETTINGS, INPUTS)
    assert read_conversations(path, split="test") == [r for r in rows if r.split == "test"]
    assert (
        read_conversations(path, split="test", task=["a", "b"], limit=3)
        == [r for r in rows if r.split == "test" and r.task in "ab"][:3]
    )
    assert read_conversations(path, task="none such") == []


def test_map_result_writes_its_logs_and_counts(tmp_path):
    bad = {"item": "f.json[1]", "reason": "empty_turn", "detail": "ü"}
    away = {"item": "f.json[2]", "reason": "ecg_not_in_store", "detail": ""}
    result = MapResult([conversation()], {"in": 3, "mapped": 1, "empty_turn": 1, "ecg_not_in_store": 1}, [bad], [away])
    manifest = write_conversations(tmp_path / "c.parquet", result, SETTINGS, INPUTS)
    assert manifest["counts"] == result.counts
    assert read_jsonl(tmp_path / "c.parquet.rejects.jsonl") == [bad]
    assert read_jsonl(tmp_path / "c.parquet.set_aside.jsonl") == [away]
    assert set(manifest["outputs"]) == {"c.parquet", "c.parquet.rejects.jsonl", "c.parquet.set_aside.jsonl"}


def test_a_stream_is_written_as_it_comes(tmp_path, monkeypatch):
    """Row groups of a bounded size, logs while it goes, the same bytes as the list; nothing is read twice."""
    monkeypatch.setattr(table, "ROW_GROUP", 10)
    rows = [conversation(n) for n in range(34)]
    bad, away = Reject("f.json[1]", "empty_turn", "ü"), SetAside("f.json[2]", "ecg_not_in_store")

    def stream():
        for n, row in enumerate(rows):
            yield row
            if n == 5:
                yield from (bad, NotAsked("rate.not_measured", 3), away)

    manifest = write_conversations(tmp_path / "s.parquet", stream(), SETTINGS, INPUTS, facts={"corpora": ["a"]})
    assert manifest["counts"] == {
        "in": 39,
        "mapped": 34,
        "empty_turn": 1,
        "rate.not_measured": 3,
        "ecg_not_in_store": 1,
    }
    assert manifest["rejected"] == {"empty_turn": 1} and manifest["corpora"] == ["a"]
    assert read_jsonl(tmp_path / "s.parquet.rejects.jsonl") == [vars(bad)]
    assert read_jsonl(tmp_path / "s.parquet.set_aside.jsonl") == [vars(away)]
    metadata = pq.read_metadata(tmp_path / "s.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [10, 10, 10, 4]
    assert read_conversations(tmp_path / "s.parquet") == rows
    write_conversations(tmp_path / "l.parquet", rows, SETTINGS, INPUTS)
    assert (tmp_path / "l.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()
    assert write_conversations(tmp_path / "s.parquet", _never(), SETTINGS, INPUTS) == manifest


def _never():
    raise AssertionError("the stream of a finished output is begun")
    yield


def test_long_texts_end_a_row_group_early(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROW_GROUP_CHARACTERS", 1000)
    said = (Turn("user", "<ecg>"), Turn("assistant", "a" * 400))
    rows = [conversation(n, turns=said) for n in range(7)]
    write_conversations(tmp_path / "c.parquet", rows, SETTINGS, INPUTS)
    metadata = pq.read_metadata(tmp_path / "c.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [3, 3, 1]
    assert read_conversations(tmp_path / "c.parquet") == rows


def test_a_stream_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "c.parquet"
    write_conversations(path, iter([conversation()]), SETTINGS, INPUTS)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fails():
        yield conversation(1)
        raise EcglmError("f.json, item 1: the file is cut off here")

    with pytest.raises(EcglmError, match="cut off here"):
        write_conversations(path, fails(), {"seed": 1}, INPUTS, overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_iterating_is_lazy_and_gives_what_reading_gives(tmp_path):
    rows = [conversation(n, split=("train", "test")[n % 2]) for n in range(50)]
    path = tmp_path / "c.parquet"
    write_conversations(path, rows, SETTINGS, INPUTS)
    stream = iter_conversations(path, split="test")
    assert next(stream) == rows[1]
    assert list(stream) == rows[3::2]
    with pytest.raises(EcglmError, match="no such file"):
        next(iter_conversations(tmp_path / "none.parquet"))


def test_logs_of_an_earlier_stream_do_not_stay_beside_a_list(tmp_path):
    path = tmp_path / "c.parquet"
    write_conversations(path, iter([conversation(), Reject("x", "empty_turn")]), SETTINGS, INPUTS)
    write_conversations(path, [conversation()], {"seed": 1}, INPUTS, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["c.parquet", "c.parquet.manifest.json"]


def test_rejects_above_the_allowed_fraction_are_an_error():
    check_rejects({"counts": {"in": 100}, "rejected": {"empty_turn": 5}}, "c.parquet", 0.05)
    with pytest.raises(EcglmError, match=r"6 of 100 items were rejected \(empty_turn\).*c.parquet.rejects") as error:
        check_rejects({"counts": {"in": 100}, "rejected": {"empty_turn": 6}}, "c.parquet", 0.05)
    one_line(error)


def test_finished_is_reused_other_settings_are_refused(tmp_path):
    path = tmp_path / "c.parquet"
    assert not is_finished(path, SETTINGS, INPUTS)
    write_conversations(path, [conversation()], SETTINGS, INPUTS)
    assert is_finished(path, SETTINGS, INPUTS)
    before = path.stat().st_mtime_ns
    write_conversations(path, [conversation(5)], SETTINGS, INPUTS)
    assert path.stat().st_mtime_ns == before
    for other in ({"seed": 1}, INPUTS), (SETTINGS, {"store": "xyz"}):
        with pytest.raises(StaleOutputError, match="--overwrite") as error:
            write_conversations(path, [conversation(5)], *other)
        one_line(error)
    assert read_conversations(path) == [conversation()]
    write_conversations(path, [conversation(5)], {"seed": 1}, INPUTS, overwrite=True)
    assert read_conversations(path) == [conversation(5)]


def test_a_run_killed_before_the_manifest_is_torn_and_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "c.parquet"

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(table, "write_manifest", die)
    with pytest.raises(Killed):
        write_conversations(path, [conversation()], SETTINGS, INPUTS)
    monkeypatch.undo()
    with pytest.raises(TornOutputError, match="unfinished"):
        read_conversations(path)
    with pytest.raises(StaleOutputError):
        write_conversations(path, [conversation()], {"seed": 9}, INPUTS)
    write_conversations(path, [conversation()], SETTINGS, INPUTS)
    assert read_conversations(path) == [conversation()]


def test_a_damaged_file_is_torn_and_made_again(tmp_path):
    path = tmp_path / "c.parquet"
    write_conversations(path, [conversation()], SETTINGS, INPUTS)
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(TornOutputError, match="make it again") as error:
        read_conversations(path)
    one_line(error)
    assert not is_finished(path, SETTINGS, INPUTS)
    write_conversations(path, [conversation()], SETTINGS, INPUTS)
    assert path.read_bytes() == good


@pytest.mark.parametrize("content", [b"my notes", b""])
def test_a_foreign_file_is_never_overwritten(tmp_path, content):
    path = tmp_path / "c.parquet"
    path.write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(EcglmError, match="not made by ecglm"):
            write_conversations(path, [conversation()], SETTINGS, INPUTS, overwrite=overwrite)
    assert path.read_bytes() == content


def test_a_foreign_parquet_is_never_overwritten(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(EcglmError, match="not made by ecglm"):
        write_conversations(path, [conversation()], SETTINGS, INPUTS, overwrite=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "toy/train/1"}, "id stands twice"),
        ({"id": ""}, "must not be empty"),
        ({"split": "valid"}, "split 'valid' is none of train, val, test"),
        ({"patients": ()}, "0 patients for 1 ecgs"),
        ({"turns": (Turn("user", "<ecg>"), Turn("assistant", " "))}, "empty_turn"),
        ({"turns": (Turn("user", "q"), Turn("assistant", "a"))}, "mark_count"),
        ({"turns": (Turn("gpt", "q"),)}, "unknown_role"),
        ({"turns": (Turn("assistant", "q"),)}, "turn_order"),
        ({"turns": ()}, "no_turns"),
    ],
)
def test_a_conversation_that_breaks_a_rule_is_named(tmp_path, changes, message):
    with pytest.raises(EcglmError, match=message) as error:
        write_conversations(tmp_path / "c.parquet", [conversation(1), conversation(0, **changes)], SETTINGS, INPUTS)
    assert "row 1" in one_line(error)
    assert os.listdir(tmp_path) == []


def test_nothing_to_write_tells_why(tmp_path):
    with pytest.raises(EcglmError, match="ecg_not_in_store: 2"):
        write_conversations(
            tmp_path / "c.parquet", MapResult([], {"in": 2, "mapped": 0, "ecg_not_in_store": 2}), SETTINGS, INPUTS
        )
    outcomes = [SetAside("f[0]", "ecg_not_in_store", "in no store: x/1"), Reject("f[1]", "empty_turn", "turn 1")]
    with pytest.raises(EcglmError, match=r"empty_turn: 1; the first: f\[1\]: turn 1\); check") as error:
        write_conversations(tmp_path / "c.parquet", iter(outcomes), SETTINGS, INPUTS)
    one_line(error)
    assert os.listdir(tmp_path) == []


def _by_hand(path, columns: pa.Table) -> None:
    pq.write_table(columns, path)
    write_manifest(manifest_path(path), "conversations", {}, {}, {path.name: file_sha256(path)})


def _columns(**changes) -> pa.Table:
    values = {
        "id": ["a"],
        "corpus": ["c"],
        "task": ["t"],
        "split": ["train"],
        "ecgs": [["x/1"]],
        "patients": [["x/1"]],
        "turns": [[{"role": "user", "text": "<ecg>"}, {"role": "assistant", "text": "a"}]],
        "source_id": ["1"],
        "metadata": ["{}"],
    }
    fields = [field for field in SCHEMA if changes.get(field.name, ()) is not None]
    return pa.table({f.name: pa.array(changes.get(f.name, values[f.name]), type=f.type) for f in fields})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (_columns(turns=None), "column 'turns' is missing"),
        (_columns().append_column("extra", pa.array([1])), "unknown column 'extra'"),
        (_columns().set_column(3, "split", pa.array([3])), "column 'split' is int64, string is needed"),
        (_columns(split=[None]), "row 0: field split is empty"),
        (_columns(ecgs=[[None]]), "row 0: field ecgs is empty"),
        (_columns(turns=[[{"role": "user", "text": None}]]), "row 0: field turns is empty"),
        (_columns(metadata=["{"]), "field metadata is not valid JSON"),
        (_columns(metadata=["[]"]), "field metadata must be a JSON object"),
        (_columns(turns=[[{"role": "user", "text": "q"}]]), "turn_order"),
    ],
)
def test_reading_checks_schema_and_rows(tmp_path, columns, message):
    path = tmp_path / "c.parquet"
    _by_hand(path, columns)
    with pytest.raises(EcglmError, match=message) as error:
        read_conversations(path)
    one_line(error)


def test_reading_by_hand_made_columns_works(tmp_path):
    _by_hand(tmp_path / "c.parquet", _columns())
    assert read_conversations(tmp_path / "c.parquet")[0].id == "a"


def test_missing_file_is_told(tmp_path):
    with pytest.raises(EcglmError, match="no such file"):
        read_conversations(tmp_path / "none.parquet")
