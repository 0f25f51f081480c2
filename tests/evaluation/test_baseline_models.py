"""Baselines as models: hand-made answers, the nearest ECG against scikit-learn, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from ecglm.conversations.table import read_conversations
from ecglm.errors import EcglmError
from ecglm.evaluation.baseline_models import BASELINES, LEVELS, predict_baseline, same_question
from ecglm.evaluation.baseline_nearest import Nearest
from ecglm.evaluation.predictions import read_predictions
from ecglm.evaluation.score import score
from ecglm.prompts.data import EcgSource
from ecglm.signals.features import ecg_bench_288
from ecglm.store.reader import SegmentStore


def quiet(text: str) -> None:
    """Say nothing."""


def run(name, world, out, **options):
    return predict_baseline(name, world.data, [world.store], out, say=quiet, **options)


def test_the_majority_model_scores_what_the_majority_beside_every_score_says(world, tmp_path):
    result = run("majority", world, tmp_path / "m", controls=("blank", "swap"))
    rows = read_predictions(result.path)
    assert result.num_failed == 0 and result.num_answers == len(rows)
    found = score(result.path, num_resamples=50)
    assert found["controls"]["real"] == found["baselines"]["majority"]
    assert all(gap[m]["value"] == 0 for gap in found["gaps"].values() for m in gap)  # blind: no gap to any control
    train = [t.text for c in read_conversations(world.data, split="train", task="rhythm") for t in c.turns[1:]]
    best = max(Counter(train).values())
    stated = {r["prediction"] for r in rows if r["task"] == "rhythm"}
    assert len(stated) == 1 and Counter(train)[stated.pop()] == best


def test_the_same_call_is_reused_and_other_settings_are_refused(world, tmp_path):
    first = run("prior", world, tmp_path / "p")
    bytes_before = (tmp_path / "p" / "predictions.jsonl").read_bytes()
    assert not first.reused and run("prior", world, tmp_path / "p").reused
    with pytest.raises(EcglmError, match="made with other settings"):
        run("majority", world, tmp_path / "p")
    run("majority", world, tmp_path / "p", overwrite=True)
    run("prior", world, tmp_path / "q")
    assert (tmp_path / "q" / "predictions.jsonl").read_bytes() == bytes_before


def test_d38_a_baseline_is_not_tested_on_the_split_it_learns_from(world, tmp_path):
    for name in BASELINES:
        spec = f"{name}:somewhere" if name == "text-llm" else name
        with pytest.raises(EcglmError, match="not tested on it"):
            run(spec, world, tmp_path / name, split="train")
        assert not (tmp_path / name).exists()


def test_the_prior_takes_the_same_question_first_then_its_template_type_and_task(world, tmp_path):
    base = read_conversations(world.data, split="train", task="rhythm")[0]
    test = read_conversations(world.data, split="test", task="rhythm")[0]

    def ask(number, question, answer, template=None, split="train", kind="yes-no", task="rhythm"):
        source = test if split == "test" else base
        metadata = {"question_type": kind} | ({} if template is None else {"template_id": template})
        turns = (replace(source.turns[0], text=f"<ecg>\n{question}"), replace(source.turns[1], text=answer))
        return replace(source, id=f"{split}{number}", split=split, turns=turns, metadata=metadata, task=task)

    train = [ask(n, "Is it AF?", a, 1) for n, a in enumerate(["yes", "yes", "no"])]
    train += [ask(3 + n, "Is it SVT?", "no", 1) for n in range(3)]
    train += [ask(6 + n, "Is it paced?", "maybe", 2) for n in range(5)]
    tests = [
        ask(0, "is it AF?", "yes", 1, "test"),
        ask(1, "Is it VT?", "no", 1, "test"),
        ask(2, "Is it VF?", "no", 9, "test"),
        ask(3, "What?", "no", None, "test", "choice"),
        ask(4, "What?", "no", None, "test", "choice", "axis"),
    ]
    data = world.write(tmp_path / "asked.parquet", train + tests)
    predict_baseline("prior", data, [], tmp_path / "p", say=quiet)
    rows = {row["id"]: row for row in read_predictions(tmp_path / "p")}
    found = {name: (row["prediction"], row.get("answered_from")) for name, row in rows.items()}
    assert found == {
        "test0": ("yes", "question"),
        "test1": ("no", "template"),
        "test2": ("maybe", "question_type"),
        "test3": ("maybe", "task"),
        "test4": (None, None),
    }
    assert rows["test4"]["error"] == "no_training_answer"
    predict_baseline("random-prior", data, [], tmp_path / "r", seeds=range(300), say=quiet)
    drawn = Counter(row["prediction"] for row in read_predictions(tmp_path / "r") if row["id"] == "test0")
    assert drawn["yes"] / 300 == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / 300)) and set(drawn) == {"yes", "no"}
    assert set(LEVELS) >= {level for _, level in found.values() if level}


def test_the_same_question_in_other_words_is_the_same():
    def row(question, **metadata):
        return {"task": "t", "prompt": f"<ecg>\n{question}", "metadata": metadata}

    one, other = (row(q, phrasing=i, question_type="choice") for i, q in enumerate(("Which rhythm?", "Rhythm?")))
    assert same_question(one) == same_question(other)
    qa = [row(q, template_id=1, attribute=[a]) for q, a in (("Is it AF?", "AF"), ("AF here?", "AF"), ("MI?", "MI"))]
    assert same_question(qa[0]) == same_question(qa[1]) != same_question(qa[2])
    assert same_question(row("What is it?")) == same_question(row("what  is it")) != same_question(row("Why?"))


def features(world, records):
    ecgs = EcgSource([SegmentStore(world.store)], None)
    return np.stack([ecg_bench_288(ecgs.segment(r), ecgs.rate(r)) for r in records])


def test_nearest_is_scikit_learns(world, tmp_path):
    run("nearest", world, tmp_path / "n", tasks=("rhythm",))
    train = sorted(read_conversations(world.data, split="train", task="rhythm"), key=lambda c: c.id)
    scaler = StandardScaler().fit(features(world, sorted({c.ecgs[0] for c in train})))
    known = scaler.transform(features(world, [c.ecgs[0] for c in train]))
    rows = read_predictions(tmp_path / "n")
    _, order = NearestNeighbors().fit(known).kneighbors(scaler.transform(features(world, [r["ecgs"][0] for r in rows])))
    assert [r["neighbour"] for r in rows] == [train[i[0]].id for i in order]
    assert [r["prediction"] for r in rows] == [train[i[0]].turns[1].text for i in order]
    assert {r["answered_from"] for r in rows} == {"question"}


def test_nearest_never_takes_the_same_patient_and_sees_what_the_control_shows(world, tmp_path):
    whole = read_conversations(world.data, task="rhythm")
    by_patient = {c.patients[0]: c for c in whole}
    one = next(c for c in whole if c.split == "test")
    twin = replace(one, id="zz-twin", split="train")  # the very ECG, in training by mistake
    data = world.write(tmp_path / "leaky.parquet", [*whole, twin])
    controls = ("swap", "no-ecg", "blank", "noise")
    predict_baseline("nearest", data, [world.store], tmp_path / "n", controls=controls, say=quiet)
    rows = read_predictions(tmp_path / "n")
    known = {c.id: c for c in [*whole, twin]}
    assert all(known[r["neighbour"]].patients[0] != r["patient_id"] for r in rows if "neighbour" in r)
    assert all(known[r["neighbour"]].split == "train" for r in rows if "neighbour" in r)
    assert {r["answered_from"] for r in rows if r["control"] == "no-ecg"} == {"prior"}
    near = {(r["control"], r["id"]): r.get("neighbour") for r in rows}
    ids = {r["id"] for r in rows}
    assert len({near["blank", i] for i in ids}) <= 2  # zeros are nearest to one ECG, but for its own patient
    assert any(near["real", i] != near["swap", i] for i in ids)
    assert len(by_patient) > 2 and not any("error" in r for r in rows)


def test_nearest_says_what_it_cannot_measure(world, tmp_path):
    test = read_conversations(world.data, split="test", task="rhythm")
    train = read_conversations(world.data, split="train", task="rhythm")
    gone = replace(test[0], id="aa-gone", ecgs=("synthetic/none",))
    data = world.write(tmp_path / "gone.parquet", [*train, *test, gone])
    result = predict_baseline("nearest", data, [world.store], tmp_path / "n", say=quiet)
    assert result.num_failed == 1
    row = next(r for r in read_predictions(tmp_path / "n") if r["id"] == "aa-gone")
    assert "ecg_not_in_store" in row["error"] and row["prediction"] is None
    with pytest.raises(EcglmError, match="name the stores"):
        predict_baseline("nearest", data, [], tmp_path / "m", say=quiet)
    assert Nearest.batch == 512


@pytest.fixture(scope="module")
def text_llm(tmp_path_factory):
    """A folder with a tiny language model of random weights."""
    from ecglm.models.llm import tiny_llm, train_tokenizer

    folder = tmp_path_factory.mktemp("llm")
    tokenizer = train_tokenizer(["What is the rhythm?", "sinus rhythm", "Question: Answer:"], 280)
    tiny_llm(tokenizer, hidden=32, num_layers=1, num_heads=2, seed=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_text_model_answers_from_the_question_alone(world, tmp_path, text_llm):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(f"text-llm:{text_llm}", world, tmp_path / "t", controls=("blank",), max_new_tokens=5, batch_size=3)
    rows = read_predictions(tmp_path / "t")
    llm, tokenizer = AutoModelForCausalLM.from_pretrained(text_llm), AutoTokenizer.from_pretrained(text_llm)
    for row in rows[:3]:
        prompt = f"Question: {row['prompt'].replace('<ecg>', '').strip()}\nAnswer:"
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        alone = llm.generate(ids, attention_mask=ids * 0 + 1, max_new_tokens=5, do_sample=False, pad_token_id=0)
        text = tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True).strip().split("\n")[0].strip()
        assert row["prediction"] == text
    assert len({row["prediction"] for row in rows if row["prompt"] == rows[0]["prompt"]}) == 1
    assert "<ecg>" not in "".join(str(row["prediction"]) for row in rows)


def test_another_text_model_in_the_same_folder_is_not_taken_for_the_first(world, tmp_path, text_llm):
    folder = tmp_path / "llm"
    shutil.copytree(text_llm, folder)
    run(f"text-llm:{folder}", world, tmp_path / "t", max_new_tokens=2)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "max_length": 77}))
    with pytest.raises(EcglmError, match="from other inputs"):
        run(f"text-llm:{folder}", world, tmp_path / "t", max_new_tokens=2)


def test_a_killed_run_of_the_text_model_goes_on_and_ends_with_the_same_bytes(world, tmp_path, text_llm, monkeypatch):
    from ecglm.evaluation import baseline_models

    options = {"max_new_tokens": 4, "batch_size": 2}
    run(f"text-llm:{text_llm}", world, tmp_path / "whole", **options)
    calls = []

    def killed(path, rows):
        calls.append(len(rows))
        if len(calls) == 2:
            with open(path, "a") as file:
                file.write('{"id": "torn')
            raise KeyboardInterrupt
        append(path, rows)

    append = baseline_models.append_jsonl
    monkeypatch.setattr(baseline_models, "append_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        run(f"text-llm:{text_llm}", world, tmp_path / "cut", **options)
    monkeypatch.setattr(baseline_models, "append_jsonl", append)
    run(f"text-llm:{text_llm}", world, tmp_path / "cut", **options)
    for name in ("predictions.jsonl", "baselines.json", "manifest.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_mistakes_are_one_line(world, tmp_path):
    for name, options, message in (
        ("majorty", {}, "no baseline 'majorty'.*majority"),
        ("text-llm", {}, "name its model: baseline:text-llm:FOLDER"),
        ("prior:x", {}, "write baseline:prior"),
        ("prior", {"seeds": (1, 2)}, "answers alike for every seed"),
        ("random-prior", {"seeds": (1, 1)}, "names a seed twice"),
        ("prior", {"split": "nowhere"}, "no questions in split 'nowhere'"),
        ("prior", {"controls": ("blnk",)}, "did you mean 'blank'"),
        ("prior", {"controls": ("blank", "blank")}, "stands twice"),
        ("text-llm:nowhere-at-all", {}, "cannot be loaded"),
    ):
        with pytest.raises(EcglmError, match=message) as error:
            run(name, world, tmp_path / "x", **options)
        assert "\n" not in str(error.value)
    only_test = world.write(tmp_path / "t.parquet", read_conversations(world.data, split="test"))
    with pytest.raises(EcglmError, match="nothing to learn from"):
        predict_baseline("prior", only_test, [], tmp_path / "x", say=quiet)
