"""``ecglm ecgbench predict`` (ecgbench/predict.py): rows in ECGBench's form, the same bytes however they were made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from ecglm.cli import main
from ecglm.conversations.table import read_conversations
from ecglm.evaluation.answerers.base import Reply
from ecglm.evaluation.answerers.make import ModelSpec
from ecglm.evaluation.ecgbench.answer_rows import AnswerFile
from ecglm.evaluation.ecgbench.arena import PulseBug
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.subsets import SUBSETS, control_of
from ecglm.files import read_jsonl
from ecglm.models.assistant import load
from ecglm.models.pulse_import import import_pulse
from ecglm.types import ECG_MARK, Turn
from evaluation.llm_server import LlmServer, Status
from llava_world import write_llava
from small_bench import make_bench, make_elm, make_store, make_vlm

ROW = {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
ARENA = {"question_id", "golden_convs", "predict_convs", "answer_id", "model_id", "metadata"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    make_bench(home / "data", make_store(home / "store"))
    make_elm(home / "elm")
    return home


@pytest.fixture(scope="module")
def done(home):
    """A run nobody disturbed, of all subsets."""
    assert ask(home, home / "out") == 0
    return home / "out"


def ask(home, out, *options, model="elm", data="data"):
    words = ["--model", home / model, "--data", home / data, "--out", out, "--max-new-tokens", "5", *options]
    return main(["ecgbench", "predict", *map(str, words)])


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(out, subset, model="elm"):
    return read_jsonl(out / model / subset / "step-final.jsonl")


def test_rows_are_ecgbenchs_and_extras_are_metadata(done):
    for subset in ("ptb-test", "ecgqa-test", "ptb-test-report", "mmmu-ecg"):
        for row in rows_of(done, subset):
            assert set(row) == ROW and row["model_id"] == "elm" and isinstance(row["text"], str)
            assert ECG_MARK not in row["prompt"] and "<image>" not in row["prompt"]
            assert set(row["metadata"]) == {"control", "patient_id", "settings", "truncated", "usage"}
    ids = [row["answer_id"] for p in done.rglob("*.jsonl") for row in read_jsonl(p)]
    assert len(set(ids)) == len(ids) == 12
    assert [r["question_id"] for r in rows_of(done, "ptb-test")] == ["q-0", "q-1", "q-2"]
    assert len({r["text"] for r in rows_of(done, "ptb-test")}) > 1


def test_p18_lists_as_values_and_no_for_id(done):
    assert [r["question_id"] for r in rows_of(done, "mmmu-ecg")] == ["1", "2"]
    assert rows_of(done, "ecgqa-test")[1]["prompt"] == "Which leads? Options: lead I, lead V1"


def test_arena_rows_hold_both_talks(done):
    for row in rows_of(done, "arena"):
        assert set(row) == ARENA and row["metadata"]["arena_template"] == "correct"
        gold, said = row["golden_convs"], row["predict_convs"]
        assert [g["question"] for g in gold] == [s["question"] for s in said] and len(gold) == 2
        assert gold[0]["answer"] == "a flutter" and gold[1] == {"question": "And its cause?", "answer": "age"}
        assert said[0]["answer"] != "a flutter"


def test_p13_the_arenas_template_is_recorded_and_matters(home, done, tmp_path, capsys):
    options = ("--subsets", "arena", "--arena-template", "pulse_bug")
    assert ask(home, tmp_path, *options) == 0
    for bug, correct in zip(rows_of(tmp_path, "arena"), rows_of(done, "arena"), strict=True):
        assert bug["metadata"]["arena_template"] == "pulse_bug"
        assert bug["predict_convs"][0] == correct["predict_convs"][0]  # the first round is the same
    assert rows_of(tmp_path, "arena") != rows_of(done, "arena")
    assert ask(home, done, *options) == 2
    assert "answered with other settings (arena_template)" in capsys.readouterr().err


TWO_PROCESSES = ("--batch-size", 2, "--devices", "cpu", "cpu")


@pytest.mark.parametrize("options", [("--batch-size", 1), pytest.param(TWO_PROCESSES, marks=pytest.mark.slow)])
def test_p24_the_bytes_depend_on_no_batch_size_and_no_number_of_processes(home, done, tmp_path, options):
    assert ask(home, tmp_path, *options) == 0
    assert tree(tmp_path) == tree(done)


def test_a_limit_first_and_then_the_rest(home, done, tmp_path):
    assert ask(home, tmp_path, "--limit", 1) == 0
    assert [len(rows_of(tmp_path, s)) for s in ("ptb-test", "arena")] == [1, 1]
    assert ask(home, tmp_path) == 0
    assert tree(tmp_path) == tree(done)


def test_p15_after_2_of_5_each_sample_has_its_own_id_and_answer(home, tmp_path):
    talks = [[{"from": "human", "value": f"Q{n}"}, {"from": "gpt", "value": "A"}] for n in range(5)]
    items = [{"id": f"s-{n}", "image": "photo0.jpg", "conversations": talk} for n, talk in enumerate(talks)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ptb-test.json").write_text(json.dumps(items))
    (tmp_path / "data" / "images").symlink_to(home / "data" / "images")
    with LlmServer(lambda body, _: body["messages"][0]["content"][0]["text"].replace("Q", "answer ")) as server:
        words = ["--model", "gpt", "--base-url", server.url, "--key-env", "none"]
        words += ["--data", tmp_path / "data", "--out", tmp_path]
        assert main(["ecgbench", "predict", *map(str, words), "--limit", "2"]) == 0
        assert server.paid == 2
        assert main(["ecgbench", "predict", *map(str, words)]) == 0
        assert server.paid == 5  # nothing is paid for twice
    rows = rows_of(tmp_path, "ptb-test", "gpt")
    assert [(r["question_id"], r["text"]) for r in rows] == [(f"s-{n}", f"answer {n}") for n in range(5)]
    assert len({r["answer_id"] for r in rows}) == 5


def test_p14_killed_in_the_middle_and_taken_up(home, done, tmp_path):
    """kill -9 after some batches; a torn line besides; then the same command: the bytes of an undisturbed run."""
    out = tmp_path / "out"
    words = [
        "--model",
        home / "elm",
        "--data",
        home / "data",
        "--out",
        out,
        "--max-new-tokens",
        "5",
        "--batch-size",
        "1",
    ]
    command = [sys.executable, "-m", "ecglm", "ecgbench", "predict", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)
    second = out / "elm" / "ptb-test" / "step-final.jsonl"
    while not second.exists():
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    whole = (done / "elm" / "ptb-test" / "step-final.jsonl").read_bytes()
    for file in out.rglob("*.jsonl"):
        whole = (done / file.relative_to(out)).read_bytes()
        assert whole.startswith(file.read_bytes())  # old rows stand as they were written, at most one batch is gone
    kept = second.read_bytes().split(b"\n")[0]
    second.write_bytes(kept + b"\n" + kept[:40])
    assert ask(home, out) == 0
    assert tree(out) == tree(done)


def test_a_finished_run_opens_no_model(home, done, monkeypatch):
    before = tree(done)
    monkeypatch.setattr(ModelSpec, "open", lambda *_: pytest.fail("opened"))
    assert ask(home, done) == 0
    assert tree(done) == before


def test_pictures_that_cannot_be_read_are_rows_with_an_error_and_asked_again(home, done, tmp_path, capsys):
    data, images = tmp_path / "data", home / "data" / "images" / "ptb-xl"
    make_bench(data, home / "store")
    shown = data / "images" / "ptb-xl"
    (shown / "00001_hr-0.png").unlink()
    (shown / "00002_hr-0.png").write_bytes((images / "00002_hr-0.png").read_bytes()[:300])
    bomb = bytearray((images / "00003_hr-0.png").read_bytes())
    bomb[16:24] = b"\x00\x01\x00\x00\x00\x01\x00\x00"  # 65536 x 65536 pixels, says the header
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (shown / "00003_hr-0.png").write_bytes(bytes(bomb))
    out = tmp_path / "out"
    assert ask(tmp_path, out, model=home / "elm") == 1
    assert "ptb-test (real): 3 answers, 3 failed" in (said := capsys.readouterr().out)
    assert "4 items have no answer (metadata.error says why); mend that and run the same command again" in said
    rows = rows_of(out, "ptb-test")
    assert [r["text"] for r in rows] == [""] * 3
    reasons = [r["metadata"]["error"].split(":")[0] for r in rows]
    assert reasons == ["image_missing", "image_corrupt", "image_too_large"]
    for name in ("00001", "00002", "00003"):
        (shown / f"{name}_hr-0.png").write_bytes((images / f"{name}_hr-0.png").read_bytes())
    assert ask(tmp_path, out, model=home / "elm") == 0
    assert tree(out) == tree(done)


def test_an_endpoint_out_of_order_loses_nothing(home, tmp_path, capsys):
    broken = {"now": True}

    def script(body, earlier):
        asked = body["messages"][-1]["content"]
        asked = asked if isinstance(asked, str) else asked[0]["text"]
        return Status(500) if broken["now"] and ("?" in asked and "classes" in asked) else f"said to {asked}"

    with LlmServer(script) as server:
        words = ["--model", "org/gpt", "--base-url", server.url, "--key-env", "none", "--retries", "0"]
        words = [*words, "--data", str(home / "data"), "--out", str(tmp_path)]
        assert main(["ecgbench", "predict", *words]) == 1
        paid = server.paid
        rows = rows_of(tmp_path, "ptb-test", "gpt")
        assert all(r["metadata"]["error"].startswith("endpoint_failed") for r in rows) and len(rows) == 3
        broken["now"] = False
        assert main(["ecgbench", "predict", *words]) == 0
        assert server.paid == paid + 3
    assert "3 items took 300 prompt tokens and 60 answer tokens" in capsys.readouterr().out  # of this run alone
    arena = rows_of(tmp_path, "arena", "gpt")[0]
    assert [c["answer"] for c in arena["predict_convs"]] == ["said to What is this (0)?", "said to And its cause?"]
    assert rows_of(tmp_path, "ptb-test", "gpt")[0]["metadata"]["usage"]
    assert "error" not in rows_of(tmp_path, "ptb-test", "gpt")[0]["metadata"]


def test_controls_lie_beside_the_model_where_the_original_scorer_does_not_walk(home, done, tmp_path):
    options = ("--controls", "blank", "noise", "swap", "no-ecg", "--seed", 4)
    assert ask(home, tmp_path, *options) == 0
    assert {p: b for p, b in tree(tmp_path).items() if "@" not in p} == tree(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elm", "elm@blank", "elm@no-ecg", "elm@noise", "elm@swap"]
    images = {i["id"]: i["image"] for i in json.loads((home / "data" / "ptb-test.json").read_text())}
    for file in tmp_path.rglob("*.jsonl"):
        for row in read_jsonl(file):
            assert row["metadata"]["control"] == control_of(file)
    swapped = {r["question_id"]: r["metadata"]["shown"] for r in rows_of(tmp_path, "ptb-test", "elm@swap")}
    assert all(swapped[i] != images[i] for i in images) and set(swapped.values()) == set(images.values())
    kinds = ("ptb-test", "mmmu-ecg", "ecgqa-test", "ptb-test-report")
    texts = {tuple(r["text"] for k in kinds for r in rows_of(tmp_path, k, f"elm{c}")) for c in ("", "@blank", "@noise")}
    assert len(texts) == 3
    prompts = [r["metadata"]["usage"]["prompt_tokens"] for r in rows_of(tmp_path, "ptb-test", "elm@no-ecg")]
    assert max(prompts) < min(r["metadata"]["usage"]["prompt_tokens"] for r in rows_of(tmp_path, "ptb-test"))


def test_recordings_of_a_store_for_a_model_that_reads_signals(home, signal_run, tmp_path, capsys):
    model = ["--model", str(signal_run / "best"), "--data", str(home / "data"), "--out", str(tmp_path)]
    words = [*model, "--max-new-tokens", "5", "--controls", "swap", "perturb-wander"]
    assert main(["ecgbench", "predict", *model]) == 2
    assert "this model reads signals; say where they are with --store" in capsys.readouterr().err
    assert main(["ecgbench", "predict", *words, "--store", str(home / "store")]) == 0
    said = capsys.readouterr().out
    assert "arena: left out, it shows photographs, and this model reads signals" in said
    name = f"{signal_run.name}_best"
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["ecgqa-test", "ptb-test", "ptb-test-report"]
    shown = {r["question_id"]: r["metadata"]["shown"] for r in rows_of(tmp_path, "ptb-test", f"{name}@swap")}
    assert all(v.startswith("ptb-xl/") for v in shown.values()) and shown["q-0"] != "ptb-xl/00001"
    assert (tmp_path / f"{name}@perturb-wander" / "ptb-test").is_dir()
    assert main(["ecgbench", "predict", *words, "--store", str(home / "store"), "--subsets", "arena"]) == 2
    assert "arena: it shows photographs" in capsys.readouterr().err


def test_questions_about_people_the_model_has_learned_from_are_refused(home, world, signal_run, tmp_path, capsys):
    """The world's training patients, asked about under the names of ECGBench."""
    learned = next(c for c in read_conversations(world.data, split="train"))
    data = tmp_path / "data"
    make_bench(data, home / "store")
    (data / "patients.json").write_text(json.dumps({"ptb-xl/00001": learned.patients[0]}))
    model = ["--model", str(signal_run / "best"), "--data", str(data), "--out", str(tmp_path / "out")]
    words = [*model, "--store", str(home / "store"), "--subsets", "ptb-test", "--max-new-tokens", "3"]
    assert main(["ecgbench", "predict", *words]) == 2
    assert "1 of 3 questions are about patients this model was trained on (first: q-0)" in capsys.readouterr().err
    assert main(["ecgbench", "predict", *words, "--allow-seen"]) == 0


