"""The command line as a user meets it: the whole way verb by verb, and every mistake in one line."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import wfdb
import yaml

from cli_tools import done, ecglm, write_recipe
from ecglm import cli
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.errors import EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.representations.ecg_byte import EcgByte
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS

ROOT = Path(__file__).resolve().parents[1]
TINY_STORE = ("--rate", 100, "--seg-len", 1000, "--set", "num_patients=24", "--set", "seed=0")


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """prepare → map → train → predict → score, by the command line; and what each said."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("way")
    w = SimpleNamespace(
        home=home,
        store=home / "store",
        questions=home / "questions.parquet",
        recipe=home / "tiny.yaml",
        run=home / "run",
        best=home / "run" / "best",
        predictions=home / "predictions",
        said={},
    )
    w.said["prepare"] = done("prepare", "synthetic", "--out", w.store, *TINY_STORE)
    w.said["map"] = done("map", "labels", "--store", w.store, "--out", w.questions, "--tasks", "rhythm", "rate")
    w.said["audit"] = done("audit", w.questions, "--store", w.store)
    write_recipe(w.recipe, w.questions, w.store)
    w.said["train"] = done("train", w.recipe, "--out", w.run, "--train.max_steps", 4, "--train.eval-every", 2)
    w.said["predict"] = done("predict", *predict_options(w), "--out", w.predictions)
    w.said["score"] = done("score", w.predictions, "--num-resamples", 50)
    return w


def predict_options(w):
    asked = ("--model", w.best, "--data", w.questions, "--store", w.store, "--tasks", "rhythm", "--max-new-tokens", 4)
    return (*asked, "--controls", "blank", "noise", "swap", "no-ecg")


# --- the whole way


def test_prepare_says_what_it_made(way):
    keys = Synthetic(num_patients=24, seed=0).keys()
    assert (
        f"synthetic: {len(keys)} of {len(keys)} records kept → {len(keys)} segments of 10 s at 100 Hz"
        in way.said["prepare"]
    )
    assert f"store: {way.store}" in way.said["prepare"]
    assert SegmentStore(way.store).records() == keys


def test_map_makes_the_tasks_asked_for(way):
    rows = pq.read_table(way.questions).to_pylist()
    assert {r["task"] for r in rows} == {"rhythm", "rate"} and len(rows) == 2 * len(SegmentStore(way.store))
    sizes = {s: sum(r["split"] == s for r in rows) for s in ("train", "val", "test")}
    assert "splits: " + ", ".join(f"{s} {n}" for s, n in sizes.items()) in way.said["map"]
    assert f"conversations: {way.questions}" in way.said["map"]


