"""report.html: complete by itself, safe, and silent without controls."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.cards import make_cards
from ecglm.evaluation.report import write_report
from ecglm.evaluation.report_parts import seeds_table, verdict
from ecglm.evaluation.score import score
from ecglm.evaluation.tables import Run

VOID = {"meta", "img", "br", "rect", "path"}


class Reader(HTMLParser):
    """Collects tags, attributes and text; notes a tag closed out of order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.bad: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def runs(make_run):
    good, poor = make_run(skill=0.9), make_run(skill=0.0)
    return [
        Run("signal", score(good, num_resamples=100), {"parameters": "1.3 M"}, good),
        Run("ecg-byte", score(poor, num_resamples=100), {"parameters": "1.2 M"}, poor),
    ]


def picture(record_id):
    return np.full((40, 60, 3), 255, dtype=np.uint8)


def test_the_page_holds_all_it_shows(tmp_path, runs):
    path = write_report(tmp_path / "report.html", runs, cards=make_cards(runs, picture), data="Made-up ECGs.")
    page = path.read_text()
    reader = Reader(page)
    assert not reader.bad and not reader.open
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert not re.search(r"@import|url\(", page)
    assert sum(tag == "img" for tag, _ in reader.tags) == 12
    real = runs[0].scores["controls"]["real"]["rhythm"]["accuracy"]
    for part in ("Research use only", "Made-up ECGs.", f"{real['value']:.2f}", "another patient", "most frequent"):
        assert part in reader.text
    assert "reads the ECG: rhythm" in reader.text
    assert "not shown to read the ECG: rhythm" in reader.text


def test_no_patient_or_record_is_named(tmp_path, runs):
    page = write_report(tmp_path / "report.html", runs, cards=make_cards(runs, picture)).read_text()
    assert "synthetic/" not in page