def test_an_image_text_model_of_transformers(home, tmp_path):
    make_vlm(tmp_path / "run" / "checkpoint-40", "llava_next")
    options = ("--devices", "cpu", "--controls", "no-ecg")
    assert ask(home, tmp_path / "out", *options, model=tmp_path / "run" / "checkpoint-40") == 0
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out" / "run").rglob("*.jsonl"))
    subsets = ("arena", "ecgqa-test", "mmmu-ecg", "ptb-test", "ptb-test-report")
    assert files == sorted(f"run/{s}/step-40.jsonl" for s in subsets)
    assert {r["model_id"] for r in read_jsonl(tmp_path / "out" / files[0])} == {"run_checkpoint-40"}


def test_p16_an_imported_pulse_whatever_its_folder_is_called(home, tmp_path):
    """Pictures of several sizes, and the arena in both of its spellings, which the model reads as §8.3 writes them."""
    write_llava(tmp_path / "original")
    import_pulse(tmp_path / "original", tmp_path / "seven")
    replies = {}
    for template in ("correct", "pulse_bug"):
        options = ("--arena-template", template, "--controls", "no-ecg")
        assert ask(home, tmp_path / template, *options, model=tmp_path / "seven") == 0
        replies[template] = rows_of(tmp_path / template, "arena", "seven")
        without = rows_of(tmp_path / template, "ptb-test", "seven@no-ecg")
        for row, blind in zip(rows_of(tmp_path / template, "ptb-test", "seven"), without, strict=True):
            shown = row["metadata"]["usage"]["prompt_tokens"] - blind["metadata"]["usage"]["prompt_tokens"]
            assert shown > 4  # it is no text-only model
    assert tree(tmp_path / "correct" / "seven" / "ptb-test") == tree(tmp_path / "pulse_bug" / "seven" / "ptb-test")
    assert [r["metadata"]["arena_template"] for r in replies["pulse_bug"]] == ["pulse_bug"] * 3
    prompter = load(tmp_path / "seven").bundle.prompter
    talk = [Turn("user", "Q1"), Turn("assistant", "A1"), Turn("user", "Q2")]
    for chat, told in (
        (prompter.chat, "USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"),
        (PulseBug.of(prompter.chat), "USER: Q1 ASSISTANT:ASSISTANT: A1 USER: Q2</s>ASSISTANT:"),
    ):
        ids = replace(prompter, chat=chat).build("x", talk, [], generate=True).input_ids
        assert prompter.tokenizer.decode(ids, spaces_between_special_tokens=False).endswith(told)


