"""What a user does with a trained ELM, on real recordings: look up neighbours, train and answer with them, rank the
model's own answers, tune it on them and on a rating from the chat, and ask the tuned model through the server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli_tools import TINY_MODEL, done
from ecglm.conversations.table import read_conversations
from ecglm.demo.engine import Engine
from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.shown import Shown
from ecglm.demo.talk import ModelName, Talk
from ecglm.models.assistant import load
from ecglm.records.formats import read
from ecglm.store.reader import SegmentStore
from ecglm.types import Turn

pytestmark = pytest.mark.realdata

RECIPE = """\
name: told
data: {{files: [{questions}], stores: [{store}]}}
signal: {{num_tokens: 4}}
rag: {{index: {index}, k: 2, location: system, content: report}}
""" + TINY_MODEL.replace("{", "{{").replace("}", "}}")
ALIGN = """\
name: tuned
model: {model}
data: {{pairs: [{pairs}, {thumbs}], stores: [{store}], files: [{questions}]}}
train: {{max_steps: 4, warmup_steps: 1, batch_size: 4, lr: 1e-3, eval_every: 2, log_every: 1}}
"""


@pytest.fixture(scope="module")
def work(ptb_xl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of real ECGs and their official folds, questions, and an index of the training ECGs."""
    folder = tmp_path_factory.mktemp("lookup")
    done("prepare", "ptb-xl", "--root", ptb_xl, "--out", folder / "store", "--rate", 100, "--seg-len", 500)
    questions = ("map", "labels", "--store", folder / "store", "--out", folder / "questions.parquet")
    done(*questions, "--tasks", "normal", "rhythm")
    data = ("--data", folder / "questions.parquet")
    done("index", "build", folder / "store", *data, "--out", folder / "index")
    recipe = RECIPE.format(questions=folder / "questions.parquet", store=folder / "store", index=folder / "index")
    (folder / "told.yaml").write_text(recipe)
    done("train", folder / "told.yaml", "--out", folder / "told", "--train.max-steps", 80, "--train.eval-every", 40)
    return folder


def test_neighbours_of_a_real_file_are_training_ecgs_of_others(work, ptb_xl):
    store = SegmentStore(work / "store")
    patients = {r["record_id"]: r["patient_id"] for r in store.index.to_pylist()}
    splits = {p: c.split for c in read_conversations(work / "questions.parquet") for p in c.patients}
    for record in ("00001", "00002"):
        file = next(ptb_xl.glob(f"records500/*/{record}_hr.hea"))
        out = work / f"neighbours-{record}"
        done("index", "search", work / "index", "--ecg", file, "--k", 3, "--out", out, "--store", work / "store")
        (told,) = out.rglob("neighbours.json")
        hits = json.loads(told.read_text())["neighbours"]
        assert len(hits) == 3 and len(list(out.rglob("*.png"))) == 4
        for hit in hits:
            owner = patients[hit["record"]]
            assert splits[owner] == "train" and owner != patients[f"ptb-xl/{record}"]


def test_answers_are_told_of_neighbours_and_no_control_sees_the_true_ones(work):
    model, out = work / "told" / "best", work / "told-test"
    where = ("--data", work / "questions.parquet", "--store", work / "store", "--rag", work / "index")
    done("predict", "--model", model, *where, "--out", out, "--controls", "blank", "swap", "--limit", 6)
    done("score", out)
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    told = {(r["id"], r["control"]): r["retrieved"] for r in rows}
    asked = {r["id"]: r for r in rows if r["control"] == "real"}
    patients = {r["segment_id"]: r["patient_id"] for r in SegmentStore(work / "store").index.to_pylist()}
    assert asked and all(len(told[name, "real"]) == 2 for name in asked)
    assert all(not told[name, "blank"] for name in asked)
    assert any(told[name, "swap"] != told[name, "real"] for name in asked)
    for (name, _), hits in told.items():
        assert not {patients[h] for h in hits} & {asked[name]["patient_id"]}


def test_ranked_answers_and_a_rating_tune_the_model_and_held_out_ones_are_refused(work, ptb_xl):
    model, store, questions = work / "told" / "best", work / "store", work / "questions.parquet"
    pairs, thumbs = work / "pairs.jsonl", work / "thumbs.jsonl"
    where = ("--model", model, "--data", questions, "--store", store)
    drawing = ("--limit", 40, "--max-new-tokens", 24, "--samples", 3, "--rewards", "brief", "f1")
    done("pairs", *where, "--out", pairs, *drawing)
    ranked = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert ranked and {r["split"] for r in ranked} == {"train"}

    rated = {c.split: c.ecgs[0] for c in read_conversations(questions)}
    assistant = load(model)
    for split in ("train", "test"):  # somebody drops the file of a training and of a test ECG, and corrects the answer
        number = rated[split].split("/")[1]
        file = next(ptb_xl.glob(f"records100/*/{number}_lr.hea"))
        talk = Talk((ModelName("told"),))
        talk.add_ecg(Shown(file.name, record=read(file), pipeline=assistant.bundle.pipeline))
        ((answer,),) = talk.ask("Is this ECG normal?").answers
        talk.answered(answer.id, "yes")
        PreferenceLog(thumbs).correct(talk, answer.id, "no, it is not", keep=True)

    recipe = ALIGN.format(model=model, pairs=pairs, thumbs=thumbs, store=store, questions=questions)
    (work / "tuned.yaml").write_text(recipe)
    said = done("align", work / "tuned.yaml", "--out", work / "tuned")
    assert "split_test" in said
    counts = json.loads((work / "tuned" / "manifest.json").read_text())["counts"]
    assert counts["rows"]["rejected:split_test"] == 1 and counts["rows"]["paired"] == len(ranked) + 1

    tuned = load(work / "tuned" / "best")
    record = read(next(ptb_xl.glob("records500/*/00001_hr.hea")))
    ask = "Is this ECG normal?"
    with Engine(tuned) as engine:
        shown = tuned.encode(record)
        streams = [engine.submit([Turn("user", ask)], [shown], max_new_tokens=12) for _ in range(3)]
        texts = ["".join(s) for s in streams]
    assert texts == [tuned.ask(record, ask, max_new_tokens=12)] * 3
    before = load(model).bundle.elm.state_dict()
    assert any(not np.array_equal(before[k], v) for k, v in tuned.bundle.elm.state_dict().items())
