"""Files of predictions in strict reading: each item once, everything else told in one line."""

from __future__ import annotations

import json

import pytest
from bench_data import gold_rows, write_answers, write_gold

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.answers import read_answers
from ecglm.evaluation.ecgbench.gold import read_gold


@pytest.fixture
def items(tmp_path):
    return read_gold(write_gold(tmp_path / "gold", "ptb-test", gold_rows("ptb-test", [("q", "MI")] * 3)), "ptb-test")


def read(path, items, home_of=lambda item_id: None):
    return read_answers(path, "ptb-test", items, home_of)


def lines(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_both_spellings_blank_lines_and_what_is_missing(tmp_path, items):
    path = lines(
        tmp_path / "a.jsonl",
        {"question_id": "ptb-test-0", "text": "MI", "response": "CD", "model_id": "m"},
        "\n   \n",
        {"id": "ptb-test-1", "response": "CD"},
    )
    found = read(path, items)
    assert found.texts == {"ptb-test-0": "MI", "ptb-test-1": "CD"}
    assert found.missing == ("ptb-test-2",) and not found.failed
    assert found.control == "real" and found.model_ids == ("m",)


def test_p09_a_row_without_answer_has_failed_and_takes_nothing_from_its_neighbours(tmp_path, items):
    path = lines(
        tmp_path / "a.jsonl",
        {"id": "ptb-test-0", "text": "MI"},
        {"id": "ptb-test-1"},
        {"id": "ptb-test-2", "text": "", "metadata": {"error": "image_missing: a.png"}},
    )
    found = read(path, items)
    assert found.texts == {"ptb-test-0": "MI"}
    assert found.failed["ptb-test-1"].startswith("no_text")
    assert found.failed["ptb-test-2"] == "image_missing: a.png"


@pytest.mark.parametrize("text", [None, 3, ["MI"]])
def test_an_answer_that_is_no_text_has_failed(tmp_path, items, text):
    assert read(lines(tmp_path / "a.jsonl", {"id": "ptb-test-0", "text": text}), items).failed


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"text": "MI"}], "line 1: has no question_id"),
        ([{"question_id": None, "text": "MI"}], "has no question_id"),
        (
            [{"id": "ptb-test-0", "text": "a"}, {"id": "ptb-test-0", "text": "b"}],
            "line 2: id 'ptb-test-0' stands twice",
        ),
        ([{"id": "cpsc-0", "text": "a"}], "'cpsc-0' is not in ptb-test; it is of cpsc-test"),
        ([{"id": "zzz", "text": "a"}], "'zzz' is not in ptb-test; check"),
        (['{"id": "ptb-test-0", "text": "a"}\n', '{"id": "ptb-test-1", "te'], "line 2: half-written, the last one"),
        (['{"id": \n', '{"id": "ptb-test-1", "text": "a"}\n'], "line 1: not valid JSON"),
        (["[1]\n"], "an object is needed"),
        ([], "holds no rows"),
        (["\n\n"], "holds no rows"),
        (
            [{"id": "ptb-test-0", "text": "a"}, {"id": "ptb-test-1", "text": "a", "metadata": {"control": "blank"}}],
            "line 2: under 'blank'",
        ),
    ],
)
def test_p07_what_cannot_be_a_full_answer_sheet_is_one_line(tmp_path, items, rows, told):
    homes = {"cpsc-0": "cpsc-test"}
    with pytest.raises(EcglmError, match=told) as error:
        read(lines(tmp_path / "a.jsonl", *rows), items, homes.get)
    assert "a.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_the_condition_comes_from_the_rows_else_from_the_folder(tmp_path, items):
    place = write_answers(tmp_path / "m@swap" / "ptb-test" / "step-final.jsonl", {"ptb-test-0": "MI"})
    assert read(place, items).control == "swap"
    told = write_answers(tmp_path / "x.jsonl", {"ptb-test-0": "MI"}, metadata={"control": "blank"})
    assert read(told, items).control == "blank"


def test_bytes_that_are_no_text(tmp_path, items):
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "ptb-test-0", "text": "\xff"}\n')
    with pytest.raises(EcglmError, match="line 1: not valid JSON"):
        read(tmp_path / "a.jsonl", items)
    with pytest.raises(EcglmError, match="cannot be read"):
        read(tmp_path / "nowhere.jsonl", items)
