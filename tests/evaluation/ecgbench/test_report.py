"""The page: the gap first, both modes, judges, published figures; escaped, self-contained, the same bytes."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest
from bench_data import gold_rows, write_answers, write_gold

from ecglm.cli import main
from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench import anchors
from ecglm.evaluation.ecgbench.judged import judgements_of
from ecglm.evaluation.ecgbench.report import write_report
from ecglm.evaluation.ecgbench.report_parts import points, verdict
from ecglm.evaluation.ecgbench.runs import find_runs
from ecglm.evaluation.ecgbench.score import Gold
from ecglm.evaluation.ecgbench.subsets import SUBSETS

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def bench(tmp_path):
    labels = ["MI", "CD", "NORM", "MI"] * 10
    write_gold(tmp_path / "data", "ptb-test", gold_rows("ptb-test", [("q", a) for a in labels], "000{:02d}_hr-0.png"))
    items = gold_rows("ptb-test-report", [("Write.", "sinus rhythm")] * 3)
    write_gold(tmp_path / "data", "ptb-test-report", items)
    for name in ("good", "good@blank", EVIL.replace("/", "")):
        text = {f"ptb-test-{n}": "NORM" if "@" in name else a for n, a in enumerate(labels)}
        write_answers(tmp_path / "p" / name / "ptb-test" / "step-final.jsonl", text)
    for name, said in {"good": "sinus rhythm", "good@blank": "paced"}.items():
        text = {item["id"]: said for item in items}
        write_answers(tmp_path / "p" / name / "ptb-test-report" / "step-final.jsonl", text)
    return tmp_path


def page(bench, name="r.html"):
    assert (
        main(["ecgbench", "report", str(bench / "p"), "--data", str(bench / "data"), "--out", str(bench / name)]) == 0
    )
    return (bench / name).read_text()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_the_gap_comes_first_then_both_modes_then_what_was_published(bench):
    told = page(bench)
    order = ["Do these models read the ECG?", "Scores by rule, in both modes", "Published figures", "Where the modes"]
    places = [told.index(words) for words in order if words in told]
    assert places == sorted(places) and len(places) >= 3
    assert "reads the ECG" in told and "blank" in told
    assert "arXiv 2410.19008, tables 3 to 6" in told and "82.4 / 74.8 / 11.0" in told
    assert told == page(bench, "again.html")


def test_nothing_runs_and_nothing_is_fetched(bench):
    told = page(bench)
    tags = Tags()
    tags.feed(told)
    assert not [tag for tag, _ in tags.seen if tag in ("script", "img", "link", "iframe", "object", "form")]
    assert not [a for _, attributes in tags.seen for a in attributes if a.startswith("on") or a in ("src", "href")]
    assert html.escape(EVIL.replace("/", "")) in told
    assert "default-src 'none'" in told and not re.search(r"https?://", told)


def test_without_controls_the_page_says_so_first(bench, tmp_path):
    import shutil

    shutil.rmtree(bench / "p" / "good@blank")
    told = page(bench)
    assert told.index("nothing on this page shows that these models read the ECG") < told.index("Scores by rule")


def test_judges_words_are_shown_with_their_gap(bench):
    args = ["--data", str(bench / "data"), "--rubric", "report", "--provider", "dummy", "--aggregate", "pulse"]
    assert main(["ecgbench", "judge", str(bench / "p"), *args]) == 0
    runs, _ = find_runs([bench / "p"], list(SUBSETS.values()))
    good = next(run for run in runs if run.name == "good")
    (found,) = judgements_of(good, num_resamples=50)
    summary = json.loads(next((bench / "p" / "good").rglob("judge.json")).read_text())
    assert found.scores == summary["scores"] and found.judge == "dummy" and found.counts["n"] == 3
    blank = json.loads(next((bench / "p" / "good@blank").rglob("judge.json")).read_text())
    difference = summary["scores"]["overall"]["value"] - blank["scores"]["overall"]["value"]
    assert found.gap["control"] == "blank" and found.gap["value"] == pytest.approx(difference)
    assert found.compat == pytest.approx(summary["compat"]["score"])
    told = page(bench)
    assert told.index("judge dummy") < told.index("Scores by rule")
    assert "Scores by a judge" in told and "Waveform" in told and "61.3" in told


def test_models_with_judged_subsets_alone(bench, tmp_path):
    runs, _ = find_runs([bench / "p" / "good" / "ptb-test-report" / "step-final.jsonl"], list(SUBSETS.values()))
    with pytest.raises(EcglmError, match="nothing is judged"):
        write_report(tmp_path / "x.html", runs, Gold(bench / "data"))
    with pytest.raises(EcglmError, match="no predictions"):
        write_report(tmp_path / "x.html", [], Gold(bench / "data"))


def test_verdicts_and_points():
    assert "reads the ECG" in verdict({"value": 0.2, "low": 0.1, "high": 0.3})
    assert "not shown" in verdict({"value": 0.2, "low": -0.1, "high": 0.3})
    assert "worse" in verdict({"value": -0.2, "low": -0.3, "high": -0.1})
    assert "cannot be said" in verdict({"value": 0.2, "low": None, "high": None}) and "cannot" in verdict(None)
    assert points({"value": 61.25, "low": 50.0, "high": 70.0}) == "61.2 [50.0, 70.0]"
    assert points({"value": 3.0, "low": None, "high": None}, signed=True) == "+3.0" and points(None) == "–"


def test_published_figures_are_those_of_the_paper():
    assert list(anchors.COLUMNS) == [
        "ptb-test", "ptb-test-report", "code15-test", "ecgqa-test", "cpsc-test", "csn-test-no-cot", "g12-test-no-cot",
        "mmmu-ecg", "arena",
    ]  # fmt: skip
    pulse = anchors.PUBLISHED["PULSE-7B"]
    assert pulse["cpsc-test"] == (76.9, 57.6, 8.6) and pulse["ptb-test-report"] == (61.3,)
    f1_or_only = [pulse[subset][1 if len(pulse[subset]) == 3 else 0] for subset in anchors.COLUMNS]
    assert round(sum(f1_or_only) / 9, 1) == 68.1  # the average that the paper gives
    assert anchors.PUBLISHED["Random"]["arena"] == (0.0,) and len(anchors.PUBLISHED) == 7
