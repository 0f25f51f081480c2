"""Mode ``pulse`` against the original's figures, scikit-learn, and every quirk of its definition."""

from __future__ import annotations

import json
import random
import warnings

import numpy as np
import pytest
from appendix_fixture import EXPECTED, make_fixture
from bench_data import gold_rows, write_answers, write_gold
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, hamming_loss, roc_auc_score
from sklearn.preprocessing import MultiLabelBinarizer

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.gold import read_gold
from ecglm.evaluation.ecgbench.pulse import (
    find_files,
    label_figures,
    model_key,
    pulse_stream,
    score_file,
    score_pulse,
)
from ecglm.evaluation.ecgbench.subsets import SUBSETS, TASK_ORDER


@pytest.fixture(scope="module")
def appendix(tmp_path_factory):
    return make_fixture(tmp_path_factory.mktemp("appendix"))


def golds(folder):
    return {task: read_gold(folder, task) for task in TASK_ORDER if (folder / f"{task}.json").exists()}.__getitem__


def score_one(tmp_path, task, pairs, texts, **more):
    """The score of one file: (question, answer) pairs and the answers of the model, in order."""
    write_gold(tmp_path / "gold", task, gold_rows(task, pairs))
    answers = {f"{task}-{n}": text for n, text in enumerate(texts)}
    path = write_answers(tmp_path / "m" / task / "step-final.jsonl", answers, **more)
    return score_file(path, SUBSETS[task], read_gold(tmp_path / "gold", task), pulse_stream())


@pytest.fixture(scope="module")
def scores(appendix):
    return score_pulse(find_files(appendix / "pred"), golds(appendix / "gold"))


@pytest.mark.parametrize("task", EXPECTED)
def test_p03_p05_the_appendix_fixture_gives_the_originals_figures(scores, task):
    assert list(scores) == list(TASK_ORDER) and list(scores[task]) == [99999]
    assert scores[task][99999].figures == pytest.approx(EXPECTED[task], abs=1e-12)


