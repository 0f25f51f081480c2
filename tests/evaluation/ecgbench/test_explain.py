"""Why the modes differ: the cause of every planted difference."""

from __future__ import annotations

import json

import pytest
from bench_data import gold_rows, write_answers, write_gold

from ecglm.evaluation.ecgbench.explain import CAUSES, differences, summary, write_differences
from ecglm.evaluation.ecgbench.runs import find_runs
from ecglm.evaluation.ecgbench.score import Gold, score_run
from ecglm.evaluation.ecgbench.subsets import SUBSETS

LISTED = "Which? A. one B. two C. three D. four"
SETS = "Which? Options: yes, no, none, lead V1"
#: subset, question, right answer, answer of the model, causes (empty: no difference).
PLANTED = [
    ("ptb-test", "q", "MI", "MI", []),
    ("ptb-test", "q", "MI", "STEMI", ["inside_a_word"]),
    ("ptb-test", "q", "NORM", "no MI, NORM", ["denied"]),
    ("ptb-test", "q", "CD", "HYP or not.\nAnswer: CD", ["before_the_answer_line"]),
    ("ptb-test", "q", "MI", "myocardial infarction", ["spelled_out"]),
    ("ptb-test", "q", "HYP", None, ["no_answer"]),
    ("ptb-test", "q", "STTC", "(no row)", ["no_row"]),
    ("code15-test", "q", "NORM", "NORM; AF", ["only_of_the_labels"]),
    ("code15-test", "q", "AF", "AF", []),
    ("csn-test-no-cot", LISTED, "B. two", "B", []),
    ("csn-test-no-cot", LISTED, "B. two", "(B)", ["drawn_by_lot"]),
    ("csn-test-no-cot", LISTED, "B. two", "B. ... A.", ["first_in_alphabet"]),
    ("csn-test-no-cot", LISTED, "B. two", "Seen in aVF.", ["not_stated"]),
    ("ecgqa-test", SETS, ["yes"], "yes", []),
    ("ecgqa-test", SETS, ["none"], "none", ["within_another_item"]),
    ("ecgqa-test", SETS, ["lead V1"], "lead V1", ["capitals"]),
    ("ecgqa-test", SETS, ["yes"], "yes, maybe", ["unknown_item"]),
]


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """The planted items scored in both modes; the original's row gate is taken to be as many as there are."""
    import dataclasses

    for subset in sorted({row[0] for row in PLANTED}):
        mine = [row for row in PLANTED if row[0] == subset]
        write_gold(tmp_path / "data", subset, gold_rows(subset, [(q, a) for _, q, a, _, _ in mine]))
        texts = {f"{subset}-{n}": row[3] for n, row in enumerate(mine) if row[3] != "(no row)"}
        write_answers(tmp_path / "p" / "m" / subset / "step-final.jsonl", texts, prompt=mine[0][1])
        monkeypatch.setitem(SUBSETS, subset, dataclasses.replace(SUBSETS[subset], rows=len(mine)))
    runs, _ = find_runs([tmp_path / "p"], list(SUBSETS.values()))
    gold = Gold(tmp_path / "data")
    return score_run(runs[0], gold, mode="both", num_resamples=10), gold


def test_every_planted_difference_has_its_cause(scored):
    told = {row["id"]: row for row in differences(*scored)}
    wanted = {}
    for subset in sorted({row[0] for row in PLANTED}):
        mine = [row for row in PLANTED if row[0] == subset]
        wanted |= {f"{subset}-{n}": row[4] for n, row in enumerate(mine) if row[4]}
    assert {item: row["causes"] for item, row in told.items()} == wanted
    stemi = told["ptb-test-1"]
    assert stemi["strict"]["state"] == "unparsed" and stemi["pulse"]["read"] == ["MI"]
    assert stemi["pulse"]["correct"] and not stemi["strict"]["correct"]
    assert stemi["why"] == CAUSES["inside_a_word"] and stemi["text"] == "STEMI"
    assert told["ptb-test-6"]["pulse"] is None


def test_the_file_and_its_summary(scored):
    path, lines = write_differences(*scored)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "differences.jsonl" and rows == list(differences(*scored))
    assert lines[0] == f"{len(rows)} items are read differently by the two modes"
    assert any("1  inside_a_word" in line and "right in pulse alone 1, in strict alone 0" in line for line in lines)
    assert summary([]) == ["0 items are read differently by the two modes"]


def test_items_of_a_file_the_original_leaves_out(scored, monkeypatch):
    done, gold = scored
    left_out = type(done)(done.run, done.scores, done.readings, done.answers, {"real": {}})
    causes = {cause for row in differences(left_out, gold) for cause in row["causes"]}
    assert causes == {"not_counted", "no_row"}


def test_every_cause_is_planted_or_told():
    planted = {cause for row in PLANTED for cause in row[4]}
    rare = {"prompt_differs", "whole_items", "right_answer_read_otherwise", "not_counted", "nothing_stated"}
    assert planted | rare == set(CAUSES)
