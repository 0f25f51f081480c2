"""The quickstart, tiny: everything it promises is there, it is the same every time, and nothing is done twice."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

import ecglm
from ecglm.errors import StaleOutputError
from ecglm.quickstart import CONTROLS, SIX_RHYTHMS, quickstart
from ecglm.records.synthetic import Synthetic
from tiny_world import tree

MODELS = ("signal", "ecg-byte")


def run(folder, **options):
    torch.set_num_threads(1)
    said: list[str] = []
    runs = quickstart(folder, dev=True, say=said.append, **options)
    return SimpleNamespace(folder=folder, runs=runs, said=said)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run(tmp_path_factory.mktemp("first") / "q")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return run(tmp_path_factory.mktemp("second place, ä") / "quick start")


def rows_of(folder, model):
    file = folder / f"{model}-predictions" / "predictions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_everything_promised_lies_there(first):
    files = set(tree(first.folder))
    expected = {"report.html", "questions.parquet", "questions.parquet.manifest.json", "example.hea", "example.dat"}
    expected |= {
        f"{s}/{f}" for s in ("store", "store-test") for f in ("manifest.json", "index.parquet", "rejects.jsonl")
    }
    for model in MODELS:
        expected |= {f"{model}/{f}" for f in ("metrics.jsonl", "loss.png", "recipe.yaml", "manifest.json")}
        expected |= {f"{model}/best/{f}" for f in ("manifest.json", "config.json", "llm/model.safetensors")}
        expected |= {f"{model}-predictions/{f}" for f in ("predictions.jsonl", "scores.json", "manifest.json")}
    assert expected <= files
    assert not {
        f for f in files if f.split("/")[-1].startswith((".tmp-", ".old-")) or f.endswith((".pt", ".bin", ".pth"))
    }


def test_it_says_all_the_way_what_it_does(first):
    said = "\n".join(first.said)
    for number in range(1, 7):
        assert f"[{number}/6]" in said
    assert f"report:      {first.folder / 'report.html'}" in said
    for model in MODELS:
        assert f"checkpoint:  {first.folder / model / 'best'}" in said
    (command,) = re.findall(r"try next: +ecglm (.*)$", said, re.MULTILINE)
    assert command.startswith(f"ask --model {first.folder / 'signal' / 'best'} --ecg {first.folder / 'example.hea'} ")


def test_the_command_to_try_next_works(first, capsys):
    import shlex

    from ecglm.cli import main

    (command,) = [line.split("ecglm ", 1)[1] for line in first.said if line.startswith("try next:")]
    assert main([*shlex.split(command), "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()


def test_the_example_is_an_ecg_of_a_test_patient(first):
    record = ecglm.read(first.folder / "example.hea")
    shown = rows_of(first.folder, "signal")[0]["ecgs"][0]
    truth = Synthetic(num_patients=6, seed=1000, rhythms=SIX_RHYTHMS).read(shown)
    assert record.leads == truth.leads and record.sampling_rate == truth.sampling_rate
    assert abs(record.signal - truth.signal).max() <= 0.0006  # stored in steps of a microvolt


@pytest.mark.parametrize("model", MODELS)
def test_every_test_question_is_asked_once_on_the_truth_and_on_each_control(first, model):
    questions = [q for q in pq.read_table(first.folder / "questions.parquet").to_pylist() if q["split"] == "test"]
    rows = rows_of(first.folder, model)
    for control in ("real", *CONTROLS):
        asked = [r["id"] for r in rows if r["control"] == control]
        assert sorted(asked) == sorted(q["id"] for q in questions)
    assert len(rows) == len(questions) * (1 + len(CONTROLS))
    for row in rows:
        if row["control"] == "swap":
            own = {e.rsplit("-", 1)[0] for e in row["ecgs"]}
            assert not own & {e.rsplit("-", 1)[0] for e in row["shown"]}, "an ECG of the same patient"


def test_answers_are_the_generators_truth(first):
    """Rhythm questions of the test set, against the generator asked again."""
    source = Synthetic(num_patients=6, seed=1000, rhythms=SIX_RHYTHMS)
    rows = [r for r in rows_of(first.folder, "signal") if r["task"] == "rhythm" and r["control"] == "real"]
    assert rows
    answers: dict[str, set[str]] = {}
    for row in rows:
        (label,) = [x for x in source.read(row["ecgs"][0]).labels if x.startswith("rhythm:")]
        answers.setdefault(label, set()).add(row["reference"])
    assert all(len(found) == 1 for found in answers.values())
    assert len(set().union(*answers.values())) == len(answers)


def test_test_patients_are_of_another_seed(first):
    splits: dict[str, set[str]] = {}
    for row in pq.read_table(first.folder / "questions.parquet").to_pylist():
        for patient in row["patients"]:
            splits.setdefault(row["split"], set()).add(patient)
    assert {p.split("-p")[0] for p in splits["test"]} == {"synthetic/s1000"}
    assert {p.split("-p")[0] for p in splits["train"] | splits["val"]} == {"synthetic/s0"}
    assert not splits["train"] & splits["val"]


def test_two_runs_in_two_places_are_the_same_to_the_byte(first, second):
    one, other = tree(first.folder), tree(second.folder)
    assert set(one) == set(other)
    with_paths = {f"{m}/recipe.yaml" for m in MODELS}  # they name their stores
    assert {name for name in one if one[name] != other[name]} == with_paths
    for name in with_paths:
        assert one[name].replace(str(first.folder).encode(), b"") == re.sub(
            rb"['\"]?" + re.escape(str(second.folder)).encode() + rb"([^'\"\n]*)['\"]?", rb"\1", other[name]
        )


def test_another_seed_is_another_run(first, tmp_path):
    """The comparison above can fail: what the seed decides differs."""
    source = Synthetic(num_patients=24, seed=1, rhythms=SIX_RHYTHMS)
    assert not set(source.keys()) & set(Synthetic(num_patients=24, seed=0, rhythms=SIX_RHYTHMS).keys())
    with pytest.raises(StaleOutputError, match="--overwrite"):
        run(first.folder, seed=1)


def test_a_second_call_does_nothing_again(first):
    def stamps():
        return {
            p.relative_to(first.folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes())
            for p in first.folder.rglob("*")
            if p.is_file()
        }

    before = stamps()
    again = run(first.folder)
    after = stamps()
    assert {n: d for n, (_, d) in after.items()} == {n: d for n, (_, d) in before.items()}
    touched = {name for name in after if after[name][0] != before[name][0]}
    assert touched <= {"report.html", "example.hea", "example.dat"} | {f"{m}-predictions/scores.json" for m in MODELS}
    assert sum("reused" in line for line in again.said) >= 2
    assert [r.scores for r in again.runs] == [r.scores for r in first.runs]


class Links(HTMLParser):
    """Everything a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "srcset", "poster", "data", "action", "xlink:href")]
        if tag == "link":
            self.fetched += [v or "" for k, v in attrs if k == "href"]

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_complete_by_itself(first):
    page = (first.folder / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert all(address.startswith("data:") for address in links.fetched)
    assert not {"script", "iframe", "object", "embed", "link", "base"} & set(links.tags)
    assert not re.findall(r"url\(\s*['\"]?(?!data:)", page) and "@import" not in page
    assert not re.findall(r"\son\w+\s*=", page)
    assert str(first.folder) not in page
    pictures = [a for a in links.fetched if a.startswith("data:image/")]
    assert len(pictures) >= 6
    text = " ".join(links.text).lower()
    for words in ("signal", "ecg-byte", "rhythm", "conduction", "axis", "most frequent answer", "blank"):
        assert words in text
    for row in rows_of(first.folder, "signal"):
        assert row["patient_id"] not in page


@pytest.mark.realdata
def test_d24_real_recordings_keep_their_official_folds(tmp_path, ptb_xl):
    made = run(tmp_path / "q", data=ptb_xl)
    with open(ptb_xl / "ptbxl_database.csv", newline="", encoding="utf-8") as handle:
        table = {f"ptb-xl/{int(r['ecg_id']):05d}": r for r in csv.DictReader(handle)}
    split_of = {**dict.fromkeys(range(1, 9), "train"), 9: "val", 10: "test"}
    questions = pq.read_table(made.folder / "questions.parquet").to_pylist()
    assert {q["split"] for q in questions} == {"train", "val", "test"}
    for question in questions:
        (ecg,) = question["ecgs"]
        assert question["split"] == split_of[int(table[ecg]["strat_fold"])]
        assert question["patients"] == [f"ptb-xl/{int(float(table[ecg]['patient_id']))}"]
    normal = {q["ecgs"][0]: q["turns"][-1]["text"] for q in questions if q["task"] == "normal"}
    by_truth = {True: set(), False: set()}
    for ecg, answer in normal.items():
        by_truth["'NORM'" in table[ecg]["scp_codes"]].add(answer)
    assert len(by_truth[True]) == len(by_truth[False]) == 1 and by_truth[True] != by_truth[False]
    for model in MODELS:
        rows = rows_of(made.folder, model)
        assert rows and all(table[e]["strat_fold"] == "10" for r in rows for e in r["ecgs"])
        patient = {r["patient_id"] for r in rows}
        assert not patient & {p for q in questions if q["split"] == "train" for p in q["patients"]}
    assert any("PTB-XL (CC BY 4.0)" in line for line in made.said)