def test_baselines(home, tmp_path, capsys):
    for name in ("majority", "random"):
        words = ["--model", f"baseline:{name}", "--data", str(home / "data"), "--out", str(tmp_path)]
        assert main(["ecgbench", "predict", *words]) == 0
    said = capsys.readouterr().out
    assert "arena: left out, there is no majority answer to it" in said and "ptb-test-report: left out" in said
    assert [r["text"] for r in rows_of(tmp_path, "mmmu-ecg", "baseline-majority")] == ["B", "B"]
    assert {r["text"] for r in rows_of(tmp_path, "ptb-test-report", "baseline-majority")} == {"report 0"}
    assert {r["text"] for r in rows_of(tmp_path, "mmmu-ecg", "baseline-random")} <= set("ABC")  # three options
    assert {r["text"] for r in rows_of(tmp_path, "ecgqa-test", "baseline-random")} <= {
        "sinus",
        "lead V1",
        "none",
        "lead I",
    }
    for row in rows_of(tmp_path, "ptb-test", "baseline-random"):
        assert set(row["text"].split(", ")) <= {"NORM", "MI", "STTC", "CD", "HYP"}
    assert main(["ecgbench", "predict", *words, "--seed", "1"]) == 2
    assert "answered with other settings (seed)" in capsys.readouterr().err


