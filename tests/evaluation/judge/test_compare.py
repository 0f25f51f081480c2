"""Judged models side by side: paired differences, and refusals where scores are of different kinds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.judge.ask import Asking
from ecglm.evaluation.judge.compare import compare_runs
from ecglm.evaluation.judge.dummy import DummyJudge
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.prompts import Exchange
from ecglm.evaluation.judge.rubric import rubric_named
from ecglm.evaluation.judge.run import judge_items

REPORT = rubric_named("report")


def judge(folder, answers, rubric=REPORT, asking=None, patients=None):
    items = [
        Item(
            f"i{n}",
            (Exchange("", "a b", text),),
            (patients or [f"p{n}" for n in range(len(answers))])[n],
            state="answered" if text else "empty",
        )
        for n, text in enumerate(answers)
    ]
    model = DummyJudge(rubric)
    judge_items(
        items, rubric, model, folder, cache=folder.parent / "c", asking=asking, num_resamples=20, say=lambda _: None
    )
    return folder


def test_differences_are_paired(tmp_path):
    one = judge(tmp_path / "one", ["a b", "a", "x", ""])
    two = judge(tmp_path / "two", ["a b", "a b", "a b", "a b"])
    found = {(entry["run"], entry["criterion"]): entry for entry in compare_runs([one, two], num_resamples=200)}
    assert found[str(one), "Rhythm"]["score"]["value"] == pytest.approx((10 + 6.67 + 0 + 0) / 4)
    difference = found[str(two), "Rhythm"]["difference"]
    assert difference["value"] == pytest.approx((0 + 3.33 + 10 + 10) / 4) and difference["n"] == 4
    assert 0 <= difference["low"] <= difference["value"] <= difference["high"] <= 10
    assert "difference" not in found[str(one), "Rhythm"]


@pytest.mark.parametrize("what", ["version", "text", "settings", "items", "alone", "unfinished", "other"])
def test_scores_of_different_kinds_are_refused(tmp_path, what):
    one = judge(tmp_path / "one", ["a b", "a"])
    if what == "version":
        two, words = judge(tmp_path / "two", ["a", "b"], replace(REPORT, version=2)), "rubric differs"
    elif what == "text":
        two, words = judge(tmp_path / "two", ["a", "b"], replace(REPORT, instruction="Other.")), "rubric differs"
    elif what == "settings":
        two, words = judge(tmp_path / "two", ["a", "b"], asking=Asking(99)), r"judge differs.*max_tokens"
    elif what == "items":
        two, words = judge(tmp_path / "two", ["a"]), "other items"
    elif what == "unfinished":
        two, words = judge(tmp_path / "two", ["a", "b"]), "not finished"
        (two / "judge.json").unlink()
    elif what == "other":
        two, words = judge(tmp_path / "two", ["a", "b"]), "no summary"
        (two / "judge.json").write_text(json.dumps({"format": "else"}))
    else:
        two, words = None, "two judged folders"
    with pytest.raises(EcglmError, match=words) as error:
        compare_runs([one, two] if two else [one])
    assert "\n" not in str(error.value)


def test_a_summary_that_names_a_file_elsewhere_is_refused(tmp_path):
    one, two = judge(tmp_path / "one", ["a b"]), judge(tmp_path / "two", ["a"])
    summary = json.loads((two / "judge.json").read_text())
    (two / "judge.json").write_text(json.dumps({**summary, "items": ["../../secret.json"]}))
    with pytest.raises(EcglmError, match="refuses file name"):
        compare_runs([one, two])