def test_train_takes_overrides_and_says_where_the_checkpoint_is(way):
    recipe = yaml.safe_load((way.run / "recipe.yaml").read_text())
    assert (
        recipe["train"]["max_steps"] == 4 and recipe["train"]["eval_every"] == 2 and recipe["train"]["batch_size"] == 8
    )
    assert recipe["train"]["lr"] == 1e-3
    assert f"checkpoint: {way.best}" in way.said["train"]
    steps = [json.loads(line)["step"] for line in (way.run / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 4
    suffixes = {p.suffix for p in way.run.rglob("*") if p.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors", ".yaml", ".png", ".txt", ".jinja"}


def test_predict_answers_every_test_question_once_per_control(way):
    rows = [json.loads(line) for line in (way.predictions / "predictions.jsonl").read_text().splitlines()]
    asked = [r for r in pq.read_table(way.questions).to_pylist() if r["split"] == "test" and r["task"] == "rhythm"]
    for control in ("real", "blank", "noise", "swap", "no-ecg"):
        mine = {r["id"]: r for r in rows if r["control"] == control}
        assert set(mine) == {r["id"] for r in asked}
        for row in asked:
            assert mine[row["id"]]["reference"] == row["turns"][-1]["text"]
            assert mine[row["id"]]["ecgs"] == row["ecgs"] and isinstance(mine[row["id"]]["prediction"], str)
    assert len(rows) == 5 * len(asked)
    assert f"{len(rows)} answers: {way.predictions / 'predictions.jsonl'}" in way.said["predict"]


def test_score_report_and_compare(way, tmp_path):
    scores = json.loads((way.predictions / "scores.json").read_text())
    accuracy = scores["controls"]["real"]["rhythm"]["accuracy"]
    rows = [json.loads(line) for line in (way.predictions / "predictions.jsonl").read_text().splitlines()]
    real = [r for r in rows if r["control"] == "real"]
    right = sum(r["prediction"].strip().lower() == r["reference"].strip().lower() for r in real)
    assert accuracy["n"] == len(real) and accuracy["value"] == pytest.approx(right / len(real))
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert f"scores: {way.predictions / 'scores.json'}" in way.said["score"]
    shutil.copytree(way.predictions, tmp_path / "other" / "predictions")
    table = done("compare", way.predictions, tmp_path / "other" / "predictions")
    assert "rhythm" in table and table.count("accuracy") == 2
    assert f"report: {tmp_path / 'r.html'}" in done("report", way.predictions, "--out", tmp_path / "r.html")
    done("report", way.predictions, "--out", tmp_path / "s.html", "--store", way.store)
    pictures = (tmp_path / "s.html").read_text().count("data:image")
    assert pictures > (tmp_path / "r.html").read_text().count("data:image")


def test_the_same_commands_again_reuse_what_is_there(way):
    before = {p: p.stat().st_mtime_ns for p in way.home.rglob("*") if p.is_file()}
    assert "reused" in done("prepare", "synthetic", "--out", way.store, *TINY_STORE)
    done("map", "labels", "--store", way.store, "--out", way.questions, "--tasks", "rhythm", "rate")
    assert "reused" in done("train", way.recipe, "--out", way.run, "--train.max-steps", 4, "--train.eval-every", 2)
    done("predict", *predict_options(way), "--out", way.predictions)
    after = {p: p.stat().st_mtime_ns for p in way.home.rglob("*") if p.is_file()}
    assert after == before


def test_other_settings_need_overwrite_or_another_place(way, tmp_path):
    refusals = [
        ("prepare", "synthetic", "--out", way.store, "--rate", 100, "--seg-len", 500),
        ("map", "labels", "--store", way.store, "--out", way.questions, "--tasks", "axis"),
        ("train", way.recipe, "--out", way.run, "--train.max-steps", 5),
        ("predict", *predict_options(way), "--out", way.predictions, "--seed", 1),
    ]
    before = {p: p.read_bytes() for p in way.home.rglob("*") if p.is_file()}
    for command in refusals:
        error = ecglm(*command).error
        assert "made with other settings or from other inputs; use --overwrite" in error and str(way.home) in error
    assert {p: p.read_bytes() for p in way.home.rglob("*") if p.is_file()} == before
    small = ("prepare", "synthetic", "--out", tmp_path / "s", "--set", "num_patients=2", "--rate", 100)
    done(*small, "--seg-len", 1000)
    done(*small, "--seg-len", 500, "--overwrite")
    assert SegmentStore(tmp_path / "s").seg_len == 500


def test_ask_on_every_kind_of_file(way, tmp_path):
    """The same ECG as WFDB, .npy and .csv gets the same answer."""
    record = Synthetic(num_patients=1, seed=9).read("synthetic/s9-p00000-1")
    counts = np.round(record.signal.T * 1000).astype(np.int16)
    wfdb.wrsamp("one", 500, ["mV"] * 12, list(LEADS), d_signal=counts, fmt=["16"] * 12, adc_gain=[1000.0] * 12,
                baseline=[0] * 12, write_dir=str(tmp_path))  # fmt: skip
    np.save(tmp_path / "one.npy", counts.T)
    header = ",".join(LEADS)
    np.savetxt(tmp_path / "two.csv", counts / 1000, delimiter=",", header=header, comments="", fmt="%.3f")
    ask = ("ask", "What is the rhythm?", "--model", way.best, "--max-new-tokens", 6, "--ecg")
    answer = done(*ask, tmp_path / "one.hea")
    assert answer.endswith("\n") and len(answer.splitlines()) <= 2
    microvolt = ("--rate", 500, "--leads", ",".join(LEADS), "--units", "uV")
    assert done(*ask, tmp_path / "one.npy", *microvolt) == answer
    assert done(*ask, tmp_path / "one.npy", "--rate", 500, "--leads", "standard", "--units", "uV") == answer
    assert done(*ask, tmp_path / "two.csv", "--rate", 500, "--units", "mV") == answer
    done(*ask, tmp_path / "one.hea", "--ecg", tmp_path / "one.hea")
    assert (
        done(
            "ask",
            "--model",
            way.best,
            "--ecg",
            tmp_path / "one.npy",
            "What is the rhythm?",
            "--max-new-tokens",
            6,
            *microvolt,
        )
        == answer
    )
    for options, words in [
        ((), "--leads"),
        (("--leads", "standard"), "--rate"),
        (("--leads", "standard", "--rate", 500), "--units"),
        (("--leads", "I,II", "--rate", 500, "--units", "uV"), "2 leads"),
    ]:
        assert words in ecglm(*ask, tmp_path / "one.npy", *options).error


@pytest.mark.parametrize(
    ("question", "words"),
    [("", "question is empty"), ("<ecg> or <ecg>?", "2 <ecg> marks for 1 recordings")],
)
def test_questions_that_cannot_be_asked(way, tmp_path, question, words):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(0, 0.1, (12, 5000)))
    options = ("--ecg", tmp_path / "a.npy", "--rate", 500, "--leads", "standard", "--units", "mV")
    assert words in ecglm("ask", question, "--model", way.best, *options).error


def test_ask_names_a_recording_it_cannot_use(way, tmp_path):
    np.save(tmp_path / "short.npy", np.random.default_rng(0).normal(0, 0.1, (12, 500)))
    options = ("--ecg", tmp_path / "short.npy", "--rate", 500, "--leads", "standard", "--units", "mV")
    error = ecglm("ask", "q?", "--model", way.best, *options).error
    assert "too_short" in error and "short" in error and "1 s" in error
    assert "no such file" in ecglm("ask", "q?", "--model", way.best, "--ecg", tmp_path / "gone.hea").error


def test_render_draws_ecg_paper(way, tmp_path):
    done("render", way.store, 0, "--out", tmp_path / "new" / "a.png")
    done("render", way.store, 0, "--out", tmp_path / "b.png", "--layout", "12x1")
    one, other = cv2.imread(str(tmp_path / "new" / "a.png")), cv2.imread(str(tmp_path / "b.png"))
    assert one.ndim == 3 and one.std() > 1 and (one.shape != other.shape or (one != other).any())
    error = ecglm("render", way.store, 10_000, "--out", tmp_path / "c.png").error
    assert f"it holds 0 to {len(SegmentStore(way.store)) - 1}" in error


def test_render_obeys_its_options(way, tmp_path):
    def size(*options):
        done("render", *options, "--out", tmp_path / "a.png")
        return cv2.imread(str(tmp_path / "a.png")).shape[:2]

    assert size(way.store, 0, "--size", "900x700", "--layout", "2x6", "--color", "mono", "--no-grid") == (700, 900)
    assert size(way.store, 0, "--size", "2200x1700", "--dpi", 200, "--header", "auto", "--pulse", "right") == (
        1700,
        2200,
    )
    assert size(way.store, 0, "--dpi", 100, "--speed", 50, "--gain", 20)[1] > size(way.store, 0, "--dpi", 100)[1]
    assert size(way.store, 0, 1, 2, "--size", "500x400") == (2 * 442, 2 * 512 + 12)
    assert size(way.store, 0, "--layout", "all", "--size", "500x400") == (3 * 442, 2 * 512 + 12)
    assert size(way.store, 0, "--layout", "3x4+3", "--rhythm", "V1,II,V6", "--simultaneous") == (850, 1100)
    signal = np.random.default_rng(0).normal(0, 0.1, (3, 5000))
    np.save(tmp_path / "three.npy", signal)
    leads = ("--rate", 500, "--leads", "I,II,V1", "--units", "mV")
    assert size("--ecg", tmp_path / "three.npy", *leads, "--line-width", 0.5) == (850, 1100)
    mine = tmp_path / "mine.yaml"
    mine.write_text("rotation: {degrees: 4}\npaper: {layout: 6x2}\n")
    assert size(way.store, 0, "--synthesis", mine, "--size", "900x700") == (700, 900)
    mine.write_text("rotation: {degree: 4}\n")
    for options, words in [
        ((way.store, 0, "--size", "big"), "--size big: width x height"),
        ((way.store, 0, "--dpi", 0), "dpi must be between 20 and 2400"),
        ((way.store, 0, "--rhythm", "V1,V2"), "1 lead, one per strip"),
        ((way.store,), "position of a segment"),
        ((), "or --ecg FILE"),
        ((way.store, 0, "--ecg", tmp_path / "three.npy"), "or --ecg FILE"),
        ((way.store, 0, "--synthesis", "cleen"), "no recipe 'cleen' (did you mean 'clean'?)"),
        ((way.store, 0, "--synthesis", mine), "line 1: unknown key 'rotation.degree' (did you mean 'degrees'?)"),
        ((way.store, 0, "--synthesis", "clean", "--layout", "12x1", "--gain", 5), "leave out --layout --gain"),
    ]:
        assert words in ecglm("render", *options, "--out", tmp_path / "b.png").error
    assert ".png or .jpg" in ecglm("render", way.store, 0, "--out", tmp_path / "b.gif").error
    assert not list(tmp_path.glob("b.*"))


def test_tokenizer_train_and_encode(way, tmp_path):
    file = tmp_path / "t.json"
    said = done("tokenizer", "train", way.store, "--out", file, "--num-merges", 20, "--limit", 5)
    assert f"tokenizer: {file}" in said and "from 5 training segments" in said
    ids, summary = done("tokenizer", "encode", file, way.store, 3).splitlines()
    numbers = [int(n) for n in ids.split()]
    vocabulary = int(said.split(" ids")[0])
    assert min(numbers) >= 0 and max(numbers) < vocabulary
    assert summary.startswith(f"{len(numbers)} tokens for 12 × 1000 samples")
    assert "no such file" in ecglm("tokenizer", "encode", tmp_path / "gone.json", way.store, 0).error


def test_store_info_and_verify(way, tmp_path):
    said = done("store", "info", way.store)
    num = len(SegmentStore(way.store))
    assert f"{num} segments of 10 s at 100 Hz, 24 patients" in said and SegmentStore(way.store).fingerprint in said
    assert f"{num} segments of {num} records" in done("store", "verify", way.store)
    copy = tmp_path / "s"
    done("prepare", "synthetic", "--out", copy, "--set", "num_patients=2", "--rate", 100, "--seg-len", 1000)
    shard = copy / "shards" / "00000.i16"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert "shards/00000.i16" in ecglm("store", "verify", copy).error
    assert "no such segment-store" in ecglm("store", "info", tmp_path / "gone").error


def test_audit_fails_on_leakage(way, tmp_path):
    rows = read_conversations(way.questions)
    one = next(r for r in rows if r.split == "train")
    leaked = [*rows, type(one)(**{**one.__dict__, "id": "leak", "split": "test"})]
    write_conversations(tmp_path / "leaked.parquet", leaked, {}, {})
    assert ecglm("audit", way.questions, "--store", way.store).status == 0
    ran = ecglm("audit", tmp_path / "leaked.parquet", "--store", way.store)
    assert ran.status == 1 and "patient" in ran.out


def test_a_leaked_patient_is_not_trained_on(way, tmp_path):
    rows = read_conversations(way.questions, task="rhythm")
    one = next(r for r in rows if r.split == "train")
    write_conversations(
        tmp_path / "leaked.parquet", [*rows, type(one)(**{**one.__dict__, "id": "leak", "split": "test"})], {}, {}
    )
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "leaked.parquet", way.store)
    assert "1 patients are in train and test" in ecglm("train", recipe, "--out", tmp_path / "run").error


def test_validate_says_what_would_be_trained(way, tmp_path):
    said = done("validate", way.recipe)
    rows = [r for r in pq.read_table(way.questions).to_pylist() if r["task"] == "rhythm"]
    assert f"train: {sum(r['split'] == 'train' for r in rows)} questions" in said and "valid" in said
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "gone.parquet", way.store)
    assert "gone.parquet: no such file" in ecglm("validate", recipe).error
    misspelt = yaml.safe_load(Path(way.recipe).read_text())
    misspelt["data"]["tasks"] = ["rythm"]
    recipe.write_text(yaml.safe_dump(misspelt))
    assert "no question of the tasks rythm in split 'train'" in ecglm("validate", recipe).error


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"features": {"items": ["foo"]}}, "no item 'foo'"),
        ({"symbols": {"rate": 30}}, "cannot reduce"),
        ({"symbols": {"leads": ["I", "I"]}}, "stands twice"),
        ({"symbols": {"max_ecg_tokens": 0}}, "max_ecg_tokens: must be at least"),
        ({"symbols": {"tokenizer": "cycle.json"}}, "later id|itself|merge"),
    ],
    ids=["item", "rate", "leads", "limit", "cycle"],
)
def test_validate_refuses_what_training_would(way, tmp_path, monkeypatch, section, words):
    monkeypatch.chdir(tmp_path)
    tokenizer = EcgByte([[97, 97]]).to_dict()
    (tmp_path / "cycle.json").write_text(json.dumps({**tokenizer, "merges": [[97, 256]]}))
    recipe = yaml.safe_load(Path(way.recipe).read_text())
    recipe = {k: v for k, v in recipe.items() if k != "signal"} | section
    recipe["model"].pop("encoder_options", None)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    error = ecglm("validate", tmp_path / "r.yaml").error
    assert re.search(words, error) and "Traceback" not in error


