"""Prediction: the same bytes however often it is killed, the same answers whatever the batch, nothing dropped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.predict import predict
from ecglm.evaluation.predict_answers import Answerer
from ecglm.evaluation.predict_jobs import Job
from ecglm.evaluation.predictions import read_predictions
from ecglm.evaluation.score import score
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.generate import generate
from ecglm.prompts.examples import Prompter
from ecglm.records.synthetic import Synthetic
from ecglm.representations.augment import perturb
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, EcgInput, Turn
from tiny_world import World, tree

CONTROLS = ("blank", "noise", "swap", "no-ecg")


def quiet(text: str) -> None:
    pass


@pytest.fixture
def ask(world: World, signal_run: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Predict into a fresh folder and read the rows."""
    count = iter(range(99))

    def run(data: Path = world.data, model: Path = signal_run, **options: Any) -> list[dict[str, Any]]:
        out = options.pop("out", tmp_path / f"out{next(count)}")
        options = {"max_new_tokens": 8, "say": quiet, **options}
        predict(model / "best", data, [world.store], out, **options)
        return read_predictions(out)

    return run


def answers(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], Any]:
    return {(r["control"], r["id"], r["turn"]): r["prediction"] for r in rows}


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was built: its turns, its ECG inputs, and its text with ◆ for each of the ECG's tokens."""

    turns: list[Turn]
    shown: list[EcgInput]
    text: str


