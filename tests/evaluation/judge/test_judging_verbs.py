"""The verbs judge, judge compare, ecgbench judge and agree, as a user types them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from ecglm.cli import main
from ecglm.evaluation.judge.tell import csv_text
from evaluation.llm_server import LlmServer, Status

KEY = "sk-typed-by-nobody"
GRADE = json.dumps({n: {"Score": 6, "Explanation": "w"} for n in ("Diagnosis", "Waveform", "Rhythm")})


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def predictions(tmp_path):
    rows = []
    for n in range(4):
        for control, text in (("real", ["a b", "a", "", "a b c"][n]), ("blank", "z")):
            rows.append(
                {"id": f"r{n}", "reference": "a b", "prediction": text, "patient_id": f"p{n}", "control": control}
            )
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "predictions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def endpoint(server):
    return ["--base-url", server.url, "--model", "gpt-4o"]


def test_judge_from_a_file_to_a_summary(predictions, capsys):
    with LlmServer(GRADE) as server:
        args = ["judge", str(predictions), "--rubric", "report", *endpoint(server), "--price", "2.5", "10"]
        assert main([*args, "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "4 items" in said and "3 prompts to ask" in said and "cost" in said and not server.requests
        assert main([*args, "--aggregate", "pulse"]) == 0
        assert server.paid == 3
    said = capsys.readouterr().out
    assert "3 calls, 300 prompt and 60 completion tokens, cost 0.0014" in said
    out = predictions.parent / "judge" / "report-gpt-4o" / "judge.json"
    assert f"judgements: {out}" in said and "1 empty answers" in said
    summary = json.loads(out.read_text())
    assert summary["scores"]["overall"]["value"] == 45.0 and summary["compat"]["score"] == 45.0
    assert summary["inputs"]["predictions"][0]["name"] == "predictions.jsonl"


def test_the_gap_to_a_control_comes_first(predictions, capsys):
    args = ["judge", str(predictions.parent), "--rubric", "report", "--provider", "dummy", "--controls", "blank"]
    assert main(args) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines[0].startswith("  gap to blank, Diagnosis: 6.17")
    assert any("warning: dummy judge" in line for line in lines)


def test_judgements_of_other_predictions_are_not_replaced_unasked(predictions, tmp_path, capsys):
    out = tmp_path / "out"
    args = ["--rubric", "report", "--provider", "dummy", "--out", str(out)]
    other = tmp_path / "other.jsonl"
    other.write_text(predictions.read_text().replace('"a b c"', '"a b"'))
    assert main(["judge", str(predictions), *args, "--limit", "2"]) == 0
    assert main(["judge", str(predictions), *args]) == 0
    before = (out / "judge.json").read_bytes()
    assert main(["judge", str(other), *args]) == 2
    assert "other predictions" in capsys.readouterr().err and (out / "judge.json").read_bytes() == before
    assert main(["judge", str(other), *args, "--overwrite"]) == 0
    assert (out / "judge.json").read_bytes() != before
    assert main(["judge", str(other), *args[:-2]]) == 0
    assert (tmp_path / "judge" / "other-report-dummy" / "judge.json").exists()


def test_two_files_that_would_share_a_folder(tmp_path, capsys):
    (tmp_path / "arena.json").write_text(
        json.dumps(
            [
                {
                    "id": "a",
                    "image": "x.png",
                    "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
                }
            ]
        )
    )
    for root in ("one", "two"):
        file = tmp_path / root / "m" / "arena" / "step-final.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"question_id": "a", "predict_convs": [{"question": "q", "answer": root}]}) + "\n")
    args = ["ecgbench", "judge", str(tmp_path / "one"), str(tmp_path / "two"), "--data", str(tmp_path)]
    args += ["--rubric", "arena", "--provider", "dummy"]
    assert main(args) == 0
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    assert "two files of predictions" in capsys.readouterr().err


def test_two_models_side_by_side(predictions, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "predictions.jsonl").write_text(predictions.read_text().replace('"a b c"', '"a b"'))
    for folder in (predictions.parent, other):
        assert main(["judge", str(folder), "--rubric", "report", "--provider", "dummy"]) == 0
    runs = [str(f / "judge" / "report-dummy") for f in (predictions.parent, other)]
    capsys.readouterr()
    assert main(["judge", "compare", *runs, "--out", str(tmp_path / "t.csv")]) == 0
    assert "to the first: 0.50" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert {row["criterion"] for row in rows} == {"Diagnosis", "Waveform", "Rhythm", "overall"} and len(rows) == 8
    assert main(["agree", *runs, "--out", str(tmp_path / "a.json")]) == 0
    assert {e["criterion"] for e in json.loads((tmp_path / "a.json").read_text())} >= {"Rhythm"}
    against = ["judge", str(predictions), "--rubric", "report", "--provider", "dummy", "--against", str(other)]
    assert main(against) == 0
    assert "win rate 0.38" in capsys.readouterr().out
    assert (predictions.parent / "judge" / "report-dummy-against-other" / "judge.json").exists()


def test_ecgbench_reports_of_several_models(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    gold = [
        {
            "id": f"1234{n}-{n}-0",
            "image": "x.png",
            "conversations": [{"from": "human", "value": "<image>\nReport?"}, {"from": "gpt", "value": f"gold {n}"}],
        }
        for n in range(3)
    ]
    (data / "ptb-test-report.json").write_text(json.dumps(gold))
    for model in ("pulse", "mine"):
        file = tmp_path / "eval" / model / "ptb-test-report" / "step-final.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(
            "".join(
                json.dumps({"question_id": g["id"], "prompt": "q", "text": f"{model} {g['id']}"}) + "\n" for g in gold
            )
        )
    args = ["ecgbench", "judge", str(tmp_path / "eval"), "--data", str(data), "--rubric", "report"]
    with LlmServer(GRADE) as server:
        assert main([*args, *endpoint(server), "--aggregate", "pulse"]) == 0
        assert server.paid == 6
        assert main([*args, *endpoint(server), "--aggregate", "pulse"]) == 0
        assert server.paid == 6
    said = capsys.readouterr().out
    assert "mine, ptb-test-report, step-final.jsonl:" in said and "as pulse aggregates (3 replies): score 60.00" in said
    out = tmp_path / "eval" / "pulse" / "ptb-test-report" / "judge" / "step-final-report-gpt-4o"
    summary = json.loads((out / "judge.json").read_text())
    assert summary["inputs"]["model"] == "pulse" and len(list((out / "items").iterdir())) == 3
    assert main([*args, "--provider", "dummy", "--out", str(tmp_path / "elsewhere"), "--limit", "2"]) == 0
    assert json.loads((tmp_path / "elsewhere/mine/step-final-report-dummy/judge.json").read_text())["n"] == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rubric", "reprt", "--provider", "dummy"], "did you mean 'report'?"),
        (["--rubric", "report"], "--model: say which model judges"),
        (["--rubric", "report", "--model", "m"], "--base-url: say where"),
        (["--rubric", "report", "--model", "m", "--base-url", "http://judge.example/v1"], "in the clear"),
        (["--rubric", "report", "--provider", "dummy", "--max-cost", "1"], "--max-cost needs --price"),
        (["--rubric", "report", "--provider", "dummy", "--aggregate", "gem_v1"], "is for the rubric grounding"),
        (["--rubric", "report", "--provider", "dummy", "--limit", "0"], "--limit 0"),
        (["--rubric", "report", "--provider", "dummy", "--controls", "swap"], "no rows with control 'swap'"),
    ],
)
def test_mistakes_are_one_line(predictions, capsys, args, words):
    assert main(["judge", str(predictions), *args]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("option", ["--seed", "--num-resamples"])
def test_draws_below_zero_are_one_line(predictions, capsys, option):
    args = ["judge", str(predictions), "--rubric", "report", "--provider", "dummy", option, "-1"]
    assert main(args) == 2 and "0 or more" in capsys.readouterr().err


def test_a_missing_or_wrong_key_ends_it_before_the_first_item(predictions, capsys, monkeypatch):
    with LlmServer([Status(401, f"Incorrect API key provided: {KEY}")]) as server:
        args = ["judge", str(predictions), "--rubric", "report", *endpoint(server), "--concurrency", "1"]
        assert main(args) == 2
        assert len(server.requests) == 1
        monkeypatch.delenv("OPENAI_API_KEY")
        assert main(args) == 2
        assert len(server.requests) == 1
    said = capsys.readouterr()
    assert "not accepted" in said.err and "OPENAI_API_KEY is empty or not set" in said.err
    assert KEY not in said.out + said.err
    assert "judged" not in {json.loads(p.read_text())["state"] for p in predictions.parent.rglob("items/*.json")}


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_cells_that_a_spreadsheet_would_run_are_escaped(cell):
    (row,) = csv.reader(io.StringIO(csv_text([cell], [])))
    assert row == [f"'{cell}".replace("\r", " ")]
    assert csv_text(["a"], [[-1.5], [None], ["b,c"]]) == 'a\n-1.5\n""\n"b,c"\n'


def test_the_csv_of_graders_with_strange_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("=cmd.csv", "b.csv"):
        (tmp_path / name).write_text("id,criterion,score\na,=HYPERLINK(1),1\nb,=HYPERLINK(1),2\n")
    assert main(["agree", "=cmd.csv", "b.csv", "--out", "t.csv"]) == 0
    row = next(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert row["criterion"] == "'=HYPERLINK(1)" and row["graders"] == "'=cmd.csv | b.csv"
    assert main(["agree", "=cmd.csv", "b.csv", "--out", "t.txt"]) == 2