def test_dev_and_limit_make_it_small(way, tmp_path):
    done("prepare", "synthetic", "--out", tmp_path / "s", "--dev", "--rate", 100, "--seg-len", 1000)
    assert len(SegmentStore(tmp_path / "s").records()) == 20
    done("prepare", "synthetic", "--out", tmp_path / "s3", "--limit", 3, "--rate", 100, "--seg-len", 1000)
    assert SegmentStore(tmp_path / "s3").records() == Synthetic().keys()[:3]
    done("map", "labels", "--store", way.store, "--out", tmp_path / "q.parquet", "--limit", 7)
    asked = {e for row in pq.read_table(tmp_path / "q.parquet").to_pylist() for e in row["ecgs"]}
    assert asked == set(SegmentStore(way.store).records()[:7])
    done("train", way.recipe, "--out", tmp_path / "run", "--dev", "--limit", 5)
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["train"]["max_steps"] == 6
    done("predict", *predict_options(way), "--out", tmp_path / "p", "--dev")
    rows = [json.loads(line) for line in (tmp_path / "p" / "predictions.jsonl").read_text().splitlines()]
    assert len({tuple(r["ecgs"]) for r in rows}) == 4


# --- options


def test_set_reaches_source_and_pipeline_by_name_and_type(tmp_path, ptb_xl):
    out = tmp_path / "a"
    options = ("num_patients=5", "rhythms=pvc,paced", "preset=st", "artefacts=false", "mains=50", "duration_s=12")
    done(
        "prepare",
        "synthetic",
        "--out",
        out,
        "--rate",
        100,
        "--seg-len",
        1000,
        *[x for o in options for x in ("--set", o)],
    )
    made = SegmentStore(out).manifest
    assert made["settings"]["pipeline"]["preset"] == "st" and made["settings"]["pipeline"]["mains"] == 50.0
    facts = made["inputs"]["source"]
    assert (facts["num_patients"], facts["rhythms"], facts["artefacts"]) == (5, ["pvc", "paced"], False)
    assert facts["duration_s"] == 12.0
    labels = {x for row in SegmentStore(out).index.column("labels").to_pylist() for x in row if x.startswith("rhythm:")}
    assert labels <= {"rhythm:pvc", "rhythm:paced"}