def spoil(done, tmp_path, change):
    """A copy of a finished run's ptb-test with its rows changed."""
    rows = rows_of(done, "ptb-test")
    file = tmp_path / "elm" / "ptb-test" / "step-final.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(r, sort_keys=True, ensure_ascii=False) + "\n" for r in change(rows)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: [{**r[0], "question_id": "other"}], "line 1: question_id 'other' is not in ptb-test"),
        (lambda r: [r[0], {k: v for k, v in r[1].items() if k != "question_id"}], "line 2: question_id None"),
        (lambda r: [{**r[0], "model_id": "gpt"}], "line 1: answered by 'gpt', not by 'elm'"),
        (lambda r: [{**r[0], "metadata": {}}], "line 1: answered with other settings;"),
        (lambda r: [{**r[0], "prompt": "?"}], "line 1: question_id 'q-0' was another question"),
    ],
)
def test_files_of_something_else_are_refused_and_stay(home, done, tmp_path, capsys, change, told):
    spoil(done, tmp_path, change)
    before = tree(tmp_path)
    assert ask(home, tmp_path, "--subsets", "ptb-test") == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert tree(tmp_path)["elm/ptb-test/step-final.jsonl"] == before["elm/ptb-test/step-final.jsonl"]
    assert ask(home, tmp_path, "--subsets", "ptb-test", "--overwrite") == 0
    assert rows_of(tmp_path, "ptb-test") == rows_of(done, "ptb-test")


