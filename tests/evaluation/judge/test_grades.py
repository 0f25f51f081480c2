"""Grades of people and judges: read, matched, refused where they cannot be compared."""

from __future__ import annotations

import json

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.judge.dummy import DummyJudge
from ecglm.evaluation.judge.grades import agreements, read_grades
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.prompts import Exchange
from ecglm.evaluation.judge.rubric import rubric_named
from ecglm.evaluation.judge.run import judge_items

REPORT = rubric_named("report")


def csv_file(path, rows, header="id,criterion,score"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def judge(folder, answers, rubric=REPORT):
    items = [Item(f"i{n}", (Exchange("q", "a b c d", text),), f"p{n}") for n, text in enumerate(answers)]
    judge_items(
        items, rubric, DummyJudge(rubric), folder, cache=folder.parent / "cache", num_resamples=20, say=lambda _: None
    )
    return folder


def test_people_and_a_judge_who_agree(tmp_path):
    folder = judge(tmp_path / "run", ["a b c d", "a b", "x", "a b c"])
    wanted = [10, 6.67, 0, 8.57]
    file = csv_file(tmp_path / "human.csv", [f"i{n},diagnosis,{s}" for n, s in enumerate(wanted)])
    (found,) = agreements([read_grades(folder), read_grades(file)], num_resamples=50)
    assert found["criterion"] == "Diagnosis" and found["n"] == 4
    assert found["spearman"]["value"] == pytest.approx(1.0)
    assert found["icc_2_1"]["value"] == pytest.approx(1.0)


def test_jsonl_is_read_as_csv_is_and_items_of_one_grader_alone_are_counted(tmp_path):
    one = csv_file(tmp_path / "one.csv", ["a,Rhythm,1", "b,Rhythm,5", "c,Rhythm,9"])
    two = tmp_path / "two.jsonl"
    two.write_text(
        "".join(
            json.dumps({"id": i, "criterion": "rhythm", "score": s}) + "\n"
            for i, s in zip("abd", (1, 5, 2), strict=True)
        )
    )
    (found,) = agreements([read_grades(one), read_grades(two)], num_resamples=20)
    assert (found["n"], found["left_out"]) == (2, 2)


def test_more_than_two_graders(tmp_path):
    graders = [
        read_grades(
            csv_file(tmp_path / f"{n}.csv", [f"{i},Rhythm,{s + n * (i % 2)}" for i, s in enumerate((1, 5, 9, 3))])
        )
        for n in range(3)
    ]
    found = agreements(graders, num_resamples=20)
    assert [len(entry["graders"]) for entry in found] == [2, 2, 2, 3]
    assert "kendall_w" in found[-1] and "kappa" not in found[-1]


def test_an_empty_answer_is_no_grade_of_a_judge(tmp_path):
    items = [Item("a", (Exchange("", "x", ""),), state="empty"), Item("b", (Exchange("", "x", "x"),))]
    judge_items(items, REPORT, DummyJudge(REPORT), tmp_path / "run", cache=tmp_path / "c", num_resamples=9, say=print)
    assert set(read_grades(tmp_path / "run").scores["rhythm"]) == {"b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,criterion\na,Rhythm\n", "row 1: field score is missing"),
        ("id,criterion,score\na,Rhythm,good\n", "score must be a number"),
        ("id,criterion,score\na,Rhythm,nan\n", "score must be a number"),
        ("id,criterion,score\na,Rhythm,1\na,rhythm,2\n", "row 2: id 'a' is graded twice"),
        ("id,criterion,score\n", "holds no grades"),
        ('id,criterion,score\n"a,Rhythm', "not a CSV file"),
    ],
)
def test_files_that_are_no_grades(tmp_path, text, words):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(EcglmError) as error:
        read_grades(tmp_path / "g.csv")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_compared(tmp_path):
    people = read_grades(csv_file(tmp_path / "a.csv", ["i0,Rhythm,1", "i1,Rhythm,2"]))
    others = read_grades(csv_file(tmp_path / "b.csv", ["i0,Tone,1", "i1,Tone,2"]))
    strangers = read_grades(csv_file(tmp_path / "c.csv", ["x,Rhythm,1", "y,Rhythm,2"]))
    for graders, words in (
        ([people], "two graders"),
        ([people, people], "given twice"),
        ([people, others], "share no criterion"),
        ([people, strangers], "share 0 items"),
    ):
        with pytest.raises(EcglmError, match=words):
            agreements(graders)
    with pytest.raises(EcglmError, match="no such grades"):
        read_grades(tmp_path / "absent.csv")
    with pytest.raises(EcglmError, match=r"no judge\.json"):
        read_grades(tmp_path)


def test_judges_of_another_rubric_version_are_not_compared(tmp_path):
    from dataclasses import replace

    one = judge(tmp_path / "one", ["a", "b"])
    two = judge(tmp_path / "two", ["a", "b"], replace(REPORT, version=2))
    with pytest.raises(EcglmError, match=r"version 1.*version 2"):
        agreements([read_grades(one), read_grades(two)])