@pytest.mark.realdata
@pytest.mark.parametrize(("resolution", "seconds"), [(100, 10), (500, 10)])
def test_set_resolution_is_text_for_the_source(tmp_path, ptb_xl, resolution, seconds):
    options = ("--root", ptb_xl, "--set", f"resolution={resolution}", "--limit", 2, "--rate", 100, "--seg-len", 1000)
    done("prepare", "ptb-xl", "--out", tmp_path / "s", *options)
    store = SegmentStore(tmp_path / "s")
    assert store.manifest["inputs"]["source"]["resolution"] == str(resolution)
    assert store.records() == ["ptb-xl/00001", "ptb-xl/00002"] and store.seg_len == 100 * seconds


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("preparee",), "no verb 'preparee' (did you mean 'prepare'?)"),
        (("trian", "x.yaml"), "no verb 'trian' (did you mean 'train'?)"),
        (("store", "infoo", "x"), "no verb 'store infoo' (did you mean 'store info'?)"),
        (("--limit", "5"), "no verb '--limit'"),
        (("prepare", "ptb-xl", "--out", "x"), "say where with --root DIR"),
        (("prepare", "ptbxl", "--out", "x"), "no records named 'ptbxl' (did you mean 'ptb-xl'?)"),
        (("prepare", "synthetic", "--out", "x", "--pipeline", "defualt"), "did you mean 'default'"),
        (("prepare", "synthetic", "--out", "x", "--set", "num_patient=5"), "no option 'num_patient' (did you"),
        (("prepare", "synthetic", "--out", "x", "--set", "num_patients=five"), "num_patients must be a whole number"),
        (("prepare", "synthetic", "--out", "x", "--set", "num_patients=2.5"), "num_patients must be a whole number"),
        (("prepare", "synthetic", "--out", "x", "--set", "artefacts=maybe"), "artefacts must be true or false"),
        (("prepare", "synthetic", "--out", "x", "--set", "preset=zzz"), "preset must be one of 'diagnostic', 'st'"),
        (("prepare", "synthetic", "--out", "x", "--set", "nonsense"), "KEY=VALUE with"),
        (("prepare", "synthetic", "--out", "x", "--set", "rhythms=pvk"), "no rhythm 'pvk' (did you mean 'pvc'?)"),
        (("prepare", "synthetic", "--out", "x", "--rate", "0"), "rate must be at least 1"),
        (("prepare", "synthetic", "--out", "x", "--workers", "0"), "workers must be 1 or more"),
        (("prepare", "synthetic", "--out", "x", "--limit", "0"), "limit must be 1 or more"),
        (("prepare", "synthetic", "--out", "x", "--max-reject", "2"), "max_reject must lie between 0 and 1"),
        (("ls", "record"), "no kind 'record' (did you mean 'records'?)"),
        (("train",), "the recipe comes first; usage: ecglm train RECIPE.yaml"),
        (("train", "--out", "x"), "the recipe comes first"),
        (("train", "missing.yaml"), "missing.yaml: no such recipe"),
        (("validate", "missing.yaml"), "missing.yaml: no such recipe"),
        (("train", "."), "cannot be read"),
        (("score", "gone"), "gone: no predictions.jsonl here"),
        (("compare", "gone"), "gone: no such predictions"),
        (("report", "gone", "--out", "r.html"), "gone: no such predictions"),
        (("audit", "gone", "--store", "gone"), "gone: no such file; `ecglm map` makes it"),
        (("map", "label", "--store", "x", "--out", "q"), "did you mean 'labels'"),
        (("map", "ecg-qa-ptbxl", "--store", "x", "--out", "q"), "say where with --root DIR"),
        (("map", "labels", "--store", "gone", "--out", "q"), "gone: no such segment-store"),
        (("predict", "--model", "gone", "--data", "d", "--store", "s", "--out", "p"), "gone: no such checkpoint"),
        (("quickstart", "--data", "gone", "--dev", "--out", "q"), "must be a PTB-XL folder"),
        (("quickstart", "--dev", "--seed", "-1", "--out", "q"), "seed must be 0 or more"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    assert words in ecglm(*args).error
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--controls", "blnk"), "no controls named 'blnk' (did you mean 'blank'?)"),
        (("--controls", "blank", "blank"), "'blank' stands twice"),
        (("--split", "tst"), "no questions in split 'tst'"),
        (("--tasks", "rythm"), "no questions in split 'test' for tasks rythm"),
        (("--batch-size", "0"), "batch_size must be 1 or more"),
        (("--max-new-tokens", "0"), "max_new_tokens must be 1 or more"),
        (("--limit", "0"), "limit must be 1 or more"),
    ],
)
def test_mistakes_of_predict(way, tmp_path, args, words):
    given = ("--model", way.best, "--data", way.questions, "--store", way.store, "--out", tmp_path / "p")
    assert words in ecglm("predict", *given, *args).error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model.encoder", "resnet"), "no encoders named 'resnet' (did you mean 'resnet1d'?)"),
        (("--model.connector", "mlp"), "no connectors named 'mlp'"),
        (("--train.objective", "sftt"), "no objectives named 'sftt'"),
        (("--signal.leads", "I", "V9"), "no lead 'V9'"),
        (("--signal.rate", "33"), "cannot reduce 100 Hz to 33 Hz"),
        (("--data.tasks", "rythm"), "no conversations in split 'train'"),
        (("--data.files", "gone.parquet"), "gone.parquet: no such file"),
        (("--data.stores", "gone"), "gone: no such segment-store"),
        (("--train.weight-decay", "nan"), "'train.weight_decay' must be finite"),
        (("--model.max-len", "20"), "no usable conversation in split 'train'"),
        (("--symbols.rate", "25"), "give at most one representation, found signal and symbols"),
    ],
)
def test_mistakes_of_train(way, tmp_path, args, words):
    assert words in ecglm("train", way.recipe, "--out", tmp_path / "run", *args).error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--train.max-stepss", "3"), "--train.max-steps"),
        (("--train.schedule", "cosin"), "invalid choice 'cosin'"),
        (("--train.max-steps", "many"), "invalid literal"),
        (("--train.warmup-steps", "30"), "warmup_steps must be below max_steps"),
        (("--train.lr", "0"), "train.lr must be above 0"),
        (("--train.lr", "nan"), "train.lr must be above 0"),
        (("--train.clip", "-1"), "train.clip must be above 0"),
        (("--train.seed", "-1"), "train.seed must lie between"),
        (("--model.tiny.hidden", "33"), "must be a multiple of num_heads"),
    ],
)
def test_options_that_the_parser_refuses(way, tmp_path, args, words):
    ran = ecglm("train", way.recipe, "--out", tmp_path / "run", *args)
    said = re.sub(r"[│\s]+", " ", ran.err + ran.out)
    assert ran.status == 2 and words in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_mended_recipe_may_use_the_same_folder(way, tmp_path):
    ecglm("train", way.recipe, "--out", tmp_path / "run", "--model.max-len", 20)
    done("train", way.recipe, "--out", tmp_path / "run", "--train.max-steps", 3, "--train.warmup-steps", 1)


