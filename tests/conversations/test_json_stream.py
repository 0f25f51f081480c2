"""json_stream.py: the items of a whole-file reader, from a window; every broken file is one clear error."""

from __future__ import annotations

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.conversations import json_stream
from ecglm.conversations.json_stream import iter_items
from ecglm.errors import EcglmError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
inside = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)


def read(path, text, encoding="utf-8"):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return [item for _, item in iter_items(path)]


def refusal(path, text) -> str:
    with pytest.raises(EcglmError) as error:
        read(path, text)
    message = str(error.value)
    assert "\n" not in message and str(path) in message and len(message) < 400
    return message


@given(st.lists(values, max_size=8), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
@inside
def test_any_list_is_read_as_by_json_whatever_the_window(tmp_path, items, indent, ascii_only, chunk):
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not ascii_only else text
    old, json_stream.CHUNK = json_stream.CHUNK, chunk
    try:
        assert read(tmp_path / "a.json", text) == json.loads(text)
    finally:
        json_stream.CHUNK = old


@given(st.lists(values, max_size=8), st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\n"]), st.booleans())
@inside
def test_lines_are_read_as_by_json(tmp_path, items, end, last):
    text = end.join(map(json.dumps, items)) + (end if last else "")
    assert read(tmp_path / "a.jsonl", text) == items


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_byte_order_mark_blanks_and_nothing(tmp_path, name):
    text = '[{"a": "ü"}, {"a": 2}]' if name == "a.json" else '{"a": "ü"}\n\n{"a": 2}\n'
    assert read(tmp_path / name, text, "utf-8-sig") == [{"a": "ü"}, {"a": 2}]
    empty = " [ ] \n" if name == "a.json" else "\n \n"
    assert read(tmp_path / name, empty) == []


@given(st.data())
@inside
def test_a_file_cut_anywhere_is_told_with_its_item(tmp_path, data):
    items = [{"id": n, "text": 'größer \\ "x" \U0001f600', "n": -1.5e-3, "l": [True, None]} for n in range(3)]
    text = json.dumps(items, indent=data.draw(st.sampled_from([None, 1])), ensure_ascii=data.draw(st.booleans()))
    cut = text.encode()[: data.draw(st.integers(1, len(text.encode()) - 1))]
    old, json_stream.CHUNK = json_stream.CHUNK, data.draw(st.integers(1, 50))
    try:
        message = refusal(tmp_path / "a.json", cut)
    finally:
        json_stream.CHUNK = old
    assert "cut off" in message or "not UTF-8" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a list of items is needed, found nothing"),
        ("<html>", "found '<'"),
        ('{"a": 1}\n{"a": 2}', "one item per line? then name the file .jsonl"),
        ('[{"a": 1, "b": 2, "a": 3}]', "line 1, item 0: key 'a' stands twice"),
        ('[{"b": {"a": 1, "a": 3}}]', "key 'a' stands twice"),
        ('[1,\n {"a": NaN}]', "line 2, item 1: NaN is no JSON"),
        ("[Infinity]", "item 0: Infinity is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[1e999]", "beyond all numbers"),
        ("[1,\n2,]", "line 2, item 2"),
        ("[,1]", "item 0"),
        ("[1 2]", "behind item 0: ',' or ']' is needed, found '2'"),
        ("[1] [2]", "more text behind the end of the list"),
        ("[1}", "is needed, found '}'"),
        ('[{"a": 1}, {"a" 2}]' + " " * 50, "item 1: not valid JSON"),
        ('[{"a": tru}]' + " " * 50, "not valid JSON"),
        ('["a\tb"]', "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[" + "9" * 5000 + "]", "item 0"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8"),
    ],
)
def test_a_broken_list_is_told(tmp_path, text, words):
    assert words in refusal(tmp_path / "a.json", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": 2', "line 2: the file is cut off here"),
        ('{"a": 1}\n{"a": 2\n{"a": 3}\n', "line 2: not valid JSON"),
        ('{"a": 1} {"a": 2}\n', "line 1: more than one item in the line"),
        ('{"a": 1, "a": 2}\n', "line 1: key 'a' stands twice"),
        ('\n{"a": NaN}\n', "line 2: NaN is no JSON"),
        ("[" * 100_000 + "\n", "nested too deep"),
        (b'{"a": 1}\n{"a": "\xc3"}\n', "line 2: not UTF-8"),
    ],
)
def test_broken_lines_are_told(tmp_path, text, words):
    assert words in refusal(tmp_path / "a.jsonl", text)


def test_an_item_beyond_the_cap_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_ITEM", 1 << 20)
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 16)
    long = "x" * (1 << 20)
    assert "item 1: more than 1 MB" in refusal(tmp_path / "a.json", json.dumps([1, long + long]))
    assert "item 1: more than 1 MB, or a quote is missing" in refusal(tmp_path / "a.json", '[1, "' + 3 * long)
    assert "line 2: longer than 1 MB" in refusal(tmp_path / "a.jsonl", f'1\n"{long}"\n')
    assert read(tmp_path / "a.json", json.dumps([long[: 1 << 19]])) == [long[: 1 << 19]]


def test_memory_is_that_of_the_window(tmp_path):
    item = json.dumps({"id": 1, "text": "word " * 200})
    sizes = []
    for num in (4_000, 16_000):
        (tmp_path / "a.json").write_text("[" + ",\n".join([item] * num) + "]")
        tracemalloc.start()
        assert sum(1 for _ in iter_items(tmp_path / "a.json")) == num
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sizes[1] < 8 * json_stream.CHUNK and sizes[1] < 1.2 * sizes[0]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_a_file_that_is_not_there_or_no_file(tmp_path, name):
    with pytest.raises(EcglmError, match="no such file"):
        list(iter_items(tmp_path / name))
    (tmp_path / name).mkdir()
    with pytest.raises(EcglmError, match="cannot be read"):
        list(iter_items(tmp_path / name))


def test_parquet_rows_without_bytes_and_nulls(tmp_path):
    rows = [
        {"id": "a", "image": {"bytes": b"\x89PNG", "path": None}, "turns": [{"from": "human", "value": "q"}], "n": 1.5},
        {"id": "b", "image": {"bytes": b"", "path": "x"}, "turns": [{"from": "gpt", "value": None}], "n": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [item for _, item in iter_items(tmp_path / "a.parquet")] == [
        {"id": "a", "turns": [{"from": "human", "value": "q"}], "n": 1.5},
        {"id": "b", "turns": [{"from": "gpt"}]},
    ]
    pq.write_table(pa.table({"n": [1.0, float("nan")]}), tmp_path / "a.parquet")
    with pytest.raises(EcglmError, match="row 1: NaN or Infinity"):
        list(iter_items(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(EcglmError, match="cannot be read as Parquet") as error:
        list(iter_items(tmp_path / "a.parquet"))
    assert "\n" not in str(error.value)
