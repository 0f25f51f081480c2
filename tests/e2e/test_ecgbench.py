"""ECGBench end to end on real recordings: signals → pictures → a toy of PULSE's shape → answers → both scores → judge
→ one report; the answering and the judging are each killed on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cli_tools import done
from ecglm.store.reader import SegmentStore
from evaluation.llm_server import LlmServer
from kill_tools import finish, kill_when, start
from llava_world import write_llava

pytestmark = pytest.mark.realdata

#: Source → its folder in the shared data, and how many records are enough.
SOURCES = {
    "ptb-xl": ("ptb-xl", 10, ("resolution=500",)),
    "csn": ("csn", 4, ()),
    "georgia": ("cinc2020_2021/training/georgia", 4, ()),
    "cpsc": ("cinc2020_2021/training/cpsc_2018", 4, ()),
}
CHOICES = "\nOptions:\nA. sinus rhythm\nB. atrial fibrillation\nC. paced rhythm\nD. atrial flutter"
JUDGED = {"Score": 7, "Explanation": "it says what the reference says"}


def talk(question: str, answer: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


def items(records: dict[str, list[tuple[str, list[str], str]]]) -> dict[str, list[dict[str, Any]]]:
    """Subset → items about the recordings, as PULSE words them; records: source → (name, superclasses, report)."""

    def row(subset: str, name: str, turns: Any) -> dict[str, Any]:
        return {"id": f"{subset}-{name}", "image": f"{subset}/{name}-0.png", "conversations": turns}

    ptb = records["ptb-xl"]
    return {
        "ptb-test": [row("ptb", n, talk("Which of NORM, MI, STTC, CD, HYP?", "; ".join(c))) for n, c, _ in ptb if c],
        "ptb-test-report": [row("report", n, talk("Write a report.", text)) for n, _, text in ptb if text],
        "ecgqa-test": [
            row("qa", n, talk("Is it normal? Options: yes, no", ["yes" if "NORM" in c else "no"])) for n, c, _ in ptb
        ],
        "csn-test-no-cot": [row("csn", n, talk(f"Which?{CHOICES}", "A. sinus rhythm")) for n, *_ in records["csn"]],
        "g12-test-no-cot": [
            row("g12", n, talk(f"Which?{CHOICES}", "B. atrial fibrillation")) for n, *_ in records["georgia"]
        ],
        "cpsc-test": [row("cpsc", n, talk("Which of NORM, AF?", "AF")) for n, *_ in records["cpsc"]],
    }


@pytest.fixture(scope="module")
def bench(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores, the questions, the drawn pictures, and the imported toy."""
    folder = tmp_path_factory.mktemp("bench")
    records: dict[str, list[tuple[str, list[str], str]]] = {}
    for name, (place, limit, options) in SOURCES.items():
        store = folder / "stores" / name
        options = ("--set", *options) if options else ()
        done("prepare", name, "--root", shared / place, "--out", store, "--seg-len", 2500, "--limit", limit, *options)
        rows = SegmentStore(store).index.to_pylist()
        records[name] = [
            (
                {"ptb-xl": "{}_hr"}.get(name, "{}").format(row["record_id"].split("/")[-1]),
                sorted(label.split(":")[1] for label in row["labels"] if label.startswith("superclass:")),
                row["report_en"] or row["report"],
            )
            for row in rows
            if row["start_s"] == 0
        ]
    source = folder / "source"
    source.mkdir()
    for subset, found in items(records).items():
        assert len(found) >= 3, subset
        (source / f"{subset}.json").write_text(json.dumps(found))
    stores = [folder / "stores" / name for name in SOURCES]
    done("ecgbench", "prepare", "--source", source, "--out", folder / "data", "--store", *stores)
    write_llava(folder / "released", merge="flat")
    done("import", "pulse", folder / "released", "--out", folder / "pulse")
    return folder


def predict(bench: Path, out: Path) -> tuple[object, ...]:
    return (
        *("ecgbench", "predict", "--model", bench / "pulse", "--data", bench / "data", "--out", out),
        *("--batch-size", 2, "--max-new-tokens", 8, "--controls", "blank"),
    )


@pytest.fixture(scope="module")
def answered(bench: Path) -> Path:
    """The answers of a run that is killed once it has some."""
    out = bench / "answers"
    kill_when(start(*predict(bench, out)), lambda: any(p.stat().st_size for p in out.rglob("*.jsonl")))
    partly = sum(len(p.read_text().splitlines()) for p in out.rglob("*.jsonl"))
    finish(start(*predict(bench, out)))
    whole = sum(len(p.read_text().splitlines()) for p in out.rglob("*.jsonl"))
    assert 0 < partly < whole
    return out


def test_p01_every_picture_is_drawn_from_its_recording(bench: Path) -> None:
    for subset in json.loads((bench / "data" / "manifest.json").read_text())["subsets"]:
        rows = json.loads((bench / "data" / f"{subset}.json").read_text())
        assert len(rows) == len(json.loads((bench / "source" / f"{subset}.json").read_text()))
        assert all((bench / "data" / "images" / row["image"]).stat().st_size > 10_000 for row in rows)


def test_p14_a_killed_run_ends_with_the_answers_of_an_undisturbed_one(bench: Path, answered: Path) -> None:
    done(*predict(bench, bench / "undisturbed"))
    names = sorted(p.relative_to(answered) for p in answered.rglob("step-final.jsonl"))
    assert names == sorted(
        p.relative_to(bench / "undisturbed") for p in (bench / "undisturbed").rglob("step-final.jsonl")
    )
    assert len(names) == 2 * 6
    for name in names:
        rows, others = (
            [json.loads(line) for line in (root / name).open()] for root in (answered, bench / "undisturbed")
        )
        assert {r["question_id"]: r["text"] for r in rows} == {r["question_id"]: r["text"] for r in others}, name
        assert len({r["answer_id"] for r in rows}) == len(rows)


def test_p01_both_scores_a_judge_that_is_killed_and_one_report(bench: Path, answered: Path) -> None:
    printed = done("ecgbench", "score", answered, "--data", bench / "data", "--mode", "both", "--explain")
    assert "strict" in printed and "pulse" in printed
    verdict = json.dumps(dict.fromkeys(("Diagnosis", "Waveform", "Rhythm"), JUDGED))
    with LlmServer(lambda body, earlier: verdict) as server:
        judge = (
            *("ecgbench", "judge", answered / "pulse", "--data", bench / "data", "--rubric", "report"),
            *("--base-url", server.url, "--model", "toy-judge", "--key-env", "none", "--concurrency", 1),
        )
        kill_when(start(*judge), lambda: server.paid >= 2)
        finish(start(*judge))
        different = len(set(server.prompts))  # equal reports with equal answers are asked about once
        assert 3 <= different <= server.paid <= different + 1, "what was paid for is not asked again"
    found = [json.loads(p.read_text()) for p in answered.rglob("judge.json")]
    assert len(found) == 1
    report = bench / "report.html"
    done("ecgbench", "report", answered, "--data", bench / "data", "--out", report)
    html = report.read_text()
    assert re.search(r"70\.0", html) and "toy-judge" in html  # 7 of 10 in every criterion
    assert "strict" in html and "pulse" in html and "blank" in html
    assert "<script" not in html and "default-src 'none'" in html