class Spy:
    """Every prompt that is built, under the row that it is of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: dict[tuple[str, str, int], Prompt] = {}
        build, prompt = Prompter.build, Answerer._prompt
        last: list[Prompt] = []

        def spy(prompter: Prompter, name: str, turns: Any, ecgs: Any, **options: Any) -> Any:
            example = build(prompter, name, turns, ecgs, **options)
            ids = example.input_ids.tolist()
            text = "".join("◆" if i in prompter.ecg_ids else prompter.tokenizer.decode([i]) for i in ids)
            last.append(Prompt(list(turns), list(ecgs), text))
            return example

        def keep(answerer: Answerer, job: Job, talk: Any, shown: Any) -> Any:
            example = prompt(answerer, job, talk, shown)
            turn = sum(t.role == "assistant" for t in talk)
            self.prompts[job.control, job.conversation.id, turn] = last.pop()
            return example

        monkeypatch.setattr(Prompter, "build", spy)
        monkeypatch.setattr(Answerer, "_prompt", keep)

    def of(self, row: dict[str, Any]) -> Prompt:
        return self.prompts[row["control"], row["id"], row["turn"]]


def talks(world: World) -> list[Conversation]:
    """Two turns each, the training split kept for the majority answers; one shows its second ECG in the second turn."""
    test = world.conversations("test")
    one, two = test[0], next(c for c in test if c.patients != test[0].patients)
    turns = (
        Turn("user", "<ecg>\nWhat is the rhythm?"),
        Turn("assistant", "GOLD ONE"),
        Turn("user", "And the axis?"),
        Turn("assistant", "GOLD TWO"),
    )
    later = (*turns[:2], Turn("user", "And here: <ecg>"), Turn("assistant", "GOLD THREE"))
    both = {"ecgs": one.ecgs + two.ecgs, "patients": one.patients + two.patients}
    return [
        replace(one, id="a", turns=turns),
        replace(two, id="b", turns=turns),
        replace(one, id="c", turns=later, **both),
        *world.conversations("train"),
    ]


def test_rows_have_the_documented_fields(ask, world: World) -> None:
    rows = ask(controls=CONTROLS)
    questions = {c.id: c for c in world.conversations("test")}
    assert len(rows) == len(questions) * 5
    for row in rows:
        asked = questions[row["id"]]
        fields = {"id", "ecgs", "task", "turn", "prompt", "reference", "prediction", "control", "seed", "patient_id"}
        assert row.keys() - {"shown"} == fields | {"metadata", "truncated"}
        assert (tuple(row["ecgs"]), row["task"], row["turn"]) == (asked.ecgs, asked.task, 0)
        assert (row["reference"], row["patient_id"]) == (asked.turns[1].text, asked.patients[0])
        assert row["metadata"] == asked.metadata
        assert isinstance(row["prediction"], str) and isinstance(row["truncated"], bool)
        assert ("shown" in row) is (row["control"] == "swap")
        wanted = asked.turns[0].text if row["control"] != "no-ecg" else asked.turns[0].text.replace("<ecg>\n", "")
        assert row["prompt"] == wanted
    order = [r["control"] for r in rows]
    assert order == sorted(order, key=["real", *CONTROLS].index)


@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_answers_do_not_depend_on_the_batch(kind: str, ask, request) -> None:
    model = request.getfixturevalue(f"{kind}_run")
    found = [answers(ask(model=model, batch_size=size, controls=CONTROLS)) for size in (1, 8, 64)]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) > 3
    real = {k[1:]: v for k, v in found[0].items() if k[0] == "real"}
    for control in CONTROLS:  # showing something else changes some answer
        assert {k[1:]: v for k, v in found[0].items() if k[0] == control} != real, control


def test_the_same_command_gives_the_same_bytes_and_is_reused(ask, tmp_path: Path, world: World) -> None:
    for name in ("a", "b"):
        ask(out=tmp_path / name, controls=CONTROLS)
    for file in ("predictions.jsonl", "baselines.json", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    before = (tmp_path / "a" / "predictions.jsonl").stat().st_mtime_ns
    ask(out=tmp_path / "a", controls=CONTROLS)
    assert (tmp_path / "a" / "predictions.jsonl").stat().st_mtime_ns == before
    with pytest.raises(EcglmError, match="--overwrite"):
        ask(out=tmp_path / "a", controls=("blank",))
    assert len(ask(out=tmp_path / "a", controls=("blank",), overwrite=True)) == 2 * len(world.conversations("test"))


@pytest.fixture
def stopped(ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A prediction that was stopped before its last file: the work file is whole, the rest is not there."""

    def run(name: str, **options: Any) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr("ecglm.evaluation.predict._write_rows", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                ask(out=tmp_path / name, **options)
        return tmp_path / name

    return run


def test_every_cut_of_the_work_file_leads_to_the_same_bytes(ask, stopped, tmp_path: Path) -> None:
    """Whatever a killed run left, whole batches or half a line: cut there and go on."""
    options = {"batch_size": 5, "controls": ("blank",)}
    ask(out=tmp_path / "whole", **options)
    wanted = tree(tmp_path / "whole")
    assert set(wanted) == {"predictions.jsonl", "baselines.json", "manifest.json", "plan.json"}
    work = (stopped("stopped", **options) / "answers.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(work) if byte == 10]
    assert len(ends) == -(-len(read_jsonl(tmp_path / "whole" / "predictions.jsonl")) // 5)
    for number, size in enumerate([0, 7, ends[0], ends[1] + 40, ends[2] - 1, ends[-1] - 1, ends[-1]]):
        folder = Path(shutil.copytree(tmp_path / "stopped", tmp_path / str(number)))
        (folder / "answers.jsonl").write_bytes(work[:size])
        ask(out=folder, **options)
        assert tree(folder) == wanted


def test_answers_that_stand_twice_count_once_and_foreign_ones_are_an_error(ask, stopped, tmp_path: Path) -> None:
    options = {"batch_size": 5, "controls": ("blank",)}
    ask(out=tmp_path / "whole", **options)
    folder = stopped("stopped", **options)
    file = folder / "answers.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    other = json.dumps({"batch": 99, "rows": first["rows"]}).encode() + b"\n"
    moved = json.dumps({"batch": 1, "rows": first["rows"]}).encode() + b"\n"
    for wrong in (other, moved, b"{}\n"):
        file.write_bytes(lines[0] + wrong)
        with pytest.raises(EcglmError, match="is not of these questions"):
            ask(out=folder, **options)
        assert file.read_bytes() == lines[0] + wrong  # nothing is lost by looking
    file.write_bytes(lines[1] + lines[0] + lines[1] + lines[0][:50])
    ask(out=folder, **options)
    assert tree(folder) == tree(tmp_path / "whole")


def test_a_work_file_left_beside_finished_predictions_is_removed(ask, tmp_path: Path) -> None:
    ask(out=tmp_path / "out")
    (tmp_path / "out" / "answers.jsonl").write_bytes(b"{}")  # killed between the manifest and the removal
    ask(out=tmp_path / "out")
    assert not (tmp_path / "out" / "answers.jsonl").exists()


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_in_the_middle_and_run_again_equals_uninterrupted(
    devices: int, world: World, signal_run: Path, ask, tmp_path: Path
) -> None:
    """At most one batch per device is lost, and no process stays behind."""
    options = {"controls": ("blank", "swap"), "batch_size": 4, "max_new_tokens": 8}
    ask(out=tmp_path / "whole", **options)
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "import slow_answers\nfrom ecglm.evaluation import predict as p\n"
        "p.start = slow_answers.start\n"
        "from ecglm.cli import main\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "predict", "--model", str(signal_run / "best"), "--data", str(world.data)]
    command += ["--store", str(world.store), "--out", str(tmp_path / "killed"), "--controls", "blank", "swap"]
    command += ["--batch-size", "4", "--max-new-tokens", "8", "--devices", *["cpu"] * devices]
    log = tmp_path / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLOW_ANSWERS": str(log), "SLOW_PROCESSES": str(devices)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    file = tmp_path / "killed" / "answers.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.02)
    assert process.poll() is None, "prediction ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(read_jsonl(file, allow_torn=True))
    assert 3 <= kept < 9
    begun = log.read_text().split()
    assert len(begun) <= kept + devices and len(set(begun)) == devices
    assert not (tmp_path / "killed" / "manifest.json").exists()
    ask(out=tmp_path / "killed", **options)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.parametrize("history", ["own", "gold"])
def test_later_turns_see_the_history_they_are_told_to(
    history: str, world: World, ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world.write(tmp_path / "talks.parquet", talks(world))
    spy = Spy(monkeypatch)
    rows = ask(data=data, history=history)
    assert [(r["id"], r["turn"], r["reference"]) for r in rows] == [
        ("a", 0, "GOLD ONE"),
        ("a", 1, "GOLD TWO"),
        ("b", 0, "GOLD ONE"),
        ("b", 1, "GOLD TWO"),
        ("c", 0, "GOLD ONE"),
        ("c", 1, "GOLD THREE"),
    ]
    assert not any("error" in r for r in rows)
    assert rows[1]["prompt"] == "And the axis?"
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        earlier = first["prediction"] if history == "own" else "GOLD ONE"
        text = spy.of(second).text
        assert text.startswith(f"{spy.of(first).text}{earlier}<|im_end|>\n<|im_start|>user\n")
        assert ("GOLD" in text) is (history == "gold")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert [spy.of(r).text.count("◆") for r in rows[-2:]] == [4, 8]  # the second ECG comes with the second question


def test_both_ecgs_of_a_question_are_shown_in_order(world: World, ask, tmp_path, monkeypatch) -> None:
    test = world.conversations("test")
    one, two = test[0], next(c for c in test if c.patients != test[0].patients)
    turns = (Turn("user", "First <ecg> then <ecg>: the same?"), Turn("assistant", "no"))
    pair = replace(one, id="pair", ecgs=one.ecgs + two.ecgs, patients=one.patients + two.patients, turns=turns)
    data = world.write(tmp_path / "pair.parquet", [pair, *world.conversations("train")])
    spy = Spy(monkeypatch)
    rows = ask(data=data, controls=("swap", "no-ecg"))
    store = SegmentStore(world.store)

    def signals(names: list[str]) -> np.ndarray:
        return np.stack([store[store.segments_of(n)[0]] for n in names])

    real, swap, without = (spy.of(row) for row in rows)
    assert np.array_equal(np.stack([e.tensor for e in real.shown]), signals(list(pair.ecgs)))
    assert np.array_equal(np.stack([e.tensor for e in swap.shown]), signals(rows[1]["shown"]))
    assert rows[1]["shown"] == list(pair.ecgs[::-1])  # two patients: each gets the other's
    assert "◆" not in without.text and without.shown == []


def test_a_swapped_ecg_is_never_the_patients_own(ask, world: World) -> None:
    patient_of = {e: p for c in world.conversations() for e, p in zip(c.ecgs, c.patients, strict=True)}
    for seed in range(5):
        for row in ask(controls=("swap",), seed=seed):
            assert row["seed"] == seed
            for shown in row.get("shown", []):
                assert patient_of[shown] != row["patient_id"]


@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_what_each_control_shows(kind: str, ask, request, monkeypatch: pytest.MonkeyPatch) -> None:
    model = request.getfixturevalue(f"{kind}_run")
    spy = Spy(monkeypatch)
    rows = ask(model=model, controls=("no-ecg", "blank", "noise"), batch_size=1)
    assert not any("error" in r for r in rows)  # a blank ECG has symbols too
    by_control: dict[str, list[Prompt]] = {}
    for row in rows:
        by_control.setdefault(row["control"], []).append(spy.of(row))
    for prompt in by_control.pop("no-ecg"):
        assert prompt.shown == [] and "◆" not in prompt.text
    inputs = {control: [p.shown[0] for p in prompts] for control, prompts in by_control.items()}
    tokens = {control: [e.token_ids.tolist() for e in shown] for control, shown in inputs.items()}
    tensors = {control: [e.tensor for e in shown] for control, shown in inputs.items()}
    if kind == "signal":
        assert all(not t.any() for t in tensors["blank"])
        for real, noise in zip(tensors["real"], tensors["noise"], strict=True):
            assert noise.std(axis=1) == pytest.approx(real.std(axis=1), rel=0.25)
            assert abs(np.corrcoef(real[1], noise[1])[0, 1]) < 0.3
    else:
        assert len({tuple(t) for t in tokens["blank"]}) == 1
        assert all(r != b for r, b in zip(tokens["real"], tokens["blank"], strict=True))


def test_a_perturbation_shows_the_patients_ecg_disturbed(ask, world: World, signal_run, monkeypatch) -> None:
    names = ("perturb-noise", "perturb-electrode-swap")
    spy = Spy(monkeypatch)
    rows = ask(controls=("blank", *names), batch_size=1, seed=4)
    store = SegmentStore(world.store)
    for row in rows:
        if row["control"] in names:
            segment = store[store.segments_of(row["ecgs"][0])[0]]
            effect = row["control"].removeprefix("perturb-")
            wanted = perturb(effect, segment, store.rate, seed=4, row_id=f"{row['id']}/0")
            np.testing.assert_array_equal(spy.of(row).shown[0].tensor, wanted)
    assert {r["control"] for r in rows} == {"real", "blank", *names}
    found = score(rows, num_resamples=20)
    assert set(found["robustness"]["rhythm"]["accuracy"]) == set(names)
    assert found["gaps"]["rhythm"]["accuracy"]["control"] == "blank"


def test_a_perturbation_that_the_rate_cannot_show_is_told_at_the_start(ask, tmp_path: Path) -> None:
    with pytest.raises(EcglmError, match="'mains': 50 Hz cannot be shown at 50 samples"):
        ask(controls=("perturb-mains",), out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match="did you mean 'perturb-wander'"):
        ask(controls=("perturb-wandr",))


def test_an_ecg_that_is_not_there_is_an_error_row_and_scored_as_wrong(world: World, ask, tmp_path: Path) -> None:
    test = world.conversations("test")
    lost = [replace(c, id=f"lost/{c.id}", ecgs=("synthetic/nobody",), patients=("synthetic/p",)) for c in test[:2]]
    data = world.write(tmp_path / "lost.parquet", [*test, *lost, *world.conversations("train")])
    rows = ask(data=data, out=tmp_path / "out", controls=("blank", "swap"), batch_size=5)
    manifest = read_manifest(tmp_path / "out", "predictions")
    assert manifest["num_answers"] == len(rows) == 3 * (len(test) + 2)
    failed = [r for r in rows if "error" in r]
    for row in failed:
        assert row["prediction"] is None and "ecg_not_in_store: synthetic/nobody" in row["error"]
    by_control = {k: [r["id"] for r in failed if r["control"] == k] for k in ("real", "blank", "swap")}
    assert sorted(by_control["real"]) == sorted(by_control["blank"]) == sorted(c.id for c in lost)
    # under swap it is the question that would be shown the lost ECG; the lost one gets a true ECG
    assert manifest["num_failed"] == len(failed)
    assert not set(by_control["swap"]) & {c.id for c in lost} and by_control["swap"]
    task = lost[0].task
    perfect = [{**r, "prediction": r["reference"]} if "error" not in r else r for r in rows if r["task"] == task]
    number = sum(c.task == task for c in test) + sum(c.task == task for c in lost)
    wrong = sum(c.task == task for c in lost)
    got = score(perfect)["controls"]["real"][task]["accuracy"]
    assert got["n"] == number and got["value"] == pytest.approx(1 - wrong / number)


def test_an_ecg_of_a_prompt_that_does_not_fit_is_an_error_row(world: World, ask, tmp_path: Path) -> None:
    test = world.conversations("test")
    turns = (Turn("user", "<ecg>\n" + "word " * 400), Turn("assistant", "no"))
    data = world.write(
        tmp_path / "long.parquet", [replace(test[0], turns=turns), *test[1:], *world.conversations("train")]
    )
    rows = ask(data=data)
    assert [r["id"] for r in rows if "error" in r] == [test[0].id]
    assert "sequence_too_long" in next(r["error"] for r in rows if "error" in r)


def test_mistakes_are_told_and_leave_the_folder_free(world: World, signal_run: Path, ask, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"'blnk' \(did you mean 'blank'\?\)"):
        ask(out=out, controls=("blnk",))
    with pytest.raises(EcglmError, match="no questions in split 'tset'"):
        ask(out=out, split="tset")
    with pytest.raises(EcglmError, match=r"no questions in split 'test' for tasks st"):
        ask(out=out, tasks=("st",))
    with pytest.raises(EcglmError, match="history"):
        ask(out=out, history="golden")
    with pytest.raises(EcglmError, match="no such checkpoint"):
        ask(out=out, model=tmp_path / "absent")
    only = next(c for c in world.conversations("test"))
    data = world.write(tmp_path / "one.parquet", [only, *world.conversations("train")])
    with pytest.raises(EcglmError, match="swap"):
        ask(out=out, data=data, controls=("swap",))
    assert len(ask(out=out)) == len(world.conversations("test"))


def test_a_store_of_another_pipeline_is_refused(world: World, signal_run: Path, tmp_path: Path) -> None:
    pipeline = get_pipeline("default", rate=100, seg_len=500)
    prepare(Synthetic(num_patients=12, seed=3), pipeline, tmp_path / "store", progress=False)
    with pytest.raises(EcglmError, match=r"prepared otherwise than the model's data: .*rate 100 \(model: 50\)"):
        predict(signal_run / "best", world.data, [tmp_path / "store"], tmp_path / "out", say=quiet)


def test_limit_takes_all_questions_of_so_many_ecgs(ask, world: World) -> None:
    rows = ask(limit=2)
    ecgs = sorted({c.ecgs[0] for c in world.conversations("test")})[:2]
    assert sorted(r["id"] for r in rows) == sorted(c.id for c in world.conversations("test") if c.ecgs[0] in ecgs)


def test_two_devices_give_the_same_bytes_as_one(ask, tmp_path: Path) -> None:
    options = {"controls": ("blank", "swap"), "batch_size": 4}
    ask(out=tmp_path / "one", devices=["cpu"], **options)
    ask(out=tmp_path / "two", devices=["cpu", "cpu"], **options)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    with pytest.raises(EcglmError, match=r"^--devices: no device 'gpu'"):
        ask(out=tmp_path / "three", devices=["gpu"], **options)
    assert not (tmp_path / "three").exists()


def test_every_seed_is_a_drawing_of_its_own(ask, tmp_path: Path) -> None:
    drawn = {"controls": ("blank",), "temperature": 1.5, "seed": 7}
    rows = ask(out=tmp_path / "a", seeds=(0, 1, 2), batch_size=50, **drawn)
    assert [r["seed"] for r in rows] == sorted(r["seed"] for r in rows) and {r["seed"] for r in rows} == {0, 1, 2}
    by_seed = {s: [r["prediction"] for r in rows if r["seed"] == s and r["control"] == "real"] for s in (0, 1, 2)}
    assert len({tuple(texts) for texts in by_seed.values()}) == 3
    again = ask(out=tmp_path / "b", seeds=(2, 0), batch_size=3, **drawn)  # other company, the same text
    kept = {(r["seed"], r["control"], r["id"]): r["prediction"] for r in rows}
    assert all(kept[r["seed"], r["control"], r["id"]] == r["prediction"] for r in again)
    assert {r["seed"] for r in ask(out=tmp_path / "c", **drawn)} == {7}
    settings = read_manifest(tmp_path / "a", "predictions")["settings"]
    assert (settings["seeds"], settings["temperature"], settings["top_p"]) == ([0, 1, 2], 1.5, 1.0)
    score(rows, num_resamples=20)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": (0, 1)}, "^--seeds change what is drawn, but decoding is greedy; give --temperature too"),
        ({"top_p": 0.5}, "^--top-p chooses among tokens that are drawn, but decoding is greedy"),
        ({"seeds": (1, 1), "temperature": 1.0}, "^--seeds: 1 is negative or stands twice"),
        ({"temperature": 0.0}, "^temperature must be above 0"),
        ({"controls": ("blank", "blank")}, "^control 'blank' stands twice"),
        ({"batch_size": 0}, "^batch_size must be 1 or more, found 0"),
    ],
)
def test_wrong_options_are_told_in_one_line(options: dict[str, Any], told: str, ask, tmp_path: Path) -> None:
    with pytest.raises(EcglmError, match=told) as caught:
        ask(out=tmp_path / "out", **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_model_comes_from_the_hub_too(world: World, signal_run: Path, ask, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append(name)
        return str(signal_run / "best")

    monkeypatch.setattr("ecglm.models.checkpoint.snapshot_download", download)
    ask(out=tmp_path / "folder", limit=2)
    predict("someone/small-elm", world.data, [world.store], tmp_path / "hub", limit=2, max_new_tokens=8, say=quiet)
    assert asked == ["someone/small-elm"]
    assert tree(tmp_path / "folder") == tree(tmp_path / "hub")


def test_a_baseline_answers_like_a_model(world: World, ask, tmp_path: Path) -> None:
    out = tmp_path / "majority"
    found = predict("baseline:majority", world.data, [world.store], out, controls=("blank",), say=quiet)
    rows = read_predictions(out)
    assert found.num_answers == len(rows) == 2 * len(world.conversations("test"))
    assert {r["control"] for r in rows} == {"real", "blank"}
    for options in ({"temperature": 1.0}, {"images": [tmp_path]}):
        with pytest.raises(EcglmError, match="a baseline takes no --temperature"):
            predict("baseline:majority", world.data, [world.store], tmp_path / "no", say=quiet, **options)


def test_an_empty_answer_is_kept_with_a_flag(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(elm: Any, prompter: Any, examples: Any, **options: Any) -> list[dict[str, Any]]:
        return [{"text": "" if i else "no", "truncated": not i, "num_tokens": 0} for i in range(len(examples))]

    monkeypatch.setattr("ecglm.evaluation.predict_answers.generate", nothing)
    rows = ask()
    assert sum("empty" in r for r in rows) == len(rows) - 1 and all(r["empty"] for r in rows if "empty" in r)
    assert {(r["prediction"], r["truncated"]) for r in rows} == {("", False), ("no", True)}
    assert not any("error" in r for r in rows)


def test_a_damaged_checkpoint_is_told_before_the_first_answer(signal_run: Path, ask, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(signal_run / "best", tmp_path / "broken" / "best"))
    with open(broken / "ecg.safetensors", "r+b") as handle:
        handle.seek(-4, os.SEEK_END)
        handle.write(b"\xff\xff\xff\x7f")
    with pytest.raises(EcglmError, match=r"ecg\.safetensors: differs from the manifest"):
        ask(model=tmp_path / "broken", out=tmp_path / "out")


def test_the_state_of_earlier_questions_changes_no_answer(world: World, ask, tmp_path: Path, monkeypatch) -> None:
    """Later turns read on from what the earlier left; read anew they are the same."""
    data = world.write(tmp_path / "talks.parquet", talks(world))
    kept = ask(data=data, controls=("blank", "swap"))
    monkeypatch.setattr("ecglm.evaluation.predict_answers.Memory", lambda: None)
    assert ask(data=data, controls=("blank", "swap")) == kept


def test_a_batch_that_fills_the_memory_is_answered_in_halves(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ask(controls=("blank",))
    sizes: list[int] = []

    def small(elm: Any, prompter: Any, examples: Any, **options: Any) -> Any:
        sizes.append(len(examples))
        if len(examples) > most:
            raise torch.OutOfMemoryError("out of memory")
        return generate(elm, prompter, examples, **options)

    monkeypatch.setattr("ecglm.evaluation.predict_answers.generate", small)
    most = 3
    assert ask(controls=("blank",)) == wanted and max(sizes) > 3
    most = 0
    with pytest.raises(EcglmError, match="the GPU has no memory for this question alone"):
        ask(controls=("blank",))
