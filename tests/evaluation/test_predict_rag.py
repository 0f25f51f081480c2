"""Prediction with retrieved ECGs: whose neighbours under which control, what rows and files say, the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.bench_export import export_bench, read_bench
from ecglm.evaluation.compare import compare
from ecglm.evaluation.compare_load import parse_entrants
from ecglm.evaluation.controls import apply_control
from ecglm.evaluation.predict import predict
from ecglm.evaluation.predict_jobs import Job
from ecglm.evaluation.predict_rag import RagOrders, job_queries
from ecglm.evaluation.predictions import read_predictions
from ecglm.evaluation.score import score_file
from ecglm.files import read_manifest
from ecglm.models.assistant import load
from ecglm.prompts.examples import Prompter
from ecglm.prompts.retrieved import RagOptions
from ecglm.retrieval.index import Exclude, Index
from ecglm.store.reader import SegmentStore
from ecglm.training.run import train
from ecglm.types import Conversation, Turn
from ecglm.verbs.evaluations import predict_
from ecglm.verbs.models import ask as ask_verb
from rag_world import make_index, quiet, rag_recipe
from tiny_world import World, tree

CONTROLS = ("blank", "noise", "swap", "no-ecg", "lead_mask")


@pytest.fixture(scope="module")
def index(world: World, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(world, tmp_path_factory.mktemp("index") / "index")


@pytest.fixture(scope="module")
def run(world: World, index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = rag_recipe(world, index.path, {"k": 2, "location": "user"})
    return train(recipe, tmp_path_factory.mktemp("rag") / "run", say=quiet).path


@pytest.fixture(scope="module")
def answered(world: World, index: Index, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("answers") / "out"
    return predict(
        run / "best", world.data, [world.store], out, controls=CONTROLS, rag=index.path, max_new_tokens=6, say=quiet
    ).path


@pytest.fixture
def ask(world: World, index: Index, run: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    count = iter(range(99))

    def answer(data: Path = world.data, model: Path = run, **options: Any) -> list[dict[str, Any]]:
        out = options.pop("out", tmp_path / f"out{next(count)}")
        predict(
            model / "best",
            data,
            [world.store],
            out,
            **{"rag": index.path, "max_new_tokens": 4, "say": quiet, **options},
        )
        return read_predictions(out)

    return answer


def test_rows_and_manifest_say_the_condition(answered: Path, index: Index) -> None:
    rows = read_predictions(answered)
    assert all(r["rag"] == {"k": 2, "location": "user", "content": "report"} for r in rows)
    manifest = read_manifest(answered, "predictions")
    assert manifest["settings"]["rag"]["k"] == 2 and manifest["inputs"]["index"] == index.fingerprint
    without = [r for r in rows if not r["retrieved"]]
    assert {r["control"] for r in without} == {"blank", "no-ecg"}
    assert manifest["num_without_neighbours"] == len(without) == sum(r["control"] in ("blank", "no-ecg") for r in rows)
    assert str(index.path) not in (answered / "manifest.json").read_text()


def test_under_a_control_the_neighbours_are_those_of_what_is_shown(world: World, index: Index, answered: Path) -> None:
    """Found here by hand, from the index alone. Those of the patient's own ECG would tell of what a control hides."""
    store = SegmentStore(world.store)
    patient = {r["record_id"]: r["patient_id"] for r in store.index.to_pylist()}

    def near(segment: np.ndarray, *records: str) -> list[str]:
        own = Exclude(frozenset(records), frozenset(patient[r] for r in records))
        return [h.segment_id for h in index.search(segment[None], store.rate, k=2, exclude=[own])[0]]

    checked = set()
    for row in read_predictions(answered):
        (record,) = row["ecgs"]
        segment = store[store.segments_of(record)[0]]
        if row["control"] == "real":
            wanted = near(segment, record)
        elif row["control"] == "swap":
            (partner,) = row["shown"]
            wanted = near(store[store.segments_of(partner)[0]], record, partner)
        elif row["control"] in ("noise", "lead_mask"):
            wanted = near(apply_control(row["control"], segment, store.rate, seed=0, row_id=f"{row['id']}/0"), record)
        else:
            wanted = []
        assert row["retrieved"] == wanted, row["control"]
        checked.add(row["control"])
    assert checked == {"real", *CONTROLS}


def test_what_hides_one_of_two_inputs_still_shows_the_patients_ecg() -> None:
    talk = Conversation("c", "x", "t", "test", ("r",), ("p",), (Turn("user", "<ecg>?"), Turn("assistant", "a")))
    orders = RagOrders(RagOptions(), "", {"r": "p"}, 0)
    real, hidden = (job_queries(Job(name, talk, 0), orders, {}) for name in ("real", "no-signal"))
    assert real == hidden and len(real) == 1
    assert job_queries(Job("perturb-noise", talk, 0), orders, {}) != real