def test_the_same_runs_give_the_same_bytes(tmp_path, runs):
    pages = [write_report(tmp_path / name, runs, cards=make_cards(runs, picture)).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_every_text_is_escaped(tmp_path, make_run):
    attack = "\"><script>alert(1)</script><img src=x onerror=alert(2)> & ' <b>"
    rows = make_run(num_patients=31)
    for row in rows:
        row["prompt"], row["task"] = f"<ecg>\n{attack}", f"task {attack}"
        if row["control"] == "real":
            row["prediction"] = attack
        row["reference"] += attack
        row["metadata"] = {**row["metadata"], "choices": [c + attack for c in row["metadata"]["choices"]]}
    run = Run(f"name {attack}", score(rows, num_resamples=20), {attack: attack}, rows)
    page = write_report(
        tmp_path / "r.html", [run], cards=make_cards([run], picture), title=attack, data=attack, facts={attack: attack}
    ).read_text()
    reader = Reader(page)
    assert not {"script", "b"} & {tag for tag, _ in reader.tags}
    assert all(not name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "<script" not in page
    assert "alert(1)" in reader.text


def test_d27_no_report_without_controls(tmp_path, make_run, runs):
    bare = Run("bare", score(make_run(controls=("real",)), num_resamples=20))
    with pytest.raises(EcglmError, match=r"'bare' has no controls.*ecglm predict --controls"):
        write_report(tmp_path / "report.html", [*runs, bare])
    assert not (tmp_path / "report.html").exists()


def test_perturbations_stand_apart_and_are_no_controls(tmp_path, make_run, runs):
    rows = make_run(controls=("real", "blank", "perturb-wander"))
    page = write_report(tmp_path / "r.html", [Run("signal", score(rows, num_resamples=50), {}, rows)]).read_text()
    before, after = page.split("<h2>Robustness</h2>")
    assert "baseline wander" in after and "baseline wander" not in before
    assert "not that the ECG is read" in after
    assert "<h2>Robustness</h2>" not in write_report(tmp_path / "plain.html", runs).read_text()
    only = [row for row in rows if row["control"] != "blank"]
    with pytest.raises(EcglmError, match="has no controls"):
        write_report(tmp_path / "no.html", [Run("signal", score(only, num_resamples=20), {}, only)])


def test_two_runs_of_one_name_are_refused(tmp_path, runs):
    with pytest.raises(EcglmError, match="two runs are called"):
        write_report(tmp_path / "report.html", [runs[0], runs[0]])


def test_verdicts(make_run):
    def of(rows):
        return verdict(Run("x", score(rows, num_resamples=100)), "rhythm")[1]

    assert of(make_run()) == "reads the ECG"
    assert of(make_run(skill=0.0)) == "not shown to read the ECG"
    assert of(make_run(num_patients=1)) == "cannot be said"
    swapped = [
        {**r, "control": {"real": "blank", "blank": "real"}[r["control"]]} for r in make_run(controls=("real", "blank"))
    ]
    assert of(swapped) == "worse than a control"
    poor = make_run(skill=0.9)
    for row in poor:  # uses the ECG only to be a little less wrong than its controls
        if row["control"] != "real":
            row["prediction"] = "nonsense"
        elif row["reference"] == "sinus rhythm":
            row["prediction"] = "paced rhythm"
        elif int(row["id"].split("/")[1].split("-")[0]) % 2:
            row["prediction"] = "nonsense"
    assert of(poor) == "reads it, not above guessing"


def test_d27_a_page_without_controls_is_made_on_express_wish_and_warns(tmp_path, make_run, runs):
    rows = make_run(controls=("real",))
    bare = Run("bare <i>", score(rows, num_resamples=20), {}, rows)
    page = write_report(tmp_path / "r.html", [*runs, bare], controls_needed=False).read_text()
    notice = "No controls were run for bare &lt;i&gt;: whether the ECG was read cannot be said"
    assert notice in page and page.index(notice) < page.index("<h1>")
    assert "cannot be said</strong>: rhythm" in page
    assert "No controls were run" not in write_report(tmp_path / "s.html", runs, controls_needed=False).read_text()


def test_the_gap_comes_first_and_one_that_includes_zero_is_flagged(tmp_path, runs):
    page = write_report(tmp_path / "r.html", runs).read_text()
    table = page[page.index("<h2>Scores, with and without the ECG</h2>") : page.index("<h2>The same as bars</h2>")]
    head = re.findall(r"<th[^>]*>(.*?)</th>", table)
    assert head.index("gap to best<br>control") < head.index("so the model …") < head.index("score")
    good, poor = table.split("<tr")[2:4]
    assert "includes zero" not in good and "! includes zero" in poor
    for run, part in zip(runs, (good, poor), strict=True):
        gap = run.scores["gaps"]["rhythm"]["accuracy"]["value"]
        assert f"{gap:+.2f}" in re.findall(r"<td[^>]*>(.*?)<", part)[-9:]


def test_decoding_seeds_stand_in_a_table_of_their_own(tmp_path, make_run, runs):
    assert "several seeds" not in write_report(tmp_path / "one.html", runs).read_text()
    rows = [
        {**row, "seed": seed}
        for seed, skill in ((0, 0.9), (1, 0.5))
        for row in make_run(skill=skill, controls=("real", "blank"))
        if row["control"] == "real" or seed == 0
    ]
    by_id = {row["id"]: row["reference"] for row in rows if row["seed"] == 0}
    for row in rows:  # the same questions for both seeds
        right = row["prediction"] == row["reference"]
        row["reference"] = by_id[row["id"]]
        row["prediction"] = row["reference"] if right else "sinus rhythm"
    found = score(rows, num_resamples=50)
    page = write_report(tmp_path / "r.html", [Run("m", found, {}, rows)]).read_text()
    section = page[page.index("<h2>The same model, drawn with several seeds</h2>") :]
    seeds = found["seeds"]["real"]["rhythm"]["accuracy"]
    for value in (seeds["mean"], *seeds["values"].values()):
        assert f"{value:.2f}" in section
    assert f"{seeds['sd']:.3f}" in section and "nothing about other patients" in section
    drawn = [{**row, "control": c} for row in rows if row["control"] == "real" for c in ("real", "blank", "lead_mask")]
    again = [Run("m", json.loads(json.dumps(score(drawn, num_resamples=20), sort_keys=True)), {}, drawn)]  # as on disk
    shown = re.findall(r"<td>rhythm</td><td>(.*?)</td>", seeds_table(again))
    assert shown == ["the patient&#x27;s ECG", "blank", "half of the leads blank"]
    asked = page[page.index("<h2>What was asked</h2>") : page.index("<h2>Scores,")]
    assert re.findall(r'<td class="num">(\d+)</td>', asked)[0] == str(len(by_id))  # questions, not draws