def test_answers_that_stand_twice_and_out_of_order_are_put_right(home, done, tmp_path, capsys):
    spoil(done, tmp_path, lambda r: [r[2], r[0], r[2]])
    assert ask(home, tmp_path, "--subsets", "ptb-test") == 0
    assert "1 answers stood twice" in capsys.readouterr().out
    assert rows_of(tmp_path, "ptb-test") == rows_of(done, "ptb-test")


def test_a_broken_line_in_the_middle_is_named(home, done, tmp_path, capsys):
    spoil(done, tmp_path, lambda r: r)
    file = tmp_path / "elm" / "ptb-test" / "step-final.jsonl"
    file.write_bytes(b"{half\n" + file.read_bytes())
    assert ask(home, tmp_path, "--subsets", "ptb-test") == 2
    assert "line 1: not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--subsets", "ptb"), "no subset 'ptb'"),
        (("--subsets", "cpsc-test"), "no such file"),
        (("--batch-size", "0"), "batch_size must be 1 or more"),
        (("--max-new-tokens", "0"), "max_new_tokens must be 1 or more"),
        (("--controls", "blnk"), "blnk"),
        (("--controls", "blank", "blank"), "stands twice"),
        (("--controls", "perturb-wander"), "changes a recording: give --store"),
        (("--name", "ptb-test-7b"), "holds 'ptb-test', by which files are told apart"),
        (("--name", "my-report"), "holds 'report'"),
        (("--name", "a@b"), "holds '@'"),
        (("--name", "../x"), "plain name"),
        (("--devices", "gpu"), "no device 'gpu'"),
        (("--api-version", "1"), "name it with --base-url"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(home, tmp_path, capsys, options, told):
    assert ask(home, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_two_items_of_one_id_and_pictures_outside_are_refused(home, tmp_path, capsys):
    items = json.loads((home / "data" / "ptb-test.json").read_text())
    for name, changed in (
        ("twice", {"id": "q-1"}),
        ("outside", {"image": "../../x.png"}),
        ("root", {"image": "/x.png"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").mkdir()
        (tmp_path / name / "ptb-test.json").write_text(json.dumps([{**items[0], **changed}, *items[1:]]))
        assert ask(tmp_path, tmp_path / "out", model=home / "elm", data=name) == 2
        error = capsys.readouterr().err
        assert ("id 'q-1' stands twice" if name == "twice" else "leads outside its folder; refused") in error


def test_pulse_bug_is_for_models_of_ours(home, tmp_path, capsys):
    words = ["--model", "baseline:random", "--data", str(home / "data"), "--out", str(tmp_path)]
    assert main(["ecgbench", "predict", *words, "--arena-template", "pulse_bug"]) == 2
    assert "pulse_bug is for imported PULSE models alone" in capsys.readouterr().err


def test_half_characters_can_be_written():
    with_half = Reply("half \ud83d done")
    item = GoldItem("1", "x.png", (Turn("user", "Q"), Turn("assistant", "A")), ("A",), (), "p")
    file = AnswerFile(Path("x"), SUBSETS["ptb-test"], "real", "m", (item,), {})
    assert file.row(item, [with_half], {})["text"] == "half ? done"
