"""Items of the prepared subsets: the quirks of the published schema, and what is refused."""

from __future__ import annotations

import json

import pytest
from bench_data import gold_rows, rows, talk, write_gold

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.gold import (
    ONLY_ANSWER,
    PATIENTS,
    gold_item,
    lettered_options,
    listed_options,
    read_gold,
)
from ecglm.evaluation.ecgbench.subsets import SUBSETS


def test_p18_lists_of_characters_and_missing_ids_are_read(tmp_path):
    items = [
        {"No": 7, "image": "a.png", "conversation": talk(list("Is it? Options: yes, no"), ["yes"])},
        {"id": "x", "image_path": "b.png", "conversations": talk(["Is it? ", "Options: I, II"], ["lead I", "lead II"])},
        {"id": "y", "image": "c.png", "conversations": talk("Is it?", list("none"))},
    ]
    found = read_gold(write_gold(tmp_path, "ecgqa-test", items), "ecgqa-test")
    assert [item.id for item in found] == ["7", "x", "y"]
    assert [item.question for item in found] == ["Is it? Options: yes, no", "Is it? Options: I, II", "Is it?"]
    assert [item.answers for item in found] == [("yes",), ("lead I", "lead II"), ("none",)]
    assert [item.options for item in found] == [("yes", "no"), ("I", "II"), ()]
    assert found[1].turns[-1].text == "lead I, lead II"


def test_every_subset_of_the_dataset_is_read(tmp_path):
    for subset, items in rows(4).items():
        found = read_gold(write_gold(tmp_path, subset, items), subset)
        assert [item.id for item in found] == [item["id"] for item in items]
        assert all(item.turns[0].text.startswith("<ecg>\n") and "<image>" not in item.turns[0].text for item in found)
        assert all(item.record for item in found) == (subset not in ("mmmu-ecg", "arena"))


def test_arena_has_two_rounds_at_most():
    rounds = [{"question": f"Q{k}", "answer": f"A{k}"} for k in range(4)]
    item = gold_item({"id": 1, "image": "a.png", "conversations": rounds}, SUBSETS["arena"])
    assert [turn.text for turn in item.turns] == ["<ecg>\nQ0", "A0", "Q1", "A1"]
    assert item.answers == ("A0", "A1")


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("What?\nA. one\nB. two, B\nC. V1. x", ("one", "two, B", "V1. x")),
        ("What? (A) one (B) two", ("one", "two")),
        ("What? A) one, B) two", ("one", "two")),
        ("Options: A. x Options: A. one B. two", ("one", "two")),
        ("A. one", ()),
        ("PAC. or B. two", ()),
    ],
)
def test_lettered_options(question, options):
    assert lettered_options(question, "ABCD") == options


def test_listed_options():
    assert listed_options(f"Q? Options: yes, Lead V1,,no\n{ONLY_ANSWER}") == ("yes", "Lead V1", "no")
    assert listed_options("Q?") == ()


def test_patients_come_from_the_folder_or_the_record_stands_for_one(tmp_path):
    write_gold(tmp_path, "ptb-test", gold_rows("ptb-test", [("q", "MI"), ("q", "CD")], "0000{}_hr-0.png"))
    (tmp_path / PATIENTS).write_text('{"ptb-xl/00001": "ptb-xl/p9"}')
    known = [(i.patient_id, i.patient_known) for i in read_gold(tmp_path, "ptb-test")]
    assert known == [("ptb-xl/00000", False), ("ptb-xl/p9", True)]
    given = read_gold(tmp_path / "ptb-test.json", "ptb-test", {"ptb-xl/00000": "ptb-xl/p1"})
    assert given[0].patient_id == "ptb-xl/p1"
    (tmp_path / PATIENTS).write_text("[]")
    with pytest.raises(EcglmError, match="patients"):
        read_gold(tmp_path, "ptb-test")


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"image": "a.png", "conversations": talk("q", "a")}, "missing_id"),
        ({"id": True, "image": "a.png", "conversations": talk("q", "a")}, "missing_id"),
        ({"id": " ", "image": "a.png", "conversations": talk("q", "a")}, "missing_id"),
        ({"id": "1", "conversations": talk("q", "a")}, "image_missing"),
        ({"id": "1", "image": "a.png"}, "no_turns"),
        ({"id": "1", "image": "a.png", "conversations": [{"from": "gpt", "value": "a"}]}, "turn_order"),
        ({"id": "1", "image": "a.png", "conversations": talk(" <image> ", "MI")}, "empty_turn"),
        ({"id": "1", "image": "a.png", "conversations": talk("q", None)}, "bad_value"),
        ({"id": "1", "image": "a.png", "conversations": talk("q", 3)}, "bad_value"),
        ({"id": "1", "image": "a.png", "conversations": [{"from": "nurse", "value": "a"}]}, "unknown_role"),
        ("text", "malformed_item"),
    ],
)
def test_what_is_no_item_is_one_line_that_names_it(tmp_path, item, told):
    good = gold_rows("ptb-test", [("q", "MI")])
    with pytest.raises(EcglmError, match=told) as error:
        read_gold(write_gold(tmp_path, "ptb-test", [*good, item]), "ptb-test")
    assert "item 1" in str(error.value) and "\n" not in str(error.value)


def test_an_empty_answer_says_that_no_label_applies_and_is_none_elsewhere(tmp_path):
    found = read_gold(write_gold(tmp_path, "ptb-test", gold_rows("ptb-test", [("q", "")])), "ptb-test")
    assert found[0].answers == ("",)
    for subset in ("csn-test-no-cot", "ecgqa-test", "ptb-test-report"):
        with pytest.raises(EcglmError, match="empty_turn"):
            read_gold(write_gold(tmp_path, subset, gold_rows(subset, [("q", "")])), subset)


def test_empty_doubled_and_absent_files_are_refused(tmp_path):
    with pytest.raises(EcglmError, match="no such file; make it with ecglm ecgbench prepare"):
        read_gold(tmp_path, "ptb-test")
    with pytest.raises(EcglmError, match="holds no items"):
        read_gold(write_gold(tmp_path, "ptb-test", []), "ptb-test")
    twice = gold_rows("ptb-test", [("q", "MI")]) * 2
    with pytest.raises(EcglmError, match="stands twice"):
        read_gold(write_gold(tmp_path, "ptb-test", twice), "ptb-test")
    (tmp_path / "ptb-test.json").write_text(json.dumps(twice)[:40])
    with pytest.raises(EcglmError, match="cut off"):
        read_gold(tmp_path, "ptb-test")
    with pytest.raises(EcglmError, match="no subset"):
        read_gold(tmp_path, "ptb")