def test_the_prompt_of_each_row_tells_of_its_neighbours(
    world: World, index: Index, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: dict[str, str] = {}
    build = Prompter.build

    def spy(prompter: Prompter, name: str, *args: Any, **options: Any) -> Any:
        example = build(prompter, name, *args, **options)
        texts[name] = prompter.tokenizer.decode(example.input_ids)
        return example

    monkeypatch.setattr(Prompter, "build", spy)
    report = {r["segment_id"]: " ".join(r["report"].split()) for r in index.table.to_pylist()}
    for row in ask(rag_k=1, rag_location="system"):
        text = texts[row["id"]]
        assert row["retrieved_cut"] == ["cut_neighbour"] if "…" in text else "retrieved_cut" not in row
        assert report[row["retrieved"][0]][:15] in text
        assert text.index("Similar ECG 1") < text.index("user")
        assert not any(name in text for c in world.conversations() for name in (*c.ecgs, *c.patients))


def test_the_options_are_the_models_unless_given(ask: Any, signal_run: Path) -> None:
    said: list[str] = []
    rows = ask(rag_k=1, rag_location="system", say=said.append)
    assert rows[0]["rag"] == {"k": 1, "location": "system", "content": "report"} and len(rows[0]["retrieved"]) == 1
    assert "this model learned with k=2, report, user, and is asked with k=1, report, system" in said
    said.clear()
    assert "rag" not in ask(rag=None, say=said.append)[0]
    assert "this model learned with retrieved ECGs (k=2, report, user) and is asked without; --rag gives them" in said
    said.clear()
    other = ask(model=signal_run, rag_content="both", say=said.append)
    assert other[0]["rag"] == {"k": 1, "location": "system", "content": "both"}
    assert "this model learned without retrieved ECGs, and is asked with them" in said
    said.clear()
    ask(say=said.append)
    assert not any("this model" in line for line in said)
    assert any(line.startswith("0 of ") and line.endswith("answers without retrieved ECGs") for line in said)


def test_k_beyond_the_index_gives_what_there_is(ask: Any, index: Index) -> None:
    rows = ask(rag_k=50)
    assert all(len(r["retrieved"]) == len(index) for r in rows)
    assert all("dropped_neighbour" in r["retrieved_cut"] for r in rows)


@pytest.mark.parametrize("history", ["own", "gold"])
def test_later_turns_are_told_of_the_same_neighbours(
    history: str, world: World, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = world.conversations("test")
    one, two = test[0], next(c for c in test if c.patients != test[0].patients)
    turns = (
        *(Turn("user", "<ecg>\n<ecg>\nWhich is normal?"), Turn("assistant", "GOLD ONE")),
        *(Turn("user", "And the axis?"), Turn("assistant", "GOLD TWO")),
    )
    pair = replace(one, id="pair", ecgs=(*one.ecgs, *two.ecgs), patients=(*one.patients, *two.patients), turns=turns)
    data = world.write(tmp_path / "pair.parquet", [*world.conversations("train"), pair])
    texts: list[str] = []
    build = Prompter.build

    def spy(prompter: Prompter, *args: Any, **options: Any) -> Any:
        example = build(prompter, *args, **options)
        texts.append(prompter.tokenizer.decode(example.input_ids))
        return example

    monkeypatch.setattr(Prompter, "build", spy)
    rows = ask(data, history=history, rag_k=1)
    assert [r["turn"] for r in rows] == [0, 1] and rows[0]["retrieved"] == rows[1]["retrieved"]
    assert 1 <= len(rows[0]["retrieved"]) <= 2  # of each ECG one, or one that is near both
    assert texts[1].startswith(texts[0]) and texts[1].count("Similar ECG 1") == 1
    assert ("GOLD ONE" in texts[1]) == (history == "gold")


@pytest.mark.slow
def test_two_devices_and_another_folder_give_the_same_bytes(ask: Any, answered: Path, tmp_path: Path) -> None:
    ask(out=tmp_path / "a" / "two", devices=["cpu", "cpu"], controls=CONTROLS, max_new_tokens=6)
    assert tree(tmp_path / "a" / "two") == tree(answered)


def test_an_unfinished_output_goes_on_to_the_same_bytes(ask: Any, answered: Path, tmp_path: Path) -> None:
    """What was found before is read again; where that is torn, it is found anew."""
    half, options = tmp_path / "half", {"controls": CONTROLS, "max_new_tokens": 6}
    shutil.copytree(answered, half)
    (half / "manifest.json").unlink()
    (half / "predictions.jsonl").unlink()
    (half / "neighbours" / "links.parquet").write_bytes(b"torn")
    ask(out=half, **options)
    assert tree(half) == tree(answered)


def test_another_way_of_telling_is_another_output(ask: Any, tmp_path: Path) -> None:
    ask(out=tmp_path / "out")
    for other in ({"rag": None}, {"rag_k": 1}, {"rag_content": "both"}, {"rag_location": "system"}):
        with pytest.raises(EcglmError, match="made with other settings"):
            ask(out=tmp_path / "out", **other)


def test_an_index_that_holds_who_is_asked_about_is_refused(world: World, ask: Any, tmp_path: Path) -> None:
    moved = [
        replace(c, split="test") if c.split == "train" else replace(c, split="train") for c in world.conversations()
    ]
    data = world.write(tmp_path / "moved.parquet", moved)
    with pytest.raises(EcglmError, match=r"the index holds \d+ patients of the questions \(split 'test'\)"):
        ask(data, allow_seen=True)
    rows = ask(split="train", allow_seen=True)  # of the training split itself: each without its own patient
    patient = {r: p for c in world.conversations() for r, p in zip(c.ecgs, c.patients, strict=True)}
    for row in rows:
        assert row["patient_id"] not in {patient[name.partition("#")[0]] for name in row["retrieved"]}


def test_an_index_of_ecgs_prepared_otherwise_is_refused(
    ask: Any, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Index.load(index.path)
    other.manifest["settings"]["pipeline"] |= {"denoise": True}
    monkeypatch.setattr("ecglm.evaluation.predict.read_index", lambda folder: other)
    with pytest.raises(EcglmError, match=r"prepared otherwise than the ECGs of the index .*denoise False"):
        ask(out=tmp_path / "out")


def test_mistakes_are_told_in_one_line(world: World, ask: Any, index: Index, tmp_path: Path) -> None:
    for options, told in (
        ({"rag": None, "rag_k": 2}, "--rag-k says how to tell of neighbours, but no index is given; add --rag"),
        ({"rag_k": 0}, "--rag-k must be 1 or more, found 0"),
        ({"rag": tmp_path / "none"}, "none: no such ecg-index"),
        ({"images": [tmp_path]}, "--rag searches by the signal, and --images shows picture files"),
    ):
        with pytest.raises(EcglmError, match=told) as error:
            ask(**options)
        assert "\n" not in str(error.value)
    with pytest.raises(EcglmError, match=r"a baseline takes no .*--rag"):
        predict("baseline:majority", world.data, [world.store], tmp_path / "b", rag=index.path, say=quiet)


def test_ecg_benchs_files_and_the_comparison_say_it(answered: Path, ask: Any, tmp_path: Path) -> None:
    score_file(answered)
    written, _ = export_bench(answered, tmp_path / "bench")
    names = {f.name for f in written}
    assert {"seed_0_None_True_2.json", "statistical_results_None_True_2.json", "seed_0_swap_True_2.json"} <= names
    assert {"rag k=2", "swap, rag k=2"} <= set(read_bench(tmp_path / "bench"))
    plain = tmp_path / "plain"
    ask(out=plain, rag=None, controls=CONTROLS, max_new_tokens=6)
    score_file(plain)
    found = compare(parse_entrants([f"with={answered}", f"without={plain}"]), num_resamples=50, num_draws=50)
    assert "with: told of retrieved ECGs (k=2, report, user)" in found.notes
    assert not any(note.startswith("without: told") for note in found.notes)
    with pytest.raises(EcglmError, match="the folders of 'x' were asked with different retrieval"):
        compare(parse_entrants([f"x={answered},{plain}"]), num_resamples=50, num_draws=50)
    rows = (answered / "predictions.jsonl").read_text() + (plain / "predictions.jsonl").read_text().replace(
        '"seed": 0', '"seed": 1'
    )
    (tmp_path / "mixed.jsonl").write_text(rows)
    with pytest.raises(EcglmError, match="rows with and without retrieved ECGs"):
        export_bench(tmp_path / "mixed.jsonl", tmp_path / "bench2")


def test_an_assistant_is_told_as_prediction_is(world: World, index: Index, run: Path, ask: Any) -> None:
    assistant = load(run / "best")
    rows = ask()
    store = SegmentStore(world.store)
    for row in rows[:2]:
        segment = store[store.segments_of(row["ecgs"][0])[0]]
        found = index.search(segment[None], store.rate, k=2)[0]
        shown = assistant.bundle.representation(segment, store.rate)
        talk = ([Turn("user", row["prompt"])], [shown])
        with_, without = assistant.answer([talk, talk], max_new_tokens=4, retrieved=[found, ()])
        assert with_["text"] == row["prediction"]
        assert without == assistant.answer([talk], max_new_tokens=4)[0]


def test_the_verbs(world: World, index: Index, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {
        "controls": (),
        "rag": index.path,
        "rag_k": 1,
        "rag_content": "both",
        "max_new_tokens": 2,
    }
    predict_(str(run / "best"), world.data, (world.store,), tmp_path / "out", rag_location="system", **options)
    assert read_predictions(tmp_path / "out")[0]["rag"] == {"k": 1, "location": "system", "content": "both"}
    capsys.readouterr()
    store = SegmentStore(world.store)
    record = world.conversations("test")[0].ecgs[0]
    signal = store[store.segments_of(record)[0]]
    np.save(tmp_path / "ecg.npy", signal)
    given: Any = {"rate": 50.0, "leads": "standard", "units": "mV", "max_new_tokens": 2}
    ask_verb("What is the rhythm?", run / "best", (tmp_path / "ecg.npy",), rag=index.path, **given)
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-1].startswith("retrieved: synthetic/s3-p") and said[-1].count("(distance ") == 2
    ask_verb("What is the rhythm?", run / "best", (tmp_path / "ecg.npy",), **given)
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith("and is asked without; --rag gives them")
