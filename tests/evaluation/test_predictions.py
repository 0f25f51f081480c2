"""Reading predictions: what is refused, and that each line names the row."""

from __future__ import annotations

import json

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.predictions import by_control, read_predictions


def write(path, rows, end="\n"):
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


def test_a_folder_may_hold_one_file_per_control(tmp_path, make_run):
    rows = make_run(3)
    for control in ("real", "blank", "noise", "swap"):
        write(tmp_path / f"predictions-{control}.jsonl", [r for r in rows if r["control"] == control])
    found = by_control(read_predictions(tmp_path))
    assert list(found) == ["real", "blank", "noise", "swap"]
    assert all(len(table) == 6 for table in found.values())


def test_files_that_are_not_there_torn_or_empty(tmp_path, make_run):
    with pytest.raises(EcglmError, match=r"no predictions\.jsonl"):
        read_predictions(tmp_path)
    with pytest.raises(EcglmError, match=r"no predictions\.jsonl"):
        read_predictions(tmp_path / "absent.jsonl")
    file = tmp_path / "predictions.jsonl"
    file.write_text("\n")
    with pytest.raises(EcglmError, match="holds no predictions"):
        read_predictions(file)
    write(file, make_run(2))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(EcglmError, match=r"predictions.jsonl, line 16: not valid JSON"):
        read_predictions(file)


def test_duplicates_are_refused_but_not_across_controls_turns_or_seeds(make_row):
    row = make_row("a", "a")
    others = [{**row, "control": "blank"}, {**row, "turn": 1}, {**row, "seed": 1}]
    assert sum(map(len, by_control([row, *others]).values())) == 4
    with pytest.raises(EcglmError, match=r"'r0' .* stands twice under control 'real'"):
        by_control([row, dict(row)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": " "}, "row 'r0' has no 'reference'"),
        ({"reference": None}, "row 'r0' has no 'reference'"),
        ({"task": 3}, "row 'r0' has no 'task'"),
        ({"id": ""}, "has no 'id'"),
        ({"prediction": None}, "neither 'prediction' nor 'error'"),
        ({"metadata": []}, "'metadata' must be an object"),
        ({"metadata": {"question_type": "number"}}, "asks for a number"),
        ({"control": "blank"}, "no rows with control 'real', only blank"),
    ],
)
def test_rows_that_mean_nothing_are_refused(make_row, change, message):
    with pytest.raises(EcglmError, match=message):
        by_control([{**make_row("a", "a"), **change}])


@pytest.mark.parametrize("field", ["task", "reference", "patient_id"])
def test_a_question_must_be_the_same_under_every_control(make_row, field):
    row = make_row("a", "a")
    with pytest.raises(EcglmError, match=f"another {field} under control 'blank'"):
        by_control([row, {**row, "control": "blank", field: "other"}])


@pytest.mark.parametrize("field", ["task", "reference", "patient_id"])
def test_a_question_is_the_same_one_under_every_decoding_seed(make_row, field):
    row = make_row("a", "a")
    with pytest.raises(EcglmError, match=f"another {field} under control 'real', seed 1, than under 'real', seed 0"):
        by_control([row, {**row, "seed": 1, field: "other"}])
