"""Which files are whose: models, steps, conditions."""

from __future__ import annotations

import pytest
from bench_data import write_answers

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.runs import find_runs, model_folder, subset_of
from ecglm.evaluation.ecgbench.subsets import SUBSETS

ALL = list(SUBSETS.values())


def touch(path, control=None):
    return write_answers(path, {"x": "y"}, metadata={"control": control} if control else {})


def told(runs, root):
    return {
        run.name: {c: {s: p.relative_to(root).as_posix() for s, p in t.items()} for c, t in run.files.items()}
        for run in runs
    }


def test_models_controls_and_steps_below_a_root(tmp_path):
    for name in ("a/ptb-test/step-final", "a@blank/ptb-test/step-final", "b/ptb-test/step-10", "b/arena/step-10"):
        touch(tmp_path / f"{name}.jsonl")
    runs, warnings = find_runs([tmp_path], ALL)
    assert told(runs, tmp_path) == {
        "a": {
            "real": {"ptb-test": "a/ptb-test/step-final.jsonl"},
            "blank": {"ptb-test": "a@blank/ptb-test/step-final.jsonl"},
        },
        "b step-10": {"real": {"ptb-test": "b/ptb-test/step-10.jsonl", "arena": "b/arena/step-10.jsonl"}},
    }
    assert not warnings
    assert [run.label for run in runs] == ["", "step-10"]


def test_a_models_own_folder_brings_its_controls_and_leaves_what_is_aside(tmp_path, monkeypatch):
    for name in ("a/ptb-test/step-final", "a@swap/ptb-test/step-final", "b/ptb-test/step-final"):
        touch(tmp_path / f"{name}.jsonl")
    touch(tmp_path / "a" / "differences.jsonl")
    touch(tmp_path / "a" / "arena" / "judge" / "x" / "notes.jsonl")
    touch(tmp_path / "a" / "odd.jsonl")
    runs, warnings = find_runs([tmp_path / "a"], ALL)
    assert [(run.name, sorted(run.files)) for run in runs] == [("a", ["real", "swap"])]
    assert len(warnings) == 1 and "odd.jsonl: names no subset" in warnings[0]
    monkeypatch.chdir(tmp_path / "a")
    here, _ = find_runs(["."], ALL)
    assert [(run.name, sorted(run.files)) for run in here] == [("a", ["real", "swap"])]


def test_rows_may_name_the_condition_of_a_file_beside_the_real_one(tmp_path):
    touch(tmp_path / "a" / "ptb-test" / "step-final.jsonl", "real")
    touch(tmp_path / "a" / "ptb-test" / "step-final-blank.jsonl", "blank")
    runs, _ = find_runs([tmp_path], ALL)
    assert [(run.name, sorted(run.files)) for run in runs] == [("a", ["blank", "real"])]


def test_single_files_and_files_with_a_name_for_them(tmp_path):
    flat = touch(tmp_path / "gpt4o_ptb-test-report.jsonl")
    odd = touch(tmp_path / "deep" / "answers.jsonl")
    assert subset_of(flat) == "ptb-test-report" and subset_of(odd) is None
    tagged = touch(tmp_path / "m" / "csn-test" / "answers.jsonl")
    assert subset_of(tagged) == "csn-test-no-cot" and model_folder(tagged, "csn-test-no-cot") == tmp_path / "m"
    assert model_folder(flat, "ptb-test-report") == tmp_path
    runs, _ = find_runs([f"cpsc-test={odd}"], ALL)
    assert runs[0].files == {"real": {"cpsc-test": odd}} and runs[0].explicit
    with pytest.raises(EcglmError, match="names no subset; say which with SUBSET="):
        find_runs([odd], ALL)
    with pytest.raises(EcglmError, match="did you mean 'cpsc-test'"):
        find_runs([f"cpsc-tset={odd}"], ALL)
    with pytest.raises(EcglmError, match="is no file"):
        find_runs([f"cpsc-test={tmp_path / 'nothing'}"], ALL)


def test_only_the_subsets_asked_for(tmp_path):
    touch(tmp_path / "a" / "ptb-test" / "step-final.jsonl")
    with pytest.raises(EcglmError, match="no predictions here"):
        find_runs([tmp_path], [SUBSETS["arena"]])
    with pytest.raises(EcglmError, match="no such predictions"):
        find_runs([tmp_path / "nowhere"], ALL)


def test_two_files_for_one_thing_are_refused(tmp_path):
    touch(tmp_path / "a" / "ptb-test" / "step-final.jsonl")
    touch(tmp_path / "a" / "ptb-test.jsonl")
    with pytest.raises(EcglmError, match=r"stands in step-final\.jsonl too"):
        find_runs([tmp_path / "a" / "ptb-test" / "step-final.jsonl", tmp_path / "a" / "ptb-test.jsonl"], ALL)


def test_models_of_one_name_get_longer_names(tmp_path):
    for name in ("x/best", "y/best"):
        touch(tmp_path / name / "ptb-test" / "step-final.jsonl")
    runs, _ = find_runs([tmp_path], ALL)
    assert [run.name for run in runs] == ["x/best", "y/best"]
