"""What is judged: rows of our predictions and of any JSONL file, and ECGBench's files beside gold."""

from __future__ import annotations

import json

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.judge.items import Item, ecgbench_files, ecgbench_items, read_items, subset_for
from ecglm.evaluation.judge.prompts import Exchange
from ecglm.evaluation.judge.rubric import rubric_named

REPORT, ARENA = rubric_named("report"), rubric_named("arena")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(**fields):
    return {"id": "a", "reference": "sinus", "prediction": "AF", **fields}


def test_rows_with_the_least_and_with_all_fields(tmp_path):
    full = row(id="b", prompt="<ecg>\nRhythm?", patient_id="p1", seed=2, turn=1, task="x", ecgs=["y"])
    found = read_items(write(tmp_path / "predictions.jsonl", [row(), full]), REPORT)
    assert found == read_items(tmp_path, REPORT)
    assert found[0] == Item("a", (Exchange("", "sinus", "AF"),))
    assert found[1] == Item("b", (Exchange("Rhythm?", "sinus", "AF"),), "p1", turn=1, seed=2)


@pytest.mark.parametrize(
    ("fields", "state"),
    [({"prediction": " "}, "empty"), ({"prediction": None, "error": "x: y"}, "failed"), ({}, "answered")],
)
def test_the_state_of_an_answer(tmp_path, fields, state):
    assert read_items(write(tmp_path / "p.jsonl", [row(**fields)]), REPORT)[0].state == state


def test_controls_are_read_when_they_are_asked_for(tmp_path):
    rows = [row(control="real"), row(control="blank", prediction="x"), row(control="noise")]
    file = write(tmp_path / "p.jsonl", rows)
    assert [i.control for i in read_items(file, REPORT)] == ["real"]
    assert [i.control for i in read_items(file, REPORT, controls=("real", "blank"))] == ["real", "blank"]
    with pytest.raises(EcglmError, match="no rows with control 'swap'"):
        read_items(file, REPORT, controls=("real", "swap"))


def test_the_turns_of_a_conversation_are_one_item(tmp_path):
    rows = [row(turn=t, prompt=f"q{t}", prediction=f"p{t}") for t in (2, 0, 1)]
    (item,) = read_items(write(tmp_path / "p.jsonl", rows), ARENA)
    assert item.turns == (Exchange("q0", "sinus", "p0"), Exchange("q1", "sinus", "p1"))
    with pytest.raises(EcglmError, match="no prompt"):
        read_items(write(tmp_path / "p.jsonl", [row()]), ARENA)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"reference": "x", "prediction": "y"}], "row 1: field id"),
        ([row(id=True)], "field id"),
        ([row(id=" ")], "field id"),
        ([row(id="a\ud800")], "field id holds a broken character"),
        ([row(patient_id="a\ud800")], "field patient_id holds a broken character"),
        ([row(reference="")], "no reference"),
        ([row(reference=None)], "no reference"),
        ([row(prediction=None)], "neither prediction nor error"),
        ([row(prediction=["x"])], "prediction must be text"),
        ([row(turn="first")], "field turn"),
        ([row(), row(id="b"), row()], "row 3: id 'a' stands twice"),
    ],
)
def test_rows_that_cannot_be_judged(tmp_path, rows, words):
    file = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(EcglmError) as error:
        read_items(file, REPORT)
    assert words in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(EcglmError, match="no such predictions"):
        read_items(tmp_path / "absent.jsonl", REPORT)
    (tmp_path / "torn.jsonl").write_text(json.dumps(row()) + '\n{"id": "b", "ref')
    with pytest.raises(EcglmError, match="line 2"):
        read_items(tmp_path / "torn.jsonl", REPORT)


@pytest.mark.parametrize(
    "item_id", ["12-34-0", "../../etc/passwd", "a/b", "ü" * 300, "x" * 4000, "\ud800", ".", "CON", "a\nb", "="]
)
def test_any_id_has_a_safe_name_of_its_own(item_id):
    name = Item(item_id, (Exchange("", "r", "p"),)).file_name
    assert len(name) < 100 and "/" not in name and name.isascii() and not name.startswith(".")