def test_an_unknown_option_and_a_missing_one(tmp_path):
    for args, words in [
        (("prepare", "synthetic", "--out", tmp_path / "x", "--bogus", 1), "Unrecognized options: --bogus"),
        (("prepare", "synthetic"), "--out"),
        (("prepare", "synthetic", "--out", tmp_path / "x", "--rate", "fast"), "--rate"),
        (("render", tmp_path, "first", "--out", "x"), "SEGMENT"),
    ]:
        ran = ecglm(*args)
        assert ran.status == 2 and words in re.sub(r"[│\s]+", " ", ran.err) and "Traceback" not in ran.err
    assert not (tmp_path / "x").exists()


def test_a_recipe_with_an_unknown_key_names_its_line(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: x\ndata:\n  files: [a]\n  stores: [b]\ntrain:\n  max_step: 3\n")
    error = ecglm("train", file).error
    assert error.startswith(f"ecglm: error: {file}, line 6: unknown key 'train.max_step' (did you mean 'max_steps'?)")
    file.write_text("name: x\ndata: {files: [a], stores: [b]}\nsignal: {}\nsymbols: {}\n")
    assert "at most one representation, found signal and symbols" in ecglm("train", file).error


def test_every_recipe_of_the_repository_is_read():
    from ecglm import config
    from ecglm.training.align_recipe import AlignRecipe
    from ecglm.training.pretrain_recipe import PretrainRecipe
    from ecglm.training.recipe import Recipe
    from ecglm.verbs.align import is_alignment
    from ecglm.verbs.pretraining import is_pretraining

    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len({file.parent for file in files}) > 3
    for file in files:
        kind = PretrainRecipe if is_pretraining(file) else AlignRecipe if is_alignment(file) else Recipe
        recipe = config.load(file, kind)
        assert file.parent.name != "recipes" or recipe.name == file.stem
        assert config.loads(config.dumps(recipe), kind) == recipe


def test_the_tiny_recipe_runs_as_its_comment_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comment = (ROOT / "recipes" / "tiny.yaml").read_text()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    commands = re.findall(r"^#\s+ecglm (.*)$", comment, re.MULTILINE)
    assert [c.split()[0] for c in commands] == ["prepare", "map", "train"]
    for command in commands:
        done(*command.split())
    assert (tmp_path / "runs" / "tiny" / "best" / "manifest.json").exists()


# --- help


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_page_of_help(verb):
    ran = ecglm(*verb.split(), "--help")
    assert ran.status == 0 and ran.out.startswith(f"usage: ecglm {verb}") and ran.err == ""
    assert len(ran.out.splitlines()) >= 2


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in ("train", "validate", "pretrain", "align")])
def test_the_help_explains_every_option(verb):
    function = cli.function_of(verb)
    said = " ".join(ecglm(*verb.split(), "--help").out.replace("│", " ").split())
    for name, text in re.findall(r"^        (\w+): (.+)$", function.__doc__, re.MULTILINE):
        assert name in inspect.signature(function).parameters and text.split(";")[0][:25] in said, name
    for name in inspect.signature(function).parameters:
        assert f"        {name}: " in function.__doc__, f"{verb}: {name} is not explained"


