"""ECG-Bench's result files: written as its own summary reads them, read back equal, conditions apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from scipy import stats

from ecglm.errors import EcglmError
from ecglm.evaluation.bench_export import bench_files, export_bench, holds_bench_alone, read_bench
from ecglm.evaluation.compare import compare
from ecglm.evaluation.compare_load import parse_entrants

REPORTS = [
    ("sinus rhythm with normal axis", "sinus rhythm with left axis"),
    ("atrial fibrillation with rapid rate", "atrial fibrillation with rapid rate"),
    ("normal ecg no acute changes", ""),
]


@pytest.fixture
def predictions(tmp_path, make_row):
    """Three reports under two seeds on the true ECG and one perturbation; one answer failed."""
    rows = []
    for seed in (0, 1):
        for control in ("real", "perturb-noise"):
            for i, (truth, stated) in enumerate(REPORTS):
                answer = truth if seed == 1 and i == 0 and control == "real" else stated
                failed = {"error": "out of memory"} if i == 2 else {}
                fields = {"id": f"r{i}", "patient_id": f"p{i}", "control": control, "seed": seed, "task": "report"}
                rows.append(make_row(truth, None if i == 2 else answer, "text", **fields, **failed))
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_d39_every_condition_and_seed_has_a_file_and_a_row_of_its_own(predictions, tmp_path):
    written, left_out = export_bench(predictions, tmp_path / "bench")
    names = {f"seed_{s}_{c}_False_None.json" for s in (0, 1) for c in ("None", "perturb-noise")}
    names |= {f"statistical_results_{c}_False_None.json" for c in ("None", "perturb-noise")}
    assert {f.name for f in written} == names == {f.name for f in bench_files(tmp_path / "bench")}
    assert any("BERTSCORE" in reason for reason in left_out)
    found = read_bench(tmp_path / "bench")
    assert set(found) == {"", "perturb-noise"}
    assert found[""]["ACC"]["mean"] == pytest.approx(0.5) and found["perturb-noise"]["ACC"]["mean"] == pytest.approx(
        1 / 3
    )
    rows = compare(parse_entrants([f"m={tmp_path / 'bench'}"])).rows
    accuracy = {row["model"]: row["value"] for row in rows if row["metric"] == "ACC"}
    assert accuracy == pytest.approx({"m": 0.5, "m (perturb-noise)": 1 / 3})


def test_scores_are_those_of_nltk_and_counted_by_hand_and_failures_stay_in(predictions, tmp_path):
    export_bench(predictions, tmp_path / "bench")
    data = json.loads((tmp_path / "bench" / "seed_0_None_False_None.json").read_text())
    references = [[truth.split()] for truth, _ in REPORTS]
    bleu = corpus_bleu(references, [s.split() for _, s in REPORTS], smoothing_function=SmoothingFunction().method1)
    assert data["averages"]["BLEU"] == pytest.approx(bleu, abs=1e-9)
    assert data["averages"]["ACC"] == pytest.approx(1 / 3)  # of three, the failed one among them
    assert set(data["averages"]["ROUGE"]) == {"rouge-1", "rouge-2", "rouge-l"}
    assert data["qa_results"]["gt_answers"] == [truth for truth, _ in REPORTS]
    assert data["qa_results"]["gen_answers"] == [stated for _, stated in REPORTS]


def test_the_statistical_file_is_in_percent_with_scipys_interval(predictions, tmp_path):
    export_bench(predictions, tmp_path / "bench")
    found = json.loads((tmp_path / "bench" / "statistical_results_None_False_None.json").read_text())["ACC"]
    raw = [1 / 3, 2 / 3]
    assert found["raw_values"] == pytest.approx(raw)
    assert (found["mean"], found["std"]) == pytest.approx((50.0, 100 * np.std(raw, ddof=1)))
    low, high = stats.t.interval(0.95, 1, loc=np.mean(raw), scale=stats.sem(raw))
    assert found["conf_interval"] == pytest.approx([100 * low, 100 * high])


def test_files_of_ecg_bench_itself_are_read(tmp_path):
    def write(name, value):
        (tmp_path / name).write_text(json.dumps(value))

    def averages(accuracy):
        return {
            "averages": {
                "BLEU": 0.2,
                "METEOR": 0.3,
                "ROUGE": {"rouge-1": 0.5, "rouge-2": 0.3, "rouge-l": 0.4},
                "BERTSCORE": {"hf-prec": [0.9, 0.7], "hf-rec": [0.8, 0.8], "hf-f1": [0.85, 0.75]},
                "ACC": accuracy,
            },
            "qa_results": {"gt_answers": ["a"], "gen_answers": ["b"]},
        }

    for seed, accuracy in ((1, 0.6), (2, 0.8)):
        write(f"seed_{seed}_None_False_None.json", averages(accuracy))
        write(f"seed_{seed}_noise_False_None.json", averages(accuracy / 2))
        write(f"seed_{seed}_None_True_3.json", averages(accuracy + 0.1))
    statistics = {"ACC": {"mean": 30.0, "std": 1.0, "conf_interval": [29, 31], "raw_values": [0.29, 0.31]}}
    write("statistical_results_wander_False_None.json", statistics)
    write("config.json", {"not": "a result"})
    found = read_bench(tmp_path)
    assert {name: part["ACC"]["mean"] for name, part in found.items()} == pytest.approx(
        {"": 0.7, "noise": 0.35, "rag k=3": 0.8, "wander": 0.3}
    )
    assert found[""]["BERTSCORE hf-prec"]["mean"] == pytest.approx(0.8)
    assert found[""]["ROUGE rouge-l"]["mean"] == 0.4
    half = 12.7062 * np.std([0.6, 0.8], ddof=1) / np.sqrt(2)
    assert found[""]["ACC"]["high"] == pytest.approx(0.7 + half, abs=1e-4)


def test_folders_of_result_files_are_rows_of_their_own_metric_by_metric(tmp_path):
    for folder, accuracy in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        (tmp_path / folder).mkdir()
        value = {"ACC": {"raw_values": [accuracy, accuracy]}, "BLEU": {"raw_values": [0.5, []]}}
        (tmp_path / folder / "statistical_results_None_False_None.json").write_text(json.dumps(value))
    a, b, c = (tmp_path / folder for folder in "abc")
    rows = compare(parse_entrants([f"x={a},{b}", f"y={c}"])).rows
    names = [f"x ({a})", f"x ({b})", "y"]
    assert [(row["metric"], row["model"]) for row in rows] == [(m, n) for m in ("ACC", "BLEU") for n in names]
    assert [row["value"] for row in rows] == [0.1, 0.2, 0.3, None, None, None]  # no score is made of an empty list


def test_a_folder_with_our_predictions_is_ours(predictions, tmp_path):
    export_bench(predictions, predictions)
    export_bench(predictions, tmp_path / "bench")
    assert bench_files(predictions) and not holds_bench_alone(predictions)
    assert holds_bench_alone(tmp_path / "bench") and not holds_bench_alone(tmp_path / "nothing")


def test_mistakes_are_one_line(predictions, tmp_path):
    with pytest.raises(EcglmError, match="no result files of ECG-Bench"):
        read_bench(tmp_path)
    bad = tmp_path / "bad"
    bad.mkdir()
    file = bad / "seed_1_None_False_None.json"
    for value, message in (([], "'averages'"), ({"averages": {"ACC": "high"}}, "'ACC' is no number")):
        file.write_text(json.dumps(value))
        with pytest.raises(EcglmError, match=message):
            read_bench(bad)
    file.unlink()
    (bad / "statistical_results_None_False_None.json").write_text('{"ACC": 3}')
    with pytest.raises(EcglmError, match="has no raw_values"):
        read_bench(bad)
    export_bench(predictions, tmp_path / "bench")
    export_bench(predictions, tmp_path / "bench")  # the same again is no other
    (tmp_path / "bench" / "seed_0_None_False_None.json").write_text("{}")
    with pytest.raises(EcglmError, match="another result file stands here"):
        export_bench(predictions, tmp_path / "bench")