def test_p10_ids_that_end_alike_have_files_of_their_own():
    ids = ["10000032-0", "10000764-0", "10000935-0"]
    items = [Item(i, (Exchange("", "r", "p"),)) for i in ids]
    assert len({item.file_name for item in items}) == 3
    alike = [
        Item("a/b", ()),
        Item("a_b", ()),
        Item("a b", ()),
        Item("a_b", (), seed=1),
        Item("a_b", (), control="blank"),
    ]
    assert len({item.file_name for item in alike}) == 5


# --- ECGBench


def bench(folder, subset, gold):
    write(folder / "x.jsonl", [])
    (folder / f"{subset}.json").write_text(json.dumps(gold))
    return folder


def gold_report(item_id, text):
    said = [{"from": "human", "value": "<image>\nWrite a report."}, {"from": "gpt", "value": text}]
    return {"id": item_id, "image": "ptb-xl/00001_hr-0.png", "conversations": said}


def gold_arena(item_id, n=3):
    said = []
    for i in range(n):
        said += [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]
    return {"id": item_id, "image": "x.png", "conversations": said}


def test_reports_stand_beside_gold_and_missing_ones_are_counted(tmp_path):
    data = bench(tmp_path / "data", "ptb-test-report", [gold_report(f"r-{i}-0", f"gold {i}") for i in range(6)])
    rows = [
        {"question_id": "r-2-0", "prompt": "q", "text": "mine 2"},
        {"id": "r-0-0", "prompt": "q", "response": "mine 0"},
        {"question_id": "r-1-0", "prompt": "q", "text": "", "metadata": {"error": "image_missing: x"}},
        {"question_id": "r-4-0", "prompt": "q", "text": None},
        {"question_id": "r-5-0", "prompt": "q", "text": " ", "metadata": {}},
    ]
    file = write(tmp_path / "root" / "model" / "ptb-test-report" / "step-final.jsonl", rows)
    assert ecgbench_files(tmp_path / "root", subset_for(REPORT)) == [file]
    found = ecgbench_items(file, data, "ptb-test-report")
    assert [(i.id, i.turns[0].reference, i.turns[0].prediction, i.state) for i in found] == [
        ("r-0-0", "gold 0", "mine 0", "answered"),
        ("r-1-0", "gold 1", "", "failed"),
        ("r-2-0", "gold 2", "mine 2", "answered"),
        ("r-3-0", "gold 3", "", "missing"),
        ("r-4-0", "gold 4", "", "failed"),
        ("r-5-0", "gold 5", " ", "empty"),
    ]
    assert found[0].turns[0].question == "Write a report."


def test_conversations_stand_beside_gold_in_both_published_forms(tmp_path):
    data = bench(tmp_path / "data", "arena", [gold_arena("one"), gold_arena("two"), gold_arena("three")])
    rows = [
        {
            "question_id": "one",
            "predict_convs": [{"question": "q0", "answer": "p0"}, {"question": "q1", "answer": "p1"}],
        },
        {"question_id": "two", "response": [{"response": "p0"}], "conversations": []},
    ]
    file = write(tmp_path / "m" / "arena" / "step-final.jsonl", rows)
    one, two, three = ecgbench_items(file, data, subset_for(ARENA))
    assert one.turns == (Exchange("q0", "a0", "p0"), Exchange("q1", "a1", "p1"))
    assert two.turns == (Exchange("q0", "a0", "p0"), Exchange("q1", "a1", "")) and two.state == "answered"
    assert three.state == "missing"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "x"}], "row 1: field question_id"),
        ([{"question_id": "other", "text": "x"}], "is none of ptb-test-report"),
        ([{"question_id": "r", "text": "x"}] * 2, "row 2: id 'r' stands twice"),
        ([{"question_id": "r", "text": ["x"]}], "text must be text"),
    ],
)
def test_predictions_that_do_not_fit_gold(tmp_path, rows, words):
    data = bench(tmp_path / "data", "ptb-test-report", [gold_report("r", "gold")])
    with pytest.raises(EcglmError, match=words):
        ecgbench_items(write(tmp_path / "p.jsonl", rows), data, "ptb-test-report")


def test_a_folder_without_predictions_and_a_rubric_without_subset(tmp_path):
    with pytest.raises(EcglmError, match="ecgbench predict"):
        ecgbench_files(tmp_path, "arena")
    with pytest.raises(EcglmError, match="no subset of ECGBench"):
        subset_for(rubric_named("grounding"))