def test_help_of_a_recipe_shows_its_fields(way):
    said = done("train", way.recipe, "--help")
    for words in ("--train.max-steps", "--signal.num-tokens", "--model.encoder", "--overwrite"):
        assert words in said


def test_the_overview():
    said = done("--help")
    assert said == done() == done("help") and len(said.splitlines()) < 60
    for verb, (_, what) in cli.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(what)}$", said, re.MULTILINE)
    assert re.fullmatch(r"ecglm \d+\.\d+\.\d+\n", done("--version"))
    ran = ecglm("store")
    assert ran.status == 2 and "ecglm store info" in ran.out
    assert ecglm("store", "--help").status == 0


def test_verbs_and_functions_match():
    for verb in cli.VERBS:
        assert callable(cli.function_of(verb)), verb


def test_ls_names_what_is_registered():
    said = done("ls")
    for line in ("pipelines: default, ecg_bench", "encoders: base, clip, conv, linear, merl, mlae"):
        assert line in said
    found = done("ls", "records")
    assert found in said
    assert {"folder", "ptb-xl", "synthetic"} <= set(found.removeprefix("records: ").strip().split(", "))


# --- statuses


def test_debug_shows_the_trace():
    with pytest.raises(EcglmError):
        cli.main(["prepare", "ptb-xl", "--out", "x", "--debug"])
    command = [sys.executable, "-m", "ecglm", "prepare", "ptb-xl", "--out", "x"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60)
    trace = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=60)
    assert plain.returncode == 2 and len(plain.stderr.splitlines()) == 1 and "Traceback" not in plain.stderr
    assert trace.returncode == 1 and "Traceback" in trace.stderr and "ConfigError" in trace.stderr


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ecglm.verbs.start.ls", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["ls"])


def test_an_interrupt_ends_with_130(tmp_path):
    options = ("--set", "num_patients=4000", "--set", "records_per_patient=9,9")
    run = subprocess.Popen(
        [sys.executable, "-m", "ecglm", "prepare", "synthetic", "--out", str(tmp_path / "s"), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 30
    while not (tmp_path / "s" / "shards").exists() and time.monotonic() < end:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130 and "interrupted; run the same command again, what was finished is kept" in err
    assert "Traceback" not in err and not (tmp_path / "s" / "manifest.json").exists()


def test_a_corpus_about_ecgs_needs_stores(tmp_path):
    assert "--store DIR" in ecglm("map", "labels", "--out", tmp_path / "x.parquet").error


def test_too_short_records_name_the_length_of_segments(tmp_path):
    given = ("--set", "num_patients=2", "--set", "duration_s=8", "--seg-len", 5000)
    assert "shorter --seg-len" in ecglm("prepare", "synthetic", "--out", tmp_path / "s", *given).error