def test_verified_vectors():
    gold = [frozenset(s.split()) for s in ("NORM", "MI CD", "STTC", "HYP")]
    said = [frozenset(s.split()) for s in ("NORM", "MI", "STTC CD", "")]
    figures = label_figures(gold, said, ["CD", "HYP", "MI", "NORM", "STTC"])
    assert figures == pytest.approx({"f1": 0.6, "auc": 0.7666666666666667, "hl": 0.15}, abs=1e-12)
    gold = [frozenset(s.split()) for s in ("NORM", "", "MI", "")]
    said = [frozenset(s.split()) for s in ("NORM", "", "", "")]
    figures = label_figures(gold, said, ["MI", "NORM"])
    assert figures == pytest.approx({"f1": 0.5, "auc": 0.75, "hl": 0.125}, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_figures_equal_scikit_learn(data):
    labels = data.draw(st.sampled_from([["A"], ["A", "B"], ["A", "B", "C", "D"]]))
    sets = st.frozensets(st.sampled_from([*labels, "X"]))
    gold = [row - {"X"} for row in data.draw(st.lists(sets, min_size=2, max_size=12))]
    said = data.draw(st.lists(sets, min_size=len(gold), max_size=len(gold)))
    classes = sorted(set().union(*gold))
    if not classes:
        return
    binarizer = MultiLabelBinarizer()
    true = binarizer.fit_transform(gold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = binarizer.transform(said)
        f1 = np.mean(f1_score(true, read, average=None, zero_division=0)[: len(classes)])
        auc = [
            np.nan if len(set(true[:, c])) == 1 else roc_auc_score(true[:, c], read[:, c]) for c in range(len(classes))
        ]
    if len(classes) == 1:  # scikit-learn takes one column for two classes, and the first is "no"
        f1 = f1_score(true[:, 0], read[:, 0], average=None, zero_division=0)[0]
    figures = label_figures(gold, said, classes)
    assert figures["f1"] == pytest.approx(f1, abs=1e-12)
    assert figures["hl"] == pytest.approx(hamming_loss(true, read), abs=1e-12)
    assert figures["auc"] == pytest.approx(np.mean(auc), abs=1e-12, nan_ok=True)


def test_p06_the_class_set_is_that_of_the_rows_and_a_saturated_class_makes_auc_nan(tmp_path):
    score = score_one(tmp_path, "ptb-test", [("q", "MI"), ("q", "MI; CD")], ["MI NORM", "MI"])
    assert score.classes == ("CD", "MI")  # NORM of the answer is dropped
    assert np.isnan(score.figures["auc"])
    assert score.figures["f1"] == 0.5 and score.figures["hl"] == 0.25


def test_a_single_class_reports_the_f1_of_its_absence(tmp_path):
    score = score_one(tmp_path, "ptb-test", [("q", "MI"), ("q", "?"), ("q", "?")], ["MI", "MI", ""])
    assert score.classes == ("MI",)
    assert score.figures["f1"] == pytest.approx(2 / 3)  # absent: 1 hit, 1 missed, 0 extra
    assert score.figures["auc"] == 0.75


def test_p07_rows_missing_or_doubled_go_unnoticed(tmp_path):
    write_gold(tmp_path / "gold", "ptb-test", gold_rows("ptb-test", [("q", "MI"), ("q", "CD"), ("q", "HYP")]))
    path = write_answers(tmp_path / "a.jsonl", {"ptb-test-0": "MI"})
    path.write_text(path.read_text() * 2)
    score = score_file(path, SUBSETS["ptb-test"], read_gold(tmp_path / "gold", "ptb-test"), pulse_stream())
    assert score.num_rows == 2


def test_p09_a_row_without_answer_or_id_takes_those_of_the_row_before(tmp_path):
    write_gold(tmp_path / "gold", "ptb-test", gold_rows("ptb-test", [("q", "MI"), ("q", "CD"), ("q", "HYP")]))
    rows = [
        {"question_id": "ptb-test-0", "text": "MI", "response": "CD"},  # text wins
        {"id": "ptb-test-1"},
        {"response": "HYP"},
        {"question_id": "ptb-test-2", "id": "nobody"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = score_file(path, SUBSETS["ptb-test"], read_gold(tmp_path / "gold", "ptb-test"), pulse_stream())
    assert [(i.id[-1], set(i.read)) for i in score.items] == [
        ("0", {"MI"}),
        ("1", {"MI"}),
        ("1", {"HYP"}),
        ("2", {"HYP"}),
    ]


def test_p09_a_row_without_prompt_takes_the_candidates_of_the_row_before(tmp_path):
    write_gold(tmp_path / "gold", "ecgqa-test", gold_rows("ecgqa-test", [("q", ["yes"]), ("q", ["no"])]))
    path = tmp_path / "a.jsonl"
    rows = [
        {"id": "ecgqa-test-0", "prompt": {"prompt": "Options: yes, no"}, "response": "yes"},
        {"id": "ecgqa-test-1", "response": "no"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gold = read_gold(tmp_path / "gold", "ecgqa-test")
    assert score_file(path, SUBSETS["ecgqa-test"], gold, pulse_stream()).figures == {"accuracy": 1.0}
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(EcglmError, match="has no prompt"):
        score_file(path, SUBSETS["ecgqa-test"], gold, pulse_stream())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "holds no rows"),
        ('{"id": "ptb-test-0", "text": "MI"}\n\n', "line 2: blank"),
        ('{"id": "ptb-test-0", "te', "line 1: not valid JSON"),
        ('{"text": "MI"}\n', "has no id"),
        ('{"id": "ptb-test-0"}\n', "has no text"),
        ('{"id": "nobody", "text": "MI"}\n', "'nobody' is not in the data"),
        ('["MI"]\n', "an object is needed"),
        ('{"id": ' + "9" * 5000 + "}\n", "not valid JSON"),
    ],
)
def test_what_crashes_the_original_is_one_line_here(tmp_path, lines, told):
    write_gold(tmp_path, "ptb-test", gold_rows("ptb-test", [("q", "MI")]))
    path = tmp_path / "a.jsonl"
    path.write_text(lines)
    with pytest.raises(EcglmError, match=told) as error:
        score_file(path, SUBSETS["ptb-test"], read_gold(tmp_path, "ptb-test"), pulse_stream())
    assert "\n" not in str(error.value) and "a.jsonl" in str(error.value)


def choices(tmp_path, task, num, text):
    write_gold(tmp_path / "gold", task, gold_rows(task, [("q", "A")] * num))
    return {f"{task}-{n}": text for n in range(num)}


def test_p03_p07_files_of_another_length_are_left_out_but_use_up_dice(tmp_path):
    answers = choices(tmp_path, "mmmu-ecg", 200, "no idea")
    write_answers(tmp_path / "p" / "mmmu-ecg" / "step-1.jsonl", dict(list(answers.items())[:7]))
    write_answers(tmp_path / "p" / "mmmu-ecg" / "step-final.jsonl", answers)
    scores = score_pulse(find_files(tmp_path / "p"), golds(tmp_path / "gold"))
    assert list(scores["mmmu-ecg"]) == [99999]
    dice = random.Random(42)
    drawn = [dice.choice("ABCD") for _ in range(207)][7:]
    score = scores["mmmu-ecg"][99999]
    assert [next(iter(i.read)) for i in score.items] == drawn and score.num_drawn == 200
    assert score.figures["accuracy"] == drawn.count("A") / 200


def test_an_empty_file_of_choices_is_left_out_like_any_of_another_length(tmp_path):
    answers = choices(tmp_path, "mmmu-ecg", 200, "A")
    write_answers(tmp_path / "p" / "mmmu-ecg" / "step-1.jsonl", {})
    write_answers(tmp_path / "p" / "mmmu-ecg" / "step-final.jsonl", answers)
    scores = score_pulse(find_files(tmp_path / "p"), golds(tmp_path / "gold"))
    assert {key: score.figures for key, score in scores["mmmu-ecg"].items()} == {99999: {"accuracy": 1.0}}


def test_verified_vectors_through_files_where_an_empty_answer_is_no_label(tmp_path):
    pairs = [("q", "NORM"), ("q", ""), ("q", "MI"), ("q", "")]
    figures = score_one(tmp_path, "ptb-test", pairs, ["NORM", "", "", ""]).figures
    assert figures == pytest.approx({"f1": 0.5, "auc": 0.75, "hl": 0.125}, abs=1e-12)


def test_dice_go_from_mmmu_to_csn_to_g12(tmp_path):
    sizes = {"mmmu-ecg": 200, "csn-test-no-cot": 1611, "g12-test-no-cot": 2026}
    for task, num in sizes.items():
        answers = choices(tmp_path, task, num, "?")
        write_answers(tmp_path / "p" / task / "step-final.jsonl", answers)
    scores = score_pulse(find_files(tmp_path / "p"), golds(tmp_path / "gold"))
    dice = random.Random(42)
    for task, num in sizes.items():
        letters = "ABCD" if task == "mmmu-ecg" else "ABCDEFGH"
        assert [next(iter(i.read)) for i in scores[task][99999].items] == [dice.choice(letters) for _ in range(num)]


def test_mmmu_compares_whole_values_the_others_first_characters(tmp_path):
    assert score_one(tmp_path / "a", "mmmu-ecg", [("q", "A. x")], ["A"]).figures["accuracy"] == 0.0
    assert score_one(tmp_path / "b", "csn-test-no-cot", [("q", "A. x")], ["A"]).figures["accuracy"] == 1.0
    assert not score_one(tmp_path / "c", "csn-test-no-cot", [("q", "A")], ["A"]).counted
    score = score_one(tmp_path / "d", "g12-test-no-cot", [("q", list("B. x"))], ["B"])  # a list of characters
    assert score.figures["accuracy"] == 1.0


def test_files_are_found_by_the_words_in_their_whole_path(tmp_path):
    root = tmp_path / "p"
    for name in (
        "m/ptb-test/step-final.jsonl",
        "m/ptb-test-report/step-final.jsonl",
        "m/ptb-test/report_x.jsonl",
        "a/deep/er/cpsc-test_x/y.jsonl",
        "flat_code15-test.jsonl",
        "m/csn-test-no-cot/step-final.json",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    found = {task: [p.relative_to(root).as_posix() for p in paths] for task, paths in find_files(root).items()}
    assert {task: paths for task, paths in found.items() if paths} == {
        "ptb-test": ["m/ptb-test/step-final.jsonl"],
        "cpsc-test": ["a/deep/er/cpsc-test_x/y.jsonl"],
        "code15-test": ["flat_code15-test.jsonl"],
    }
    with pytest.raises(EcglmError, match="no such folder"):
        find_files(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("step-final.jsonl", 99999),
        ("step-1200.jsonl", 1200),
        ("x-step-7.part.jsonl", 7),
        ("gpt4o_ptb-test.jsonl", "gpt4o"),
        ("answers.jsonl", "answers.jsonl"),
    ],
)
def test_model_keys(tmp_path, name, key):
    assert model_key(tmp_path / name) == key


def test_odd_step_names_and_keys_of_two_kinds_are_refused(tmp_path):
    with pytest.raises(EcglmError, match="no number"):
        model_key(tmp_path / "step_1.jsonl")
    write_gold(tmp_path / "gold", "ptb-test", gold_rows("ptb-test", [("q", "MI")]))
    for name in ("step-final.jsonl", "gpt_x.jsonl"):
        write_answers(tmp_path / "p" / "ptb-test" / name, {"ptb-test-0": "MI"})
    with pytest.raises(EcglmError, match="cannot sort"):
        score_pulse(find_files(tmp_path / "p"), golds(tmp_path / "gold"))


def test_keys_are_sorted_and_the_later_file_of_a_key_stays(tmp_path):
    write_gold(tmp_path / "gold", "ptb-test", gold_rows("ptb-test", [("q", "MI"), ("q", "CD")]))
    for name, text in {
        "a/ptb-test/step-final": "CD",
        "b/ptb-test/step-final": "MI",
        "b/ptb-test/step-10": "MI",
    }.items():
        write_answers(tmp_path / "p" / f"{name}.jsonl", {"ptb-test-0": text, "ptb-test-1": "CD"})
    scores = score_pulse(find_files(tmp_path / "p"), golds(tmp_path / "gold"))["ptb-test"]
    assert list(scores) == [10, 99999]
    assert scores[99999].path.parts[-3] == "b" and scores[99999].figures["hl"] == 0.0


def test_printed_lines(scores):
    first, second = scores["ptb-test"][99999].lines()
    assert first.endswith("ptb-test/step-final.jsonl f1 77.7 auc 86.9 hl 11.8")
    assert second == "F1: 0.7773, AUC: 0.8689"


def test_lines_are_lines_of_the_file_not_of_unicode(tmp_path):
    write_gold(tmp_path, "ptb-test", gold_rows("ptb-test", [("q", "MI")]))
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "ptb-test-0", "text": "MI\u2028CD\u0085"}\n', encoding="utf-8")
    score = score_file(path, SUBSETS["ptb-test"], read_gold(tmp_path, "ptb-test"), pulse_stream())
    assert score.items[0].read == {"MI", "CD"}
